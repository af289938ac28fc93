"""What a metric comes to: a value with its interval, of what, and how it was had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.evidence.results import Estimate, Share
from loadtest.evidence.statistics import LEVEL, median, of_share


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric of one load, one driver, or all of them.

    Attributes:
        of: which.
        estimate: None: it could not be measured, and ``how`` says why.
        how: in words: what is behind the value and its interval.
        rounds: the values of single rounds, where the interval is over rounds.
        level: of the interval, where there are too few values for 95 %.
    """

    of: str
    estimate: Estimate | None
    how: str
    rounds: tuple[float, ...] = ()
    level: float = LEVEL


def share(of: str, found: Share, what: str) -> Measured:
    """A share with Wilson's interval; not measured if it is one of nothing."""
    estimate = of_share(found)
    if estimate is None:
        return Measured(of, None, f"no {what}")
    return Measured(of, estimate, f"{found.count} of {found.total} {what}")


def over_rounds(of: str, values: Sequence[float]) -> Measured:
    """The median of rounds, and between which of them it lies.

    Requests of one round share its stalls, so that intervals within a round come out too narrow:
    what is independent is rounds. The interval is of order statistics: few rounds say nothing of a
    distribution. With fewer than six it is all of them, and holds the median with less than 95 %.
    """
    found = median(values)
    if found is None:
        return Measured(of, None, "no round of it has both sides")
    rounds = "round" if len(values) == 1 else "rounds"
    how = f"median of {len(values)} {rounds}"
    how += f", {found.level:.0%} interval" if len(values) > 1 else ": no interval"
    return Measured(of, found.estimate, how, tuple(values))
