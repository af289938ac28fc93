"""A real MLServer behind a real Envoy that asks ``bartizan ext-proc``, as in deploy/envoy."""

import gzip
import json

import numpy as np
import pytest
from envoy_process import Envoy, Processor, filter_of
from real_servers import FEATURES

from loadtest.payloads import infer_target
from loadtest.wire import Session, render_request

MODEL = "digits"
JSON = ("Content-Type", "application/json")
GZIP = ("Accept-Encoding", "gzip")


def shipped(listener):
    """As in deploy/envoy/envoy.yaml, its patience included."""
    filter_of(listener)["message_timeout"] = "10s"


@pytest.fixture(scope="module")
def processor(mlserver_port, digits_bundle, tmp_path_factory):
    judging = {
        "upstream": f"http://127.0.0.1:{mlserver_port}",
        "upstream_path": f"/v2/models/{MODEL}",
        "bundle": str(digits_bundle),
    }
    coarse = {"shaping": {"when": "always", "mode": "label"}}
    one = Processor(
        tmp_path_factory.mktemp("processor"),
        [
            {"name": MODEL, "match": f"/v2/models/{MODEL}", **judging},
            {"name": "coarse", "match": "/v2/models/coarse", **judging, **coarse},
        ],
    )
    try:
        yield one.start()
    finally:
        if one.process is not None:
            one.stop()


@pytest.fixture(scope="module")
def envoy(mlserver_port, processor, tmp_path_factory):
    ports = [(processor.port, processor.admin_port)]
    one = Envoy(tmp_path_factory.mktemp("envoy"), mlserver_port, ports, {"shipped": shipped})
    try:
        yield one.start().address("shipped")
    finally:
        one.stop()


@pytest.fixture(scope="module")
def mlserver(mlserver_port):
    return "127.0.0.1", mlserver_port


def infer(address, rows, model=MODEL, *headers, datatype="FP64"):
    """One request with an id, as MLServer makes one up where it gets none."""
    tensor = {"name": "x", "shape": rows.shape, "datatype": datatype, "data": rows.ravel().tolist()}
    outputs = [{"name": "predict"}, {"name": "predict_proba"}]
    body = json.dumps({"id": "a", "inputs": [tensor], "outputs": outputs}).encode()
    request = render_request("POST", infer_target(model), "localhost", body, [JSON, *headers])
    with Session(address) as session:
        return session.exchange(request)


def tensors(answer):
    """By name."""
    assert answer.status == 200, answer
    outputs = json.loads(answer.body)["outputs"]
    return {one["name"]: np.reshape(one["data"], one["shape"]) for one in outputs}


def content(answer):
    """What the body holds: gzip writes the time into it."""
    coded = answer.headers.get("content-encoding") == "gzip"
    return gzip.decompress(answer.body) if coded else answer.body


@pytest.mark.parametrize("headers", [(), (GZIP,)], ids=["plain", "gzip"])
def test_an_honest_request_is_answered_as_by_mlserver_itself(envoy, mlserver, images, headers):
    answered = 0
    for rows in np.array_split(images[:160], 20):
        direct, through = (infer(address, rows, MODEL, *headers) for address in (mlserver, envoy))
        if through.status == 403:  # an honest image may be flagged, as the budget has it
            continue
        assert (through.status, content(through)) == (direct.status, content(direct))
        for name in ("content-type", "content-encoding"):
            assert through.headers.get(name) == direct.headers.get(name)
        assert direct.status == 200
        assert ("content-encoding" in direct.headers) == bool(headers)
        answered += 1
    assert answered > 10


def test_metadata_passes(envoy, mlserver):
    request = render_request("GET", f"/v2/models/{MODEL}", "localhost")
    answers = []
    for address in (mlserver, envoy):
        with Session(address) as session:
            answers.append(session.exchange(request))
    direct, through = answers
    assert (through.status, through.body) == (direct.status, direct.body)
    assert direct.status == 200


def record_of(processor, answer):
    """The audit log's, once it is written."""

    def found():
        identifier = answer.headers["x-request-id"]
        return [record for record in processor.records() if record["id"] == identifier]

    processor.process.wait_until(found, 10)
    [record] = found()
    return record


def test_what_mlserver_would_answer_is_refused(envoy, mlserver, processor, images):
    noise = np.random.default_rng(6).uniform(0, 16, (1, FEATURES))
    cases = [
        ("an outlier", 403, "request refused", noise, "FP64"),
        ("one among honest rows", 403, "request refused", np.vstack([images[:1], noise]), "FP64"),
        ("not the contract's datatype", 400, "wrong datatype", images[:1], "FP32"),
    ]
    for what, status, words, rows, datatype in cases:
        assert infer(mlserver, rows, datatype=datatype).status == 200, what
        answer = infer(envoy, rows, datatype=datatype)
        assert answer.status == status, what
        assert answer.headers["content-type"] == "application/json"
        error = json.loads(answer.body)
        assert set(error) == {"error"}
        assert error["error"].startswith(words), what
        record = record_of(processor, answer)
        assert record["status"] == status
    assert len(cases) == 3


def test_only_labels_are_told_where_answers_are_shaped(envoy, mlserver, images):
    told = 0
    for rows in np.array_split(images[:20], 5):
        shaped = infer(envoy, rows, "coarse")
        if shaped.status == 403:
            continue
        coarse, direct = tensors(shaped), tensors(infer(mlserver, rows))
        assert np.array_equal(coarse["predict"], direct["predict"])
        assert coarse["predict_proba"].shape == direct["predict_proba"].shape == (len(rows), 10)
        for row, full in zip(coarse["predict_proba"], direct["predict_proba"], strict=True):
            assert row.argmax() == full.argmax()
            assert len(set(row)) == 2 < len(set(full))
        told += 1
    assert told > 2
