"""``bartizan ext-proc`` behind a real Envoy: what clients and the model server see of it, and what
becomes of a request when it is not there."""

import contextlib
import hashlib
import json
import signal
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from envoy_process import Envoy, Processor, filter_of, manager_of
from gateway import Gateway
from judging_server import MODEL
from recorder import Recorder
from traffic import Traffic

from loadtest.payloads import infer_json, infer_request, infer_target
from loadtest.process import Process, accepts, free_port
from loadtest.wire import Session, render_request

PROGRAM = Path(__file__).parent.parent / "judging_server.py"
EMPTY = hashlib.sha256(b"").hexdigest()
ENVOYS_OWN = {"server", "date", "x-request-id", "connection"}
"""Headers that differ between two answers anyway, or between two servers."""


def shipped(_):
    """As in deploy/envoy/envoy.yaml."""


def open_(listener):
    filter_of(listener)["failure_mode_allow"] = True


def nameless(listener):
    filter_of(listener)["request_attributes"] = []


def believing(listener):
    manager_of(listener)["use_remote_address"] = False


def rigid(listener):
    filter_of(listener)["allow_mode_override"] = False


def streamed(listener):
    mode = filter_of(listener)["processing_mode"]
    mode["request_body_mode"] = mode["response_body_mode"] = "STREAMED"


def partial(listener):
    filter_of(listener)["processing_mode"]["request_body_mode"] = "BUFFERED_PARTIAL"


def blind(listener):
    filter_of(listener)["processing_mode"]["request_body_mode"] = "NONE"


def headless(listener):
    filter_of(listener)["processing_mode"]["request_header_mode"] = "SKIP"


def observing(listener):
    settings = filter_of(listener)
    del settings["status_on_error"], settings["mutation_rules"]
    settings["observability_mode"] = True
    mode = settings["processing_mode"]
    mode["request_body_mode"] = mode["response_body_mode"] = "STREAMED"
    mode["request_trailer_mode"] = mode["response_trailer_mode"] = "SKIP"


def narrow(listener):
    listener["per_connection_buffer_limit_bytes"] = 65536


VARIANTS = [shipped, open_, nameless, believing, rigid, streamed, partial, blind, headless,
            observing, narrow]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("envoy")


@pytest.fixture(scope="module")
def judge(folder, judged):
    """A model server that classifies digits: its port."""
    port, mood = free_port(), folder / "mood"
    mood.write_text("")
    model = judged["folder"] / "model.npz"
    arguments = [f"127.0.0.1:{port}", str(model), str(folder / "judge.jsonl"), str(mood)]
    process = Process("judge", [sys.executable, str(PROGRAM), *arguments], folder / "judge.log")
    process.wait_until(lambda: accepts(("127.0.0.1", port)))
    yield port
    process.stop()


@pytest.fixture(scope="module")
def recorded(folder):
    """A model server that remembers every request, behind ``/v2/models/recorded``."""
    recorder = Recorder(folder, free_port()).start()
    yield recorder
    recorder.stop()


@pytest.fixture(scope="module")
def endpoints(judge, recorded, judged):
    judging = {
        "upstream": f"http://127.0.0.1:{judge}",
        "upstream_path": f"/v2/models/{MODEL}",
        "bundle": str(judged["folder"] / "digits.bundle"),
    }
    quota = {"rows_per_second": 0.001, "burst_rows": 3, "rows_per_request": 3}
    return [
        {"name": MODEL, "match": f"/v2/models/{MODEL}", **judging},
        {"name": "watched", "match": "/v2/models/watched", **judging, "mode": "monitor"},
        {
            "name": "coarse",
            "match": "/v2/models/coarse",
            **judging,
            "shaping": {"when": "always", "mode": "top_k", "top_k": 1},
        },
        {
            "name": "recorded",
            "match": "/v2/models/recorded",
            "upstream": f"http://127.0.0.1:{recorded.port}",
            "upstream_path": f"/v2/models/{MODEL}",
        },
        {"name": "metered", "match": "/v2/models/metered", **judging, "limits": quota},
    ]


