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


@dataclass(frozen=True, eq=False, slots=True)
class DiagonalMixture(ProjectedDetector):
    """-log sum_k exp(offset_k - |roots_k * (y - mean_k)|^2 / 2): diagonal covariances.

    Equal to ``-GaussianMixture(covariance_type="diag" or "spherical").score_samples`` to 1e-9,
    relative to the larger of the score and the largest term of the squares.

    Attributes:
        means: (k, r) float64.
        roots: (k, r) float64, positive: one over the standard deviations.
        offsets: (k,) float64.
    """

    name = "diagonal_gmm"

    means: Floats
    roots: Floats
    offsets: Floats

    def __post_init__(self) -> None:
        means = frozen(self.means, np.float64, (None, None))
        count, rank = means.shape
        if count < 1 or not 1 <= rank <= self.projection.rank:
            raise ValueError(f"{count} components of the mixture in {rank} dimensions")
        roots = frozen(self.roots, np.float64, (count, rank))
        if not bool((roots > 0).all()):
            raise ValueError("a standard deviation is not positive")
        object.__setattr__(self, "means", means)
        object.__setattr__(self, "roots", roots)
        object.__setattr__(self, "offsets", frozen(self.offsets, np.float64, (count,)))

    def measure(self, projected: Projected) -> Floats:
        """Projected rows to (n,) scores, high = suspicious."""
        rows = projected.components[:, : self.means.shape[1]]
        scores = np.empty(len(rows))
        chunk = max(1, CHUNK_ELEMENTS // self.means.size)
        with np.errstate(all="ignore"):
            for start in range(0, len(rows), chunk):
                white = (rows[start : start + chunk, None] - self.means) * self.roots
                logs = self.offsets - 0.5 * np.einsum("ikj,ikj->ik", white, white)
                top = logs.max(axis=1)
                sums = np.exp(logs - top[:, None]).sum(axis=1)
                scores[start : start + chunk] = -top - np.log(sums)
        return scores
