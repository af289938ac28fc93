"""Distance to the nearest training rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from detectors.arrays import Floats, frozen, whole
from detectors.outlier.neighbours import candidates, chunk_rows, squared_lengths
from detectors.outlier.projection import Projected, ProjectedDetector


@dataclass(frozen=True, eq=False, slots=True)
class NearestNeighbours(ProjectedDetector):
    """Euclidean distance, in the space of the projection, to the k-th nearest reference row.

    Ramaswamy, Rastogi and Shim (2000). The search is exact over a bounded reference.

    Equal to ``NearestNeighbors(k).kneighbors`` on the same reference to 1e-9 of the distance plus
    1e-7 of the row's length.

    Attributes:
        reference: (m, r) float64, by rising first coordinate.
        neighbours: k, from 1 to m.
    """

    name = "knn"

    reference: Floats
    neighbours: int
    _lengths: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        reference = frozen(self.reference, np.float64, (None, None))
        whole(self.neighbours, "neighbours", 1, len(reference))
        if not 1 <= reference.shape[1] <= self.projection.rank:
            raise ValueError(f"reference of {reference.shape[1]} components")
        if not bool((np.diff(reference[:, 0]) >= 0).all()):
            raise ValueError("the reference is not sorted by its first component")
        object.__setattr__(self, "reference", reference)
        object.__setattr__(self, "_lengths", squared_lengths(reference))

    def measure(self, projected: Projected) -> Floats:
        """Projected rows to (n,) distances, high = suspicious."""
        rows = projected.components[:, : self.reference.shape[1]]
        chunk = chunk_rows(self.reference, self.neighbours)
        scores = np.empty(len(rows))
        with np.errstate(all="ignore"):
            for start in range(0, len(rows), chunk):
                part = rows[start : start + chunk]
                _, squared = candidates(part, self.reference, self._lengths, self.neighbours)
                # A sort puts NaN last, where the k-th value would not see it.
                poison = squared.sum(axis=1) * 0.0
                scores[start : start + chunk] = self._of(squared) + poison
        return scores

    def _of(self, squared: Floats) -> Floats:
        """(n, c) squared distances of candidates to (n,) distances."""
        kth = self.neighbours - 1
        squared.partition(kth, axis=1)
        distances: Floats = np.sqrt(squared[:, kth])
        return distances


@dataclass(frozen=True, eq=False, slots=True)
class MeanNeighbours(NearestNeighbours):
    """The mean of the distances to the k nearest reference rows (Angiulli and Pizzuti 2002)."""

    name = "knn_mean"

    def _of(self, squared: Floats) -> Floats:
        squared.partition(self.neighbours - 1, axis=1)
        means: Floats = np.sqrt(squared[:, : self.neighbours]).mean(axis=1)
        return means


@dataclass(frozen=True, eq=False, slots=True)
class MedianNeighbours(NearestNeighbours):
    """The median of the distances to the k nearest reference rows."""

    name = "knn_median"

    def _of(self, squared: Floats) -> Floats:
        squared.partition(self.neighbours - 1, axis=1)
        nearest = np.sort(np.sqrt(squared[:, : self.neighbours]), axis=1)
        low, high = (self.neighbours - 1) // 2, self.neighbours // 2
        medians: Floats = (nearest[:, low] + nearest[:, high]) / 2
        return medians
