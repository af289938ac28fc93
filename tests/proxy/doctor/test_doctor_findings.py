"""Each check over settings and surroundings that are right, and that are wrong in one way."""

import os
import resource
import socket
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from authority import Authority
from doctor_settings import only, settings_of, told

from proxy.doctor import audit, bundle, clock, limits, listeners, redis
from proxy.doctor.exposure import socket_finding
from proxy.doctor.host import Host
from proxy.settings.fields import Address
from proxy.settings.models import Audit
from proxy.state.redis.address import Topology

NOW = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
HEALTHY = {
    "redis_version": "7.0.15", "maxmemory": 2**30, "used_memory": 2**20,
    "maxmemory_policy": "noeviction", "aof_enabled": 1, "rdb_last_bgsave_status": "ok",
}  # fmt: skip

# what INFO says otherwise, save points, check, level
REDIS = [
    ({}, "", "redis.eviction", "ok"),
    ({}, "", "redis.persistence", "ok"),
    ({}, "", "redis.version", "ok"),
    ({"redis_version": "5.0.7"}, "", "redis.version", "wrong"),
    ({"redis_version": ""}, "", "redis.version", "could-not-be-tried"),
    ({"maxmemory_policy": "allkeys-lru"}, "", "redis.eviction", "wrong"),
    ({"maxmemory_policy": "volatile-ttl"}, "", "redis.eviction", "wrong"),
    ({"maxmemory_policy": "allkeys-lru", "maxmemory": 0}, "", "redis.eviction", "warning"),
    ({"maxmemory": 0}, "", "redis.eviction", "warning"),
    ({"used_memory": 2**30 - 1}, "", "redis.eviction", "warning"),
    ({"maxmemory_policy": ""}, "", "redis.eviction", "could-not-be-tried"),
    ({"aof_enabled": 0}, "", "redis.persistence", "warning"),
    ({"aof_enabled": 0}, "3600 1", "redis.persistence", "ok"),
    ({"aof_enabled": 0}, None, "redis.persistence", "could-not-be-tried"),
    ({"rdb_last_bgsave_status": "err"}, "", "redis.persistence", "wrong"),
    ({"aof_last_write_status": "err"}, "", "redis.persistence", "wrong"),
]

# what it is asked as, what it is, level
ROLES = [
    (Topology.STANDALONE, {"role": "master", "redis_mode": "standalone"}, "ok"),
    (Topology.STANDALONE, {"role": "slave"}, "wrong"),
    (Topology.STANDALONE, {"redis_mode": "cluster"}, "wrong"),
    (Topology.STANDALONE, {"cluster_enabled": 1}, "wrong"),
    (Topology.CLUSTER, {"redis_mode": "cluster"}, "ok"),
    (Topology.SENTINEL, {"role": "master"}, "ok"),
]

# round trip against a wait of 20 ms
PACES = [(0.001, "ok"), (0.011, "warning"), (0.021, "wrong")]

# seconds ahead, with a round trip of 1 s (half of which nobody knows)
AHEAD = [(0.5, "ok"), (-1.4, "ok"), (1.6, "warning"), (-90.0, "warning")]


def test_redis():
    ran = 0
    for other, save, check, level in REDIS:
        found = redis.node_findings("one:6379", HEALTHY | other, save)
        assert told(found)[check] == level, (other, found)
        ran += 1
    for asked, info, level in ROLES:
        assert redis.topology(asked, info).level.value == level, info
        ran += 1
    for seconds, level in PACES:
        assert redis.pace(seconds, 0.02).level.value == level, seconds
        ran += 1
    for seconds, level in AHEAD:
        assert redis.clock(seconds, 1.0).level.value == level, seconds
        ran += 1
    assert ran == 16 + 6 + 3 + 4


# wall, what the steady clock reads, the kernel's status, check, level
CLOCKS = [
    (NOW, range(2000), 0, "clock.wall", "ok"),
    (NOW, range(2000), 0, "clock.steady", "ok"),
    (NOW, range(2000), 0, "clock.ntp", "ok"),
    (0.0, range(2000), 0, "clock.wall", "wrong"),
    (5e9, range(2000), 0, "clock.wall", "wrong"),
    (NOW, range(2000, 0, -1), 0, "clock.steady", "wrong"),
    (NOW, range(2000), 0x40, "clock.ntp", "warning"),
    (NOW, range(2000), None, "clock.ntp", "could-not-be-tried"),
]


@pytest.mark.parametrize(("wall", "readings", "status", "check", "level"), CLOCKS)
def test_clocks(wall, readings, status, check, level):
    steady = map(float, readings)
    found = clock.clocks(lambda: wall, lambda: next(steady), lambda: status)
    assert told(found)[check] == level


def test_the_kernel_is_asked_without_harm():
    before = os.times().elapsed
    assert clock.kernel_status() is None or clock.kernel_status() >= 0
    assert os.times().elapsed >= before


