"""The contract of a detector. Numbers in, numbers out: no HTTP, no Redis, no asyncio."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Rows: TypeAlias = npt.NDArray[np.float32]
"""(n, d) float32, C-contiguous, finite: what the model would see, one row an example."""

Scores: TypeAlias = npt.NDArray[np.float64]
"""(n,) float64: one score a row, **high = suspicious**."""


class Detector(Protocol):
    """Scores rows. Immutable once loaded: it never learns from what it scores.

    Attributes:
        name: the registered name, as in ``--detectors``.
    """

    name: str

    def score(self, rows: Rows) -> Scores:
        """(n, d) float32 to (n,) float64, high = suspicious.

        Every score is finite, or it is a fault (the caller checks): NaN never passes for normal.
        A row's score does not depend on the other rows of the call.

        Raises:
            ValueError: if ``rows`` has the wrong number of features.
        """
