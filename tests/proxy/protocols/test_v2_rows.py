"""The same question about other rows: what the model is asked again must be a request as good."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.messages import Head
from proxy.protocols.contract import Contract
from proxy.protocols.tensors import DATATYPES, from_rows
from proxy.protocols.v2 import V2

HEAD = Head("POST", "/v2/models/m/infer", {}, True)
NUMERIC = [kind for kind in DATATYPES.values() if kind.numeric]


def codec(*inputs):
    return V2("/v2/models/m", Contract.from_config(inputs) if inputs else Contract(), max_rows=64)


def spec(name, datatype, shape, **bounds):
    return {"name": name, "datatype": datatype, "shape": shape, **bounds}


def tensor(name, datatype, shape, data):
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def decode(one, *inputs, **more):
    route = one.route("POST", "/v2/models/m/infer")
    return one.decode_request(HEAD, json.dumps({"inputs": inputs, **more}).encode(), route)


def again(one, request, rows, origins):
    """The request about other rows, as the model server would read it."""
    asked = one.with_rows(request, np.array(rows, np.float32), np.array(origins))
    lines, body = one.encode_request(asked)
    head = dict(line.split(b": ", 1) for line in lines.lower().split(b"\r\n") if line)
    route = one.route("POST", "/v2/models/m/infer")
    read = one.decode_request(Head("POST", "/", head, True), body, route)
    assert read.n == len(rows)
    return read, asked


MIXED = (
    spec("a", "FP32", [-1, 2]),
    spec("b", "INT8", [-1, 2], minimum=-5, maximum=100),
    spec("c", "BYTES", [-1, 1]),
    spec("d", "BOOL", [-1]),
)
MIXED_DATA = (
    tensor("a", "FP32", [2, 2], [1, 2, 3, 4]),
    tensor("b", "INT8", [2, 2], [5, 6, 7, 8]),
    tensor("c", "BYTES", [2, 1], ["x", "y"]),
    tensor("d", "BOOL", [2], [True, False]),
)


def test_each_tensor_gets_its_part_of_the_row():
    one = codec(*MIXED)
    request = decode(one, *MIXED_DATA, id="7", outputs=[{"name": "y"}])
    rows = [[0.5, 1.5, 99.7, -77, 0.4], [-1, 2, 2.5, 3.5, 0.6], [0, 0, 1e9, -1e9, 1]]
    read, asked = again(one, request, rows, [1, 0, 1])
    assert read.tensors["a"].tolist() == [[0.5, 1.5], [-1, 2], [0, 0]]
    assert read.tensors["b"].tolist() == [[100, -5], [2, 4], [100, -5]]
    assert read.tensors["c"].tolist() == [[b"y"], [b"x"], [b"y"]]
    assert read.tensors["d"].tolist() == [False, True, True]
    assert "id" not in read.options and read.options["outputs"] == [{"name": "y"}]
    assert list(asked.tensors) == ["a", "b", "c", "d"]


def test_the_same_rows_make_the_same_request():
    one = codec(*MIXED)
    request = decode(one, *MIXED_DATA)
    read, _ = again(one, request, request.rows, [0, 1])
    assert {name: t.tolist() for name, t in read.tensors.items()} == {
        name: t.tolist() for name, t in request.tensors.items()
    }
    assert one.encode_request(read) == one.encode_request(request)


def test_images_keep_their_shape():
    one = codec(spec("x", "UINT8", [-1, 2, 3, 1]))
    request = decode(one, tensor("x", "UINT8", [1, 2, 3, 1], [0, 1, 2, 3, 4, 5]))
    read, _ = again(one, request, np.arange(24).reshape(4, 6), [0] * 4)
    assert read.tensors["x"].shape == (4, 2, 3, 1)
    assert one.batch(request) == 64


def test_binary_stays_binary():
    one = codec(spec("x", "FP32", [-1, 2]))
    item = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    text = json.dumps({"inputs": [item]}).encode()
    head = Head("POST", "/", {b"inference-header-content-length": b"%d" % len(text)}, True)
    body = text + np.float32([1, 2]).tobytes()
    request = one.decode_request(head, body, one.route("POST", "/v2/models/m/infer"))
    asked = one.with_rows(request, np.float32([[3, 4], [5, 6]]), np.array([0, 0]))
    lines, body = one.encode_request(asked)
    assert b"octet-stream" in lines
    assert body.endswith(np.float32([3, 4, 5, 6]).tobytes())


@pytest.mark.parametrize("shape", [[1, 4], [4]])
def test_what_takes_one_row_is_asked_one(shape):
    one = codec(spec("x", "FP32", shape))
    request = decode(one, tensor("x", "FP32", shape, [1, 2, 3, 4]))
    assert one.batch(request) == 1
    read, _ = again(one, request, [[5, 6, 7, 8]], [0])
    assert read.tensors["x"].shape == tuple(shape)
    with pytest.raises(ValueError):
        one.with_rows(request, np.ones((2, 4), np.float32), np.array([0, 0]))


def test_an_open_contract_is_asked_as_the_client_asked():
    one = codec()
    request = decode(one, tensor("x", "FP64", [2, 2], [1, 2, 3, 4]))
    read, _ = again(one, request, [[5, 6]], [0])
    assert read.tensors["x"].tolist() == [[5, 6]] and read.tensors["x"].dtype == np.float64


@pytest.mark.parametrize(("rows", "width"), [(1, 3), (1, 5), (65, 4)])
def test_rows_that_do_not_fit_are_refused(rows, width):
    one = codec(spec("x", "FP32", [-1, 4]))
    request = decode(one, tensor("x", "FP32", [1, 4], [1, 2, 3, 4]))
    with pytest.raises(ValueError):
        one.with_rows(request, np.ones((rows, width), np.float32), np.zeros(rows, np.int64))


@given(
    st.sampled_from(NUMERIC),
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8),
    st.sampled_from([None, -3.5, 0.0, 7.25, 1e20]),
    st.sampled_from([None, 8.75, 1e30]),
)
def test_every_number_has_a_nearest_one(kind, given, minimum, maximum):
    if kind.name == "BOOL" or (minimum is not None and minimum > 200):
        minimum = maximum = None
    values = from_rows(np.array([given], np.float32), kind, minimum=minimum, maximum=maximum)
    assert values.dtype == kind.dtype and values.shape == (1, len(given))
    assert np.isfinite(values.astype(np.float64)).all()
    low = -np.inf if minimum is None else minimum
    high = np.inf if maximum is None else maximum
    for before, after in zip(given, values[0].tolist(), strict=True):
        assert low <= after <= high
        if kind.name == "BOOL":
            assert after is (before > 0.5)
        elif kind.dtype.kind in "iu" and -100 <= before <= 100 and low <= before <= high:
            expected = max(round(before), 0) if kind.dtype.kind == "u" else round(before)
            if low <= expected <= high:
                assert after == expected
        elif kind.name in {"FP32", "FP64"} and low <= before <= high:
            assert after == before