SHORT = {"http": {"connections": 100}}

# check, its arguments beside settings, sections, level
LIMITS = [
    (limits.descriptors, (10_000,), {}, "ok"),
    (limits.descriptors, (resource.RLIM_INFINITY,), {}, "ok"),
    (limits.descriptors, (1024,), {}, "wrong"),
    (limits.descriptors, (1024,), SHORT, "ok"),
    (limits.memory, (2**40,), {}, "ok"),
    (limits.memory, (2**29,), {}, "warning"),
    (limits.memory, (2**26,), {}, "wrong"),
    (limits.memory, (None,), {}, "could-not-be-tried"),
]


def test_limits(tmp_path):
    ran = 0
    for check, arguments, sections, level in LIMITS:
        found = check(settings_of(tmp_path, **sections), *arguments)
        assert found.level.value == level, (check, arguments)
        ran += 1
    assert ran == len(LIMITS) == 8


# workers, granted by the cgroup, usable
PROCESSORS = [
    (1, None, 2, "ok"),
    (2, 2.0, 8, "ok"),
    (4, None, 2, "warning"),
    (4, 2.0, 8, "warning"),
    (1, 0.5, 8, "warning"),
]


@pytest.mark.parametrize(("workers", "granted", "usable", "level"), PROCESSORS)
def test_processors(workers, granted, usable, level):
    assert limits.processors(workers, granted, usable).level.value == level


@pytest.mark.parametrize(
    ("told_by_kernel", "level"),
    [("4096\n", "ok"), ("128\n", "warning"), ("", "could-not-be-tried")],
)
def test_backlog(told_by_kernel, level):
    assert limits.backlog(told_by_kernel).level.value == level


def test_where_compiled_scoring_is_kept(tmp_path):
    sealed = Path(__file__) / "none"  # where even root makes no files
    nowhere = {"HOME": str(sealed), "NUMBA_CACHE_DIR": str(sealed)}
    cases = [
        ({}, tmp_path, "ok"),
        (nowhere | {"NUMBA_CACHE_DIR": str(tmp_path / "to/be/made")}, sealed, "ok"),
        (nowhere | {"XDG_CACHE_HOME": str(tmp_path)}, sealed, "ok"),
        (nowhere | {"NUMBA_CACHE_LOCATOR_CLASSES": "ours"}, sealed, "ok"),
        (nowhere, sealed, "warning"),
    ]
    for environment, program, level in cases:
        assert limits.cache(environment, program).level.value == level, environment
    assert len(cases) == 5


# file system
PLACES = [("ext4", "ok"), ("tmpfs", "warning"), ("overlay", "warning"), ("nfs4", "warning"),
          ("fuse.sshfs", "warning"), ("", "could-not-be-tried")]  # fmt: skip

GIB = 2**30
# free, kept so far, workers; rotation keeps 17 files of 256 MiB
ROOMS = [
    (5 * GIB, 0, 1, "ok"),
    (5 * GIB, 0, 2, "warning"),
    (1 * GIB, 0, 1, "warning"),
    (1 * GIB, 4 * GIB, 1, "ok"),
    (2**20, 0, 1, "wrong"),
]


def test_audit_places_and_room(tmp_path):
    for kind, level in PLACES:
        assert audit.place(tmp_path / "a", kind).level.value == level, kind
    given = Audit(path=tmp_path / "a")
    for free, kept, workers, level in ROOMS:
        assert audit.room(given, workers, free, kept).level.value == level, (free, kept, workers)
    assert len(PLACES) + len(ROOMS) == 11


def test_no_audit_log_and_one_that_cannot_be_written(tmp_path):
    assert told(audit.audit(settings_of(tmp_path), Host())) == {"audit.written": "warning"}
    settings = settings_of(tmp_path, audit={"path": "gone/audit.jsonl"})
    assert told(audit.audit(settings, Host())) == {"audit.written": "wrong"}


def test_an_audit_log_that_was_edited(tmp_path):
    path = tmp_path / "audit.jsonl"
    settings = settings_of(tmp_path, audit={"path": str(path)})
    assert told(audit.audit(settings, Host()))["audit.chain"] == "ok"
    path.write_text('{"seq":1,"prev":"forged"}\n')
    assert told(audit.audit(settings, Host()))["audit.chain"] == "wrong"


DAY = 86_400
# seconds since it was fitted, level
AGES = [
    (0, "ok"), (89 * DAY, "ok"), (91 * DAY, "warning"), (-60, "ok"), (-2 * DAY, "wrong"),
]  # fmt: skip


