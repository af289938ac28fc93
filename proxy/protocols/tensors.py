"""The datatypes of the Open Inference Protocol, and the ways into and out of numpy.

Every conversion is exact or refused: nothing is coerced, truncated, wrapped or rounded to infinity.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from proxy.rules import SHAPE, VALUE, Refusal

Tensor = npt.NDArray[Any]

MAX_RANK: Final = 16
_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Datatype:
    """One datatype of the protocol.

    Attributes:
        name: as on the wire.
        dtype: little-endian numpy dtype; ``object`` (of ``bytes``) for BYTES.
        code: the struct code that packs one element, refusing what does not fit; "" for BYTES.
        floating: whether not every bit pattern is a finite number.
    """

    name: str
    dtype: np.dtype[Any]
    code: str
    floating: bool = False

    @property
    def numeric(self) -> bool:
        """Whether the tensor is scored. BYTES are not."""
        return bool(self.code)


# BF16 is missing on purpose: neither numpy nor JSON has it, so it could not be scored.
DATATYPES: Final[dict[str, Datatype]] = {
    kind.name: kind
    for kind in (
        Datatype("BOOL", np.dtype("?"), "?"),
        Datatype("UINT8", np.dtype("<u1"), "B"),
        Datatype("UINT16", np.dtype("<u2"), "H"),
        Datatype("UINT32", np.dtype("<u4"), "I"),
        Datatype("UINT64", np.dtype("<u8"), "Q"),
        Datatype("INT8", np.dtype("<i1"), "b"),
        Datatype("INT16", np.dtype("<i2"), "h"),
        Datatype("INT32", np.dtype("<i4"), "i"),
        Datatype("INT64", np.dtype("<i8"), "q"),
        Datatype("FP16", np.dtype("<f2"), "e", floating=True),
        Datatype("FP32", np.dtype("<f4"), "f", floating=True),
        Datatype("FP64", np.dtype("<f8"), "d", floating=True),
        Datatype("BYTES", np.dtype(object), ""),
    )
}
BYTES: Final = DATATYPES["BYTES"]
BOOL: Final = DATATYPES["BOOL"]
FP32: Final = DATATYPES["FP32"]
FP64: Final = DATATYPES["FP64"]
_BY_DTYPE: Final = {kind.dtype: kind for kind in DATATYPES.values()}


def datatype_of(dtype: np.dtype[Any]) -> Datatype:
    """The protocol's datatype of the arrays that this module makes with ``dtype``."""
    return _BY_DTYPE[dtype]


@lru_cache(maxsize=512)
def _packer(code: str, count: int) -> struct.Struct:
    return struct.Struct(f"<{count}{code}")


def flatten(name: str, values: list[Any], shape: Sequence[int], count: int) -> list[Any]:
    """The elements of flat or fully nested JSON data, in row-major order.

    Nesting must be that of ``shape``, level by level; ``count`` is the product of ``shape``.

    Raises:
        Refusal: SHAPE.
    """
    if values and type(values[0]) is list and len(shape) > 1:
        if len(values) != shape[0]:
            raise Refusal(
                SHAPE, f"{name} has {len(values)} rows of data, its shape says {shape[0]}"
            )
        for size in shape[1:]:
            if len(values) == 1 and type(values[0]) is list and len(values[0]) == size:
                values = values[0]
            elif set(map(type, values)) == {list} and set(map(len, values)) == {size}:
                values = list(chain.from_iterable(values))
            else:
                raise Refusal(SHAPE, f"{name} is nested otherwise than its shape")
    elif len(values) != count:
        raise Refusal(SHAPE, f"{name} has {len(values)} elements, its shape says {count}")
    return values


def from_values(
    name: str, kind: Datatype, values: list[Any], shape: Sequence[int], *, booleans: bool
) -> Tensor:
    """Flat JSON values as a read-only tensor.

    Args:
        values: as many as ``shape`` asks for.
        booleans: whether JSON booleans may be among them. They pack as numbers, so they are looked
            for, but only where the text could hold one.

    Raises:
        Refusal: VALUE for an element that is not of the datatype or not in its range (an integer
            in a floating tensor is), SHAPE if an element is itself a list.
    """
    if booleans or kind.dtype.kind in "bO":
        types = set(map(type, values))
        wanted = {bool} if kind is BOOL else {str} if kind is BYTES else {int, float}
        if not types <= wanted:
            raise _misfit(name, kind, types)
        if kind is BYTES:
            return _objects(list(map(str.encode, values)), shape)
    try:
        # struct is both the fastest way from a list of floats to an array and the strictest: it
        # takes no strings or nulls, no float for an integer, and nothing out of range. It rounds
        # a double to the nearest FP32 or FP16, ties to even, as IEEE 754 has it.
        packed = _packer(kind.code, len(values)).pack(*values)
    except (struct.error, OverflowError):
        raise _misfit(name, kind, set(map(type, values))) from None
    return np.ndarray(shape, kind.dtype, packed)


