"""Weighted distances to the eigenvectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detectors.arrays import Floats, frozen
from detectors.outlier.projection import Projected, ProjectedDetector


@dataclass(frozen=True, eq=False, slots=True)
class ComponentDistance(ProjectedDetector):
    """sum_j weights_j |z - c_j| over the unit eigenvectors c_j, taken as points.

    After Shyu et al. (2003), as PyOD computes it: |z - c_j|^2 = |z|^2 - 2 y_j + 1. Equal to PyOD's
    ``PCA.decision_function`` to 1e-7, relative.

    Attributes:
        weights: (r,) float64, positive: one over a component's share of the variance.
    """

    name = "component_distance"

    weights: Floats

    def __post_init__(self) -> None:
        weights = frozen(self.weights, np.float64, (None,))
        if not 1 <= weights.size <= self.projection.rank or not self.projection.turns:
            raise ValueError(f"{weights.size} weights for {self.projection.rank} components")
        if not bool((weights > 0).all()):
            raise ValueError("weights must be positive")
        object.__setattr__(self, "weights", weights)

    def measure(self, projected: Projected) -> Floats:
        """Projected rows to (n,) scores, high = suspicious."""
        with np.errstate(all="ignore"):
            along = projected.components[:, : self.weights.size]
            squared = projected.norms[:, None] - 2.0 * along + 1.0
            # Rounding may leave a hair below zero; NaN passes through maximum and stays NaN.
            scores: Floats = np.sqrt(np.maximum(squared, 0.0)) @ self.weights
        return scores
