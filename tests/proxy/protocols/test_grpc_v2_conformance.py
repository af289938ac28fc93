"""The conformance suite over OIP v2 by gRPC, with raw and with typed contents. What is independent
of the codec is Google's own library for Protocol Buffers.
"""

import struct

import numpy as np
from conformance import CodecConformance
from conformance_wire import DTYPES, EVERY, Wire, array_of
from grpc_messages import TYPED, ModelInferRequest, ModelInferResponse, written

from proxy.protocols.grpc_v2 import GrpcV2

PLACE = "/inference.GRPCInferenceService/digits"
SHORT = {"INT8": 8, "INT16": 16, "INT32": 32, "UINT8": 8, "UINT16": 16, "UINT32": 32}


def raw_bytes(datatype, array):
    """A tensor's raw contents as a client writes them."""
    if datatype != "BYTES":
        return array.tobytes()
    return b"".join(struct.pack("<I", len(item)) + item for item in array.reshape(-1))


def plain(tensor, raw):
    """The array of a tensor of a message."""
    if raw is None:
        values = list(getattr(tensor.contents, TYPED[tensor.datatype]))
    elif tensor.datatype == "BYTES":
        values = []
        while raw:
            (length,) = struct.unpack_from("<I", raw)
            values.append(raw[4 : 4 + length])
            raw = raw[4 + length :]
    else:
        values = np.frombuffer(raw, DTYPES[tensor.datatype])
    return array_of(tensor.datatype, values, tuple(tensor.shape))


class OverGrpc(CodecConformance):
    kind = GrpcV2
    method = "RPC"
    raw: bool

    def codec(self, contract, **bounds):
        return GrpcV2(PLACE, contract, **bounds)

    def target(self):
        return f"{PLACE}/ModelInfer"

    def write(self, named):
        message = ModelInferRequest(model_name="digits", id="a:b")
        self.fill(message.inputs, message.raw_input_contents, named)
        return {}, written(message)

    def write_answer(self, named):
        message = ModelInferResponse(model_name="digits", model_version="1")
        message.parameters["told"].double_param = 1.5
        self.fill(message.outputs, message.raw_output_contents, named)
        message.outputs[0].parameters["content_type"].string_param = "np"
        return {}, written(message)

    def fill(self, tensors, raw, named):
        for name, (datatype, array) in named.items():
            tensor = tensors.add(name=name, datatype=datatype, shape=array.shape)
            if self.raw:
                raw.append(raw_bytes(datatype, array))
            else:
                getattr(tensor.contents, TYPED[datatype]).extend(array.reshape(-1).tolist())

    def parse(self, headers, body):
        message = ModelInferRequest.FromString(body)
        assert message.model_name == "digits"
        return self.arrays(message.inputs, message.raw_input_contents)

    def parse_answer(self, headers, body):
        message = ModelInferResponse.FromString(body)
        assert (message.model_name, message.model_version) == ("digits", "1")
        assert message.parameters["told"].double_param == 1.5
        return self.arrays(message.outputs, message.raw_output_contents)

    def arrays(self, tensors, raw):
        assert len(raw) == (len(tensors) if self.raw else 0)
        each = raw or [None] * len(tensors)
        return {
            tensor.name: plain(tensor, data) for tensor, data in zip(tensors, each, strict=True)
        }

    def check_answer(self, head, response):
        """Raw stays raw and typed stays typed: a client may read only what it asked for."""
        assert response.options.get("typed", False) is not self.raw

    def duplicated(self):
        """A general reader takes the last of each, or both together."""
        _, body = self.write(self.pair())
        message = ModelInferRequest.FromString(body)
        tensor = message.inputs[0]
        yield {}, body + b"\x0a\x06digits"
        yield {}, body + b"\x0a\x05other"
        yield {}, body + b"\x1a\x01z"
        yield {}, body + body
        repeats = [b"\x0a\x02t9", b"\x12\x04FP32", b"\x1a\x01\x02"]
        if not self.raw:
            repeats.append(b"\x2a\x00")
        for repeat in repeats:
            odd = ModelInferRequest.FromString(body)
            del odd.inputs[0]
            inner = written(tensor) + repeat
            yield {}, written(odd) + b"\x2a" + bytes([len(inner)]) + inner
        entry = b"\x0a\x08priority\x12\x02\x10\x01"
        field = b"\x22" + bytes([len(entry)]) + entry
        yield {}, body + field + field
        twice = ModelInferRequest.FromString(body)
        twice.inputs.append(tensor)
        if self.raw:
            twice.raw_input_contents.append(twice.raw_input_contents[0])
        yield {}, written(twice)


