"""Searches for an adversarial example that ask one row at a time, and how an attacker who knows the
defence adapts, after OARS (Feng et al., CCS 2023, "Stateful defenses for machine learning models
are not yet secure against black-box attacks").

OARS turns rejections into a guide: proposals and steps are widened until they are no longer
rejected, and what is rejected is drawn again. Against evidence that stays with a client that is not
enough, so this attacker also moves to a new account, as long as it has any, and hides its queries
among ever more honest ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from loadtest.drivers.base import Spent
from loadtest.targets.base import Rows

WARM_UP: Final = 20
"""Honest queries that an account begins with."""
PATIENCE: Final = 3
"""Noticed so often in a row, an account that pads is left for a new one, if there is one; one that
does not is left at once."""
WIDEN: Final = 1.5
NARROW: Final = 0.98
WIDEST: Final = 16.0
MOST_PADDING: Final = 16
STEP_IMAGE: Final = 0.1
STEP_TABLE: Final = 0.15
"""L∞ bound of the attack on scores, in units of the box."""
CLOSE: Final = 0.6
"""How near an adversarial example has to be, as a share of what counts for the published ones: an
honest row of another class that happens to lie near is not one."""

Doubles = npt.NDArray[np.float64]
Answer = npt.NDArray[np.floating[Any]]


class Found(Exception):  # noqa: N818 - how a search ends
    """An adversarial example was seen.

    Attributes:
        row: (d,) the example, in the model's units.
    """

    def __init__(self, row: Rows) -> None:
        self.row = row


class Purpose(Enum):
    """What a query is for."""

    ATTACK = "attack"
    PADDING = "padding"
    WARM_UP = "warm-up"


@dataclass(frozen=True, slots=True)
class Target:
    """What a search is to reach.

    Attributes:
        base: (d,) the row that it attacks.
        label: the base's, as the model has it.
        others: (n, d) honest rows of other classes, to start from.
        low, high: (d,) the box; the search works in 0 to 1 of it.
        near: the L2 distance in the box below which a row of another class counts.
        step: the L∞ distance that counts too.
        shape: (height, width) of a row as the search's patches see it.
    """

    base: Rows
    label: int
    others: Rows
    low: Rows
    high: Rows
    near: float
    step: float
    shape: tuple[int, int]

    def to_box(self, rows: Rows) -> Rows:
        """Rows in units of the box."""
        return (rows - self.low) / (self.high - self.low)

    def from_box(self, point: Doubles) -> Rows:
        """(d,) the nearest row in the box to a point in its units."""
        inside = np.clip(point, 0, 1).astype(np.float32)
        return np.ascontiguousarray(self.low + inside * (self.high - self.low), np.float32)

    def is_close(self, row: Rows) -> bool:
        """Whether a row would count, if it is decided otherwise."""
        step = self.to_box(row) - self.to_box(self.base)
        return bool(np.linalg.norm(step) <= self.near or np.abs(step).max() <= self.step + 1e-5)


class Manner(Protocol):
    """How a search asks.

    Attributes:
        width: by how much proposals and steps are widened now; 1: not at all.
    """

    width: float

    def ask(self, row: Rows) -> Answer | None:
        """(classes,) scores of a row, or None if there was no answer.

        Raises:
            Spent: if the budget is used up.
        """


@dataclass(slots=True)
class Plain:
    """A manner that adapts to nothing.

    Attributes:
        ask: how it asks.
    """

    ask: Callable[[Rows], Answer | None]
    width: float = 1.0


@dataclass(slots=True)
class Adapting:
    """The manner of OARS, with accounts and padding.

    Attributes:
        send: asks about a row as the account of this number, from 1: the scores, or None if it was
            refused, and whether the defence was noticed.
        honest: (n, d) rows for warm-up and padding.
        random: its own randomness.
        accounts: how many it may use, one after the other.
        pads: whether it hides among honest queries too, ever more of them.
        warm_up: honest queries that an account begins with.
        padding: honest queries before each one of the attack's, now.
        used: accounts, so far.
    """

    send: Callable[[int, Rows, Purpose], tuple[Answer | None, bool]]
    honest: Rows
    random: np.random.Generator
    accounts: int
    pads: bool = True
    warm_up: int = WARM_UP
    width: float = 1.0
    padding: int = 0
    used: int = 1
    _noticed: int = 0

    def begin(self) -> None:
        """Warms the account up."""
        for _ in range(self.warm_up):
            self.send(self.used, self._honest(), Purpose.WARM_UP)

    def ask(self, row: Rows) -> Answer | None:
        """See :class:`Manner`."""
        for _ in range(self.padding):
            self.send(self.used, self._honest(), Purpose.PADDING)
        answer, noticed = self.send(self.used, row, Purpose.ATTACK)
        if noticed:
            self._adapt()
        else:
            self._noticed = 0
            self.width = max(1.0, self.width * NARROW)
        return answer

    def _adapt(self) -> None:
        self.width = min(self.width * WIDEN, WIDEST)
        self._noticed += 1
        if self._noticed < (PATIENCE if self.pads else 1):
            return
        self._noticed = 0
        if self.pads:
            self.padding = min(max(1, 2 * self.padding), MOST_PADDING)
        if self.used < self.accounts:
            self.used += 1
            self.begin()

    def _honest(self) -> Rows:
        row: Rows = self.honest[self.random.integers(len(self.honest))]
        return row


@dataclass(frozen=True, slots=True)
class Search:
    """One search.

    Attributes:
        target: what it is to reach.
        manner: how it asks.
        random: its own randomness.
    """

    target: Target
    manner: Manner
    random: np.random.Generator

    @property
    def width(self) -> float:
        """By how much it is to widen what it proposes."""
        return self.manner.width

    @property
    def base(self) -> Doubles:
        """(d,) the base in units of the box."""
        return self.target.to_box(self.target.base).astype(np.float64)

    def ask(self, point: Doubles) -> Answer | None:
        """The answer to a point in the box, or None if it was refused.

        Raises:
            Found: if the answer says that the point is an adversarial example.
            Spent: if the budget is used up.
        """
        row = self.target.from_box(point)
        answer = self.manner.ask(row)
        if answer is None:
            return None
        if answer.argmax() != self.target.label and self.target.is_close(row):
            raise Found(row)
        return answer

    def is_other(self, point: Doubles) -> bool | None:
        """Whether the point is decided otherwise than the base, or None if it was refused."""
        answer = self.ask(point)
        return None if answer is None else bool(answer.argmax() != self.target.label)


def decisions(search: Search) -> None:
    """From labels alone, in HopSkipJump's way (Chen et al. 2020): to the boundary by bisection,
    along it by the mean of probes, and back. Runs until the budget stops it."""
    random, base = search.random, search.base
    point = _start(search, base)
    turn = 0
    while True:
        turn += 1
        point = _bisect(search, base, point)
        distance = float(np.linalg.norm(point - base))
        reach = 0.1 * distance * search.width
        total = np.zeros_like(base)
        votes: list[tuple[float, Doubles]] = []
        for _ in range(int(10 * np.sqrt(turn))):
            direction = random.standard_normal(base.size)
            direction /= np.linalg.norm(direction)
            other = search.is_other(point + reach * direction)
            if other is not None:
                votes.append((1.0 if other else -1.0, direction))
            reach = 0.1 * distance * search.width
        mean = np.mean([vote for vote, _ in votes]) if votes else 0.0
        for vote, direction in votes:
            total += (vote - mean) * direction
        length = float(np.linalg.norm(total))
        if not length:
            continue
        step = distance / np.sqrt(turn)
        for _ in range(6):
            if search.is_other(point + step * total / length):
                point = np.clip(point + step * total / length, 0, 1)
                break
            step /= 2


def scores(search: Search) -> None:
    """From scores, in Square's way (Andriushchenko et al. 2020): random patches of plus or minus
    the bound, kept where the margin falls. Runs until the budget stops it."""
    random, base, bound, label = search.random, search.base, search.target.step, search.target.label
    height, width = search.target.shape
    change = bound * random.choice([-1.0, 1.0], base.size)
    best = np.inf
    share = 0.5
    while True:
        side = max(1, round(np.sqrt(min(1.0, share * search.width) * height * width)))
        proposal = change.reshape(height, width).copy()
        top = random.integers(0, max(1, height - side + 1))
        left = random.integers(0, max(1, width - side + 1))
        patch = proposal[top : top + side, left : left + side]
        if search.width > 1:  # noticed: no two proposals agree on a whole block
            patch[:] = bound * random.choice([-1.0, 1.0], patch.shape)
        else:
            patch[:] = bound * random.choice([-1.0, 1.0])
        answer = search.ask(base + proposal.ravel())
        share = max(0.02, share * 0.985)
        if answer is None or answer.size <= max(1, label):
            continue
        others = np.delete(answer, label)
        margin = float(answer[label] - others.max())
        if margin < best:
            best, change = margin, proposal.ravel()


WAYS: Final[dict[str, Callable[[Search], None]]] = {"decisions": decisions, "scores": scores}


def run(search: Search, way: str) -> Rows | None:
    """The adversarial example, if one is found within the budget."""
    try:
        WAYS[way](search)
    except Found as found:
        return found.row
    except Spent:
        return None
    raise AssertionError("a search only ends when it is stopped")


def near(rows: Rows, labels: npt.NDArray[Any]) -> float:
    """What counts as near: half the median distance from a row to its nearest neighbour of another
    class; infinite if there is but one.

    Args:
        rows: (n, d) in units of the box.
        labels: (n,).
    """
    squares = (rows**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * rows @ rows.T
    distances[labels[:, None] == labels] = np.inf
    return float(0.5 * np.sqrt(np.median(np.maximum(distances.min(axis=1), 0))))


def _start(search: Search, base: Doubles) -> Doubles:
    """The nearest of the attacker's own rows of another class, if the model sees it so too."""
    box = np.clip(search.target.to_box(search.target.others).astype(np.float64), 0, 1)
    for index in np.argsort(((box - base) ** 2).sum(axis=1)):
        if search.is_other(box[index]):
            found: Doubles = box[index]
            return found
    raise Spent


def _bisect(search: Search, base: Doubles, point: Doubles) -> Doubles:
    """A point near the boundary on the way from the base to a point beyond it. Steps are fewer, and
    beside the line, the more was noticed."""
    low, high = 0.0, 1.0
    aside = 0.02 * (search.width - 1) * float(np.linalg.norm(point - base))
    for _ in range(max(3, round(8 / search.width))):
        middle = (low + high) / 2
        jitter = search.random.standard_normal(base.size)
        jitter *= aside / np.linalg.norm(jitter)
        other = search.is_other(base + middle * (point - base) + jitter)
        if other is None:
            continue
        if other:
            high = middle
        else:
            low = middle
    found: Doubles = base + high * (point - base)
    return found
