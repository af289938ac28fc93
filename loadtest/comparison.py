"""The arithmetic of a benchmark: samples of interleaved rounds, and ratios within a round.

Two programs are compared only within the same round, seconds apart, since a busy machine is slower
in one minute than in the next. What is reported is the median of those ratios and their range.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Metric = Literal["rate", "cpu", "p50", "p99"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One peer, one case, one round.

    Attributes:
        rate: answers a second, all connections busy.
        cpu: CPU seconds of the proxy's process for each answer, all connections busy.
        busy: share of one core that the process used meanwhile.
        others: share of that core that anything else used, interrupts included; NaN if unknown.
        p50, p99: seconds, at one connection.
        fault: why the round does not count, or "".
        part: of ``cpu``, what one of several processes spent; NaN if there is but one.
    """

    peer: str
    case: str
    round: int
    rate: float
    cpu: float
    busy: float
    others: float
    p50: float
    p99: float
    fault: str = ""
    part: float = math.nan


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of a few values; NaN if there are none."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of these values."""
        known = list(values)
        if not known:
            return cls(math.nan, math.nan, math.nan, 0)
        return cls(statistics.median(known), min(known), max(known), len(known))


def valid(samples: Iterable[Sample], peer: str, case: str) -> list[Sample]:
    """The rounds of one peer and case that count."""
    return [s for s in samples if s.peer == peer and s.case == case and not s.fault]


def ratio(samples: Sequence[Sample], ours: str, theirs: str, case: str, metric: Metric) -> Spread:
    """``ours / theirs`` over the rounds in which both count."""
    mine = {s.round: getattr(s, metric) for s in valid(samples, ours, case)}
    other = {s.round: getattr(s, metric) for s in valid(samples, theirs, case)}
    shared = [r for r in mine if r in other and other[r] > 0]
    return Spread.of(mine[r] / other[r] for r in shared)


@dataclass(frozen=True, slots=True)
class Target:
    """What a ratio of medians is to reach."""

    text: str
    peer: str
    case: str
    metric: Metric
    bound: float
    at_least: bool

    def met(self, spread: Spread) -> bool:
        """Whether the median reaches the bound; NaN never does."""
        if self.at_least:
            return spread.median >= self.bound
        return spread.median <= self.bound


TARGETS: Final = (
    Target("throughput against bare Envoy", "envoy", "64-json", "rate", 1.0, True),
    Target("p50 at one connection against bare Envoy", "envoy", "64-json", "p50", 1.5, False),
    Target("throughput against the bare aiohttp proxy", "aiohttp", "64-json", "rate", 2.5, True),
    Target(
        "throughput against aiohttp calling scikit-learn",
        "aiohttp-sklearn", "64-json", "rate", 20.0, True,
    ),
)  # fmt: skip
