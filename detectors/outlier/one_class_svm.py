"""One-class support vector machine with a Gaussian kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detectors.arrays import Floats, frozen, real
from detectors.outlier.projection import CHUNK_ELEMENTS, Projected, ProjectedDetector


@dataclass(frozen=True, eq=False, slots=True)
class OneClassSVM(ProjectedDetector):
    """-log sum_i alpha_i exp(-gamma |y - v_i|^2) over the support vectors v.

    Schölkopf et al. (2001). The machine's own score is the sum; its negative logarithm orders rows
    the same way, and keeps doing so far from the training rows, where the sum underflows to 0.

    ``exp(-score)`` equals ``OneClassSVM.score_samples`` to 1e-9, relative, plus 1e-12 of the sum of
    the weights: scikit-learn subtracts its offset and adds it again, and loses the digits below.

    Attributes:
        vectors: (m, r) float64.
        weights: (m,) float64, positive: the alphas.
        gamma: positive.
    """

    name = "one_class_svm"

    vectors: Floats
    weights: Floats
    gamma: float

    def __post_init__(self) -> None:
        vectors = frozen(self.vectors, np.float64, (None, None))
        if len(vectors) < 1 or not 1 <= vectors.shape[1] <= self.projection.rank:
            raise ValueError(f"support vectors of shape {vectors.shape}")
        weights = frozen(self.weights, np.float64, (len(vectors),))
        if not bool((weights > 0).all()) or real(self.gamma, "gamma") <= 0:
            raise ValueError("weights and gamma must be positive")
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "gamma", float(self.gamma))

    def measure(self, projected: Projected) -> Floats:
        """Projected rows to (n,) scores, high = suspicious."""
        rows = projected.components[:, : self.vectors.shape[1]]
        scores = np.empty(len(rows))
        chunk = max(1, CHUNK_ELEMENTS // self.vectors.size)
        with np.errstate(all="ignore"):
            lengths = np.einsum("ij,ij->i", self.vectors, self.vectors)
            for start in range(0, len(rows), chunk):
                part = rows[start : start + chunk]
                squares = lengths - 2.0 * (part @ self.vectors.T)
                squares += np.einsum("ij,ij->i", part, part)[:, None]
                # Rounding may leave a hair below zero; NaN passes through maximum and stays NaN.
                logs = -self.gamma * np.maximum(squares, 0.0)
                top = logs.max(axis=1)
                sums = np.exp(logs - top[:, None]) @ self.weights
                scores[start : start + chunk] = -top - np.log(sums)
        return scores
