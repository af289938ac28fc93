"""Local outlier factor."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from detectors.arrays import Floats, frozen, whole
from detectors.outlier.neighbours import candidates, chunk_rows, squared_lengths
from detectors.outlier.projection import Projected, ProjectedDetector

_FLOOR = 1e-10  # scikit-learn's: keeps the density of coinciding rows finite


@dataclass(frozen=True, eq=False, slots=True)
class LocalOutlierFactor(ProjectedDetector):
    """How much sparser a row lies than its k nearest reference rows do.

    Breunig, Kriegel, Ng and Sander (2000): with reach(x, i) the larger of the distance to i and of
    i's own distance to its k-th neighbour, density(x) = 1 / (mean reach + 1e-10), and the score is
    the mean density of the neighbours over that of the row.

    Equal to ``-LocalOutlierFactor(novelty=True).score_samples`` to 1e-7, relative, but where the
    k-th neighbour is not the only one at its distance: which of them counts is then arbitrary.

    Attributes:
        reference: (m, r) float64.
        radius: (m,) float64, not negative: each one's distance to its k-th neighbour.
        density: (m,) float64, positive: each one's local reachability density.
        neighbours: k, from 1 to m.
    """

    name = "lof"

    reference: Floats
    radius: Floats
    density: Floats
    neighbours: int
    _lengths: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        reference = frozen(self.reference, np.float64, (None, None))
        whole(self.neighbours, "neighbours", 1, len(reference))
        if not 1 <= reference.shape[1] <= self.projection.rank:
            raise ValueError(f"reference of {reference.shape[1]} components")
        radius = frozen(self.radius, np.float64, (len(reference),))
        density = frozen(self.density, np.float64, (len(reference),))
        if not bool((radius >= 0).all()) or not bool((density > 0).all()):
            raise ValueError("a radius is negative, or a density is not positive")
        object.__setattr__(self, "reference", reference)
        object.__setattr__(self, "radius", radius)
        object.__setattr__(self, "density", density)
        object.__setattr__(self, "_lengths", squared_lengths(reference))

    def measure(self, projected: Projected) -> Floats:
        """Projected rows to (n,) factors, about 1 where rows lie as densely as their neighbours."""
        rows = projected.components[:, : self.reference.shape[1]]
        chunk = chunk_rows(self.reference, self.neighbours)
        scores = np.empty(len(rows))
        with np.errstate(all="ignore"):
            for start in range(0, len(rows), chunk):
                scores[start : start + chunk] = self._factors(rows[start : start + chunk])
        return scores

    def _factors(self, rows: Floats) -> Floats:
        picked, squared = candidates(rows, self.reference, self._lengths, self.neighbours)
        # A sort puts NaN last, where the nearest would not see it.
        poison = squared.sum(axis=1) * 0.0
        nearest = np.argpartition(squared, self.neighbours - 1, axis=1)[:, : self.neighbours]
        picked = np.take_along_axis(picked, nearest, axis=1)
        distance = np.sqrt(np.take_along_axis(squared, nearest, axis=1))
        reach = np.maximum(distance, self.radius[picked]).mean(axis=1)
        factors: Floats = self.density[picked].mean(axis=1) * (reach + _FLOOR) + poison
        return factors