def test_ages_of_bundles(tmp_path):
    (endpoint,) = settings_of(tmp_path).endpoints
    for seconds, level in AGES:
        created = datetime.fromtimestamp(NOW - seconds, UTC).isoformat()
        assert bundle.age(endpoint, created, NOW).level.value == level, seconds
    assert bundle.age(endpoint, "last week", NOW).level.value == "could-not-be-tried"
    patient = endpoint.model_copy(update={"bundle_max_age_days": 365.0})
    created = datetime.fromtimestamp(NOW - 91 * DAY, UTC).isoformat()
    assert bundle.age(patient, created, NOW).level.value == "ok"
    assert told(bundle.bundle_findings(endpoint, None, NOW)) == {"bundle.age": "warning"}


def test_certificates(tmp_path):
    authority = Authority(tmp_path)
    now = datetime.now(UTC).timestamp()
    for days, level in ((30, "ok"), (5, "warning"), (-1, "wrong")):
        certificate, _ = authority.issue(f"for{days}", days=days)
        found = listeners.certificate_finding("tls", Path(certificate), now)
        assert found.level.value == level, days
    certificate, _ = authority.issue("later", days=30)
    assert "not valid yet" in listeners.certificate_finding("tls", Path(certificate), 1e9).words
    (tmp_path / "empty.pem").write_text("")
    found = listeners.certificate_finding("tls", tmp_path / "empty.pem", now)
    assert found.level.value == "wrong"


def test_keys(tmp_path):
    authority = Authority(tmp_path)
    certificate, key = map(Path, authority.issue("server"))
    _, other = map(Path, authority.issue("other"))
    key.chmod(0o640)
    assert listeners.key_finding("tls", certificate, key).level.value == "ok"
    key.chmod(0o644)
    assert listeners.key_finding("tls", certificate, key).level.value == "warning"
    assert listeners.key_finding("tls", certificate, other).level.value == "wrong"
    other.write_text("none")
    found = listeners.key_finding("tls", certificate, other)
    assert found.level.value == "could-not-be-tried"


def test_addresses_to_listen_on(tmp_path, free_port):
    host = Host(tmp_path)  # without capabilities
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = [
            (Address("127.0.0.1", free_port()), "ok"),
            (Address("127.0.0.1", 0), "ok"),
            (Address("127.0.0.1", port), "warning"),
            (Address("192.0.2.1", free_port()), "wrong"),
            (Address("127.0.0.1", 443), "wrong"),
            (Address(path=str(tmp_path / "a.sock")), "ok"),
            (Address(path=str(tmp_path / "gone" / "a.sock")), "wrong"),
            (Address(path=__file__), "wrong"),
        ]
        for where, level in cases:
            assert listeners.address("listen", where, host).level.value == level, where
    assert len(cases) == 8


def test_an_admin_listener_off_loopback(tmp_path):
    settings = settings_of(tmp_path, admin={"listen": "0.0.0.0:9090", "token": "t" * 16})
    found = only(listeners.listeners(settings, Host(), NOW), "listeners.admin")
    assert found.level.value == "warning"


def test_a_processor_off_loopback_that_believes_whoever_connects(tmp_path):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    ours = {"certificate": certificate, "key": key}
    cases = [
        ({}, "ok"),
        ({"listen": f"unix:{tmp_path}/a.sock"}, "ok"),
        ({"listen": "0.0.0.0:9002"}, "warning"),
        ({"listen": "0.0.0.0:9002", "tls": ours}, "warning"),
        ({"listen": "0.0.0.0:9002", "tls": {**ours, "client_ca": certificate}}, "ok"),
    ]
    for given, level in cases:
        settings = settings_of(tmp_path, ext_proc=given)
        found = only(listeners.listeners(settings, Host(), NOW), "listeners.ext-proc")
        assert found.level.value == level, given
    assert len(cases) == 5


def test_who_may_connect_to_a_models_socket(tmp_path, monkeypatch):
    path = tmp_path / "model.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        folders = {folder: folder.stat() for folder in path.parents}
        path.chmod(0o660)
        assert socket_finding("m", path).level.value == "ok"
        path.chmod(0o777)
        for mode, level in ((0o755, "warning"), (0o700, "ok")):
            tmp_path.chmod(mode)
            # The folders above are the test run's own, and closed.
            monkeypatch.setattr(
                "proxy.doctor.exposure._open_to_all",
                lambda one: (
                    one not in folders or one != tmp_path or bool(one.stat().st_mode & stat.S_IXOTH)
                ),
            )
            assert socket_finding("m", path).level.value == level, oct(mode)
    assert socket_finding("m", tmp_path / "none").level.value == "could-not-be-tried"
    assert socket_finding("m", Path(__file__)).level.value == "wrong"


def test_a_finding_is_one_line(tmp_path):
    found = limits.memory(settings_of(tmp_path), 2**26)
    assert str(found).startswith("wrong: limits.memory: 64 MiB granted; 1 worker(s) take 220 MiB")
    assert str(found).endswith(" -> raise the memory limit, or lower workers")
    assert " -> " not in str(replace(found, advice=""))
