"""Every protocol over HTTP through a running firewall: what is forwarded, refused, limited, let
through unread, and that an endpoint is one model by whatever protocol it is asked.
"""

import json
import socket

import numpy as np
import pytest
from protocol_cases import CASES, CONTRACT, EVERY, FEATURES, JSON, of_json, v2
from scripted_upstream import ScriptedUpstream
from traffic import exchange

from loadtest.wire import Session, render_request

LIMITS = {"rows_per_second": 0.001, "burst_rows": 8, "rows_per_request": 4}


@pytest.fixture(scope="module")
def upstream():
    one = ScriptedUpstream()
    one.pages = {
        "/v2/models/digits": b'{"name":"digits","inputs":[],"outputs":[]}',
        "/v1/models/digits": b'{"name":"digits","ready":true}',
        "/ping": b'{"status":"Healthy"}',
        "/health/ping": b"pong",
    }
    yield one
    one.stop()


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """Starts a firewall for the whole module."""
    from gateway import Gateway

    started = []

    def start(endpoints, **sections):
        one = Gateway(tmp_path_factory.mktemp("gateway"), endpoints, **sections).start()
        started.append(one)
        return one

    yield start
    for one in started:
        one.stop()


@pytest.fixture(scope="module")
def guard(serve, upstream, digits_bundle):
    """All protocols, each an endpoint, enforcing."""
    return serve([case.endpoint(upstream.url, bundle=str(digits_bundle)) for case in CASES])


@pytest.fixture(scope="module")
def monitoring(serve, upstream, digits_bundle):
    """The same, monitoring."""
    keys = {"bundle": str(digits_bundle), "mode": "monitor"}
    return serve([case.endpoint(upstream.url, **keys) for case in CASES])


@pytest.fixture(autouse=True)
def forgetful(upstream):
    upstream.seen.clear()


@pytest.fixture(scope="module")
def honest(guard, images):
    """An image that the bundle does not flag."""
    for image in images:
        rows = image[None].astype(np.float32)
        if ask(guard, CASES[0].request(v2(rows))).status == 200:
            return rows
    raise AssertionError("all are flagged")


def ask(guard, request):
    with Session(guard.address) as session:
        return session.exchange(request)


OUTLIER = np.full((1, FEATURES), 900.0, np.float32)


@EVERY
def test_an_honest_request_is_forwarded_as_what_was_understood(case, guard, upstream, honest):
    body = case.write(honest)
    answer = ask(guard, case.request(body, X_Secret="1", Cookie="a=b", Accept="application/json"))
    assert (answer.status, answer.body) == (200, b'{"ok":true}')
    [seen] = upstream.taken()
    assert seen.target == (case.forwarded or case.target)
    assert np.array_equal(np.ravel(case.read(seen.body)), honest.ravel())
    assert seen.get("content-type") == [case.content_type]
    assert (seen.get("content-length"), seen.get("accept")) == (
        [str(len(seen.body))],
        ["application/json"],
    )
    assert not seen.get("x-secret") and not seen.get("cookie")
    # In other words, the same is forwarded.
    loose = b" " + body.replace(b", ", b" ,  ") if case.content_type != "text/csv" else body
    ask(guard, case.request(loose))
    [again] = upstream.taken()
    assert again.body == seen.body


@EVERY
def test_byte_by_byte_it_is_the_same_request(case, guard, upstream, honest):
    request = case.request(case.write(honest))
    ask(guard, request)
    with socket.create_connection(guard.address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(request) - 1):
            connection.sendall(request[at : at + 1])
        assert exchange(connection, request[-1:]).status == 200
    whole, parted = upstream.taken()
    assert (whole.body, whole.target) == (parted.body, parted.target)


@EVERY
def test_an_outlier_is_refused_in_the_protocols_own_words(case, guard, upstream, honest):
    many = np.concatenate([honest, OUTLIER])
    for rows in (OUTLIER, many):
        answer = ask(guard, case.request(case.write(rows)))
        assert answer.status == 403
        case.refused(answer)
        assert "retry-after" not in answer.headers
    assert upstream.taken() == []


