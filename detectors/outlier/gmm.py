"""Negative log-likelihood under a Gaussian mixture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detectors.arrays import Floats, frozen
from detectors.outlier.projection import CHUNK_ELEMENTS, Projected, ProjectedDetector


@dataclass(frozen=True, eq=False, slots=True)
class GaussianMixture(ProjectedDetector):
    """-log sum_k exp(offset_k - |F_k (y - mean_k)|^2 / 2), full covariances.

    F_k is the lower-triangular factor of the k-th precision and offset_k gathers the log weight,
    the log determinant and the normalising constant.

    Equal to ``-GaussianMixture.score_samples`` to 1e-9, relative.

    Attributes:
        means: (k, r) float64.
        factors: (k, r, r) float64, lower triangular.
        offsets: (k,) float64.
    """

    name = "gmm"

    means: Floats
    factors: Floats
    offsets: Floats

    def __post_init__(self) -> None:
        means = frozen(self.means, np.float64, (None, None))
        count, rank = means.shape
        if count < 1 or not 1 <= rank <= self.projection.rank:
            raise ValueError(f"{count} components of the mixture in {rank} dimensions")
        factors = frozen(self.factors, np.float64, (count, rank, rank))
        if bool(np.triu(factors, 1).any()):
            raise ValueError("a factor is not lower triangular")
        object.__setattr__(self, "means", means)
        object.__setattr__(self, "factors", factors)
        object.__setattr__(self, "offsets", frozen(self.offsets, np.float64, (count,)))

    def measure(self, projected: Projected) -> Floats:
        """Projected rows to (n,) scores, high = suspicious."""
        rows = projected.components[:, : self.means.shape[1]]
        scores = np.empty(len(rows))
        chunk = max(1, CHUNK_ELEMENTS // self.means.size)
        with np.errstate(all="ignore"):
            for start in range(0, len(rows), chunk):
                gap = rows[start : start + chunk] - self.means[:, None]
                white = gap @ self.factors.transpose(0, 2, 1)
                logs = self.offsets[:, None] - 0.5 * np.einsum("kij,kij->ki", white, white)
                top = logs.max(axis=0)
                scores[start : start + chunk] = -top - np.log(np.exp(logs - top).sum(axis=0))
        return scores
