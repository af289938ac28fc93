"""Typed tensor data of OIP v2 over gRPC: the message ``InferTensorContents``.

Each datatype has its field of numbers, which are packed: one run of little-endian floats, or of
variable-length integers. Several datatypes share a field; FP16 has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from proxy import protobuf
from proxy.protobuf import Span, TooManyFieldsError, WireError
from proxy.protocols.tensors import BOOL, BYTES, Datatype, Tensor, from_buffer
from proxy.rules import DATATYPE, SHAPE, VALUE, Refusal

_FIELDS: Final = {
    "BOOL": (1, "bool_contents"),
    "INT8": (2, "int_contents"),
    "INT16": (2, "int_contents"),
    "INT32": (2, "int_contents"),
    "INT64": (3, "int64_contents"),
    "UINT8": (4, "uint_contents"),
    "UINT16": (4, "uint_contents"),
    "UINT32": (4, "uint_contents"),
    "UINT64": (5, "uint64_contents"),
    "FP32": (6, "fp32_contents"),
    "FP64": (7, "fp64_contents"),
    "BYTES": (8, "bytes_contents"),
}
_BYTES_OF_VARINT: Final = 10
_PIECE: Final = 2**14  # integers that are written at once

_Unsigned = npt.NDArray[np.uint64]


def from_contents(
    name: str, kind: Datatype, data: bytes, contents: Span | None, shape: Sequence[int]
) -> Tensor:
    """Typed data as a read-only tensor; a view of ``data`` if it holds floats that lie well.

    Args:
        contents: where in ``data`` the message is; None if there is none.

    Raises:
        WireError: if it is no such message.
        Refusal: DATATYPE for the field of another datatype, or a datatype that has none; SHAPE for
            another number of elements; VALUE for one that is not of the datatype, or not finite.
    """
    number, called = _field(name, kind)
    count = prod(shape)
    _, start, stop = contents or Span(0, 0, 0)
    try:
        found = protobuf.spans(data, start, stop, count if kind is BYTES else 1)
    except TooManyFieldsError:
        if kind is BYTES:
            raise Refusal(SHAPE, f"{name} has more elements than its shape says") from None
        raise
    for field in found:
        if field.number != number:
            raise Refusal(DATATYPE, f"the data of {name} belongs into {called}")
    if kind is BYTES:
        if len(found) != count:
            raise _misfit(name, len(found), count)
        items = np.fromiter((data[at:end] for _, at, end in found), object, count)
        return _still(items.reshape(shape))
    _, start, stop = found[0] if found else Span(0, 0, 0)
    if count == 0 and start == stop:
        return _still(np.zeros(shape, kind.dtype))
    if kind.floating:
        if stop - start != count * kind.dtype.itemsize:
            raise _misfit(name, (stop - start) // kind.dtype.itemsize, count)
        return from_buffer(name, kind, data, shape, start=start, stop=stop)
    values = _integers(name, data, start, stop, count)
    return _still(_narrowed(name, kind, values).reshape(shape))


def to_contents(name: str, tensor: Tensor, kind: Datatype) -> bytes:
    """A tensor as the message.

    Raises:
        ValueError: for FP16, or a number that is not finite.
    """
    if kind.name not in _FIELDS:
        raise ValueError(f"{name}: {kind.name} has no typed contents")
    number, _ = _FIELDS[kind.name]
    if not tensor.size:
        return b""
    if kind is BYTES:
        return b"".join([protobuf.span(number, item) for item in tensor.reshape(-1).tolist()])
    if kind.floating:
        if not np.isfinite(tensor).all():
            raise ValueError(f"{name} has an element that is not finite")
        return protobuf.span(number, tensor.tobytes())
    flat = tensor.reshape(-1)
    wide = flat.astype(np.int64).view(np.uint64) if flat.dtype.kind == "i" else flat
    return protobuf.span(number, _packed(wide.astype(np.uint64)))


def _field(name: str, kind: Datatype) -> tuple[int, str]:
    field = _FIELDS.get(kind.name)
    if field is None:
        raise Refusal(DATATYPE, f"{name}: {kind.name} has no typed contents, only raw ones")
    return field


def _misfit(name: str, found: int, count: int) -> Refusal:
    return Refusal(SHAPE, f"{name} has {found} elements, its shape says {count}")


def _still(tensor: Tensor) -> Tensor:
    tensor.flags.writeable = False
    return tensor


def _integers(name: str, data: bytes, start: int, stop: int, count: int) -> npt.NDArray[Any]:
    """Packed varints: (count,) unsigned, of 8 bits if all are short."""
    raw = np.frombuffer(data, np.uint8, stop - start, start)
    ends = raw < 0x80
    if len(raw) == count and ends.all():
        return raw
    last = np.flatnonzero(ends)
    if len(last) != count or last[-1] != len(raw) - 1:
        raise _misfit(name, len(last), count)
    first = np.concatenate(([0], last[:-1] + 1))
    size = last - first + 1
    longest = int(size.max())
    if longest > _BYTES_OF_VARINT:
        raise WireError("a number has more than 64 bits")
    values: _Unsigned = np.zeros(count, np.uint64)
    for place in range(longest):
        there = size > place
        bits = raw[first[there] + place] & 0x7F
        if place == _BYTES_OF_VARINT - 1 and bits.max() > 1:
            raise WireError("a number has more than 64 bits")
        values[there] |= bits.astype(np.uint64) << np.uint64(7 * place)
    return values


def _narrowed(name: str, kind: Datatype, values: npt.NDArray[Any]) -> Tensor:
    """Unsigned integers off the wire as the datatype, each exactly."""
    if kind is BOOL:
        low, high = 0, 1
    else:
        limits = np.iinfo(kind.dtype)
        low, high = int(limits.min), int(limits.max)
    if low < 0 and values.dtype.itemsize == 8:
        values = values.view(np.int64)
    if int(values.min()) < low or int(values.max()) > high:
        raise Refusal(VALUE, f"{name} has an element that is not {kind.name}")
    return values.astype(kind.dtype)


def _packed(values: _Unsigned) -> bytes:
    """Varints in their shortest form."""
    if int(values.max()) < 0x80:
        return values.astype(np.uint8).tobytes()
    shifts = np.arange(0, 7 * _BYTES_OF_VARINT, 7, dtype=np.uint64)
    parts = []
    for at in range(0, len(values), _PIECE):
        rest = values[at : at + _PIECE, None] >> shifts
        there = rest > 0
        there[:, 0] = True
        bits = (rest & np.uint64(0x7F)).astype(np.uint8)
        bits[:, :-1] |= there[:, 1:].astype(np.uint8) << 7
        parts.append(bits[there].tobytes())
    return b"".join(parts)
