"""Prometheus itself scrapes real gateways under load: nothing fires while all is well, every alert
fires in a rehearsed fault, and every query of the dashboard returns data."""

import contextlib
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import monitoring
import numpy as np
import pytest
from authority import Authority
from deploy_tools import tool
from gateway import Gateway
from prometheus_server import TOKEN, Prometheus
from recorder import MODEL, Recorder
from redis_servers import ANY, RedisServer
from traffic import ask, request_of

from loadtest.payloads import infer_request, infer_target
from loadtest.process import Process, ProcessError, accepts, free_port

JUDGE = Path(__file__).parent.parent / "judging_server.py"
SECRET = "a secret of at least sixteen characters"
UNLIMITED = resource.RLIM_INFINITY
STEADY = 120  # requests of each load while all is well

# Queries that nothing answers here, and why.
EMPTY = {
    "bartizan_grpc_calls": "no endpoint of these gateways is asked over gRPC",
    "bartizan_grpc_calls_shed_total": "no endpoint of these gateways is asked over gRPC",
    "ALERTS": "it has data of itself: the alerts that fire",
}

pytestmark = pytest.mark.skipif(ANY is None, reason="no Redis server is installed")


def infer(rows, identifier="", key=None):
    headers = [("X-API-Key", key)] if key else []
    return infer_request(
        np.atleast_2d(np.asarray(rows, np.float32)),
        "localhost",
        infer_target(MODEL),
        request_id=identifier,
        headers=headers,
    )


class Load:
    """Clients that send one request after another to a gateway, until they are stopped."""

    def __init__(self, guard, requests, clients=1, pause=0.03):
        self._guard, self._pause = guard, pause
        self._requests = itertools.cycle(requests)
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.sent = 0
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self):
        while not self._over.wait(self._pause):
            with self._lock:
                request = next(self._requests)
                self.sent += 1
            with contextlib.suppress(OSError, ValueError):  # it may be down: that is rehearsed
                ask(self._guard.address, request)

    def stop(self):
        self._over.set()
        for thread in self._threads:
            thread.join(60)


class Rehearsal:
    """The gateways, what they stand before, the load on them, and the Prometheus that watches."""

    def __init__(self, folder, judged, digits_bundle, images):
        self.folder, self.judged, self.images = folder, judged, images
        self.digits = str(digits_bundle)
        self.loads, self.started = [], []
        self.redis = RedisServer(self.made("redis")).start()
        self.started.append(self.redis)
        self.authority = Authority(self.made("authority"))
        self.recorder, self.second = (self.record(name) for name in ("recorder", "second"))
        self.gateways = {}

    def made(self, name):
        place = self.folder / name
        place.mkdir()
        return place

    def record(self, name):
        recorder = Recorder(self.made(name), free_port()).start()
        self.started.append(recorder)
        return recorder

    def judge(self):
        port, folder = free_port(), self.made("judge")
        (folder / "mood").write_text("")
        files = [self.judged["folder"] / "model.npz", folder / "seen.jsonl", folder / "mood"]
        command = [sys.executable, str(JUDGE), f"127.0.0.1:{port}", *map(str, files)]
        process = Process("judge", command, folder / "judge.log")
        self.started.append(process)
        process.wait_until(lambda: accepts(("127.0.0.1", port)))
        return f"http://127.0.0.1:{port}"

    def guard(self, name, endpoint, **sections):
        one = Gateway(self.made(name), [endpoint], **sections)
        one.settings["admin"]["token"] = TOKEN
        self.gateways[name] = one.launch()
        self.started.append(one)
        return one

    def launch(self):
        plain = self.recorder.endpoint
        shared = {
            "state": self.redis.url,
            "sharing": {"wait_seconds": 1.0},
            "client": {"secret": SECRET},
        }
        wide = {"rows_per_request": 4096, "rows_per_second": 1e6}
        self.guard(
            "judging",
            plain(
                upstream=self.judge(),
                bundle=str(self.judged["folder"] / "digits.bundle"),
                bundle_max_age_days=36_500,
                failure_mode="allow",
                limits={"rows_per_second": 1000},
                second_opinion={"when": "suspicious"},
            ),
            workers=2,
            **shared,
        )
        self.guard("watching", plain(bundle=self.digits, mode="monitor"), **shared)
        certificate, key = self.authority.issue("calm", days=300)
        self.guard(
            "calm",
            plain(bundle=self.digits, grpc={"upstream": "grpc://127.0.0.1:9"}),
            grpc={"listen": "127.0.0.1:0", "tls": {"certificate": certificate, "key": key}},
        )
        self.guard("auditing", plain(bundle=self.digits, limits=wide), audit={"values": True})
        both = [f"http://127.0.0.1:{one.port}" for one in (self.recorder, self.second)]
        self.guard("busy", plain(upstream=both, connections=1, slowdown=None))
        for one in self.gateways.values():
            one.process.wait_until(one.ready, 60)

    def jobs(self):
        admin = {name: f"127.0.0.1:{one.admin_port}" for name, one in self.gateways.items()}
        pair = [admin.pop("watching"), admin.pop("calm")]
        return {"bartizan-pair": pair} | {f"bartizan-{name}": [one] for name, one in admin.items()}

    def load(self, name, requests, **keys):
        load = Load(self.gateways[name], requests, **keys)
        self.loads.append(load)
        return load

    def stop(self):
        for load in self.loads:
            load.stop()
        for one in reversed(self.started):
            one.stop()


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory, judged, digits_bundle, images):
    tool("prometheus")
    one = Rehearsal(tmp_path_factory.mktemp("rehearsal"), judged, digits_bundle, images)
    try:
        one.launch()
        yield one
    finally:
        one.stop()


