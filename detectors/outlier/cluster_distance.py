"""Distance to the nearest large cluster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats, frozen
from detectors.outlier.projection import CHUNK_ELEMENTS, Projected, ProjectedDetector


@dataclass(frozen=True, eq=False, slots=True)
class ClusterDistance(ProjectedDetector):
    """Distance to the row's own cluster if that is large, and to the nearest large one if not.

    He, Xu and Deng (2003), "Discovering cluster-based local outliers". Equal to PyOD's
    ``CBLOF.decision_function`` to 1e-9, relative, but for a row as far from two centres.

    Attributes:
        centres: (k, r) float64.
        large: (k,) uint8: 1 for a large cluster, 0 for a small one; at least one is large.
        weights: (k,) float64, positive: what a row's distance is multiplied with.
    """

    name = "cblof"

    centres: Floats
    large: npt.NDArray[np.uint8]
    weights: Floats

    def __post_init__(self) -> None:
        centres = frozen(self.centres, np.float64, (None, None))
        if not len(centres) or not 1 <= centres.shape[1] <= self.projection.rank:
            raise ValueError(f"centres of shape {centres.shape}")
        large = frozen(self.large, np.uint8, (len(centres),))
        weights = frozen(self.weights, np.float64, (len(centres),))
        if not bool(large.any()) or int(large.max()) > 1 or not bool((weights > 0).all()):
            raise ValueError("no cluster is large, or a weight is not positive")
        object.__setattr__(self, "centres", centres)
        object.__setattr__(self, "large", large)
        object.__setattr__(self, "weights", weights)

    def measure(self, projected: Projected) -> Floats:
        """Projected rows to (n,) distances, high = suspicious."""
        rows = projected.components[:, : self.centres.shape[1]]
        large = self.large > 0
        scores = np.empty(len(rows))
        chunk = max(1, CHUNK_ELEMENTS // self.centres.size)
        with np.errstate(all="ignore"):
            for start in range(0, len(rows), chunk):
                gap = rows[start : start + chunk, None] - self.centres
                squared = np.einsum("ijk,ijk->ij", gap, gap)
                own = squared.argmin(axis=1)
                nearest = np.where(large[own], squared.min(axis=1), squared[:, large].min(axis=1))
                # A minimum over NaN is NaN: nothing passes unseen.
                scores[start : start + chunk] = np.sqrt(nearest) * self.weights[own]
        return scores