@pytest.fixture(scope="module")
def processor(tmp_path_factory, endpoints):
    one = Processor(tmp_path_factory.mktemp("processor"), endpoints).start()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory, endpoints):
    """The reverse proxy with the same endpoints."""
    one = Gateway(tmp_path_factory.mktemp("proxy"), endpoints).start()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def envoy(folder, judge, recorded, processor):
    variants = {change.__name__: change for change in VARIANTS}
    one = Envoy(
        folder,
        judge,
        [(processor.port, processor.admin_port)],
        variants,
        others={"recorded": recorded.port},
    )
    yield one.start()
    one.stop()


def infer(rows, model=MODEL, how="fine", **keywords):
    rows = np.atleast_2d(np.asarray(rows, np.float32))
    return infer_request(rows, "localhost", infer_target(model), request_id=how, **keywords)


def post(body, model=MODEL, *headers):
    given = [("Content-Type", "application/json"), *headers]
    return render_request("POST", infer_target(model), "localhost", body, given)


def ask(address, request, source=""):
    with Session(address, source) as session:
        return session.exchange(request)


def shown(answer):
    """What a client sees of an answer, whichever way it came."""
    headers = {name: value for name, value in answer.headers.items() if name not in ENVOYS_OWN}
    return answer.status, headers, answer.body


def scores(answer):
    [output] = json.loads(answer.body)["outputs"]
    return np.reshape(output["data"], output["shape"])


def requests(judged):
    """Requests of many kinds, honest and not, with what is expected of each."""
    plain, foul = judged["plain"], judged["foul"]
    noise = np.random.default_rng(5).uniform(0, 16, 64)
    good = infer_json(plain[:1].astype(np.float32), "fine")
    target = infer_target(MODEL)
    return [
        ("honest", 200, infer(plain[0])),
        ("several rows", 200, infer(plain[:9])),
        ("binary", 200, infer(plain[:2], "recorded", binary=True)),
        ("metadata", 200, render_request("GET", f"/v2/models/{MODEL}", "localhost")),
        ("outlier", 403, infer(noise)),
        ("one outlier among many", 403, infer(np.vstack([plain[:9], noise]))),
        ("an answer that does not fit", 403, infer(foul[0], how="lie")),
        ("shaped", 200, infer(plain[0], "coarse")),
        ("an outlier, watched", 200, infer(noise, "watched")),
        ("unreadable, watched", 200, infer(plain[0], "watched", "labels")),
        ("not JSON", 400, post(b'{"inputs": [')),
        ("NaN", 400, post(good.replace(b'"data":[', b'"data":[NaN,', 1))),
        ("two readings", 400, post(good.replace(b"{", b'{"inputs":[],', 1))),
        ("two documents", 400, post(good + good)),
        ("another shape", 400, infer(plain[0, :60])),
        ("no body", 400, post(b"")),
        ("no type", 200, render_request("POST", target, "localhost", good)),
        ("another type", 415, post(good).replace(b"application/json", b"text/plain")),
        ("another coding", 415, post(good, MODEL, ("Content-Encoding", "br"))),
        ("not gzip", 400, post(good, MODEL, ("Content-Encoding", "gzip"))),
        ("a restricted path", 403, render_request("POST", "/v2/repository/index", "localhost")),
        ("a deeper path", 403, render_request("POST", f"{target}/x", "localhost", good)),
        ("another method", 405, render_request("DELETE", target, "localhost")),
    ]  # fmt: skip


def test_clients_see_what_the_reverse_proxy_would_tell(envoy, proxy, judged):
    seen = []
    for what, expected, request in requests(judged):
        direct, through = ask(proxy.address, request), ask(envoy.address("shipped"), request)
        assert shown(direct) == shown(through), what
        seen.append((what, expected, through.status))
        assert "x-envoy-upstream-service-time" not in through.headers
    assert [one for one in seen if one[1] != one[2]] == []
    assert len(seen) == 23