class TestRaw(
    OverGrpc,
    without={"test_text_that_is_not_plain_utf_8": "a message is not text"},
):
    raw = True
    wire = Wire()

    def wrong(self, datatype):
        """Its bytes under another datatype; and bits that are none of its own."""
        _, body = self.write(self.wire.example(datatype))
        for other in sorted(EVERY - {datatype}):
            message = ModelInferRequest.FromString(body)
            message.inputs[0].datatype = other
            sizes = {np.dtype(DTYPES[name]).itemsize for name in (datatype, other)}
            if "BYTES" in (datatype, other) or len(sizes) == 2:
                yield {}, written(message)
        message = ModelInferRequest.FromString(body)
        data = message.raw_input_contents[0]
        odd = [data + b"\0", data[:-1], b""]
        if datatype == "BOOL":
            odd.append(b"\2" + data[1:])
        if datatype.startswith("FP"):
            bits = [np.array([value], DTYPES[datatype]).tobytes() for value in (np.nan, np.inf)]
            odd += [value + data[len(value) :] for value in bits]
        for other in odd:
            message.raw_input_contents[0] = other
            yield {}, written(message)


class TestTyped(
    OverGrpc,
    without={"test_text_that_is_not_plain_utf_8": "a message is not text"},
):
    raw = False
    # FP16 has no field of its own. A message that ends early may be a shorter one.
    wire = Wire(datatypes=EVERY - {"FP16"}, answers=EVERY - {"FP16"}, delimited=False)

    def wrong(self, datatype):
        """In another's field, in two fields, too few or too many, and out of range."""
        _, body = self.write(self.wire.example(datatype))
        message = ModelInferRequest.FromString(body)
        contents = message.inputs[0].contents
        field = getattr(contents, TYPED[datatype])
        for other in sorted(set(TYPED.values()) - {TYPED[datatype]}):
            for keep in (False, True):
                odd = ModelInferRequest.FromString(body)
                if not keep:
                    odd.inputs[0].ClearField("contents")
                value = b"1" if other == "bytes_contents" else 1
                getattr(odd.inputs[0].contents, other).extend([value] * len(field))
                yield {}, written(odd)
        for values in (field[:-1], [*field, field[0]], []):
            odd = ModelInferRequest.FromString(body)
            del getattr(odd.inputs[0].contents, TYPED[datatype])[:]
            getattr(odd.inputs[0].contents, TYPED[datatype]).extend(values)
            yield {}, written(odd)
        odd = ModelInferRequest.FromString(body)
        odd.inputs[0].ClearField("contents")
        yield {}, written(odd)
        odd = ModelInferRequest.FromString(body)
        odd.inputs[0].datatype = "FP16"
        yield {}, written(odd)
        outside = {"FP32": [np.nan, np.inf, -np.inf], "FP64": [np.nan, np.inf, -np.inf, 1e300]}
        bits = SHORT.get(datatype, 32)
        if datatype.startswith("INT") and bits < 32:
            outside[datatype] = [2 ** (bits - 1), -(2 ** (bits - 1)) - 1]
        if datatype.startswith("UINT") and bits < 32:
            outside[datatype] = [2**bits]
        for value in outside.get(datatype, []):
            field[0] = value
            yield {}, written(message)


def test_the_messages_are_those_of_the_protocol():
    """Field numbers and types, once more, as bytes."""
    message = ModelInferRequest(model_name="m", model_version="1", id="i")
    message.parameters["p"].int64_param = -1
    tensor = message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    tensor.contents.fp32_contents.extend([1.0, 2.0])
    message.outputs.add(name="y").parameters["classification"].int64_param = 3
    assert written(message) == (
        b"\x0a\x01m\x12\x011\x1a\x01i"
        b"\x22\x10\x0a\x01p\x12\x0b\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
        b"\x2a\x19\x0a\x01x\x12\x04FP32\x1a\x02\x01\x02\x2a\x0a\x32\x08\0\0\x80\x3f\0\0\0\x40"
        b"\x32\x19\x0a\x01y\x12\x14\x0a\x0eclassification\x12\x02\x10\x03"
    )
