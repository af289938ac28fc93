"""The published black-box attacks, live: from an honest row of the attacker's to a row near it that
the model takes for something else.

The attacker works in the box of its own rows, scaled to [0, 1], and stops once it has what it
wants. A query that is refused shows it nothing: it takes the row for one that the model decides as
it does the base, with the base's own scores, and goes on; nothing tells it more. The toolbox
repeats itself: what was answered once is not asked again.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from pydantic import Field

from loadtest.drivers import knobs
from loadtest.drivers.accounts import Client
from loadtest.drivers.base import Asked, Means, Outcome, Spent, Try
from loadtest.drivers.evasion_art import LINF, STEPPING, STEPS, Canvas, generate, installed
from loadtest.drivers.evasion_goal import Goal, bases, box_of, near_of
from loadtest.targets.base import Oracle, Rows, Scores

_LEAST: Final = 1e-6
_SMALL: Final = 8  # pixels
_REPEATS: Final = 2000
"""Questions in a row whose answers are known already, after which it is stuck."""
_PATIENCE: Final = 5  # times that the base is asked about, if it is not answered


class EvasionKnobs(knobs.Knobs):
    """What a scenario may say of these drivers."""

    distance: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The greatest L2 distance of an adversarial example, in units of the box; none: half the
    median distance of an honest row to its nearest neighbour of another class."""
    linf: Annotated[float, Field(ge=0, le=1)] = LINF
    """The L∞ distance, in the same units, that will do too."""
    restarts: Annotated[int, Field(ge=1, le=100)] = 3
    """How often it begins anew, with other randomness, while the budget lasts; those that have a
    step begin with a longer one each time instead."""


class _Stuck(Exception):  # noqa: N818 - how a run of the toolbox ends
    """It asks what it knows, over and over: answers that contradict each other make it halve a step
    for ever."""


class _Reached(Exception):  # noqa: N818 - how a try ends
    """The attacker has what it wants."""


@dataclass(frozen=True)
class Evasion:
    """One of the attacks; see ``Driver``."""

    name: str
    words: str
    atlas: tuple[str, ...] = ("AML.T0043.001", "AML.T0042", "AML.T0015")
    family: ClassVar[str] = "evasion"
    goal: ClassVar[str] = "a row near the base, answered, that the model decides otherwise"
    needs: ClassVar[frozenset[str]] = frozenset({"classes"})

    def run(self, oracle: Asked, judge: Oracle | None, means: Means) -> Outcome:
        """Attacks one base a try; see ``Driver.run``.

        Raises:
            ImportError: if the toolbox is not installed.
            ValueError: if the endpoint is no classifier, or the knobs do not do.
        """
        installed()  # missed now, and not within a try
        given = knobs.read(EvasionKnobs, means.knobs)
        box = box_of(means)
        near = given.distance or near_of(means, box, judge)
        goal = Goal(box, near, given.linf, judge, means.accounts[0])
        # Pictures too small for a square to move in are taken for tables.
        table = means.image is None or min(means.image) < _SMALL
        canvas = Canvas(box.image, table, 0)
        tries: list[Try] = []
        distances: list[float] = []
        unanswered = 0
        for number, base in enumerate(bases(means, judge, means.tries)):
            if number:
                oracle.next_try()
            client = Client(oracle, means.accounts[:1], given.wait)
            attempt = _Attempt(client, goal, base)
            try:
                attempt.begin()
                shown = replace(canvas, classes=attempt.base_scores.size)
                for again, step in enumerate(self._steps(given.restarts)):
                    seed = 1000 * means.seed + number + 1_000_003 * again
                    with suppress(_Stuck):
                        generate(self.name, shown, attempt.ask, attempt.start, seed=seed, step=step)
            except (Spent, _Reached):
                pass
            tries.append(Try(attempt.distance is not None, oracle.queries))
            unanswered += client.unanswered
            if attempt.distance is not None:
                distances.append(attempt.distance)
        details: dict[str, Any] = {"near": near, "unanswered": unanswered}
        if distances:
            details["distance"] = float(np.median(distances))
        if len(tries) < means.tries:
            details["bases"] = f"{len(tries)} rows that the model gets right, not {means.tries}"
        return Outcome(tries, details=details)

    def _steps(self, restarts: int) -> tuple[float, ...]:
        return STEPS if self.name in STEPPING else STEPS[:1] * restarts


