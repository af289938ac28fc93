"""The binary tensor data extension of OIP v2, as Triton defines it.

A JSON header of ``Inference-Header-Content-Length`` bytes is followed by the tensors whose
``binary_data_size`` parameter says so, in the order in which the header names them.
"""

from __future__ import annotations

from typing import Any, Final

from proxy.protocols.tensors import BYTES, Datatype
from proxy.rules import BINARY_FRAMING, SHAPE, Refusal

LENGTH_HEADER: Final = b"inference-header-content-length"
_DIGITS: Final = 18


def header_length(value: bytes, size: int) -> int:
    """The length of the JSON header of a body of ``size`` bytes.

    Digits only: Triton itself takes a sign, other readers take spaces and underscores.

    Raises:
        Refusal: BINARY_FRAMING; also for 0, which asks Triton to take the body as one raw tensor.
    """
    if not value.isdigit() or value.startswith(b"0") or len(value) > _DIGITS:
        raise Refusal(BINARY_FRAMING, "Inference-Header-Content-Length is not a positive number")
    length = int(value)
    if length > size:
        raise Refusal(BINARY_FRAMING, "Inference-Header-Content-Length is beyond the body's end")
    return length


def check_size(name: str, kind: Datatype, size: Any, count: int) -> None:
    """Refuses a ``binary_data_size`` that ``count`` elements do not have.

    Raises:
        Refusal: BINARY_FRAMING or SHAPE.
    """
    if type(size) is not int or size < 0:
        raise Refusal(BINARY_FRAMING, f"{name} has no valid binary_data_size")
    if kind is BYTES:
        if size < 4 * count:
            raise Refusal(SHAPE, f"{name} has {size} bytes, too few for its shape")
    elif size != count * kind.dtype.itemsize:
        raise Refusal(SHAPE, f"{name} has {size} bytes, its shape and datatype say otherwise")
