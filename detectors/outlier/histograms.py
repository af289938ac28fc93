"""Histograms of features, or of random projections of them, summed up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats, check_rows, frozen
from detectors.base import Rows
from detectors.outlier.projection import CHUNK_ELEMENTS, RawDetector


@dataclass(frozen=True, eq=False, slots=True)
class Histograms(RawDetector):
    """sum_j levels[j, #{cuts[j] < x_j}]: one step function a feature.

    Goldstein and Dengel (2012), "Histogram-based outlier score": each level is a bin's -log
    density. Equal to PyOD's ``HBOS.decision_function`` to 1e-9, relative.

    Attributes:
        cuts: (d, m) float64, each row rising; a histogram with fewer repeats its last one.
        levels: (d, m + 1) float64.
        features: d.
    """

    name = "hbos"

    cuts: Floats
    levels: Floats
    features: int = field(init=False)
    _start: npt.NDArray[np.intp] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        cuts, levels, start = _checked(self.cuts, self.levels)
        object.__setattr__(self, "cuts", cuts)
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "_start", start)
        object.__setattr__(self, "features", len(cuts))

    def score(self, rows: Rows) -> Floats:
        """(n, d) float32 to (n,) float64, high = suspicious; NaN for a row that is not finite.

        Raises:
            ValueError: if ``rows`` is not (n, d) float32.
        """
        check_rows(rows, self.features)
        scores = np.empty(len(rows))
        chunk = max(1, CHUNK_ELEMENTS // self.cuts.size)
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            levels = _levels(part, self.cuts, self.levels, self._start)
            scores[start : start + chunk] = levels.sum(axis=1)
        # Comparisons send NaN to the first level: it must not score.
        scores[~np.isfinite(rows).all(axis=1)] = np.nan
        return scores

    def parts(self, rows: Rows) -> Floats:
        """(n, d) what each feature adds to the score of rows that are finite."""
        check_rows(rows, self.features)
        return _levels(rows, self.cuts, self.levels, self._start)


@dataclass(frozen=True, eq=False, slots=True)
class ProjectedHistograms(RawDetector):
    """The mean of -log histogram densities over sparse random projections.

    Pevný (2016), "Loda: Lightweight on-line detector of anomalies". Equal to PyOD's
    ``LODA.decision_function`` to 1e-9, relative, but for a row whose projection comes within
    rounding of a cut.

    Attributes:
        directions: (c, d) float64.
        cuts: (c, m) float64, each row rising; a histogram with fewer repeats its last one.
        levels: (c, m + 1) float64.
        features: d.
    """

    name = "loda"

    directions: Floats
    cuts: Floats
    levels: Floats
    features: int = field(init=False)
    _start: npt.NDArray[np.intp] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        cuts, levels, start = _checked(self.cuts, self.levels)
        directions = frozen(self.directions, np.float64, (len(cuts), None))
        if not directions.shape[1]:
            raise ValueError("a direction without features")
        object.__setattr__(self, "directions", directions)
        object.__setattr__(self, "cuts", cuts)
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "_start", start)
        object.__setattr__(self, "features", directions.shape[1])

    def score(self, rows: Rows) -> Floats:
        """(n, d) float32 to (n,) float64, high = suspicious; NaN for a row that is not finite.

        Raises:
            ValueError: if ``rows`` is not (n, d) float32.
        """
        check_rows(rows, self.features)
        scores = np.empty(len(rows))
        chunk = max(1, CHUNK_ELEMENTS // max(self.cuts.size, self.features))
        with np.errstate(all="ignore"):
            for start in range(0, len(rows), chunk):
                along = rows[start : start + chunk] @ self.directions.T
                levels = _levels(along, self.cuts, self.levels, self._start)
                scores[start : start + chunk] = levels.sum(axis=1)
        scores[~np.isfinite(rows).all(axis=1)] = np.nan
        return scores


def _checked(cuts: Floats, levels: Floats) -> tuple[Floats, Floats, npt.NDArray[np.intp]]:
    cuts = frozen(cuts, np.float64, (None, None))
    count, steps = cuts.shape
    if not count or not steps or not bool((np.diff(cuts, axis=1) >= 0).all()):
        raise ValueError("the cuts of a histogram must rise")
    start = np.arange(count, dtype=np.intp) * (steps + 1)
    return (
        cuts,
        frozen(levels, np.float64, (count, steps + 1)),
        frozen(start, np.intp, (count,)),
    )


def _levels(
    values: npt.NDArray[Any], cuts: Floats, levels: Floats, start: npt.NDArray[np.intp]
) -> Floats:
    bins = (cuts < values[:, :, None]).sum(axis=2)
    found: Floats = levels.ravel().take(bins + start)
    return found