class _Attempt:
    """One try: what it asks, and whether it has what it wants.

    Attributes:
        start: (d,) the base in units of the box.
        base_scores: (classes,) of the base.
        distance: of the row that reached the goal, L2 in units of the box; None so far.
    """

    def __init__(self, client: Client, goal: Goal, base: Rows) -> None:
        self._client = client
        self._goal = goal
        self.start = goal.box.inside(base)
        self._base = goal.box.outside(self.start)  # as the toolbox asks about it, to the last bit
        self._label = -1
        self._answers: dict[bytes, Scores] = {}
        self._repeats = 0
        self.base_scores: Scores = np.zeros(0)
        self.distance: float | None = None

    def begin(self) -> None:
        """Asks about the base.

        Raises:
            Spent: if it is not answered: there is nothing to begin with.
            ValueError: if the endpoint is no classifier.
        """
        for _ in range(_PATIENCE):
            reply = self._client.ask(self._base)
            if reply.scores is not None:
                self._label = reply.label
                self.base_scores = _shares(reply.scores)
                self._answers[self._base.tobytes()] = self.base_scores
                return
        raise Spent

    def ask(self, cells: Rows) -> Scores:
        """(n, d) rows in units of the box to (n, classes) scores."""
        return np.stack([self._scores(row) for row in self._goal.box.outside(cells)])

    def _scores(self, row: Rows) -> Scores:
        known = self._answers.get(content := row.tobytes())
        if known is not None:
            self._repeats += 1
            if self._repeats > _REPEATS:
                raise _Stuck
            return known
        self._repeats = 0
        reply = self._client.ask(row)
        if reply.scores is None or reply.scores.size != self.base_scores.size:
            return self.base_scores
        if reply.label != self._label:
            distance = self._goal.reached(self._base, row, self._label)
            if distance is not None:
                self.distance = distance
                raise _Reached
        return self._answers.setdefault(content, _shares(reply.scores))


def _shares(scores: Scores) -> Scores:
    """Scores that sum to 1, as the toolbox wants them: coarse ones may not."""
    total = scores.sum()
    return scores / total if total > _LEAST else np.full(scores.size, 1 / scores.size)


def HopSkipJump() -> Evasion:  # noqa: N802 - the name of the attack
    """From decisions alone, along an estimated gradient of the boundary."""
    return Evasion(
        "hopskipjump",
        "from labels: HopSkipJump (Chen et al., IEEE S&P 2020, arXiv 1904.02144)",
    )


def Boundary() -> Evasion:  # noqa: N802 - as above
    """From decisions alone, a random walk along the boundary."""
    return Evasion(
        "boundary", "from labels: Boundary attack (Brendel et al., ICLR 2018, arXiv 1712.04248)"
    )


def SignOpt() -> Evasion:  # noqa: N802 - as above
    """From decisions alone, by the sign of directional derivatives."""
    return Evasion("signopt", "from labels: Sign-OPT (Cheng et al., ICLR 2020, arXiv 1909.10773)")


def Zoo() -> Evasion:  # noqa: N802 - as above
    """From scores, by finite differences."""
    return Evasion("zoo", "from scores: ZOO (Chen et al., AISec 2017, arXiv 1708.03999)")


def SimBa() -> Evasion:  # noqa: N802 - as above
    """From scores, one feature at a time."""
    return Evasion("simba", "from scores: SimBA (Guo et al., ICML 2019, arXiv 1905.07121)")


def Square() -> Evasion:  # noqa: N802 - as above
    """From scores, random squares."""
    return Evasion(
        "square", "from scores: Square (Andriushchenko et al., ECCV 2020, arXiv 1912.00049)"
    )
