"""Noise that belongs to an input: whoever asks the same again gets the same. Pure.

Half of its variance is *rough*: drawn anew for each distinct row, so that differences between
near-duplicates, along which black-box attacks climb, are noise. The other half is *smooth*:
near-duplicates share it, so that their average keeps it.

The rough half is Box and Muller's transform (1958) of the bits of SHAKE-256 over a keyed BLAKE2b of
the row. The smooth one is a Gaussian process of squared-exponential kernel, drawn once per key, by
random Fourier features (Rahimi and Recht, NeurIPS 2007). Neither uses a generator of numpy's, whose
streams may change from one release to the next: replicas must agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b, shake_256
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from proxy.protocols.base import InferRequest

Reals = npt.NDArray[np.float64]

KEY_BYTES: Final = 32

_LENGTH: Final = 0.4
"""Root mean square difference of two rows' features, on the scale of :func:`_levelled`, at which
the smooth halves of their noise have lost 40 % of their correlation."""
_FEATURES: Final = 64
_FOLDED: Final = 1024  # longer rows are folded: the frequencies' memory stays bounded
_WIDTH: Final = 4096  # from here on the smooth half repeats itself
_OWN: Final = 255  # functions of the smooth half among which outputs have their own
_GRAIN: Final = 2.0**-16  # coarser than what a sum differs by from one batch or CPU to the next


def noise_key(secret: bytes, endpoint: str) -> bytes:
    """The key of one endpoint's noise, 32 bytes.

    Each endpoint has its own: what is learnt of the noise where the model is known (the attacker's
    own) must not serve against another.
    """
    given = blake2b(secret, digest_size=32, person=b"bartizan.noise").digest()
    return blake2b(endpoint.encode(), key=given, digest_size=KEY_BYTES).digest()


def noise(
    key: bytes,
    rows: npt.NDArray[np.float32],
    width: int,
    rest: Sequence[bytes] | None = None,
) -> Reals:
    """(n, d) rows to (n, width) standard normal numbers.

    A row's numbers depend on its values, on the key, and on what else is known of it: not on the
    other rows of the call, nor, but for how many there are, on the width. Zeros of either sign are
    the same. Rows without features have the rough half alone, in full.

    Args:
        rest: for each row what else tells it apart, such as text; None: nothing.

    Raises:
        ValueError: if the key does not have 32 bytes.
    """
    known, seeds = _known(key, rows, rest)
    even = width + width % 2
    rough = _normals(b"".join([shake_256(seed).digest(4 * even) for seed in seeds]))
    found = rough.reshape(-1, even)[:, :width]
    if known.shape[1]:
        smooth = _waved(key, known) @ _heights(key, min(width, _WIDTH))
        if width > _WIDTH:
            smooth = np.tile(smooth, -(-width // _WIDTH))[:, :width]
        found = (found + smooth) * np.sqrt(0.5)
    return _grained(found)


def noise_of(
    key: bytes,
    rows: npt.NDArray[np.float32],
    names: Sequence[str],
    rest: Sequence[bytes] | None = None,
) -> Reals:
    """As :func:`noise`, (n, names, 2): two numbers for each name, which go by it and not by the
    other names: an output that is asked for alone has the same noise as among others."""
    known, seeds = _known(key, rows, rest)
    marks = [blake2b(_encoded(name), key=key, digest_size=16).digest() for name in names]
    rough = _normals(
        b"".join([shake_256(seed + mark).digest(8) for seed in seeds for mark in marks])
    )
    found = rough.reshape(len(known), len(names), 2)
    if known.shape[1]:
        places = [2 * (int.from_bytes(mark[:8], "little") % _OWN) for mark in marks]
        heights = _heights(key, 2 * (_OWN + 1))[:, 2:]  # the first two are those of two classes
        columns = np.array([(place, place + 1) for place in places]).reshape(-1)
        smooth = (_waved(key, known) @ heights[:, columns]).reshape(found.shape)
        found = (found + smooth) * np.sqrt(0.5)
    return _grained(found)


def _known(
    key: bytes, rows: npt.NDArray[np.float32], rest: Sequence[bytes] | None
) -> tuple[npt.NDArray[np.float32], list[bytes]]:
    """The rows, zeros of either sign alike, and a seed for each and what stands beside it."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key of {len(key)} bytes: {KEY_BYTES} are needed")
    known = np.ascontiguousarray(rows, "<f4") + np.float32(0)  # no -0
    contents = [row.tobytes() for row in known]
    if rest is not None:
        contents = [one + other for one, other in zip(contents, rest, strict=True)]
    return known, [blake2b(content, key=key, digest_size=32).digest() for content in contents]