@EVERY
def test_what_cannot_be_read_is_refused_and_nothing_is_forwarded(case, guard, upstream, honest):
    body = case.write(honest)
    for broken in (b"", b"{", body[: len(body) // 2], b"\xff" + body, b"[" * 9000, b"null"):
        answer = ask(guard, case.request(broken))
        assert 400 <= answer.status < 500, (broken[:20], answer.status)
        case.refused(answer)
    words = case.write(np.array([["x"] * FEATURES]))
    assert 400 <= ask(guard, case.request(words)).status < 500
    narrow = case.write(honest[:, :-1])
    assert 400 <= ask(guard, case.request(narrow)).status < 500
    assert upstream.taken() == []


@EVERY
def test_other_methods_and_paths(case, guard, upstream):
    answer = ask(guard, render_request("DELETE", case.target, "localhost", b"{}"))
    assert answer.status == 405
    assert answer.headers["allow"] == ("POST, PUT" if case.name == "torchserve" else "POST")
    case.refused(answer)
    answer = ask(guard, render_request("POST", f"{case.target}/x/y", "localhost", b"{}"))
    assert answer.status in (403, 404)
    assert upstream.taken() == []


@EVERY
def test_a_monitoring_endpoint_forwards_what_it_cannot_read(case, monitoring, upstream, honest):
    body = b"this is not it"
    answer = ask(monitoring, case.request(body))
    assert answer.status == 200
    [seen] = upstream.taken()
    assert (seen.body, seen.target) == (body, case.forwarded or case.target)
    assert seen.get("content-type") == [case.content_type]
    assert ask(monitoring, case.request(case.write(OUTLIER))).status == 200
    assert len(upstream.taken()) == 1


@pytest.fixture(scope="module")
def limited(serve, upstream):
    """All protocols with small quotas and no bundle."""
    return serve([case.endpoint(upstream.url, limits=LIMITS) for case in CASES])


@EVERY
def test_a_limit_is_said_in_the_protocols_own_words(case, limited, upstream, honest):
    rows = np.repeat(honest, 4, axis=0)
    statuses = [ask(limited, case.request(case.write(rows))).status for _ in range(2)]
    assert statuses == [200, 200]
    answer = ask(limited, case.request(case.write(honest)))
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) > 0
    case.refused(answer)
    assert len(upstream.taken()) == 2
    many = ask(limited, case.request(case.write(np.repeat(honest, 5, axis=0))))
    assert many.status == 413
    case.refused(many)


OWN = np.array([[0.2625, 0.7, 0.0375]])


@pytest.fixture(scope="module")
def shaping(serve, upstream):
    """All protocols, with answers made coarse; on a fault of ours they are refused, or pass."""
    keys = {"shaping": {"when": "always"}, "answer": {"kind": "probabilities"}}
    return {
        mode: serve([case.endpoint(upstream.url, failure_mode=mode, **keys) for case in CASES])
        for mode in ("deny", "allow")
    }


@pytest.fixture
def answering(upstream):
    """Sets what the model server says."""
    before = upstream.body

    def say(body):
        upstream.body = body

    yield say
    upstream.body = before


@EVERY
def test_an_answer_is_made_coarse_in_the_form_in_which_it_came(case, shaping, answering, honest):
    answering(case.answer(OWN))
    answer = ask(shaping["deny"], case.request(case.write(honest)))
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert case.said(answer.body) == [pytest.approx([0.3, 0.7, 0.0])]


@EVERY
def test_an_answer_that_cannot_be_read_is_a_fault(case, shaping, answering, honest):
    answering(b"this is no answer")
    refused = ask(shaping["deny"], case.request(case.write(honest)))
    assert refused.status >= 500
    case.refused(refused)
    passed = ask(shaping["allow"], case.request(case.write(honest)))
    assert (passed.status, passed.body) == (200, b"this is no answer")


# One model by several protocols.

AUTO = {"v2", "v1", "torchserve", "seldon"}


@pytest.fixture(scope="module")
def automatic(serve, upstream):
    return serve(
        [
            {
                "name": "digits",
                "match": "/",
                "upstream": upstream.url,
                "protocol": {"name": "auto", "model": "digits"},
                "contract": CONTRACT,
                "limits": {"rows_per_second": 0.001, "burst_rows": 20, "rows_per_request": 16},
            }
        ]
    )


def test_one_endpoint_by_every_protocol(automatic, upstream, honest):
    spoken = [case for case in CASES if case.name in AUTO]
    assert len(spoken) == 4
    for case in spoken:
        assert ask(automatic, case.request(case.write(honest))).status == 200
        [seen] = upstream.taken()
        assert seen.target == case.target
    mlflow = render_request("POST", "/invocations", "localhost", of_json("inputs")(honest), JSON)
    assert ask(automatic, mlflow).status == 200
    assert [seen.target for seen in upstream.taken()] == ["/invocations"]
    # Limits are those of the model: what was sent by one protocol counts for all.
    wide = np.repeat(honest, 15, axis=0)
    assert ask(automatic, CASES[0].request(v2(wide))).status == 200
    for case in spoken:
        answer = ask(automatic, case.request(case.write(honest)))
        assert answer.status == 429
        case.refused(answer)
    asked = [record for record in automatic.records() if record["rows"]]
    assert {record["endpoint"] for record in asked} == {"digits"}


def test_a_pattern_is_seen_over_all_protocols(gateway, upstream, images, digits_bundle):
    guard = gateway(
        [
            {
                "name": "digits",
                "match": "/",
                "upstream": upstream.url,
                "protocol": {"name": "auto", "model": "digits"},
                "contract": CONTRACT,
                "bundle": str(digits_bundle),
                "on_pattern": ["block"],
            }
        ]
    )
    spoken = [case for case in CASES if case.name in AUTO]
    draw = np.random.default_rng(1)
    steps = draw.normal(size=(120, FEATURES))
    steps /= np.linalg.norm(steps, axis=1, keepdims=True)
    statuses = []
    for number, row in enumerate(np.clip(images[0] + steps, 0, 16).astype(np.float32)):
        case = spoken[number % len(spoken)]
        statuses.append(ask(guard, case.request(case.write(row[None]))).status)
    assert statuses[:3] == [200] * 3
    assert set(statuses[-8:]) == {403}, "each protocol is refused, two times"
    ruled = [{reason["rule"][:4] for reason in record["reasons"]} for record in guard.records()]
    assert all("BZ-5" in rules for rules in ruled[-8:])


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("POST", "/v2/repository/index", 403),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v1/models/other:predict", 404),
        ("POST", "/predictions/other", 404),
        ("GET", "/models", 404),
        ("POST", "/predict", 404),
        ("POST", "/", 404),
        ("POST", "/v3/models/digits/infer", 404),
        ("POST", "/inference.GRPCInferenceService/digits/ModelInfer", 404),
    ],
)
def test_whatever_auto_does_not_know_is_refused(automatic, upstream, method, target, status):
    answer = ask(automatic, render_request(method, target, "localhost", b"{}"))
    assert answer.status in (status, 403 if status == 404 else status)
    assert json.loads(answer.body)
    assert upstream.taken() == []


def test_auto_learns_the_contract_from_the_protocol_that_the_server_speaks(gateway):
    server = ScriptedUpstream()
    server.pages = {"/v1/models/digits": b'{"name":"digits","ready":true}'}
    try:
        guard = gateway(
            [
                {
                    "name": "digits",
                    "match": "/team",
                    "upstream": server.url,
                    "upstream_path": "/",
                    "protocol": {"name": "auto", "model": "digits"},
                }
            ]
        )
        request = render_request(
            "POST", "/team/v1/models/digits:predict", "localhost", b'{"instances":[[1,2]]}', JSON
        )
        assert ask(guard, request).status == 200
        assert [seen.target for seen in server.taken()] == ["/v1/models/digits:predict"]
    finally:
        server.stop()
