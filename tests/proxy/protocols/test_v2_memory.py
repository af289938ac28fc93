"""A request costs at most a hundred times its size in memory, whatever is in it."""

import json
import tracemalloc

import pytest

from proxy.protocols.contract import Contract
from proxy.protocols.v2 import V2
from proxy.rules import Refusal

SIZE = 200_000
CODEC = V2("/v2/models/m", Contract(), max_rows=10**6)
ROUTE = CODEC.route("POST", "/v2/models/m/infer")
DATA = '{"inputs":[{"name":"a","shape":[%s],"datatype":"%s","data":[%s]}]}'


def many(item, datatype="FP32", shape=None):
    count = SIZE // (len(item) + 1)
    return (DATA % (shape or count, datatype, ",".join([item] * count))).encode()


def framed(size):
    item = {
        "name": "a",
        "shape": [size // 4],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": size},
    }
    text = json.dumps({"inputs": [item]}).encode()
    return text + b"\0" * size, {b"inference-header-content-length": str(len(text)).encode()}


BODIES = {
    "integers": many("0"),
    "short floats": many("0.5"),
    "long integers": many("1234567890"),
    "empty lists": many("[]"),
    "nested rows": many("[1]", shape=f"{SIZE // 4},1"),
    "short lists": many("[0]"),
    "empty objects": many("{}"),
    "small objects": many('{"":0}'),
    "empty strings": many('""', "BYTES"),
    "short strings": many('"ab"', "BYTES"),
    "wide strings": many('"\U0001f600"', "BYTES"),
    "unsplit": many('"]"', "BYTES"),
    "open brackets": b"[" * SIZE,
    "open objects": b'{"a":' * (SIZE // 5),
    "closed brackets": b"[" * 1000 + b"]" * 1000,
    "depth in data": (DATA % (1, "FP32", "[" * 100_000 + "]" * 100_000)).encode(),
    "one long string": b'{"id":"' + b"a" * SIZE + b'"}',
    "escapes": b'{"id":"' + b"\\u0041" * (SIZE // 6) + b'"}',
    "colons": b'{"inputs":[],"id":"' + b":" * SIZE + b'"}',
    "equal keys": b"{" + b",".join([b'"a":0'] * (SIZE // 6)) + b"}",
    "other keys": b"{" + b",".join(b'"%d":0' % i for i in range(SIZE // 9)) + b"}",
    "arrays": b"{" + b",".join([b'"data":[]'] * (SIZE // 10)) + b"}",
    "inputs": b'{"inputs":[' + b",".join([b"{}"] * (SIZE // 3)) + b"]}",
    "shape": (DATA % (",".join(["1"] * (SIZE // 2)), "FP32", "1")).encode(),
    "shape lie": many("0", shape="1099511627776,64"),
    "blanks": b" " * SIZE,
}


@pytest.mark.parametrize("name", [*BODIES, "binary strings"])
def test_amplification(name):
    body, headers = framed(SIZE) if name == "binary strings" else (BODIES[name], {})
    tracemalloc.start()
    try:
        CODEC.decode_request(headers, body, ROUTE)
    except Refusal:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 100 * len(body)


@pytest.mark.parametrize(
    "shape", ["1099511627776,64", "4294967296,4294967296,4294967296", "65536,65536"]
)
def test_a_lie_about_the_shape_allocates_nothing(shape):
    lie = DATA % (shape, "FP32", "1")
    lies = [lie, lie.replace('"data":[1]', '"parameters":{"binary_data_size":4}')]
    for body in lies:
        tracemalloc.start()
        with pytest.raises(Refusal):
            CODEC.decode_request({}, body.encode(), ROUTE)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100_000


@pytest.mark.parametrize("length", [1, 50_000], ids=["small frames", "large frames"])
def test_what_is_remembered_is_bounded(length):
    codec = V2("/v2/models/m", Contract())
    # A bracket in a string keeps the text in one piece.
    frame = '{"id":"%0200d",' + (DATA % (1, "BYTES", '"' + "]" * length + '"'))[1:]
    tracemalloc.start()
    for i in range(2000 if length == 1 else 100):
        codec.decode_request({}, (frame % i).encode(), ROUTE)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 400_000