def recorded_by(processor, address, request):
    """The processor's record of one exchange, and its answer."""
    before = len(processor.records())
    answer = ask(address, request)

    def found():
        new = processor.records()[before:]
        if identifier := answer.headers.get("x-request-id"):
            return [record for record in new if record["id"] == identifier]
        return [record for record in new if record["status"] == answer.status]

    processor.process.wait_until(found, 10)
    [record] = found()
    return record, answer


def test_the_model_server_gets_what_was_scored_and_nothing_else(envoy, recorded, judged):
    before = len(recorded.seen())
    row = judged["plain"][:1].astype(np.float32)
    told = [("X-Secret", "1"), ("X-Forwarded-For", "192.0.2.1"), ("Te", "trailers"),
            ("X-Gateway-Destination-Endpoint", "192.0.2.1:80"), ("X-Envoy-Retry-On", "5xx"),
            ("Content-Type", "application/json"), ("X-Request-Id", "mine")]  # fmt: skip
    document = b"  " + infer_json(row, "fine").replace(b":", b" : ")
    target = infer_target("recorded")
    sent = render_request("POST", target, "elsewhere.example", document, told)
    answer = ask(envoy.address("shipped"), sent)
    assert answer.status == 200
    [seen] = recorded.seen()[before:]
    headers = {name.lower(): value for name, value in seen["headers"]}
    assert len(headers) == len(seen["headers"])
    assert set(headers) == {"host", "content-type", "content-length", "x-request-id"}
    assert seen["target"] == infer_target(MODEL)  # the endpoint's upstream_path
    assert headers["x-request-id"] == answer.headers["x-request-id"] != "mine"
    assert headers["host"] == "recorded"
    assert int(headers["content-length"]) != len(document)  # re-serialised
    assert json.loads(answer.body)["parameters"]["sha256"] == seen["sha256"]


def test_the_model_server_gets_the_bytes_that_the_reverse_proxy_sends(
    envoy, proxy, recorded, judged
):
    before = len(recorded.seen())
    for binary in (False, True):
        request = infer(judged["plain"][:3], "recorded", binary=binary)
        for address in (proxy.address, envoy.address("shipped"), envoy.address("rigid")):
            assert ask(address, request).status == 200
    seen = recorded.seen()[before:]
    assert len(seen) == 6
    assert len({one["sha256"] for one in seen[:3]}) == len({one["sha256"] for one in seen[3:]}) == 1
    names = [sorted(name.lower() for name, _ in one["headers"]) for one in seen]
    assert names[0] == names[1] == names[2]
    assert names[3] == names[4] == names[5]


def test_what_both_sides_count(envoy, processor, judged):
    address, before = envoy.address("rigid"), envoy.of_filter("rigid")
    refused = processor.metric("bartizan_requests_total", endpoint=MODEL, action="block")
    record, answer = recorded_by(processor, address, infer(judged["foul"][0], how="lie"))
    assert answer.status == record["status"] == 403
    assert [reason["rule"] for reason in record["reasons"]] == ["BZ-400"]
    after = envoy.of_filter("rigid")
    for name, more in (("streams_started", 1), ("immediate_responses_sent", 1)):
        assert after[name] - before.get(name, 0) == more
    assert "streams_failed" not in after
    assert "failure_mode_allowed" not in after
    now = processor.metric("bartizan_requests_total", endpoint=MODEL, action="block")
    assert now == refused + 1


def test_monitor_mode_passes_and_says_what_it_would_do(envoy, processor, judged):
    noise = np.random.default_rng(5).uniform(0, 16, 64)
    request = infer(noise, "watched")
    record, answer = recorded_by(processor, envoy.address("shipped"), request)
    assert answer.status == 200
    assert (record["action"], record["enforced"]) == ("block", "allow")
    assert record["would_block"]