def _grained(found: Reals) -> Reals:
    grained: Reals = np.rint(found / _GRAIN) * _GRAIN
    return grained


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "replace")


def beside(request: InferRequest) -> list[bytes] | None:
    """What tells the rows of a request apart beside their float32 values: what those leave out of
    wider numbers, and text. None if there is nothing.

    Without it, two inputs of FP64 that are the same float32 row would have the same noise, and
    their difference would be the model's own.
    """
    found = [b""] * request.n
    for number, name in enumerate(sorted(request.tensors)):
        tensor = request.tensors[name]
        if tensor.shape[0] != request.n:
            tensor = np.broadcast_to(tensor, (request.n, *tensor.shape))
        for row, own in enumerate(_beside(tensor.reshape(request.n, -1))):
            if own:
                # With its length: what stands in two tensors must not read as if it stood in one.
                found[row] += b"%d:%d:%b" % (number, len(own), own)
    return found if any(found) else None


def _beside(tensor: npt.NDArray[Any]) -> list[bytes]:
    if tensor.dtype.hasobject:
        return [b"".join(b"%d:%b" % (len(s), s) for s in row) for row in tensor.tolist()]
    if tensor.dtype.itemsize <= 2 or tensor.dtype == np.float32:
        return []
    left = tensor.astype("<f8") - tensor.astype("<f4").astype("<f8") + 0.0
    return [row.tobytes() if row.any() else b"" for row in left] if left.any() else []


def _waved(key: bytes, rows: npt.NDArray[np.float32]) -> Reals:
    """(n, features) the waves of which the smooth half is made."""
    levelled = _levelled(rows)
    if levelled.shape[1] > _FOLDED:
        levelled = levelled * _signs(key, levelled.shape[1])
        rest = -levelled.shape[1] % _FOLDED
        levelled = np.pad(levelled, ((0, 0), (0, rest))).reshape(len(rows), -1, _FOLDED).sum(axis=1)
    frequencies, phases = _waves(key, levelled.shape[1])
    # Folding keeps distances: what counts is the number of features that there were.
    angles = levelled @ frequencies / (_LENGTH * np.sqrt(rows.shape[1])) + phases
    found: Reals = np.cos(angles)
    return found


def _levelled(rows: npt.NDArray[np.float32]) -> Reals:
    """Features on one scale: small values as they are, large ones by their magnitude."""
    found: Reals = np.arcsinh(rows.astype(np.float64))
    return found


@lru_cache(maxsize=32)
def _waves(key: bytes, features: int) -> tuple[Reals, Reals]:
    bits = shake_256(key + b"frequencies").digest(4 * features * _FEATURES)
    phases = _uniforms(shake_256(key + b"phases").digest(4 * _FEATURES)) * 2 * np.pi
    return _normals(bits).reshape(-1, _FEATURES), phases


@lru_cache(maxsize=32)
def _heights(key: bytes, width: int) -> Reals:
    """(features, width), a column of it independent of how many follow."""
    heights = _normals(shake_256(key + b"heights").digest(4 * width * _FEATURES))
    found: Reals = np.ascontiguousarray(heights.reshape(width, -1).T) * np.sqrt(2 / _FEATURES)
    return found


@lru_cache(maxsize=32)
def _signs(key: bytes, features: int) -> Reals:
    return np.where(_uniforms(shake_256(key + b"signs").digest(4 * features)) < 0.5, -1.0, 1.0)


def _normals(bits: bytes) -> Reals:
    """As many as there are groups of 4 bytes, an even number."""
    pairs = _uniforms(bits).reshape(-1, 2)
    radius, angle = np.sqrt(-2 * np.log(pairs[:, 0])), 2 * np.pi * pairs[:, 1]
    both: Reals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
    return both


def _uniforms(bits: bytes) -> Reals:
    """In (0, 1), neither end among them."""
    numbers: npt.NDArray[Any] = np.frombuffer(bits, "<u4")
    found: Reals = (numbers + 0.5) / 2.0**32
    return found
