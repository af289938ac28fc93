"""The linear view of a row that witnesses share, so that it is computed once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from detectors.arrays import Floats, Singles, check_rows, frozen
from detectors.base import Rows

CHUNK_ELEMENTS = 1 << 20
"""Temporaries of a batch stay below about this many float64 values (8 MiB)."""


@dataclass(frozen=True, eq=False, slots=True)
class Space:
    """y = weights x + offset: leading principal components of scaled rows.

    Attributes:
        weights: (r, d) float32, r at most d.
        offset: (r,) float64: what takes the training rows' mean to 0.
    """

    name: ClassVar[str] = "space"

    weights: Singles
    offset: Floats
    _wide: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weights = frozen(self.weights, np.float32, (None, None))
        if not 1 <= len(weights) <= weights.shape[1]:
            raise ValueError(f"a space of {len(weights)} components for {weights.shape[1]}")
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "offset", frozen(self.offset, np.float64, (len(weights),)))
        wide = np.ascontiguousarray(weights.T, dtype=np.float64)
        object.__setattr__(self, "_wide", frozen(wide, np.float64, wide.shape))

    @property
    def features(self) -> int:
        """d: the number of features of a row."""
        return int(self.weights.shape[1])

    @property
    def rank(self) -> int:
        """r: the number of components."""
        return len(self.weights)

    def apply(self, rows: Rows) -> Floats:
        """(n, d) float32 to (n, r).

        Raises:
            ValueError: if ``rows`` is not (n, d) float32.
        """
        check_rows(rows, self.features)
        with np.errstate(all="ignore"):  # what is not finite is a fault for the caller
            return self._project(rows.astype(np.float64))

    def _project(self, values: Floats) -> Floats:
        components: Floats = values @ self._wide
        components += self.offset
        return components
