"""What the model itself says: by that, and not by what the attacker was told, success is judged."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from loadtest.attacks.datasets import Labels
from loadtest.drivers.base import Means
from loadtest.evidence.results import Estimate
from loadtest.evidence.statistics import Z, student
from loadtest.targets.base import Oracle, Reply, Rows, Said

JUDGE: Final = "judge"
"""The client that asks where an oracle must be told one."""


_PAUSES: Final = (0.2, 1.0)
"""Seconds before it is asked once more."""
_JUDGED: Final = frozenset({Said.ANSWERED, Said.INVALID})


class Unjudged(Exception):  # noqa: N818 - how an attack ends
    """The model by which success is judged does not answer: the message says what came."""


class Judge:
    """The model itself, from which an answer is had or the attack ends: see ``Oracle``.

    A row that it calls malformed is none that it was deceived about; but whether it was, nobody
    knows while it is silent, and no success would then be taken for a defence.

    Attributes:
        asked, answered: how often.
    """

    def __init__(self, oracle: Oracle, sleep: Callable[[float], None] = time.sleep) -> None:
        self._oracle = oracle
        self._sleep = sleep
        self.name = oracle.name
        self.features = oracle.features
        self.classes = oracle.classes
        self.asked = 0
        self.answered = 0

    def ask(self, row: Rows, client: str) -> Reply:
        """Asks about one row.

        Raises:
            Unjudged: if the model does not answer.
        """
        self.asked += 1
        reply = self._oracle.ask(row, client)
        for pause in _PAUSES:
            if reply.said in _JUDGED:
                break
            self._sleep(pause)
            reply = self._oracle.ask(row, client)
        if reply.said not in _JUDGED:
            what = reply.body or f"status {reply.status}"
            raise Unjudged(f"the model that judges success does not answer: {what}")
        self.answered += reply.said is Said.ANSWERED
        self.classes = self._oracle.classes
        return reply


def ask(judge: Oracle, row: Rows, means: Means) -> Reply:
    """What the model says of a row, (d,), with nothing in the way.

    Raises:
        ValueError: if it answers values, not classes.
    """
    reply = judge.ask(row, means.accounts[0] if means.accounts else JUDGE)
    if reply.said is Said.ANSWERED and reply.label < 0:
        raise ValueError("the endpoint answers values: this attack needs a classifier")
    return reply


def labels(judge: Oracle, rows: Rows, means: Means) -> Labels:
    """(n,) what the model decides of rows, -1 where it did not answer.

    Raises:
        ValueError: if it answers values, or none of them.
    """
    found = np.array([ask(judge, row, means).label for row in rows], np.int64)
    if not (found >= 0).any():
        raise ValueError("the model answered none of the rows by which success is judged")
    return found


def share(count: float, total: int) -> Estimate:
    """A share with its Wilson interval; the count need not be whole (a mean over tries)."""
    if not total:
        return Estimate(0.0, 0.0, 1.0)
    value = count / total
    centre = value + Z * Z / (2 * total)
    spread = Z * math.sqrt(max(0.0, value * (1 - value)) / total + Z * Z / (4 * total * total))
    scale = 1 + Z * Z / total
    return Estimate(value, max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))


def mean(values: Sequence[float], low: float, high: float) -> Estimate:
    """A mean with Student's interval, cut to the range that values have; of one value or none, the
    interval is that range."""
    if not values:
        return Estimate(low, low, high)
    value = math.fsum(values) / len(values)
    if len(values) < 2:
        return Estimate(value, low, high)
    deviation = float(np.std(values, ddof=1))
    half = student(len(values) - 1) * deviation / math.sqrt(len(values))
    return Estimate(value, max(low, value - half), min(high, value + half))


def area(members: Sequence[float], others: Sequence[float]) -> Estimate:
    """The area under the ROC curve of a score that is to be larger for members.

    The interval is that of R. G. Newcombe, "Confidence intervals for an effect size measure based
    on the Mann-Whitney statistic", Statistics in Medicine 25 (2006), method 5: Hanley and McNeil's
    variance of the area that is tested, not of the one that was found, so that a perfect score has
    an interval too.
    """
    first, second = np.asarray(members, np.float64), np.asarray(others, np.float64)
    if not (first.size and second.size):
        return Estimate(0.5, 0.0, 1.0)
    ordered = np.sort(second)
    below = np.searchsorted(ordered, first, "left")
    ties = np.searchsorted(ordered, first, "right") - below
    value = float((below + ties / 2).sum() / (first.size * second.size))
    # The sizes are exchanged for their mean, as published.
    half = (first.size + second.size) / 2 - 1

    def spread(area: float) -> float:
        variance = area * (1 - area) / (first.size * second.size)
        variance *= 1 + half * ((1 - area) / (2 - area) + area / (1 + area))
        return Z * math.sqrt(max(0.0, variance))

    return Estimate(value, _edge(value, 0.0, spread), _edge(value, 1.0, spread))


def _edge(value: float, end: float, spread: Callable[[float], float]) -> float:
    """The area between the value and the end of its range that lies just so far from the value."""
    near, far = value, end
    for _ in range(60):
        middle = (near + far) / 2
        if abs(value - middle) < spread(middle):
            near = middle
        else:
            far = middle
    return far