def test_clients_behind_one_envoy_have_a_quota_each(envoy, judged):
    """Their address is that of their connection, whatever they say."""
    rows = judged["plain"][:3]
    statuses = []
    for number, source in enumerate(["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3"]):
        body = infer_json(rows.astype(np.float32), "fine")
        spoofed = post(body, "metered", ("X-Forwarded-For", f"192.0.2.{number}"))
        statuses.append(ask(envoy.address("shipped"), spoofed, source).status)
    assert statuses == [200, 429, 200, 429]
    other = ask(envoy.address("rigid"), infer(rows, "metered"), "127.0.0.2")
    assert other.status == 429  # a second Envoy is no second quota


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        (nameless, "source.address"),
        (believing, "X-Forwarded-For"),
        (streamed, "BUFFERED"),
        (partial, "BUFFERED"),
        (blind, "BUFFERED"),
    ],
)
def test_a_filter_that_is_set_up_wrongly_lets_nothing_pass(
    variant, words, envoy, processor, recorded, judged
):
    before = len(recorded.seen())
    body = infer_json(judged["plain"][:1].astype(np.float32), "fine")
    request = post(body, "recorded", ("X-Forwarded-For", "192.0.2.1"))
    record, answer = recorded_by(processor, envoy.address(variant.__name__), request)
    assert answer.status == 503
    assert words in json.dumps(record["reasons"])
    assert len(recorded.seen()) == before


def test_a_head_that_is_not_shown_brings_no_body_to_the_model_server(
    envoy, processor, recorded, judged
):
    before = len(recorded.seen())
    request = infer(judged["plain"][0], "recorded")
    record, answer = recorded_by(processor, envoy.address("headless"), request)
    assert answer.status == 503
    assert "request_body" in json.dumps(record["reasons"])
    # Envoy had sent the head already: nothing can be done about that here.
    assert {one["sha256"] for one in recorded.seen()[before:]} <= {EMPTY}


def test_a_filter_that_only_observes_is_told_in_the_audit_log(envoy, processor, judged):
    noise = np.random.default_rng(5).uniform(0, 16, 64)
    before = len(processor.records())
    # What it is answered does not count. An error of the stream may, if it comes soon enough.
    assert ask(envoy.address("observing"), infer(noise)).status in {200, 500}
    processor.process.wait_until(lambda: len(processor.records()) > before, 10)
    assert "observability" in json.dumps(processor.records()[before]["reasons"])


def test_bodies_beyond_what_envoy_holds(envoy, processor, judged):
    big = infer(np.tile(judged["plain"][:1], (900, 1)))
    assert len(big) > 65536
    assert ask(envoy.address("shipped"), big).status == 200
    record, answer = recorded_by(processor, envoy.address("narrow"), big)
    assert answer.status == 413
    assert record["status"] == 413
    huge = ask(envoy.address("shipped"), infer(judged["plain"][0], how="huge"))
    assert huge.status >= 500  # 11 MiB of answer


def test_a_client_that_leaves_is_recorded_as_gone(envoy, processor, recorded, judged):
    def gone():
        left = [record for record in processor.records() if record["status"] == 0]
        return [record["endpoint"] for record in left]

    assert gone() == []
    with socket.create_connection(envoy.address("shipped"), 10) as connection:
        seen = len(recorded.seen())
        connection.sendall(infer(judged["plain"][0], "recorded", "delay:20"))
        processor.process.wait_until(lambda: len(recorded.seen()) > seen, 10)
    processor.process.wait_until(gone, 10)
    assert gone() == ["recorded"]


def test_a_failing_model_server_is_told_as_envoy_does(envoy, judged):
    for how in ("cut", "truncated"):
        assert ask(envoy.address("shipped"), infer(judged["plain"][0], how=how)).status >= 500
    erring = ask(envoy.address("shipped"), infer(judged["plain"][0], how="error"))
    assert (erring.status, json.loads(erring.body)) == (500, {"error": "as asked"})


