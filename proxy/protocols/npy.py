"""NumPy's NPY files, read strictly: a header of our own parsing, and exactly the bytes that it asks
for. ``numpy.load`` is never called: it unpickles, allocates by the header's word, and ignores what
comes after the end.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html (1.0, 2.0, 3.0).
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from math import prod
from typing import Any, Final

import numpy as np

from proxy.protocols.tensors import BYTES, DATATYPES, MAX_RANK, Datatype, Tensor, from_buffer
from proxy.rules import DATATYPE, SHAPE, SYNTAX, Refusal

MAGIC: Final = b"\x93NUMPY"
MAX_HEADER: Final = 1024
"""Bytes of the header's text: of 16 dimensions it takes 400."""

_ALIGNMENT: Final = 64
# Of one byte there is no order; numpy writes "|", others "<". Big-endian files are refused: no
# machine that sends them is left, and a reader that overlooks the mark sees other numbers.
_KINDS: Final[dict[bytes, Datatype]] = {
    order + kind.dtype.str[1:].encode(): kind
    for kind in DATATYPES.values()
    if kind is not BYTES
    for order in ((b"<", b"|") if kind.dtype.itemsize == 1 else (b"<",))
}
_ITEM: Final = re.compile(
    rb"""[ ]*(?P<quote>['"])(?P<key>descr|fortran_order|shape)(?P=quote)[ ]*:[ ]*
    (?P<value>'[^'"\\]{1,16}'|"[^'"\\]{1,16}"|True|False|\([0-9, ]*\))[ ]*(?:,|(?=\}))""",
    re.VERBOSE,
)
_END: Final = re.compile(rb"[ ]*\}[ ]*\n?")
_SIZE: Final = rb"(?:0|[1-9][0-9]{0,18})"
# A tuple of one has a comma, one of none is refused: a scalar holds no rows.
_SHAPE: Final = re.compile(rb"\( ?(?:%b,|%b(?:, ?%b)+,?) ?\)" % (_SIZE, _SIZE, _SIZE))


def read_npy(name: str, data: bytes, *, smallest: int = 1) -> Tensor:
    """A file as a read-only, C-contiguous tensor; column-major ones are turned.

    Nothing is allocated by the header's word: the bytes are there or the file is refused.

    Args:
        name: of the tensor, for messages.
        smallest: size of a dimension: 0 for answers, which may be empty.

    Raises:
        Refusal: SYNTAX for what is no such file, DATATYPE for all but numbers and booleans in
            little-endian order, SHAPE for dimensions that do not fit the bytes, VALUE for what is
            not finite and for a boolean byte other than 0 and 1.
    """
    text, start = _split(data)
    kind, fortran, shape = _header(name, text)
    if min(shape) < smallest:
        raise Refusal(SHAPE, f"{name} is empty")
    if prod(shape) * kind.dtype.itemsize != len(data) - start:
        raise Refusal(SHAPE, f"{name} does not hold the elements that its shape says")
    if not fortran:
        return from_buffer(name, kind, data, shape, start=start, stop=len(data))
    tensor = from_buffer(name, kind, data, shape[::-1], start=start, stop=len(data))
    turned = np.ascontiguousarray(tensor.T)
    turned.flags.writeable = False
    return turned


def write_npy(tensor: Tensor) -> bytes:
    """A tensor of numbers or booleans as a file of version 1.0, in row-major order."""
    sizes = ", ".join(map(str, tensor.shape))
    shape = f"({sizes},)" if tensor.ndim == 1 else f"({sizes})"
    text = f"{{'descr': '{tensor.dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"
    prefix = len(MAGIC) + 4
    padded = -(prefix + len(text) + 1) % _ALIGNMENT + len(text)
    head = MAGIC + struct.pack("<BBH", 1, 0, padded + 1)
    return b"".join((head, text.ljust(padded).encode(), b"\n", tensor.tobytes()))


def _split(data: bytes) -> tuple[bytes, int]:
    """The header's text, and where the data begins."""
    if not data.startswith(MAGIC):
        raise Refusal(SYNTAX, "not an NPY file")
    version = data[6:8]
    if version == b"\x01\x00":
        start = 10
    elif version in (b"\x02\x00", b"\x03\x00"):
        start = 12
    else:
        raise Refusal(SYNTAX, "an NPY file of unknown version")
    stop = start + int.from_bytes(data[8:start], "little")
    if stop > min(len(data), start + MAX_HEADER):
        raise Refusal(SYNTAX, "an NPY header that is truncated or too long")
    return data[start:stop], stop


# The same from one request to the next, but for the number of rows.
@lru_cache(maxsize=64)
def _header(name: str, text: bytes) -> tuple[Datatype, bool, tuple[int, ...]]:
    """Datatype, whether the order is column-major, and shape."""
    found: dict[bytes, bytes] = {}
    at = 1
    while (item := _ITEM.match(text, at)) is not None and item["key"] not in found:
        found[item["key"]] = item["value"]
        at = item.end()
    order = found.get(b"fortran_order")
    if (
        len(found) != 3
        or text[:1] != b"{"
        or _END.fullmatch(text, at) is None
        or order not in (b"True", b"False")
    ):
        raise Refusal(SYNTAX, "an NPY header without exactly descr, fortran_order and shape")
    kind = _KINDS.get(found[b"descr"][1:-1])
    if kind is None:
        raise Refusal(DATATYPE, f"{name} is not of little-endian numbers or booleans")
    sizes: Any = found[b"shape"]
    if _SHAPE.fullmatch(sizes) is None:
        raise Refusal(SHAPE, f"{name} has no shape of 1 to {MAX_RANK} dimensions")
    shape = tuple(int(size) for size in sizes[1:-1].split(b",") if size.strip())
    if len(shape) > MAX_RANK:
        raise Refusal(SHAPE, f"{name} has no shape of 1 to {MAX_RANK} dimensions")
    return kind, order == b"True", shape
