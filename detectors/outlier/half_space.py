"""One-class machines with a linear kernel: one side of a plane."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from detectors.arrays import Floats, check_rows, frozen
from detectors.base import Rows
from detectors.outlier.projection import RawDetector


@dataclass(frozen=True, eq=False, slots=True)
class HalfSpace(RawDetector):
    """-normal . x: how far a row lies on the side away from the training rows.

    It sees one direction only: a huge value on the other side passes for normal. Merge it with a
    detector that has no such side.

    Equal to ``-OneClassSVM(kernel="linear").score_samples`` to 1e-9 of the sum of the products'
    magnitudes.

    Attributes:
        normal: (d,) float64, not all 0.
        features: d.
    """

    name = "half_space"

    normal: Floats
    features: int = field(init=False)

    def __post_init__(self) -> None:
        normal = frozen(self.normal, np.float64, (None,))
        if not bool(normal.any()):
            raise ValueError("the plane has no direction")
        object.__setattr__(self, "normal", normal)
        object.__setattr__(self, "features", normal.size)

    def score(self, rows: Rows) -> Floats:
        """(n, d) float32 to (n,) float64, high = suspicious; not finite for a row that is not.

        Raises:
            ValueError: if ``rows`` is not (n, d) float32.
        """
        check_rows(rows, self.features)
        with np.errstate(all="ignore"):
            scores: Floats = -(rows @ self.normal)
        # The product may skip an infinity that a weight of 0 meets.
        scores[~np.isfinite(rows).all(axis=1)] = np.nan
        return scores

    def parts(self, rows: Rows) -> Floats:
        """(n, d) what each feature adds to the score: their sum is the score."""
        check_rows(rows, self.features)
        with np.errstate(all="ignore"):
            added: Floats = -(rows * self.normal)
        return added
