"""The conformance suite over OIP v2: as JSON flat and nested, as binary, and mixed."""

import json
import struct

import numpy as np
from conformance import DTYPES, CodecConformance

from proxy.protocols.contract import Contract
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
    def codec(self, **bounds):
        return V2("/v2/models/digits", Contract(), **bounds)

    def target(self):
        return "/v2/models/digits/infer"

    def parse_answer(self, headers, body):
        return self.parse(headers, body, "outputs")

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


def around(key, tensors):
    """The document of a request, or of an answer."""
    if key == "inputs":
        return {"inputs": tensors}
    told = {"model_name": "digits", "model_version": "1", "parameters": {"a": {"b": [1.5]}}}
    return told | {"outputs": tensors}


class TestFlatJson(OverV2):
    def write_answer(self, named):
        return self.write(named, "outputs")

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


class TestNestedJson(OverV2):
    def write_answer(self, named):
        return self.write(named, "outputs")

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


class TestBinary(OverV2):
    def is_binary(self, position):
        return True

    def write_answer(self, named):
        return self.write(named, "outputs")

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
    def is_binary(self, position):
        return position % 2 == 1
