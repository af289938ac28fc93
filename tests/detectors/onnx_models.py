"""Small ONNX models, written field by field: the tests need no package that makes them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np

FLOAT, INT64 = 1, 7
Shape = Sequence[int | str]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def block(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(data)) + data


def tensor(name: str, array: np.ndarray, extra: bytes = b"") -> bytes:
    kind = FLOAT if array.dtype == np.float32 else INT64
    dims = b"".join(number(1, length) for length in array.shape)
    return dims + number(2, kind) + block(8, name) + block(9, array.tobytes()) + extra


def value(name: str, shape: Shape, kind: int = FLOAT) -> bytes:
    dims = b"".join(
        block(1, number(1, length) if isinstance(length, int) else block(2, length))
        for length in shape
    )
    return block(1, name) + block(2, block(1, number(1, kind) + block(2, dims)))


def attribute(name: str, value: int | float | Sequence[int]) -> bytes:
    if isinstance(value, float):
        return block(1, name) + varint(2 << 3 | 5) + struct.pack("<f", value) + number(20, 1)
    if isinstance(value, int):
        return block(1, name) + number(3, value) + number(20, 2)
    return block(1, name) + b"".join(number(8, one) for one in value) + number(20, 7)


def node(
    operator: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    attributes: Mapping[str, int | float | Sequence[int]] | None = None,
    *,
    domain: str = "",
    extra: bytes = b"",
) -> bytes:
    data = b"".join(block(1, name) for name in inputs)
    data += b"".join(block(2, name) for name in outputs) + block(4, operator)
    for name, one in (attributes or {}).items():
        data += block(5, attribute(name, one))
    return data + (block(7, domain) if domain else b"") + extra


def model(
    nodes: Sequence[bytes],
    inputs: Sequence[bytes],
    outputs: Sequence[bytes],
    tensors: Sequence[bytes] = (),
    *,
    extra: bytes = b"",
) -> bytes:
    graph = b"".join(block(1, one) for one in nodes) + block(2, "made by a test")
    graph += b"".join(block(5, one) for one in tensors)
    graph += b"".join(block(11, one) for one in inputs)
    graph += b"".join(block(12, one) for one in outputs)
    return number(1, 8) + block(8, block(1, "") + number(2, 17)) + block(7, graph) + extra


def dense(weights: np.ndarray, bias: np.ndarray, rows: int | str = "n") -> bytes:
    """relu(x W + b) of (n, d) rows."""
    return model(
        [node("Gemm", ["x", "w", "b"], ["h"]), node("Relu", ["h"], ["y"])],
        [value("x", [rows, weights.shape[0]])],
        [value("y", [rows, weights.shape[1]])],
        [tensor("w", weights.astype(np.float32)), tensor("b", bias.astype(np.float32))],
    )


def convolution(kernels: np.ndarray, height: int, width: int) -> bytes:
    """(n, c, h, w) through (k, c, 3, 3) kernels, without padding."""
    count, channels = kernels.shape[:2]
    return model(
        [node("Conv", ["x", "w"], ["y"], {"kernel_shape": [3, 3]})],
        [value("x", ["n", channels, height, width])],
        [value("y", ["n", count, height - 2, width - 2])],
        [tensor("w", kernels.astype(np.float32))],
    )
