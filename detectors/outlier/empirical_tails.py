"""How far out a row lies in each feature's own distribution, summed over the features."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats, check_rows, frozen
from detectors.base import Rows
from detectors.outlier.projection import CHUNK_ELEMENTS, RawDetector


@dataclass(frozen=True, eq=False, slots=True)
class EmpiricalTails(RawDetector):
    """The left and the right tail of each feature, as -log of empirical probabilities.

    The row itself counts, as one more observation beside the reference: no probability is 0, and
    its weight in the skewness is that of one row. So a row's score depends on the reference and
    on nothing else; the library scores a row together with all others of the call, and equals this
    for one row at a time.

    Attributes:
        values: (d, n) float64: each feature's reference values, rising.
        features: d.
    """

    values: Floats
    features: int = field(init=False)
    _mean: Floats = field(init=False, repr=False)
    _second: Floats = field(init=False, repr=False)
    _third: Floats = field(init=False, repr=False)
    _start: npt.NDArray[np.intp] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        values = frozen(self.values, np.float64, (None, None))
        features, count = values.shape
        if not features or count < 2:
            raise ValueError("the tails need features, and at least two values of each")
        if not bool((np.diff(values, axis=1) >= 0).all()):
            raise ValueError("the values of a feature are not sorted")
        with np.errstate(all="ignore"):
            mean = values.mean(axis=1)
            gap = values - mean[:, None]
            second, third = np.square(gap).sum(axis=1), (gap**3).sum(axis=1)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "features", features)
        for name, array in (("_mean", mean), ("_second", second), ("_third", third)):
            object.__setattr__(self, name, frozen(array, np.float64, (features,)))
        start = np.tile(np.arange(features, dtype=np.intp) * count, 2)
        object.__setattr__(self, "_start", frozen(start, np.intp, (2 * features,)))

    def score(self, rows: Rows) -> Floats:
        """(n, d) float32 to (n,) float64, high = suspicious; NaN for a row that is not finite.

        Raises:
            ValueError: if ``rows`` is not (n, d) float32.
        """
        check_rows(rows, self.features)
        scores = np.empty(len(rows))
        chunk = max(1, CHUNK_ELEMENTS // (2 * self.features))
        with np.errstate(all="ignore"):
            for start in range(0, len(rows), chunk):
                scores[start : start + chunk] = self._parts(rows[start : start + chunk]).sum(axis=1)
        # A search sends NaN somewhere all the same: it must not score.
        scores[~np.isfinite(rows).all(axis=1)] = np.nan
        return scores

    def parts(self, rows: Rows) -> Floats:
        """(n, d) what each feature adds to the score of rows that are finite."""
        check_rows(rows, self.features)
        return self._parts(rows)

    def _parts(self, rows: Rows) -> Floats:
        wide = rows.astype(np.float64)
        left, right = self._tails(wide)
        return self._combine(left, right, self._skew(wide))

    def _combine(self, left: Floats, right: Floats, skew: Floats) -> Floats:
        """(n, d) tails and signs of the skewness to (n, d) parts of the score."""
        raise NotImplementedError

    def _tails(self, rows: Floats) -> tuple[Floats, Floats]:
        count = self.values.shape[1]
        # What lies below the next number lies at most at this one: one search finds both ranks.
        ranks = self._rank(np.hstack([rows, np.nextafter(rows, np.inf)]))
        below, at_most = ranks[:, : self.features], ranks[:, self.features :]
        left: Floats = -np.log((at_most + 1.0) / (count + 1.0))
        right: Floats = -np.log((count - below + 1.0) / (count + 1.0))
        return left, right

    def _rank(self, points: Floats) -> npt.NDArray[np.intp]:
        """(n, 2d): how many reference values lie below each point.

        A binary search in all features at once: every search takes the same steps.
        """
        flat = self.values.ravel()
        place = np.broadcast_to(self._start, points.shape)
        length = self.values.shape[1]
        while length > 1:
            half = length >> 1
            place = place + half * (flat.take(place + (half - 1)) < points)
            length -= half
        ranks: npt.NDArray[np.intp] = place + (flat.take(place) < points) - self._start
        return ranks

    def _skew(self, rows: Floats) -> Floats:
        """(n, d): the sign of each feature's skewness, with the row as one more value.

        Pébay (2008), formulas for one-pass moments, for a single new value.
        """
        count = self.values.shape[1]
        gap = rows - self._mean
        third = self._third + gap**3 * (count * (count - 1) / (count + 1) ** 2)
        signs: Floats = np.sign(third - 3.0 * gap * self._second / (count + 1))
        return signs


def _by_skew(left: Floats, right: Floats, skew: Floats) -> Floats:
    """The tail that the skewness points to; both together where there is none."""
    return left * (skew <= 0) + right * (skew >= 0)


@dataclass(frozen=True, eq=False, slots=True)
class Ecod(EmpiricalTails):
    """sum over features of the largest of: left tail, right tail, the tail of the skewness.

    Li et al. (2022), "ECOD: Unsupervised outlier detection using empirical cumulative distribution
    functions". Equal to PyOD's ``ECOD.decision_function``, one row at a time, to 1e-9, relative.
    """

    name = "ecod"

    def _combine(self, left: Floats, right: Floats, skew: Floats) -> Floats:
        largest: Floats = np.maximum(np.maximum(left, right), _by_skew(left, right, skew))
        return largest


@dataclass(frozen=True, eq=False, slots=True)
class Copod(EmpiricalTails):
    """sum over features of the larger of: the mean of both tails, the tail of the skewness.

    Li et al. (2020), "COPOD: Copula-based outlier detection". Equal to PyOD's
    ``COPOD.decision_function``, one row at a time, to 1e-9, relative.
    """

    name = "copod"

    def _combine(self, left: Floats, right: Floats, skew: Floats) -> Floats:
        larger: Floats = np.maximum((left + right) / 2, _by_skew(left, right, skew))
        return larger
