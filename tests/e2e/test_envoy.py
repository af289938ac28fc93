"""``bartizan ext-proc`` behind a real Envoy: what clients and the model server see of it, and what
becomes of a request when it is not there."""

import contextlib
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
from traffic import Traffic, request_of

from loadtest.payloads import infer_json, infer_request, infer_target
from loadtest.process import Process, accepts, free_port
from loadtest.wire import Session, render_request

PROGRAM = Path(__file__).parent.parent / "judging_server.py"
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