@pytest.fixture(scope="module")
def prometheus(rehearsal):
    server = Prometheus(rehearsal.made("prometheus"), rehearsal.jobs())
    try:
        yield server.start()
    finally:
        server.stop()


def workers(guard):
    children = Path(f"/proc/{guard.process.pid}/task/{guard.process.pid}/children")
    return [int(child) for child in children.read_text().split()]


def noise(count):
    return np.random.default_rng(5).uniform(0, 16, (count, 64))


def probes(image, count):
    steps = np.random.default_rng(1).normal(size=(count, image.size))
    return np.clip(image + steps / np.linalg.norm(steps, axis=1, keepdims=True), 0, 16)


def test_the_configuration_is_one_that_promtool_takes(prometheus):
    done = subprocess.run(
        [tool("promtool"), "check", "config", str(prometheus.configuration)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_nothing_fires_while_all_is_well(rehearsal, prometheus):
    honest = [infer(row) for row in rehearsal.images[:200]]
    rehearsal.load("judging", [infer(row) for row in rehearsal.judged["plain"][:100]])
    for name in ("watching", "calm", "auditing"):
        rehearsal.load(name, honest)
    rehearsal.load("busy", [request_of("fine")])
    prometheus.wait_until(lambda: min(load.sent for load in rehearsal.loads) > STEADY)
    prometheus.begin(len(rehearsal.gateways))
    # For as long as most alerts look back: each gateway is scraped, with the token, and well. On a
    # busy machine that may take a while, as seconds stand for minutes.
    seen = "count(count_over_time((up == 1)[10s:500ms]) >= 15)"
    fires = 'count_over_time(ALERTS{alertstate="firing"}[10s])'

    def well():
        everybody = prometheus.query(seen) == [({}, len(rehearsal.gateways))]
        return everybody and not prometheus.query(fires)

    prometheus.wait_until(well)
    assert {labels["job"] for labels, _ in prometheus.query("up == 1")} == set(rehearsal.jobs())


def test_promtool_finds_nothing_amiss_in_what_gateways_expose(rehearsal, prometheus):
    for one in rehearsal.gateways.values():
        page = urllib.request.Request(
            f"http://127.0.0.1:{one.admin_port}/metrics",
            headers={"Authorization": f"Bearer {TOKEN}"},
        )
        with urllib.request.urlopen(page, timeout=30) as answer:
            exposed = answer.read()
        assert exposed.count(b"\n") > 100
        command = [tool("promtool"), "check", "metrics"]
        done = subprocess.run(command, input=exposed, capture_output=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def hostile(rehearsal, _):
    """Attacks: budgets are exceeded, patterns recognised, answers beyond reading."""
    rehearsal.load("judging", [infer(row) for row in noise(50)])
    rehearsal.load("judging", [infer(rehearsal.judged["plain"][0], "nan")])
    rehearsal.load("judging", [infer(row, "lie") for row in rehearsal.judged["doubtful"][:20]])
    rehearsal.load("watching", [infer(row) for row in noise(50)])
    rehearsal.load("watching", [infer(row) for row in probes(rehearsal.images[0], 500)])


def old_bundle(rehearsal, _):
    """One of two replicas is given another bundle, and an old one: it was made for the tests; and
    a certificate that is renewed for hours only."""
    one = rehearsal.gateways["calm"]
    one.settings["endpoints"][0]["bundle"] = str(rehearsal.judged["folder"] / "digits.bundle")
    one.write()
    rehearsal.authority.issue("calm", days=0.1)
    one.signal(signal.SIGHUP)


def full_disk(rehearsal, _):
    """The audit log grows no more, and what waits is large: rows are recorded with their values."""
    one = rehearsal.gateways["auditing"]
    size = max(one.audit.stat().st_size, one.process.log.stat().st_size)
    resource.prlimit(one.process.pid, resource.RLIMIT_FSIZE, (size, UNLIMITED))
    rows = np.tile(rehearsal.images[:100], (20, 1))
    rehearsal.load("auditing", [infer(rows)], clients=2, pause=0.0)


def bad_servers(rehearsal, _):
    """A model server is gone, the other one slow and now and then broken: the queue stands."""
    rehearsal.second.stop()
    slow = [request_of("delay:0.03")] * 4 + [request_of("status:500")]
    rehearsal.load("busy", slow, clients=24, pause=0.01)


def bad_reload(rehearsal, _):
    one = rehearsal.gateways["busy"]
    one.configuration.write_text("endpoints: [")
    one.signal(signal.SIGHUP)


def spoilt_state(rehearsal, prometheus):
    """Somebody writes over what Redis knows of clients: what comes back cannot be read."""
    redis = rehearsal.redis.client()
    failed = 'bartizan_exchange_failures_total{job="bartizan-pair"} > 0'

    def spoilt():
        for key in redis.keys("bz:*"):
            if redis.type(key) == b"string" and redis.strlen(key) > 120:
                redis.setrange(key, 60, b"\xff" * (redis.strlen(key) - 60))
        return prometheus.query(failed)

    prometheus.wait_until(spoilt)


def no_redis(rehearsal, _):
    rehearsal.redis.stop()


def dying_workers(rehearsal, _):
    """One worker after another is killed; the pause until it is replaced grows."""
    one = rehearsal.gateways["judging"]
    for _ in range(4):
        one.process.wait_until(lambda: len(workers(one)) == 2, 60)
        os.kill(max(workers(one)), signal.SIGKILL)
        killed = set(workers(one))
        one.process.wait_until(lambda killed=killed: set(workers(one)) - killed, 60)


def gone(rehearsal):
    rehearsal.gateways["calm"].kill()


PAGE, TICKET = "page", "ticket"
# Each fault, what it raises, and whether that is waited for before the next one.
FAULTS = (
    (
        old_bundle,
        {
            ("BartizanBundleStale", TICKET),
            ("BartizanBundlesDiffer", TICKET),
            ("BartizanCertificateExpiring", TICKET),
            ("BartizanCertificateExpiring", PAGE),
        },
        False,
    ),
    (
        hostile,
        {
            ("BartizanBudgetExceeded", PAGE),
            ("BartizanBudgetExceeded", TICKET),
            ("BartizanFailOpen", PAGE),
            ("BartizanDetectorFaults", TICKET),
            ("BartizanPatternAlarm", TICKET),
        },
        False,
    ),
    (
        full_disk,
        {
            ("BartizanAuditFailing", PAGE),
            ("BartizanAuditDropped", PAGE),
            ("BartizanOverheadHigh", TICKET),
        },
        False,
    ),
    (
        bad_servers,
        {
            ("BartizanUpstreamEjected", TICKET),
            ("BartizanServerErrors", PAGE),
            ("BartizanQueueDelay", TICKET),
            ("BartizanShedding", PAGE),
        },
        False,
    ),
    (bad_reload, {("BartizanReloadFailed", TICKET)}, False),
    (spoilt_state, {("BartizanStateNewsLost", TICKET)}, False),
    (dying_workers, {("BartizanRestarting", TICKET), ("BartizanWorkerDown", TICKET)}, True),
    (no_redis, {("BartizanRedisDegraded", TICKET)}, True),
)


@pytest.fixture(scope="module")
def faults(rehearsal, prometheus):
    """All faults but those that leave nothing to look at; what each should raise, it has raised."""
    raised = set()

    def missing():
        return raised - prometheus.fired()

    for inflict, expected, waits in FAULTS:
        inflict(rehearsal, prometheus)
        raised |= expected
        if waits:
            with contextlib.suppress(ProcessError):  # told below, with what is missing
                prometheus.wait_until(lambda: not missing())
            assert missing() == set()
    return prometheus


def test_every_query_of_the_dashboard_returns_data(faults):
    missing = [
        (title, expression)
        for title, expression in monitoring.queries(interval="30s")
        if not faults.query(expression) and not any(f"{metric}{{" in expression for metric in EMPTY)
    ]
    assert missing == []


def test_every_expression_asks_for_what_is_exposed(faults, repository):
    exposed = {}
    for labels in faults.series('{job=~"bartizan.*"}'):
        exposed.setdefault(labels["__name__"], set()).update(labels)
    expressions = [expression for _, expression in monitoring.queries()]
    expressions += [rule["expr"] for rule in monitoring.rules()]
    done = subprocess.run(
        [tool("deploy-python"), str(repository / "tests" / "promql_reader.py")],
        input=json.dumps(expressions),
        capture_output=True,
        text=True,
        check=True,
    )
    asked = json.loads(done.stdout)
    assert len(asked) > 100
    checked = set()
    for expression, needs in zip(expressions, asked, strict=True):
        for metric, labels in needs:
            if metric in monitoring.OF_PROMETHEUS | monitoring.OF_ENVOY | EMPTY.keys():
                continue
            assert metric in exposed, (metric, expression)
            unknown = set(labels) - exposed[metric] - monitoring.OF_TARGETS - TAKEN_OVER
            assert not unknown, (metric, unknown, expression)
            checked.add(metric)
    assert len(checked) > 70


# Labels by which an expression groups what it made of a metric that has them, and of one that
# takes them over from there.
TAKEN_OVER = {"mode"}


LAST = [("BartizanNotReady", PAGE), ("BartizanDown", PAGE), ("BartizanAbsent", PAGE)]
# What these gateways cannot raise, and why.
ELSEWHERE = {("BartizanEnvoyFailOpen", PAGE): "a metric of Envoy's: there is none before them"}


def test_gateways_that_serve_no_more_are_told(faults, rehearsal):
    prometheus = faults
    not_ready, *expected = LAST
    assert expected[1] not in prometheus.fired()
    rehearsal.recorder.stop()
    prometheus.wait_until(lambda: not_ready in prometheus.fired())
    gone(rehearsal)
    prometheus.wait_until(lambda: expected[0] in prometheus.fired())
    prometheus.aim({job: [] for job in rehearsal.jobs()})
    prometheus.wait_until(lambda: expected[1] in prometheus.fired())


def test_every_alert_is_rehearsed():
    rehearsed = set().union(*(expected for _, expected, _ in FAULTS))
    known = {(rule["alert"], rule["labels"]["severity"]) for rule in monitoring.rules()}
    assert known - rehearsed == {*LAST, *ELSEWHERE}
    assert rehearsed <= known
