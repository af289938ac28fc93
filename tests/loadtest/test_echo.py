"""The echo upstream: what it answers is exactly what it received."""

import asyncio
import hashlib
import json

import numpy as np
import pytest

from loadtest.echo import (
    CANNED,
    EchoProtocol,
    canned_answer,
    digest_answer,
    pages,
    tensor_digest,
)
from loadtest.payloads import infer_binary, infer_json, infer_request, infer_target
from loadtest.wire import parse_response, render_request

ROWS = np.array([[0.1, -2.5, 3e7, 1e-9]], np.float32)
DIGEST = hashlib.sha256(ROWS.tobytes()).hexdigest()


def test_the_tensor_digest_is_the_same_for_json_and_binary():
    body, length = infer_binary(ROWS)
    assert tensor_digest(infer_json(ROWS), None) == DIGEST
    assert tensor_digest(body, length) == DIGEST


def test_the_tensor_digest_tells_one_bit():
    other = ROWS.copy()
    other.view(np.uint32)[0, 0] ^= 1
    assert tensor_digest(infer_json(other), None) != DIGEST


class Wire(asyncio.WriteTransport):
    def __init__(self):
        super().__init__()
        self.written = b""

    def write(self, data):
        self.written += data


def _feed(protocol, *parts):
    wire = Wire()
    protocol.connection_made(wire)
    for part in parts:
        protocol.data_received(part)
    return wire.written


def test_requests_are_found_byte_by_byte_and_in_one_piece():
    request = infer_request(ROWS, "t", infer_target("m"))
    whole = _feed(EchoProtocol({}, digest=False), request * 3)
    dribbled = _feed(
        EchoProtocol({}, digest=False), *(request[i : i + 1] for i in range(len(request)))
    )
    assert whole == CANNED * 3
    assert dribbled == CANNED


def test_scores_are_answered_where_they_are_asked_for():
    request = infer_request(ROWS, "t", infer_target("m"))
    answer = canned_answer(10)
    assert _feed(EchoProtocol({}, digest=False, answer=answer), request) == answer
    label, scores = json.loads(parse_response(answer).body)["outputs"]
    assert (label["data"], scores["shape"]) == ([3], [1, 10])
    assert sum(scores["data"]) == pytest.approx(1)
    assert np.argmax(scores["data"]) == 3
    assert min(scores["data"]) > 0
    page = parse_response(pages({"m": 4}, classes=10)[b"/v2/models/m"]).body
    assert [one["name"] for one in json.loads(page)["outputs"]] == ["label", "probabilities"]


@pytest.mark.parametrize("binary", [False, True])
def test_the_digest_names_body_tensors_and_id(binary):
    request = infer_request(ROWS, "t", infer_target("m"), binary=binary, request_id="n-1")
    body = request.partition(b"\r\n\r\n")[2]
    answer = json.loads(parse_response(_feed(EchoProtocol({}, digest=True), request)).body)
    values = {output["name"]: output["data"][0] for output in answer["outputs"]}
    assert values == {"body_sha256": hashlib.sha256(body).hexdigest(), "tensor_sha256": DIGEST}
    assert answer["id"] == "n-1"


def test_a_chunked_body_is_joined_before_it_is_digested():
    body = infer_json(ROWS)
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (9, body[:9], len(body) - 9, body[9:])
    answer = _feed(EchoProtocol({}, digest=True), head + chunks)
    assert answer == digest_answer(body, None)


def test_what_is_not_v2_is_a_400():
    request = render_request("POST", infer_target("m"), "t", b"[]")
    assert parse_response(_feed(EchoProtocol({}, digest=True), request)).status == 400


def test_metadata_names_every_model():
    table = pages({"f4": 4, "f64": 64})
    document = json.loads(parse_response(table[b"/v2/models/f64"]).body)
    assert document["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 64]}]
    assert {b"/v2", b"/v2/health/ready", b"/v2/models/f4/ready"} < set(table)
