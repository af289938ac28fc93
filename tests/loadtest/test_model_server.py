"""The demonstration's model server as a real process, over real sockets."""

import json
import socket
import sys

import numpy as np
import pytest

from loadtest.mlp import Mlp
from loadtest.payloads import infer_binary, infer_json, infer_request, infer_target
from loadtest.process import Process
from loadtest.wire import Session, render_request, response_end

ROWS = np.random.default_rng(5).random((3, 4)).astype(np.float32)
TARGET = infer_target("m")


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(4)
    shape = (4, 3)
    return Mlp([rng.normal(size=shape).astype(np.float32)], [np.zeros(3, np.float32)])


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    model.save(folder / "m.npz")
    command = [sys.executable, "-m", "loadtest.model_server", "--model", str(folder / "m.npz")]
    process = Process("model server", command, folder / "log")
    try:
        yield process.wait_for_line()
    finally:
        assert process.stop() == 0


@pytest.fixture
def session(address):
    with Session(address) as session:
        yield session


def _answer(response):
    assert response.status == 200, response.body
    document = json.loads(response.body)
    return {output["name"]: output for output in document["outputs"]}, document


def test_json_in_and_out(session, model):
    outputs, document = _answer(session.exchange(infer_request(ROWS, "t", TARGET, request_id="7")))
    expected = model.probabilities(ROWS)
    assert document["id"] == "7"
    assert outputs["label"]["data"] == expected.argmax(axis=1).tolist()
    probabilities = np.array(outputs["probabilities"]["data"], np.float32).reshape(3, 3)
    assert np.array_equal(probabilities, expected)


def test_binary_in_json_out_equals_json_in(session):
    json_answer = session.exchange(infer_request(ROWS, "t", TARGET))
    binary_answer = session.exchange(infer_request(ROWS, "t", TARGET, binary=True))
    assert binary_answer.body == json_answer.body


def test_binary_out(session, model):
    body, length = infer_binary(ROWS, binary_output=True)
    headers = [("Inference-Header-Content-Length", str(length))]
    response = session.exchange(render_request("POST", TARGET, "t", body, headers))
    head_length = int(response.headers["inference-header-content-length"])
    document = json.loads(response.body[:head_length])
    tail, at, arrays = response.body[head_length:], 0, {}
    for output in document["outputs"]:
        size = output["parameters"]["binary_data_size"]
        kind = "<i8" if output["datatype"] == "INT64" else "<f4"
        arrays[output["name"]] = np.frombuffer(tail[at : at + size], kind).reshape(output["shape"])
        at += size
    assert at == len(tail)
    assert np.array_equal(arrays["probabilities"], model.probabilities(ROWS))
    assert response.headers["content-type"] == "application/octet-stream"


def test_one_output_in_binary_the_other_in_json(session):
    document = json.loads(infer_json(ROWS))
    document["outputs"] = [
        {"name": "probabilities", "parameters": {"binary_data": True}},
        {"name": "label"},
    ]
    response = session.exchange(render_request("POST", TARGET, "t", json.dumps(document).encode()))
    length = int(response.headers["inference-header-content-length"])
    outputs = json.loads(response.body[:length])["outputs"]
    assert [o["name"] for o in outputs] == ["probabilities", "label"]
    assert "data" not in outputs[0]
    assert len(outputs[1]["data"]) == 3
    assert len(response.body) - length == 3 * 3 * 4


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/m/ready",
             "/v2/models/m/versions/1/ready"]
)  # fmt: skip
def test_health_and_readiness(session, path):
    assert session.exchange(render_request("GET", path, "t")).status == 200


def test_metadata_declares_the_tensor(session):
    document = json.loads(session.exchange(render_request("GET", "/v2/models/m", "t")).body)
    assert document["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]
    assert [output["name"] for output in document["outputs"]] == ["label", "probabilities"]


def _changed(**tensor):
    document = json.loads(infer_json(ROWS))
    document["inputs"][0].update(tensor)
    return json.dumps(document).encode()


BAD = {
    "not JSON": b"{",
    "not an object": b"[1]",
    "no inputs": b"{}",
    "two inputs": json.dumps({"inputs": [{}, {}]}).encode(),
    "an input that is a number": b'{"inputs":[1]}',
    "a name unknown": _changed(name="x"),
    "a datatype unknown": _changed(datatype="INT8"),
    "a shape that is text": _changed(shape="x"),
    "a shape of other width": _changed(shape=[3, 5]),
    "a shape that lies": _changed(shape=[1 << 40, 4]),
    "ragged data": _changed(data=[[1, 2], [3]]),
    "data that is text": _changed(data=["a"] * 12),
    "no data": json.dumps(
        {"inputs": [{"name": "input", "shape": [3, 4], "datatype": "FP32"}]}
    ).encode(),
    "binary without a tail": _changed(data=None, parameters={"binary_data_size": 8}),
    "an output unknown": infer_json(ROWS)[:-1] + b',"outputs":[{"name":"x"}]}',
    "outputs of another structure": infer_json(ROWS)[:-1] + b',"outputs":[5]}',
    "parameters of another structure": infer_json(ROWS)[:-1] + b',"parameters":[5]}',
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_errors_have_the_shape_of_the_protocol(session, body):
    response = session.exchange(render_request("POST", TARGET, "t", body))
    assert response.status == 400
    assert isinstance(json.loads(response.body)["error"], str)


def test_every_bad_body_was_tried():
    assert len(BAD) == 17


@pytest.mark.parametrize("length", ["0", "+5", "99999", "x"])
def test_a_header_length_that_does_not_fit_is_refused(session, length):
    headers = [("Inference-Header-Content-Length", length)]
    request = render_request("POST", TARGET, "t", infer_json(ROWS), headers)
    assert session.exchange(request).status == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", TARGET, 405), ("POST", "/v2", 405), ("GET", "/v2/models/other", 404)],
)
def test_paths_and_methods(session, method, path, status):
    assert session.exchange(render_request(method, path, "t")).status == status


def _raw(address, *parts):
    with socket.create_connection(address, 5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)
        data = b""
        while got := connection.recv(1 << 16):
            data += got
    return data


def test_byte_by_byte_chunked_and_pipelined_are_all_the_same(address):
    request = infer_request(ROWS, "t", TARGET)
    body = infer_json(ROWS)
    chunked = (
        f"POST {TARGET} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        + b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (5, body[:5], len(body) - 5, body[5:])
    )
    whole = _raw(address, request)
    assert response_end(whole) == (200, len(whole))
    assert _raw(address, *(request[i : i + 1] for i in range(len(request)))) == whole
    assert _raw(address, chunked) == whole
    assert _raw(address, request + request) == whole * 2


def test_a_connection_is_closed_when_asked_and_after_nonsense(address):
    closing = render_request("GET", "/v2", "t", b"", [("Connection", "close")])
    assert b"Connection: close" in _raw(address, closing)
    assert _raw(address, b"NONSENSE\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_an_expectation_is_met(address):
    body = infer_json(ROWS)
    request = render_request("POST", TARGET, "t", body, [("Expect", "100-continue")])
    assert _raw(address, request).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
