"""Loads as reports and metrics look at them: parts put together, rounds paired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from loadtest.evidence.results import LoadResult, Results, Share, Side
from loadtest.load.hdr import Histogram, merged

CLOSED: Final = "closed loop"
"""What ``LoadResult.arrivals`` begins with, of a search for a ceiling."""


def is_closed(load: LoadResult) -> bool:
    """Whether it was a closed loop: its latencies count from no intended time."""
    return load.arrivals.startswith(CLOSED)


def is_alone(load: LoadResult) -> bool:
    """Whether it is honest, in an open loop, and no attack was under way."""
    return load.kind == "honest" and not load.beside and not is_closed(load)


def title(load: LoadResult) -> str:
    """A load's name, with the attack beside it."""
    return f"{load.name}, during {load.beside}" if load.beside else load.name


def names(loads: Iterable[LoadResult]) -> tuple[str, ...]:
    """Of the loads, in their order, each once."""
    return tuple(dict.fromkeys(load.name for load in loads))


@dataclass(frozen=True, slots=True)
class Pooled:
    """Several parts or rounds of one side, taken together.

    Attributes:
        seconds: of the rounds one after the other; parts of a round ran at once.
    """

    loads: tuple[LoadResult, ...]

    def __bool__(self) -> bool:
        return bool(self.loads)

    @property
    def seconds(self) -> float:
        longest: dict[tuple[str, str, int], float] = {}
        for load in self.loads:
            key = (load.name, load.beside, load.round)
            longest[key] = max(longest.get(key, 0.0), load.seconds)
        return sum(longest.values())

    @property
    def offered(self) -> int:
        return sum(load.offered for load in self.loads)

    @property
    def sent(self) -> int:
        return sum(load.sent for load in self.loads)

    @property
    def good(self) -> int:
        return sum(load.good for load in self.loads)

    @property
    def late(self) -> int:
        return sum(load.late for load in self.loads)

    @property
    def dropped(self) -> int:
        return sum(load.dropped for load in self.loads)

    @property
    def said(self) -> Mapping[str, int]:
        return _summed(load.said for load in self.loads)

    @property
    def errors(self) -> Mapping[str, int]:
        return _summed(load.errors for load in self.loads)

    @property
    def rules(self) -> Mapping[str, int]:
        return _summed(load.rules for load in self.loads)

    @property
    def goodput(self) -> float:
        """Good answers a second."""
        return self.good / self.seconds if self.seconds else 0.0

    @property
    def refusals(self) -> Share:
        """Refused, of those about which anything was decided: what was shed or failed was not.

        Refused is also what was said to be malformed, and what was limited: honest clients who are
        told so are refused, whatever for.
        """
        said = self.said
        refused = sum(said.get(word, 0) for word in ("refused", "limited", "invalid"))
        return Share(refused, refused + said.get("answered", 0))

    @property
    def failures(self) -> Share:
        """Without an answer that can be read, of those sent."""
        return Share(sum(self.errors.values()) + self.said.get("failed", 0), self.sent)

    @property
    def unserved(self) -> int:
        """Of those offered, how many were neither answered nor refused: dropped, shed or failed."""
        return max(0, self.offered - self.refusals.total)

    @property
    def latency(self) -> Histogram:
        return merged(_decoded(load.latency) for load in self.loads)

    @property
    def refusal_latency(self) -> Histogram:
        return merged(_decoded(load.refusal_latency) for load in self.loads)


def pool(loads: Iterable[LoadResult]) -> Pooled:
    """All of them together."""
    return Pooled(tuple(loads))


@dataclass(frozen=True, slots=True)
class Pair:
    """One round of a load, on both sides."""

    round: int
    direct: Pooled
    firewall: Pooled


def pairs(loads: Sequence[LoadResult]) -> list[Pair]:
    """The rounds that have both sides, of loads of one name."""
    rounds = sorted({load.round for load in loads})
    found = [
        Pair(number, _side(loads, number, "direct"), _side(loads, number, "firewall"))
        for number in rounds
    ]
    return [pair for pair in found if pair.direct and pair.firewall]


def _side(loads: Sequence[LoadResult], number: int, side: Side) -> Pooled:
    return pool(load for load in loads if load.round == number and load.side == side)


def enough(histogram: Histogram, percent: float) -> bool:
    """Whether so high a percentile is not just the largest value."""
    return histogram.total * (1 - percent / 100) >= 1 - 1e-9


def latencies(results: Results) -> Mapping[tuple[str, Side], Histogram]:
    """Of every load that was honest and alone, on each side, over all its rounds."""
    found: dict[tuple[str, Side], list[LoadResult]] = {}
    for load in results.loads:
        if is_alone(load):
            found.setdefault((load.name, load.side), []).append(load)
    return {key: pool(loads).latency for key, loads in found.items()}


# A report asks for the same ones many times; a run has some hundreds.
@lru_cache(maxsize=512)
def _decoded(text: str) -> Histogram:
    return Histogram.decode(text)


def _summed(counts: Iterable[Mapping[str, int]]) -> Mapping[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total
