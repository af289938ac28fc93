"""What the demonstration expects of each kind of traffic, and whether it happened."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from proxy import rules
from proxy.rules import Rule

CHANCE = 1e-3
"""How unlikely a count of false alarms must be before it is held against the budget."""


class Verdict(Enum):
    """Whether a kind of traffic was decided as it should be."""

    OK = "ok"
    FAILED = "FAILED"
    INFORMATION = "information"


@dataclass(slots=True)
class Outcome:
    """What became of one kind of traffic.

    Attributes:
        statuses: answers by HTTP status, as the client saw them.
        refused_by: refusals by rule id, as the audit log has them.
        wrong: allowed answers that name another class than the model.
        coarse: allowed answers that are coarser than the model's own.
    """

    kind: str
    statuses: Counter[int] = field(default_factory=Counter)
    refused_by: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    coarse: int = 0

    @property
    def sent(self) -> int:
        """Answers in all: every request got one."""
        return self.statuses.total()

    @property
    def allowed(self) -> int:
        """Requests that reached the model and were answered."""
        return self.statuses[200]

    def only(self, statuses: Iterable[int], refusals: Iterable[Rule]) -> bool:
        """Whether nothing else happened than these statuses and, as refusals, these rules."""
        return (
            set(+self.statuses) <= set(statuses)
            and set(+self.refused_by) <= {rule.id for rule in refusals}
            and self.refused_by.total() == self.sent - self.allowed
            and self.wrong == 0
        )


def most_false_alarms(rows: int, budget: float, chance: float = CHANCE) -> int:
    """The smallest k with P(Bin(rows, budget) > k) <= chance, computed exactly.

    Raises:
        ValueError: if budget is outside (0, 1) or rows is negative.
    """
    if not 0 < budget < 1 or rows < 0:
        raise ValueError("budget must lie in (0, 1), rows must not be negative")
    above = 1.0
    for k in range(rows + 1):
        log_choose = math.lgamma(rows + 1) - math.lgamma(k + 1) - math.lgamma(rows - k + 1)
        above -= math.exp(log_choose + k * math.log(budget) + (rows - k) * math.log1p(-budget))
        if above <= chance:
            return k
    return rows


_ROWS: Final = (rules.OUTLIER, rules.DISAGREEMENT)
"""By whom single rows may be refused."""
_DETECTED: Final = (*_ROWS, *rules.PATTERNS)
"""By whom traffic may be refused that is no honest client's."""


class Expectation:
    """Nothing in particular: what is measured is information."""

    @property
    def text(self) -> str:
        """In the words of the table."""
        return "no promise"

    def judge(self, outcome: Outcome) -> Verdict:
        """Even information fails if an answer is wrong or a refusal is not a detector's."""
        if outcome.sent and outcome.only({200, 403, 429}, _DETECTED):
            return Verdict.INFORMATION
        return Verdict.FAILED


@dataclass(frozen=True, slots=True)
class WithinBudget(Expectation):
    """Honest rows: refused by the detectors of rows alone, and no more often than the budget."""

    budget: float

    @property
    def text(self) -> str:
        """In the words of the table."""
        return f"refused: {self.budget:.1%} budget"

    def judge(self, outcome: Outcome) -> Verdict:
        """Fails if so many false alarms have a chance below ``CHANCE`` under the budget."""
        return _verdict(
            outcome.sent > 0
            and outcome.only({200, 403}, _ROWS)
            and outcome.sent - outcome.allowed <= most_false_alarms(outcome.sent, self.budget)
        )


@dataclass(frozen=True, slots=True)
class Recognised(Expectation):
    """Hostile rows: at least this share is refused by the detectors."""

    share: float

    @property
    def text(self) -> str:
        """In the words of the table."""
        return f"at least {self.share:.0%} refused"

    def judge(self, outcome: Outcome) -> Verdict:
        """By a detector: of single rows, or of the client that sends so many of them."""
        return _verdict(
            outcome.sent > 0
            and outcome.only({200, 403, 429}, _DETECTED)
            and outcome.sent - outcome.allowed >= self.share * outcome.sent
        )


@dataclass(frozen=True, slots=True)
class Climbs(Expectation):
    """A black-box attack: after a few queries answers are coarse, then they end.

    Attributes:
        most: answers that may still be the model's own.
    """

    most: int

    @property
    def text(self) -> str:
        """In the words of the table."""
        return f"coarse after {self.most} queries at most, then refused"

    def judge(self, outcome: Outcome) -> Verdict:
        """By the rules about patterns, or about rows; some answers must have been coarse."""
        return _verdict(
            outcome.only({200, 403, 429}, _DETECTED)
            and outcome.coarse > 0
            and outcome.allowed - outcome.coarse <= self.most
            and outcome.refused_by[rules.PROBING_CLIENT.id] > 0
        )


@dataclass(frozen=True, slots=True)
class Refused(Expectation):
    """Malformed requests: every one refused, by one of these rules and with its status."""

    by: tuple[Rule, ...]

    @property
    def text(self) -> str:
        """In the words of the table."""
        return " or ".join(f"{rule.status} by {rule.id}" for rule in self.by)

    def judge(self, outcome: Outcome) -> Verdict:
        """All or nothing."""
        statuses = {rule.status for rule in self.by}
        return _verdict(outcome.sent > 0 and outcome.only(statuses, self.by))


@dataclass(frozen=True, slots=True)
class Admitted(Expectation):
    """A flood: as many requests pass the quota as it grants, and the others get 429.

    Attributes:
        low, high: what the quota grants over the shortest and the longest time that the flood can
            have taken on the firewall's clock.
    """

    low: int
    high: int

    @property
    def text(self) -> str:
        """In the words of the table."""
        few = str(self.low) if self.low == self.high else f"{self.low} to {self.high}"
        return f"{few} admitted, else 429"

    def judge(self, outcome: Outcome) -> Verdict:
        """An admitted row may still be an outlier."""
        limited = outcome.statuses[429]
        return _verdict(
            outcome.only({200, 403, 429}, {*_ROWS, rules.CLIENT_RATE})
            and outcome.refused_by[rules.CLIENT_RATE.id] == limited
            and limited > 0
            and self.low <= outcome.sent - limited <= self.high
        )


def quota(burst: int, rate: float, shortest: float, longest: float) -> Admitted:
    """What a bucket of ``burst`` rows, refilled at ``rate`` rows a second, admits of a flood.

    A flood that always finds the bucket empty is admitted burst + floor(rate t) times, where t is
    the time from its first request to its last; the client knows t only between two bounds.
    """
    return Admitted(burst + math.floor(rate * shortest), burst + math.floor(rate * longest))


def _verdict(good: bool) -> Verdict:
    return Verdict.OK if good else Verdict.FAILED
