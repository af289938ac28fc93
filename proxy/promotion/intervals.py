"""Exact bounds of a share, in plain Python: the gateway's environment has no scipy."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, exp, lgamma, log, log1p
from typing import Final

LEVEL: Final = 0.95
"""Confidence of each bound, on its side."""

_STEPS: Final = 500
_TINY: Final = 1e-300
_MOST: Final = 10**12


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22),
    evaluated after Lentz."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - beta_cdf(1 - x, b, a)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x)) / a
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    value = d
    # It converges within some sqrt(max(a, b)) steps.
    for m in range(1, _STEPS + int(5 * max(a, b) ** 0.5)):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away(1 + term * d)
            c = _away(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * value


def _away(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def upper(hits: int, trials: int) -> float:
    """The largest share at which so few hits are not surprising: P(X <= hits) = 1 - LEVEL
    (Clopper and Pearson, Biometrika 26, 1934, one side of it)."""
    if hits >= trials:
        return 1.0
    return _root(lambda share: beta_cdf(share, hits + 1, trials - hits) - LEVEL)


def lower(hits: int, trials: int) -> float:
    """The smallest share at which so many hits are not surprising: P(X >= hits) = 1 - LEVEL."""
    if not hits:
        return 0.0
    return _root(lambda share: beta_cdf(share, hits, trials - hits + 1) - (1 - LEVEL))


def needed(hits: int, trials: int, bound: float) -> int | None:
    """How many trials it takes at the share seen until the upper bound lies within ``bound``; None:
    at that share it never does."""
    share = hits / trials if trials else 0.0
    if share >= bound:
        return None

    def does(count: int) -> bool:
        return upper(ceil(share * count), count) <= bound

    low = high = max(1, trials)
    while not does(high):
        low, high = high, 2 * high
        if high > _MOST:
            return None
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        low, high = (low, middle) if does(middle) else (middle, high)
    return high


def two_sided(hits: int, trials: int, share: float) -> float:
    """The p-value of so many hits under a share: twice the smaller tail."""
    below = 1.0 if hits >= trials else 1 - beta_cdf(share, hits + 1, trials - hits)
    above = 1.0 if not hits else beta_cdf(share, hits, trials - hits + 1)
    return min(1.0, 2 * min(below, above))


def _root(function: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        if function(middle) < 0:
            low = middle
        else:
            high = middle
    return high
