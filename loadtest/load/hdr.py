"""Latencies as an HdrHistogram: 1 µs to 1 h with three significant digits, mergeable, portable.

The buckets and the encoding (V2, compressed, base64) are those of HdrHistogram, so that its other
implementations read what is written here. Values are recorded in bulk, by numpy: one at a time
would cost a load generator more than sending the request.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
from hdrh.codec import HdrCookieException, HdrHistogramSettingsException, HdrLengthException
from hdrh.histogram import HdrHistogram

from loadtest.evidence.results import Estimate

_LOWEST: Final = 1
_HIGHEST: Final = 3_600_000_000
_DIGITS: Final = 3
_MICROSECONDS: Final = 1e6
# Below this a bucket is a microsecond wide; from there each octave has half as many.
_LINEAR: Final = 2048
_HALF: Final = _LINEAR // 2
_SHIFT: Final = _HALF.bit_length() - 1


def _indices(microseconds: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The bucket of each value: linear up to 2047, then 1024 to an octave."""
    # frexp's exponent is the number of bits, exactly: these integers are far below 2**53.
    bits = np.frexp(np.maximum(microseconds, _LINEAR - 1).astype(np.float64))[1].astype(np.int64)
    octave = bits - _LINEAR.bit_length() + 1
    return (octave << _SHIFT) + (microseconds >> octave)


def _highest_of(index: int) -> int:
    """The largest value, in microseconds, of a bucket."""
    octave = max(0, (index >> _SHIFT) - 1)
    return ((index - (octave << _SHIFT) + 1) << octave) - 1


_BUCKETS: Final = int(_indices(np.array([_HIGHEST]))[0]) + 1


class Histogram:
    """Counts of latencies. Two of them merge exactly: the order of recording is not kept."""

    __slots__ = ("_counts",)

    def __init__(self, seconds: Iterable[float] = ()) -> None:
        self._counts: npt.NDArray[np.int64] = np.zeros(_BUCKETS, np.int64)
        self.add(np.fromiter(seconds, np.float64))

    def add(self, seconds: npt.NDArray[np.float64]) -> None:
        """Records latencies, (n,); what is longer than an hour counts as an hour.

        Raises:
            ValueError: if one is negative or not finite.
        """
        if not len(seconds):
            return
        if not np.isfinite(seconds).all():
            raise ValueError("a latency is not finite")
        values = np.rint(np.minimum(seconds * _MICROSECONDS, _HIGHEST)).astype(np.int64)
        if values.min() < 0:
            raise ValueError("a latency is negative")
        self._counts += np.bincount(_indices(values), minlength=_BUCKETS)

    def merge(self, other: Histogram) -> None:
        """Adds what another has recorded."""
        self._counts += other._counts

    @property
    def total(self) -> int:
        """How many values were recorded."""
        return int(self._counts.sum())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and bool((self._counts == other._counts).all())

    __hash__ = None  # type: ignore[assignment]  # it changes

    def percentile(self, percent: float) -> float | None:
        """Seconds: the upper end of the bucket of that value. None if nothing was recorded."""
        total = self.total
        return self._ranked(max(1, math.ceil(total * percent / 100 - 1e-9))) if total else None

    def _ranked(self, rank: int) -> float:
        """Seconds: the value of a rank, from 1."""
        index = int(np.searchsorted(np.cumsum(self._counts), rank))
        return _highest_of(index) / _MICROSECONDS

    def interval(self, percent: float) -> Estimate | None:
        """A percentile with its interval at 95 %, from order statistics, whatever the distribution.

        (Conover, Practical Nonparametric Statistics, section 3.2.) It holds for values that are
        independent; those of one stall are not, and then it is too narrow. None if there are too
        few values to bound it from above.
        """
        total = self.total
        value = self.percentile(percent)
        if value is None:
            return None
        low, high = _ranks(total, percent / 100)
        if high > total:
            return None
        return Estimate(value, self._ranked(low) if low else 0.0, self._ranked(high))

    def encode(self) -> str:
        """HdrHistogram V2, compressed, in base64; "" if nothing was recorded."""
        used = np.flatnonzero(self._counts)
        if not len(used):
            return ""
        histogram = HdrHistogram(_LOWEST, _HIGHEST, _DIGITS)
        np.ctypeslib.as_array(histogram.counts)[:_BUCKETS] = self._counts
        first, last = (_highest_of(int(used[i])) for i in (0, -1))
        histogram.set_internal_tacking_values(first, last, self.total)
        histogram.max_value = last
        encoded: bytes = histogram.encode()
        return encoded.decode()

    @classmethod
    def decode(cls, text: str) -> Histogram:
        """The inverse of :meth:`encode`.

        Raises:
            ValueError: if it is not such a text, or one of other bounds.
        """
        made = cls()
        if not text:
            return made
        try:
            read = HdrHistogram.decode(text.encode("ascii"))
        except (
            HdrCookieException, HdrHistogramSettingsException, HdrLengthException,
            IndexError, OverflowError, MemoryError, UnicodeEncodeError, ValueError, zlib.error,
        ) as error:  # fmt: skip
            raise ValueError(f"not an HdrHistogram: {error}") from None
        bounds = read.lowest_trackable_value, read.highest_trackable_value, read.significant_figures
        if bounds != (_LOWEST, _HIGHEST, _DIGITS):
            raise ValueError(f"an HdrHistogram of other bounds: {bounds}")
        made._counts += np.ctypeslib.as_array(read.counts)[:_BUCKETS].astype(np.int64)
        return made


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """All of them in one."""
    made = Histogram()
    for histogram in histograms:
        made.merge(histogram)
    return made


def _ranks(total: int, share: float) -> tuple[int, int]:
    """The ranks, from 1, between which the quantile lies at 95 %; 0 and total + 1: no bound.

    How many of ``total`` values are at most the true quantile is binomial: the lower rank is the
    largest that it falls below in at most 2.5 % of cases, the upper the smallest it reaches so.
    """
    if not 0 < share < 1:
        return total, total
    # Outside of these there is far less than 2.5 %, also where the distribution is Poisson's.
    spread = 8 * math.sqrt(total * share * (1 - share)) + 20
    low, high = max(0, int(total * share - spread)), min(total, int(total * share + spread))
    k = np.arange(low, high + 1)
    logarithms = np.concatenate(
        [[0.0], np.cumsum(np.log((total - k[:-1]) / (k[:-1] + 1) * share / (1 - share)))]
    )
    chances = np.exp(logarithms - logarithms.max())
    below = np.concatenate([[0.0], np.cumsum(chances / chances.sum())])  # below[i]: less than k[i]
    lower = low + int(np.searchsorted(below, 0.025, side="right")) - 1
    upper = low + int(np.searchsorted(below, 0.975, side="left"))
    return lower, upper
