"""What shaped embeddings look like: the same neighbours, with less to learn from. Pure.

An embedding is compared by its angle to others, so its numbers are coarse in units of its own root
mean square, and its norm stays.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from proxy.shaping_noise import noise

Vectors = npt.NDArray[np.float32]
_Reals = npt.NDArray[np.float64]

_GRAIN: Final = 64.0
"""Noise belongs to a vector up to this part of its root mean square."""


def rounded(vectors: Vectors, decimals: int) -> Vectors:
    """(n, d) vectors, each rounded to so many decimals of its root mean square."""
    units, scales = _units(vectors)
    return _scaled(np.round(units, decimals), scales)


def disturbed(vectors: Vectors, decimals: int, deviation: float, key: bytes) -> Vectors:
    """(n, d) vectors with noise, always the same for the same vector.

    Args:
        deviation: of the noise, in units of the last of the decimals of the root mean square.
        key: of :func:`proxy.shaping_noise.noise_key`.
    """
    units, scales = _units(vectors)
    known = (np.rint(units * _GRAIN) / _GRAIN).astype(np.float32)
    drawn = noise(key, known, units.shape[1]) * (deviation * 10.0**-decimals)
    return _scaled(units + drawn, scales)


def _units(vectors: npt.NDArray[Any]) -> tuple[_Reals, _Reals]:
    """Vectors with a root mean square of 1, and what each had; zeros stay."""
    wide = vectors.astype(np.float64)
    scales = np.sqrt(np.mean(wide**2, axis=1, keepdims=True))
    return np.divide(wide, scales, out=np.zeros_like(wide), where=scales > 0), scales


def _scaled(units: _Reals, scales: _Reals) -> Vectors:
    again, _ = _units(units)  # what was done to it may have changed its length
    return (again * scales + 0.0).astype(np.float32)  # no -0
