"""The conformance suite over OIP v2: as JSON flat and nested, as binary, and mixed."""

import json
import struct

import numpy as np
import pytest
from conformance import CodecConformance
from conformance_bodies import JsonBodies, with_a_member_twice
from conformance_wire import DTYPES, EVERY, Wire, head_of, same

from proxy.protocols.v2 import V2

LENGTH = b"inference-header-content-length"


def binary(datatype, array):
    """A tensor's bytes as a client of the binary extension writes them."""
    if datatype != "BYTES":
        return array.tobytes()
    return b"".join(struct.pack("<I", len(item)) + item for item in array.reshape(-1))


def values(array):
    """A tensor as nested lists for the standard library's JSON."""
    if array.dtype == object:
        return np.array([item.decode() for item in array.reshape(-1)], object).reshape(array.shape)
    return array


class OverV2(CodecConformance):
    kind = V2
    wire = Wire()

    def codec(self, contract, **bounds):
        return V2("/v2/models/digits", contract, **bounds)

    def target(self):
        return "/v2/models/digits/infer"

    def write_answer(self, named):
        return self.write(named, "outputs")

    def parse_answer(self, headers, body):
        return self.parse(headers, body, "outputs")

    def check_answer(self, head, response):
        """Binary stays binary and JSON stays JSON: a client may read only what it asked for."""
        assert (LENGTH in head) == bool(response.options.get("binary"))

    @pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0), (1, 1, 1, 1)])
    @pytest.mark.parametrize("datatype", ["FP16", "INT8", "BYTES"])
    def test_an_answer_of_any_shape(self, datatype, shape):
        array = np.zeros(shape, DTYPES[datatype])
        if datatype == "BYTES":
            array[...] = b"a"
        codec = self.responder()
        response = codec.decode_response(*self.write_answer({"t": (datatype, array)}))
        lines, written = codec.encode_response(response)
        assert same(codec.decode_response(head_of(lines), written).tensors["t"], array)

    def parse(self, headers, body, key="inputs"):
        """Reads with nothing but the standard library and ``struct``."""
        length = int(headers.get(LENGTH, len(body)))
        document = json.loads(body[:length])
        tail = body[length:]
        read = {}
        for item in document[key]:
            datatype, shape = item["datatype"], item["shape"]
            size = item.get("parameters", {}).get("binary_data_size")
            if size is None:
                flat = item["data"]
                if datatype == "BYTES":
                    flat = [text.encode() for text in flat]
            else:
                data, tail = tail[:size], tail[size:]
                if datatype == "BYTES":
                    flat = []
                    while data:
                        (n,) = struct.unpack_from("<I", data)
                        flat.append(data[4 : 4 + n])
                        data = data[4 + n :]
                else:
                    flat = np.frombuffer(data, DTYPES[datatype])
            array = np.empty(len(flat), DTYPES[datatype])
            array[:] = flat
            read[item["name"]] = array.reshape(shape)
        assert not tail
        return read


def split(headers, body):
    """The JSON and the tail of a body of the binary extension."""
    length = int(headers[LENGTH])
    return body[:length], body[length:]


def width(datatype):
    """Bytes of an element, or none where they differ."""
    return None if datatype == "BYTES" else np.dtype(DTYPES[datatype]).itemsize


def around(key, tensors):
    """The document of a request, or of an answer."""
    if key == "inputs":
        return {"inputs": tensors}
    told = {"model_name": "digits", "model_version": "1", "parameters": {"a": {"b": [1.5]}}}
    return told | {"outputs": tensors}


class TestFlatJson(JsonBodies, OverV2):
    def write(self, named, key="inputs"):
        tensors = [
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": datatype,
                "data": values(array).reshape(-1).tolist(),
            }
            for name, (datatype, array) in named.items()
        ]
        return {b"content-type": b"application/json"}, json.dumps(around(key, tensors)).encode()


class TestNestedJson(JsonBodies, OverV2):
    def write(self, named, key="inputs"):
        tensors = [
            {
                "data": values(array).tolist(),
                "datatype": datatype,
                "shape": list(array.shape),
                "name": name,
            }
            for name, (datatype, array) in named.items()
        ]
        text = json.dumps({"id": "a:b"} | around(key, tensors), separators=(",", ":"))
        return {}, text.encode()


class TestIndentedJson(TestFlatJson):
    """A spelling that the fast way through the text does not know."""

    def write(self, named, key="inputs"):
        headers, body = super().write(named, key)
        return headers, json.dumps(json.loads(body), indent=1).replace(
            '"data"', '"d\\u0061ta"'
        ).encode()


class TestBinary(
    OverV2, without={"test_text_that_is_not_plain_utf_8": "a tensor's numbers may be any bytes"}
):
    def duplicated(self):
        headers, body = self.write(self.pair())
        head, tail = split(headers, body)
        for odd in with_a_member_twice(head):
            yield {LENGTH: str(len(odd)).encode()}, odd + tail

    def wrong(self, datatype):
        """Its bytes under another datatype; and bits that are none of its own."""
        headers, body = self.write(self.wire.example(datatype))
        head, tail = split(headers, body)
        for other in sorted(EVERY - {datatype}):
            if other == "BYTES" or np.dtype(DTYPES[other]).itemsize != width(datatype):
                odd = head.replace(f'"{datatype}"'.encode(), f'"{other}"'.encode())
                yield {LENGTH: str(len(odd)).encode()}, odd + tail
        if datatype == "BOOL":
            yield headers, head + b"\2" + tail[1:]
        if datatype.startswith("FP"):
            for value in (np.nan, np.inf, -np.inf):
                bits = np.array([value], DTYPES[datatype]).tobytes()
                yield headers, head + bits + tail[len(bits) :]

    def is_binary(self, position):
        return True

    @pytest.mark.parametrize("padding", range(8))
    def test_tensors_are_aligned_wherever_they_lie(self, padding):
        double, single = ("FP64", np.ones((2, 3))), ("FP32", np.ones((2, 1), "f4"))
        named = {"t" * (padding + 1): double, "u": single}
        self.accepted(self.reader(named), *self.write(named))

    def write(self, named, key="inputs"):
        tensors, tail = [], []
        for position, (name, (datatype, array)) in enumerate(named.items()):
            item = {"name": name, "shape": list(array.shape), "datatype": datatype}
            if self.is_binary(position):
                tail.append(binary(datatype, array))
                item["parameters"] = {"binary_data_size": len(tail[-1])}
                if key == "outputs":
                    item["parameters"]["content_type"] = "np"
            else:
                item["data"] = values(array).reshape(-1).tolist()
            tensors.append(item)
        text = json.dumps(
            {"parameters": {"binary_data_output": True}} | around(key, tensors)
        ).encode()
        return {LENGTH: str(len(text)).encode()}, text + b"".join(tail)


class TestMixed(TestBinary):
    """The first tensor is JSON, the second binary."""

    def wrong(self, datatype):
        for headers, body in JsonBodies.wrong(self, datatype):
            yield headers | {LENGTH: str(len(body)).encode()}, body

    def is_binary(self, position):
        return position % 2 == 1
