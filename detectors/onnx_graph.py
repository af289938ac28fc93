"""What an ONNX model holds, looked at before anything loads it.

A model that comes with a bundle may compute, and nothing else: no operator from outside the
standard, no file beside the model, no chance, no loop. So the protocol buffer is walked here, field
by field, without building anything of it (onnx.proto of ONNX 1.x; the field numbers never change).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

MODEL_CAP: Final = 64 << 20
"""Bytes of a model."""
_NODE_CAP: Final = 10_000
"""Operators of a model: the largest networks for images have a tenth of it."""
_FIELD_CAP: Final = 1 << 20
"""Fields that are looked at: a model's tensors are one field each."""
_DEPTH_CAP: Final = 16
_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_RANDOM: Final = frozenset(
    {
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
        *("Multinomial", "Bernoulli"),
    }
)
# Messages by the numbers of the fields that are looked into.
_MODEL: Final = {7: "graph", 25: "function"}
_GRAPH: Final = {1: "node", 5: "tensor", 15: "sparse"}
_FUNCTION: Final = {7: "node", 11: "attribute"}
_NODE: Final = {5: "attribute"}
_ATTRIBUTE: Final = {5: "tensor", 10: "tensor", 22: "sparse", 23: "sparse"}
_SPARSE: Final = {1: "tensor", 2: "tensor"}
_INSIDE: Final = {
    "model": _MODEL,
    "graph": _GRAPH,
    "function": _FUNCTION,
    "node": _NODE,
    "attribute": _ATTRIBUTE,
    "sparse": _SPARSE,
    "tensor": dict[int, str](),
}
_SUBGRAPHS: Final = (6, 11)
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5


def check_graph(data: bytes) -> None:
    """Refuses a model that is more than a fixed computation of its input.

    Args:
        data: a serialised ONNX ``ModelProto``.

    Raises:
        ValueError: and nothing else, whatever the bytes: too large, not a protocol buffer, an
            operator that is not of the standard, chance, a loop or a branch, data in other files.
    """
    if not data:
        raise ValueError("the ONNX model is empty")
    if len(data) > MODEL_CAP:
        raise ValueError(f"the ONNX model is larger than {MODEL_CAP >> 20} MiB")
    walk = _Walk()
    walk.message(memoryview(data), "model", 0)
    if not walk.nodes:
        raise ValueError("the ONNX model has no operator: is it an ONNX model?")


class _Walk:
    def __init__(self) -> None:
        self.nodes = 0
        self.fields = 0

    def message(self, data: memoryview, kind: str, depth: int) -> None:
        if depth > _DEPTH_CAP:
            raise ValueError("the ONNX model is nested too deeply")
        inside = _INSIDE[kind]
        operator, domain = "", ""
        for number, wire, value in _fields(data):
            self.fields += 1
            if self.fields > _FIELD_CAP:
                raise ValueError("the ONNX model has too many parts")
            if kind == "tensor" and (
                number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)
            ):
                raise ValueError("the ONNX model keeps data in other files: save it in one")
            if kind == "attribute" and number in _SUBGRAPHS:
                raise ValueError("the ONNX model has a loop or a branch")
            if number in inside and wire == _BYTES and isinstance(value, memoryview):
                self.message(value, inside[number], depth + 1)
            elif kind == "node" and number in (4, 7) and isinstance(value, memoryview):
                text = bytes(value[:200]).decode(errors="replace")
                operator, domain = (text, domain) if number == 4 else (operator, text)
        if kind == "node":
            self.nodes += 1
            if self.nodes > _NODE_CAP:
                raise ValueError(f"the ONNX model has more than {_NODE_CAP} operators")
            if domain not in _DOMAINS:
                raise ValueError(f"the ONNX model uses {domain}.{operator}, not of the standard")
            if operator in _RANDOM:
                raise ValueError(f"the ONNX model draws random numbers ({operator})")


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """(number, wire type, value) of each field of a message."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, position = _varint(data, position)
        elif wire in (_FIXED_32, _FIXED_64):
            size = 4 if wire == _FIXED_32 else 8
        else:
            raise ValueError("this is not an ONNX model")
        if size > len(data) - position:
            raise ValueError("the ONNX model is cut short, or is none")
        yield number, wire, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("the ONNX model is cut short, or is none")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("this is not an ONNX model")
