"""Distance to the k-th nearest training row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detectors.arrays import Floats, frozen, whole
from detectors.outlier.projection import CHUNK_ELEMENTS, Projected, ProjectedDetector

_SPARE = 4  # more candidates than k: rounding in the screening cannot lose a true neighbour


@dataclass(frozen=True, eq=False, slots=True)
class NearestNeighbours(ProjectedDetector):
    """Euclidean distance, in principal components, to the k-th nearest reference row.

    Ramaswamy, Rastogi and Shim (2000). The search is exact over a bounded reference: a matrix
    product screens candidates and only they are measured by their differences, so that a row close
    to the reference loses no digits.

    Equal to ``NearestNeighbors(k).kneighbors`` on the same reference to 1e-9 of the distance plus
    1e-7 of the row's length.

    Attributes:
        reference: (m, r) float64, by rising first coordinate.
        neighbours: k, from 1 to m.
    """

    name = "knn"

    reference: Floats
    neighbours: int

    def __post_init__(self) -> None:
        reference = frozen(self.reference, np.float64, (None, None))
        whole(self.neighbours, "neighbours", 1, len(reference))
        if not 1 <= reference.shape[1] <= self.projection.rank:
            raise ValueError(f"reference of {reference.shape[1]} components")
        if not bool((np.diff(reference[:, 0]) >= 0).all()):
            raise ValueError("the reference is not sorted by its first component")
        object.__setattr__(self, "reference", reference)

    def measure(self, projected: Projected) -> Floats:
        """Projected rows to (n,) distances, high = suspicious."""
        rows = projected.components[:, : self.reference.shape[1]]
        chunk = max(1, CHUNK_ELEMENTS // self.reference.size)
        scores = np.empty(len(rows))
        with np.errstate(all="ignore"):
            lengths = np.einsum("ij,ij->i", self.reference, self.reference)
            for start in range(0, len(rows), chunk):
                part = rows[start : start + chunk]
                scores[start : start + chunk] = self._distances(part, lengths)
        return scores

    def _distances(self, rows: Floats, lengths: Floats) -> Floats:
        kth = self.neighbours - 1
        if self.neighbours + _SPARE >= len(lengths):
            near = self.reference[None]
        else:
            # |x|^2 is the same for every candidate of a row, so the screening leaves it out.
            screen = lengths - 2.0 * (rows @ self.reference.T)
            picked = np.argpartition(screen, kth + _SPARE, axis=1)[:, : kth + 1 + _SPARE]
            near = self.reference[picked]
        gap = near - rows[:, None]
        squared = np.einsum("ijk,ijk->ij", gap, gap)
        # A sort puts NaN last, where the k-th value would not see it.
        poison = squared.sum(axis=1) * 0.0
        squared.partition(kth, axis=1)
        distances: Floats = np.sqrt(squared[:, kth]) + poison
        return distances
