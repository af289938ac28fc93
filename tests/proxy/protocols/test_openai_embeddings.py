"""Embeddings in answers of OpenAI's API, and what is no such answer."""

import base64
import json

import numpy as np
import pytest
from openai_stub import embeddings

from proxy.protocols.base import InferResponse
from proxy.protocols.contract import Contract
from proxy.protocols.openai import OpenAI
from proxy.rules import UPSTREAM_INVALID, Refusal

ROWS = np.array([[0.25, -1.5, 3.0], [1e-8, 2.0, -7.0]], np.float32)
HEAD = {b"content-type": b"application/json"}


def codec(width=None):
    return OpenAI("/v1", Contract(width=width), calls=("embeddings",))


def item(vector, **fields):
    return {"object": "embedding", "index": 0, "embedding": vector, **fields}


def packed(*numbers):
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


@pytest.mark.parametrize("form", [False, True])
def test_rows_are_in_the_order_of_the_inputs(form):
    told = embeddings(ROWS, packed=form)
    told["data"].reverse()
    response = codec(3).decode_response(HEAD, json.dumps(told).encode())
    assert np.array_equal(response.rows, ROWS)
    assert response.n == 2
    assert response.rows.dtype == np.float32
    assert response.rows.flags.c_contiguous
    assert not response.rows.flags.writeable
    assert list(response.tensors) == ["embedding"]
    _, body = codec(3).encode_response(response)
    assert json.loads(body) == told


def test_each_is_written_in_the_form_in_which_it_came():
    told = {"data": [item(packed(1, 2)), item([3, 4], index=1)], "x": {"y": [1]}}
    response = codec().decode_response(HEAD, json.dumps(told).encode())
    changed = InferResponse({"embedding": response.rows + 1}, 2, response.options, response.rows)
    lines, body = codec().encode_response(changed)
    assert lines == b"content-type: application/json\r\n"
    written = json.loads(body)
    assert written["data"][0]["embedding"] == packed(2, 3)
    assert written["data"][1]["embedding"] == [4.0, 5.0]
    assert written["x"] == {"y": [1]}


WRONG = {
    "no object": b"[]",
    "no data": b"{}",
    "no list": b'{"data": {}}',
    "empty": b'{"data": []}',
    "no objects": b'{"data": [3]}',
    "no embedding": b'{"data": [{"index": 0}]}',
    "null": json.dumps({"data": [item(None)]}).encode(),
    "an empty vector": json.dumps({"data": [item([])]}).encode(),
    "a text in it": json.dumps({"data": [item(["1"])]}).encode(),
    "a boolean in it": json.dumps({"data": [item([True])]}).encode(),
    "nested": json.dumps({"data": [item([[1.0]])]}).encode(),
    "too large a number": json.dumps({"data": [item([1e39])]}).encode(),
    "NaN": b'{"data": [{"index": 0, "embedding": [NaN]}]}',
    "packed NaN": json.dumps({"data": [item(packed(np.nan))]}).encode(),
    "packed infinity": json.dumps({"data": [item(packed(np.inf))]}).encode(),
    "no base64": json.dumps({"data": [item("a b!")]}).encode(),
    "padding": json.dumps({"data": [item("AAAAAA")]}).encode(),
    "not base64 of ASCII": json.dumps({"data": [item("AAAAé===")]}).encode(),
    "three bytes": json.dumps({"data": [item("AAAA")]}).encode(),
    "an empty text": json.dumps({"data": [item("")]}).encode(),
    "of two lengths": json.dumps({"data": [item([1, 2]), item([1], index=1)]}).encode(),
    "one index twice": json.dumps({"data": [item([1]), item([1])]}).encode(),
    "an index left out": json.dumps({"data": [item([1]), item([1], index=2)]}).encode(),
    "an index of text": json.dumps({"data": [item([1], index="0")]}).encode(),
    "a key twice": b'{"data": [{"embedding": [1], "embedding": [2]}]}',
    "a key twice outside": b'{"data": [{"embedding": [1]}], "a": 1, "a": 2}',
    "deep": b'{"data": [{"embedding": [1]}], "a": ' + b"[" * 80 + b"]" * 80 + b"}",
    "cut": json.dumps({"data": [item([1, 2])]}).encode()[:-3],
}


def test_what_is_no_such_answer_is_invalid():
    told = {}
    for name, body in WRONG.items():
        with pytest.raises(Refusal) as caught:
            codec().decode_response(HEAD, body)
        told[name] = caught.value.rule is UPSTREAM_INVALID
    assert told == dict.fromkeys(WRONG, True)
    assert len(told) > 25


def test_vectors_have_the_width_that_is_scored():
    body = json.dumps(embeddings(ROWS, packed=False)).encode()
    codec(3).decode_response(HEAD, body)
    with pytest.raises(Refusal, match="not of 4 numbers"):
        codec(4).decode_response(HEAD, body)
