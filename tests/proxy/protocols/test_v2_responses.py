"""Answers: JSON and binary, strict and bounded."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocols.base import InferResponse
from proxy.protocols.contract import Contract
from proxy.protocols.v2 import V2
from proxy.rules import OUTLIER, SHAPE, UPSTREAM_INVALID, Refusal

CODEC = V2("/v2/models/m", Contract(), max_response_bytes=4096)
LENGTH = b"inference-header-content-length"
Y = {"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [1, 2.5, -3, 4]}


def answer(*outputs, **more):
    document = {"model_name": "m", "model_version": "1", "outputs": list(outputs)} | more
    return json.dumps(document).encode()


def framed(outputs, tail, length=None):
    text = answer(*outputs)
    return {LENGTH: length or str(len(text)).encode()}, text + tail


def without_data(size, **fields):
    item = {key: value for key, value in Y.items() if key != "data"}
    return item | {"parameters": {"binary_data_size": size}} | fields


def refused(body, headers=None):
    with pytest.raises(Refusal) as refusal:
        CODEC.decode_response(headers or {}, body)
    assert refusal.value.rule is UPSTREAM_INVALID
    return refusal.value.detail


def test_json():
    labels = {"name": "label", "datatype": "BYTES", "shape": [2, 1], "data": ["a:b", "c"]}
    counts = {"name": "n", "datatype": "INT64", "shape": [2], "data": [2**63 - 1, -1]}
    response = CODEC.decode_response(
        {b"content-type": b"application/json"},
        answer(
            Y | {"parameters": {"content_type": "np", "deep": {"a": [{"b": 1}]}}},
            labels,
            counts,
            id="i",
            parameters={"a": {"b": []}},
        ),
    )
    assert response.tensors["y"].dtype == np.float32
    assert response.tensors["y"].tolist() == [[1, 2.5], [-3, 4]]
    assert response.tensors["label"].tolist() == [[b"a:b"], [b"c"]]
    assert response.tensors["n"].tolist() == [2**63 - 1, -1]
    assert response.n == 2
    assert response.options == {
        "model_name": "m",
        "model_version": "1",
        "id": "i",
        "parameters": {"a": {"b": []}},
        "output_parameters": {"y": {"content_type": "np", "deep": {"a": [{"b": 1}]}}},
    }


def test_nested_json():
    nested = Y | {"data": [[1, 2.5], [-3, 4]]}
    assert CODEC.decode_response({}, answer(nested)).tensors["y"].tolist() == [[1, 2.5], [-3, 4]]


def test_binary_and_mixed():
    text = {"name": "t", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 10}}
    tail = struct.pack("<4f", 1, 2, 3, 4) + struct.pack("<I", 2) + b"ab" + struct.pack("<I", 0)
    more = Y | {"name": "z"}
    response = CODEC.decode_response(*framed([without_data(16), more, text], tail))
    assert response.tensors["y"].tolist() == [[1, 2], [3, 4]]
    assert response.tensors["z"].tolist() == [[1, 2.5], [-3, 4]]
    assert response.tensors["t"].tolist() == [b"ab", b""]
    assert response.options["binary"] == {"y", "t"}


def test_an_answer_is_written_in_the_form_in_which_it_was_read():
    labels = {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["a", "\u00e9"]}
    told = {"parameters": {"content_type": "np"}}
    lines, body = CODEC.encode_response(
        CODEC.decode_response({}, answer(Y | told, labels, id="i", parameters={"p": [1]}))
    )
    assert lines == b"Content-Type: application/json\r\n"
    assert json.loads(body) == {
        "model_name": "m",
        "model_version": "1",
        "id": "i",
        "parameters": {"p": [1]},
        "outputs": [Y | told, labels],
    }
    headers, sent = framed([without_data(16), labels], struct.pack("<4f", 1, 2.5, -3, 4))
    lines, body = CODEC.encode_response(CODEC.decode_response(headers, sent))
    kind, length = lines.split(b"\r\n")[:2]
    assert kind == b"Content-Type: application/octet-stream"
    name, _, size = length.partition(b": ")
    assert name == b"Inference-Header-Content-Length"
    assert json.loads(body[: int(size)])["outputs"] == [without_data(16), labels]
    assert body[int(size) :] == struct.pack("<4f", 1, 2.5, -3, 4)


def test_json_holds_no_number_that_is_not_finite():
    response = CODEC.decode_response({}, answer(Y))
    for value in (np.nan, np.inf):
        odd = InferResponse({"y": np.array([1, value], "<f4")}, 2, response.options)
        with pytest.raises(ValueError, match="y has an element that is not finite"):
            CODEC.encode_response(odd)


def test_an_empty_output_and_outputs_of_other_lengths():
    boxes = {"name": "boxes", "datatype": "FP32", "shape": [0, 4], "data": []}
    response = CODEC.decode_response({}, answer(boxes, Y))
    assert response.tensors["boxes"].shape == (0, 4)
    assert response.n == 1
    empty = without_data(0, shape=[0, 4])
    assert CODEC.decode_response(*framed([empty], b"")).tensors["y"].shape == (0, 4)
    assert CODEC.decode_response({}, answer()).tensors == {}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"{}",
        b'{"error":"x"}',
        answer() + b"x",
        b'{"outputs":[],"outputs":[]}',
        b'{"outputs":[],"model_name":"a","model_name":"b"}',
        b'{"outputs":[],"parameters":{"a":1,"a":2}}',
        b'{"outputs":[],"parameters":' + b"[" * 80 + b"]" * 80 + b"}",
        answer(1),
        answer(Y, Y),
        answer(Y | {"datatype": "BF16"}),
        answer(Y | {"datatype": None}),
        answer(Y | {"name": 1}),
        answer(Y | {"name": ""}),
        answer(Y | {"shape": [2, 3]}),
        answer(Y | {"shape": [4, -1]}),
        answer(Y | {"shape": [2**40, 64]}),
        answer(Y | {"shape": [0, 2**62], "data": []}),
        answer(Y | {"shape": [0, 2**31, 2**31, 2**31], "data": []}),
        answer(Y | {"shape": None}),
        answer(Y | {"data": [1, 2, 3]}),
        answer(Y | {"data": None}),
        answer(Y | {"data": "x"}),
        answer(Y | {"data": [1, 2, 3, True]}),
        answer(Y | {"data": [1, 2, 3, None]}),
        answer(Y | {"data": [1, 2, 3, 1e39]}),
        answer(Y | {"data": [[1, 2], [3]]}),
        answer(Y).replace(b"2.5", b"NaN"),
        answer(Y | {"id": "x" * 5000}),
        answer(without_data(16)),
    ],
)
def test_invalid_json(body):
    refused(body)


@pytest.mark.parametrize(
    ("size", "tail", "length"),
    [
        (16, b"", None),
        (16, b"\0" * 15, None),
        (16, b"\0" * 17, None),
        (12, b"\0" * 12, None),
        (-16, b"", None),
        ("16", b"\0" * 16, None),
        (True, b"\0" * 16, None),
        (16, b"\0" * 12 + b"\0\0\xc0\x7f", None),
        (16, b"\0" * 16, b"0"),
        (16, b"\0" * 16, b"+1"),
        (16, b"\0" * 16, b"99999"),
    ],
)
def test_invalid_binary(size, tail, length):
    headers, body = framed([without_data(size)], tail, length)
    refused(body, headers)


def test_what_cannot_be_read_as_an_answer():
    assert "compressed" in refused(answer(Y), {b"content-encoding": b"gzip"})
    assert "content type" in refused(answer(Y), {b"content-type": b"text/html"})
    headers, body = framed([without_data(16) | {"data": [1, 2, 3, 4]}], b"\0" * 16)
    refused(body, headers)


def test_truncated_at_each_byte():
    headers, body = framed([without_data(16)], struct.pack("<4f", 1, 2, 3, 4))
    CODEC.decode_response(headers, body)
    for cut in range(len(body)):
        refused(body[:cut], headers)


@given(st.binary(max_size=100), st.sampled_from([None, b"1", b"20"]))
def test_any_bytes_give_an_answer_or_a_refusal(body, length):
    headers = {} if length is None else {LENGTH: length}
    try:
        CODEC.decode_response(headers, body)
    except Refusal as refusal:
        assert refusal.rule is UPSTREAM_INVALID


def test_refusals_are_strings_that_tell_only_what_the_rule_allows():
    kind, body, _ = CODEC.refuse(Refusal(SHAPE, 'x is "wide"'))
    assert kind == b"application/json"
    assert json.loads(body) == {"error": 'wrong shape: x is "wide"'}
    _, body, _ = CODEC.refuse(Refusal(OUTLIER, "score 17.2 above 3.1"))
    assert json.loads(body) == {"error": "request refused"}