def from_buffer(
    name: str, kind: Datatype, data: bytes, shape: Sequence[int], *, start: int, stop: int
) -> Tensor:
    """The bytes of ``data`` from ``start`` to ``stop``, little-endian, as a read-only tensor.

    A view where the elements are aligned, a copy elsewhere. The caller has made sure that the
    bounds lie in ``data`` and, but for BYTES, that they are as far apart as the shape needs.

    Raises:
        Refusal: VALUE for NaN, an infinity, or a boolean byte other than 0 and 1; SHAPE if BYTES,
            each a little-endian u32 length and that many bytes, do not fill the bounds exactly.
    """
    if kind is BYTES:
        return _objects(_length_prefixed(name, data, prod(shape), start, stop), shape)
    dtype = kind.dtype
    if start % dtype.itemsize:
        tensor: Tensor = np.ndarray(shape, dtype, data[start:stop])
    else:
        tensor = np.ndarray(shape, dtype, data, start)
    if kind.floating:
        # Searching the mask's bytes is half the price of ``.all()`` on small tensors.
        if b"\0" in np.isfinite(tensor).tobytes():
            raise Refusal(VALUE, f"{name} has an element that is not finite")
    elif kind is BOOL and tensor.view(np.uint8).max(initial=0) > 1:
        raise Refusal(VALUE, f"{name} has a boolean that is neither 0 nor 1")
    return tensor


def to_values(tensor: Tensor) -> Tensor | list[str]:
    """Flat data for orjson, the same numbers to every reader.

    FP32 and FP16 go as the double that equals them. Their own shortest text would be shorter, but
    it can lie so near the middle of two values that a reader which parses a double first and then
    narrows it gets the neighbour: 7.038531e-26 is one.
    """
    flat = tensor.reshape(-1)
    dtype = flat.dtype
    if dtype.kind == "f" and dtype.itemsize < 8:
        return flat.astype(np.float64)
    if dtype.hasobject:
        return list(map(bytes.decode, flat.tolist()))
    return flat


def to_buffer(tensor: Tensor) -> bytes:
    """Row-major little-endian bytes; BYTES elements with their lengths before them."""
    if not tensor.dtype.hasobject:
        return tensor.tobytes()
    items: list[bytes] = tensor.reshape(-1).tolist()
    lengths = map(_LENGTH.pack, map(len, items))
    return b"".join(chain.from_iterable(zip(lengths, items, strict=True)))


def to_rows(name: str, kind: Datatype, tensor: Tensor, n: int) -> npt.NDArray[np.float32]:
    """A tensor as (n, d) float32, C-contiguous and finite; a view if it is FP32, (n, 0) if BYTES.

    Integers beyond 2**24 are rounded to the nearest float32.

    Raises:
        Refusal: VALUE for an FP64 element that only a double can hold.
    """
    if kind is BYTES:
        return np.empty((n, 0), np.float32)
    rows = tensor if tensor.ndim == 2 and len(tensor) == n else tensor.reshape(n, -1)
    if kind is FP32:
        return rows
    if kind is not FP64:
        return rows.astype(np.float32)
    with np.errstate(over="ignore"):
        rows = rows.astype(np.float32)
    if not np.isfinite(rows).all():
        raise Refusal(VALUE, f"{name} has an element beyond the range of FP32")
    return rows


def from_rows(
    rows: npt.NDArray[np.float32],
    kind: Datatype,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Tensor:
    """Finite float32 as the nearest values of a numeric datatype within a range.

    Integers and booleans are rounded, ties to even; what leaves the datatype or the range moves to
    its edge.
    """
    if kind is FP32 and minimum is None and maximum is None:
        return rows
    low = -np.inf if minimum is None else minimum
    high = np.inf if maximum is None else maximum
    values = rows.astype(np.float64)
    if kind is BOOL:
        return values > 0.5
    if kind.floating:
        widest = float(np.finfo(kind.dtype).max)
        return _inward(np.clip(values, max(low, -widest), min(high, widest)), kind, low, high)
    limits = np.iinfo(kind.dtype)
    # The largest 64-bit integers are not doubles: the next smaller one is.
    top = float(limits.max) if kind.dtype.itemsize < 8 else np.nextafter(float(limits.max), 0)
    bounds = max(np.ceil(low), float(limits.min)), min(np.floor(high), top)
    return np.clip(np.rint(values), *bounds).astype(kind.dtype)


def _inward(values: npt.NDArray[np.float64], kind: Datatype, low: float, high: float) -> Tensor:
    """As the datatype, but never rounded over the edge of a range."""
    narrow: Tensor = values.astype(kind.dtype)
    wide = narrow.astype(np.float64)
    below, above = wide < low, wide > high
    narrow[below] = np.nextafter(narrow[below], kind.dtype.type(np.inf))
    narrow[above] = np.nextafter(narrow[above], kind.dtype.type(-np.inf))
    return narrow


def _misfit(name: str, kind: Datatype, types: Set[type]) -> Refusal:
    if list in types:
        return Refusal(SHAPE, f"{name} is nested otherwise than its shape")
    return Refusal(VALUE, f"{name} has an element that is not {kind.name}")


def _length_prefixed(name: str, data: bytes, count: int, start: int, stop: int) -> list[bytes]:
    items: list[bytes] = []
    unpack, append = _LENGTH.unpack_from, items.append
    at = start
    # Each takes 4 bytes at least: a caller that has held ``count`` against that pays no more.
    with suppress(struct.error):
        for _ in range(count):
            (length,) = unpack(data, at)
            begin = at + 4
            at = begin + length
            append(data[begin:at])
    if len(items) != count or at != stop:
        raise Refusal(SHAPE, f"{name} does not hold the {count} elements that its shape says")
    return items


def _objects(items: list[bytes], shape: Sequence[int]) -> Tensor:
    tensor = np.fromiter(items, object, len(items))
    tensor.flags.writeable = False
    return tensor.reshape(shape)