def wait_until_it_serves(envoy, request):
    """Until Envoy's workers, too, know that the processor is well again."""
    envoy.process.wait_until(lambda: ask(envoy.address("shipped"), request).status == 200, 10)


def test_a_slow_model_server_is_no_fault_of_the_processor(envoy, judged):
    """Envoy's message_timeout, of a second here, does not run while the model works."""
    request = infer(judged["plain"][0], "recorded", how="delay:1.2")
    assert ask(envoy.address("shipped"), request).status == 200


@contextlib.contextmanager
def stopped(processor):
    """The processor hangs."""
    processor.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        processor.signal(signal.SIGCONT)


def test_a_processor_that_hangs(envoy, processor, recorded, judged):
    """Envoy waits for message_timeout; failure_mode_allow says what comes then."""
    request = infer(judged["plain"][0], "recorded", how="hung")
    seen, before = len(recorded.seen()), envoy.of_filter("shipped")
    with stopped(processor):
        assert ask(envoy.address("shipped"), request).status == 504
        assert len(recorded.seen()) == seen
        assert ask(envoy.address("open_"), request).status == 200
        assert len(recorded.seen()) == seen + 1
        # Once the health check has noticed, nobody waits any more.
        envoy.process.wait_until(lambda: envoy.healthy(0), 10)
        assert ask(envoy.address("shipped"), request).status in {503, 504}
    after = envoy.of_filter("shipped")
    assert after["message_timeouts"] == before.get("message_timeouts", 0) + 1
    assert envoy.of_filter("open_")["failure_mode_allowed"] >= 1
    wait_until_it_serves(envoy, request)


def test_a_processor_that_is_killed(envoy, processor, recorded, judged):
    request = infer(judged["plain"][0], "recorded", how="killed")
    with Session(envoy.address("shipped")) as session:
        assert session.exchange(request).status == 200
        seen, allowed = len(recorded.seen()), envoy.of_filter("open_")
        failed = envoy.of_filter("shipped").get("streams_failed", 0)
        processor.kill()
        assert session.exchange(request).status == 503
    assert len(recorded.seen()) == seen
    assert envoy.of_filter("shipped")["streams_failed"] == failed + 1
    unread = post(b"not JSON", "recorded", ("X-Secret", "1"))
    ask(envoy.address("open_"), request)
    with contextlib.suppress(OSError, ValueError):
        ask(envoy.address("open_"), unread)  # reaches the model as it is
    after = envoy.of_filter("open_")
    assert after["failure_mode_allowed"] == allowed.get("failure_mode_allowed", 0) + 2
    *_, forged = recorded.seen()
    assert ["x-secret", "1"] in forged["headers"]
    processor.start()
    wait_until_it_serves(envoy, request)


class Service:
    """Several processors behind an Envoy, as ``Traffic`` wants it."""

    def __init__(self, envoy):
        self.address = envoy.address("shipped")

    def ready(self):
        return True


def test_a_processor_drains_and_no_request_is_lost(tmp_path_factory, recorded):
    endpoint = recorded.endpoint()
    one, two = (
        Processor(tmp_path_factory.mktemp("drained"), [endpoint]).launch() for _ in range(2)
    )
    ports = [(each.port, each.admin_port) for each in (one, two)]
    envoy = Envoy(tmp_path_factory.mktemp("envoy"), recorded.port, ports, {"shipped": shipped})
    with contextlib.ExitStack() as stack:
        for each in (one, two):
            stack.callback(each.stop)
            each.process.wait_until(each.ready)
        stack.callback(envoy.stop)
        envoy.start()
        with Traffic(Service(envoy), 100_000) as traffic:
            traffic.wait_for(200)
            assert one.stop() == 0
            traffic.wait_for(len(traffic.outcomes) + 200)
            traffic.stop()
        assert two.stop() == 0
        assert traffic.failures == []
        assert len(one.records()) + len(two.records()) == len(traffic.outcomes)
