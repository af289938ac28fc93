"""The wire format of Protocol Buffers, read strictly: the part of it that inference messages use.

A field is a tag and a payload (https://protobuf.dev/programming-guides/encoding/). A general reader
skips what it does not know, lets the last of several values win and merges messages; here each of
these is for the caller to see. Nothing is copied: what is read are places in the message.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

_DOUBLE: Final = struct.Struct("<d")
_BYTES_OF_VARINT: Final = 10
_MOST: Final = 2**64
_SIGN: Final = 2**63

_CUT: Final = "a field goes beyond the message's end"

VARINT: Final = 0
FIXED64: Final = 1
SPAN: Final = 2


class WireError(ValueError):
    """Bytes that are no message, or not one of the kind that was asked for."""


class TooManyFieldsError(WireError):
    """More fields than there may be."""


class Span(NamedTuple):
    """A field with a length: a string, bytes, a message, or packed numbers.

    Attributes:
        number: of the field, 1 to 15.
        start: the offset of its payload.
        stop: the offset of its end.
    """

    number: int
    start: int
    stop: int


class Scalar(NamedTuple):
    """A field that holds one value.

    Attributes:
        number: of the field, 1 to 15.
        kind: ``VARINT``, ``FIXED64`` (a double) or ``SPAN``.
        value: an unsigned integer, a double, or bytes.
    """

    number: int
    kind: int
    value: int | float | bytes


def spans(data: bytes, start: int, stop: int, most: int) -> list[Span]:
    """The fields of the message from ``start`` to ``stop``, in their order. All must have a length.

    Args:
        most: fields that there may be.

    Raises:
        WireError: for a field of another kind, with a number above 15, or beyond the end.
        TooManyFieldsError: for more than ``most``.
    """
    found: list[Span] = []
    at = start
    while at < stop:
        try:
            tag = data[at]
            size = data[at + 1]
            at += 2
            if tag & 7 != SPAN or not 8 <= tag < 0x80:
                raise WireError("a field of another kind, or unknown")
            if size >= 0x80:
                size, at = _varint(data, at - 1)
        except IndexError:
            raise WireError(_CUT) from None
        end = at + size
        if end > stop:
            raise WireError(_CUT)
        if len(found) == most:
            raise TooManyFieldsError(f"more than {most} fields")
        found.append(Span(tag >> 3, at, end))
        at = end
    return found


def scalar(data: bytes) -> Scalar:
    """The only field of a message.

    Raises:
        WireError: if it has none, several, or one that is not whole.
    """
    try:
        tag = data[0]
        if not 8 <= tag < 0x80:
            raise WireError("an unknown field")
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = _varint(data, 1)
            if at == len(data):
                return Scalar(number, kind, value)
        elif kind == FIXED64:
            if len(data) == 1 + _DOUBLE.size:
                return Scalar(number, kind, _DOUBLE.unpack_from(data, 1)[0])
        elif kind == SPAN:
            size, at = _varint(data, 1)
            if at + size == len(data):
                return Scalar(number, kind, data[at:])
    except IndexError:
        pass
    raise WireError("not one field, whole")


def numbers(data: bytes, start: int, stop: int, most: int) -> list[int]:
    """Packed signed 64-bit integers, as a shape has them.

    Args:
        most: numbers that there may be.

    Raises:
        WireError: if there are more, or the last one is not whole.
    """
    found: list[int] = []
    at = start
    try:
        while at < stop:
            if len(found) == most:
                raise WireError(f"more than {most} numbers")
            value, at = _varint(data, at)
            found.append(signed(value))
    except IndexError:
        at = -1
    if at != stop:
        raise WireError("a number goes beyond the field's end")
    return found


def text(data: bytes) -> str:
    """A string.

    Raises:
        WireError: if it is not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise WireError("a string is not UTF-8") from None


def signed(value: int) -> int:
    """The int64 of a varint."""
    return value - _MOST if value >= _SIGN else value


def span(number: int, payload: bytes) -> bytes:
    """A field with a length."""
    return b"%c%b%b" % (number << 3 | SPAN, varint(len(payload)), payload)


def varint(value: int) -> bytes:
    """An integer from -2**63 to 2**64 - 1, in its shortest form."""
    if 0 <= value < 0x80:
        return b"%c" % value
    value %= _MOST
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(number: int, value: int) -> bytes:
    """A field that holds an integer or a boolean."""
    return b"%c%b" % (number << 3 | VARINT, varint(value))


def double(number: int, value: float) -> bytes:
    """A field that holds a double."""
    return b"%c%b" % (number << 3 | FIXED64, _DOUBLE.pack(value))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned integer, and where it ends.

    Raises:
        WireError: if it is longer than 64 bits.
        IndexError: if the data ends before it does.
    """
    value = 0
    for place in range(_BYTES_OF_VARINT):
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if value >= _MOST:
                break
            return value, at + place + 1
    raise WireError("a number has more than 64 bits")
