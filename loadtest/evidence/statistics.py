"""Intervals of what a run measured. Pure; everything at 95 % unless it says otherwise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loadtest.attacks.tables import wilson
from loadtest.evidence.results import Estimate, Share

Z: Final = 1.959963984540054
LEVEL: Final = 0.95

# The 97.5 % quantile of Student's t, by degrees of freedom from 1.
_T: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def of_share(share: Share) -> Estimate | None:
    """A share with its Wilson interval; None of nothing."""
    if not share.total:
        return None
    low, high = wilson(share.count, share.total, Z)
    return Estimate(share.count / share.total, low, high)


def pooled(shares: Sequence[Share]) -> Share:
    """All together."""
    return Share(sum(share.count for share in shares), sum(share.total for share in shares))


def difference(first: Estimate, second: Estimate) -> Estimate:
    """``first - second`` of two that are independent, from their own intervals.

    G. Y. Zou and A. Donner, "Construction of confidence limits about effect measures: a general
    approach", Statistics in Medicine 27 (2008). Of two shares with Wilson's intervals this is
    R. G. Newcombe's hybrid score interval: "Interval estimation for the difference between
    independent proportions", Statistics in Medicine 17 (1998), method 10.
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, value - below, value + above)


@dataclass(frozen=True, slots=True)
class Ordered:
    """A quantile with the interval between two of the values in their order.

    Attributes:
        estimate: of the values; infinite where they are.
        level: with what probability the interval holds the quantile: below 0.95 where there are
            too few values for more, and then the interval is all of them.
    """

    estimate: Estimate
    level: float


def quantile(values: Sequence[float], q: float) -> Ordered | None:
    """The nearest-rank quantile with its distribution-free interval; None of no values.

    The interval is of order statistics, from the binomial distribution of how many values lie
    below the quantile: H. A. David and H. N. Nagaraja, "Order Statistics" (2003), 7.1. It wants
    no distribution and takes infinities, but values that are independent.
    """
    if not values:
        return None
    ordered = sorted(values)
    n = len(ordered)
    rank = max(1, math.ceil(q * n - 1e-9))
    # P(low-th <= quantile < high-th) = P(low <= B < high), B binomial (n, q).
    mass = [_binomial(k, n, q) for k in range(n + 1)]
    low, high = rank, rank + 1
    held = mass[rank]
    while held < LEVEL and (low > 1 or high <= n):
        # The side that brings more; where there is no value left, the other.
        below = mass[low - 1] if low > 1 else -1.0
        above = mass[high] if high <= n else -1.0
        if below >= above:
            low -= 1
            held += below
        else:
            high += 1
            held += above
    # Past the last value: the largest is all that is known. `level` must not claim that tail.
    if high > n:
        held -= mass[n]
        high = n
    return Ordered(Estimate(ordered[rank - 1], ordered[low - 1], ordered[high - 1]), max(held, 0.0))


def median(values: Sequence[float]) -> Ordered | None:
    """The conventional median, with the interval of :func:`quantile`; None of no values."""
    found = quantile(values, 0.5)
    if found is None:
        return None
    value = statistics.median(values)
    return Ordered(Estimate(value, found.estimate.low, found.estimate.high), found.level)


def _binomial(k: int, n: int, q: float) -> float:
    if q in (0.0, 1.0):
        return float(k == round(q * n))
    logarithm = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(logarithm + k * math.log(q) + (n - k) * math.log1p(-q))


def difference_of_means(first: Sequence[float], second: Sequence[float]) -> Estimate | None:
    """``first - second`` of two independent samples' means; None unless each has two values.

    B. L. Welch, "The generalization of 'Student's' problem when several different population
    variances are involved", Biometrika 34 (1947).
    """
    if len(first) < 2 or len(second) < 2:
        return None
    value = _mean(first) - _mean(second)
    one, other = _variance(first) / len(first), _variance(second) / len(second)
    spread = one + other
    if spread == 0:
        return Estimate(value, value, value)
    freedom = spread**2 / (one**2 / (len(first) - 1) + other**2 / (len(second) - 1))
    half = student(freedom) * math.sqrt(spread)
    return Estimate(value, value - half, value + half)


def student(freedom: float) -> float:
    """The 97.5 % quantile of Student's t, for so many degrees of freedom, rounded down."""
    whole = max(1, math.floor(freedom))
    if whole <= len(_T):
        return _T[whole - 1]
    # Cornish and Fisher's expansion: below 0.001 off from 30 on.
    return Z + (Z**3 + Z) / (4 * whole) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * whole**2)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
