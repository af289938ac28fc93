"""The firewall's part that is under test, fitted as the command line fits it and asked as the
gateway asks it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from detectors.patterns.base import Alarm, Scope
from detectors.patterns.model import PatternModel
from detectors.patterns.tracker import PatternTracker
from detectors.scorer import Scorer
from loadtest.attacks.datasets import Part, Singles
from loadtest.attacks.mixing import ATTACKER, Traffic

BUDGET: Final = 0.001
"""False alarms a client-day."""
ROW_BUDGET: Final = 0.01
"""Of the outlier scorer: what the smallest set supports."""
PACE: Final = 0.1
"""Seconds from one query to the next: time heals no level to speak of."""
BLAMED: Final = (Scope.CLIENT, Scope.SUBNET, Scope.LINEAGE)
"""An alarm of the whole endpoint is recorded and answers nobody: it recognises no client."""


class Found(NamedTuple):
    """How an attack was recognised.

    Attributes:
        queries: distinct hostile queries until the first alarm, the last one included.
        alarm: the strongest then.
    """

    queries: int
    alarm: Alarm


@dataclass(frozen=True, slots=True)
class Guard:
    """One endpoint's fitted detectors.

    Attributes:
        scorer: gives each row's outlier p-value.
        patterns: what was learnt of honest queries.
    """

    scorer: Scorer
    patterns: PatternModel
    _known: dict[int, float] = field(default_factory=dict)

    def p_values(self, rows: Singles) -> npt.NDArray[np.float64]:
        """(n,) conformal p-values. Days share rows: what was scored once is looked up."""
        known = self._known
        contents = [hash(row.tobytes()) for row in rows]
        new = [index for index, content in enumerate(contents) if content not in known]
        if new:
            scored = self.scorer.score(rows[new]).p_values.tolist()
            known.update(zip((contents[index] for index in new), scored, strict=True))
        return np.array([known[content] for content in contents])

    def tracker(
        self,
        *,
        clients: int = 128,
        budget: float = BUDGET,
        profile: str = "default",
        coverage_limit: float | None = None,
    ) -> PatternTracker:
        """A tracker that has seen nothing."""
        return PatternTracker(
            self.patterns,
            clients=clients,
            budget=budget,
            coverage_limit=coverage_limit,
            profile=profile,
        )


def fit_guard(part: Part, seed: int) -> Guard:
    """Fits a scorer, and the patterns on the same split: the space on what trained the scorer, the
    streams on what set its threshold."""
    from detectors.training.fit import fit  # noqa: PLC0415 - an extra, and slow
    from detectors.training.patterns import fit_patterns  # noqa: PLC0415
    from detectors.training.splits import split  # noqa: PLC0415

    rows, labels = part
    scorer = fit(rows, alpha=ROW_BUDGET, seed=seed).scorer
    # The part holds no row twice, so that the scorer's split is this one.
    cut = split(len(rows), ROW_BUDGET, 0.05, seed)
    merged = scorer.score(rows[cut.threshold]).merged
    patterns = fit_patterns(
        rows[cut.train],
        rows[cut.threshold],
        space_labels=labels[cut.train],
        stream_labels=labels[cut.threshold],
        stream_p=_left_out(merged),
        seed=seed,
        budget=BUDGET,
    )
    return Guard(scorer, patterns)


def _left_out(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n,) the conformal p-value of each score among the others."""
    rising = np.sort(scores)
    not_below = scores.size - np.searchsorted(rising, scores, "left")  # itself among them
    return not_below / scores.size


class Wronged(NamedTuple):
    """What an attack does to the honest clients beside it.

    Attributes:
        clients, requests: of others than the attacker.
        alarmed_clients, alarmed_requests: of these, those that raised an alarm.
    """

    clients: int
    alarmed_clients: int
    requests: int
    alarmed_requests: int


def wronged(guard: Guard, tracker: PatternTracker, traffic: Traffic) -> Wronged:
    """Sends all of the traffic, nobody being refused, and counts alarms on other clients."""
    p_values = guard.p_values(traffic.rows)
    others: list[str] = []
    blamed: list[str] = []
    for number, client in enumerate(traffic.clients):
        alarms = tracker.observe(
            client,
            traffic.subnets[number],
            traffic.rows[number : number + 1],
            p_values[number : number + 1],
            number * PACE,
        )
        if not client.startswith(ATTACKER):
            others.append(client)
            if any(alarm.scope in BLAMED for alarm in alarms):
                blamed.append(client)
    return Wronged(len(set(others)), len(set(blamed)), len(others), len(blamed))


def recognise(guard: Guard, tracker: PatternTracker, traffic: Traffic) -> Found | None:
    """Sends traffic until a hostile query raises an alarm; None if none does.

    A client that alarms before its first hostile query is not recognised but wronged: None.
    """
    p_values = guard.p_values(traffic.rows)
    asked = 0
    for number, hostile in enumerate(traffic.hostile):
        alarms = tracker.observe(
            traffic.clients[number],
            traffic.subnets[number],
            traffic.rows[number : number + 1],
            p_values[number : number + 1],
            number * PACE,
        )
        asked += int(hostile)
        blamed = [alarm for alarm in alarms if alarm.scope in BLAMED]
        if blamed and hostile:
            return Found(asked, blamed[0])
        if blamed and not asked and traffic.clients[number].startswith(ATTACKER):
            return None
    return None
