"""An attacker who knows the defence and adapts to what it does, after OARS (Feng et al., CCS 2023,
"Stateful defenses for machine learning models are not yet secure against black-box attacks").

OARS turns rejections into a guide: proposals and steps are widened until they are no longer
rejected, and what is rejected is drawn again. Against evidence that stays with a client that is not
enough, so this attacker also moves to a new account, as long as it has any, and hides its queries
among ever more honest ones. It is granted that it recognises a coarse answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from loadtest.attacks.datasets import Part, Singles
from loadtest.attacks.gateway import Gateway, Told
from loadtest.mlp import Floats

WARM_UP: Final = 20
"""Honest queries that an account begins with, beyond the budget."""
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


class Spent(Exception):  # noqa: N818 - how a run ends
    """The budget is used up."""


class Found(Exception):  # noqa: N818 - how a run ends
    """An adversarial example was seen."""


@dataclass(slots=True)
class Attacker:
    """Asks on behalf of an attack, and adapts.

    Attributes:
        gateway: what it asks.
        base: (d,) the row that it attacks.
        own: its honest rows, for padding and to start from, and what they are.
        random: its own randomness.
        budget: queries that it may send, refused ones and padding included.
        accounts: how many it may use, one after the other, each in a subnet of its own.
        pads: whether it hides among honest queries too, ever more of them.
        width: by how much proposals are widened now.
        padding: honest queries before each one of the attack's.
    """

    gateway: Gateway
    base: Singles
    own: Part
    random: np.random.Generator
    budget: int
    accounts: int
    pads: bool = True
    width: float = 1.0
    padding: int = 0
    used: int = 1
    spent: int = 0
    _noticed: int = 0
    _label: int = field(init=False)

    def __post_init__(self) -> None:
        self._label = int(self.gateway.victim.label(self.base[None])[0])
        self._warm_up()

    @property
    def label(self) -> int:
        """The base's."""
        return self._label

    def ask(self, point: Doubles) -> Floats | None:
        """The answer to a point in the box, or None if it was refused.

        Raises:
            Found: if the answer says that the point is an adversarial example.
            Spent: if the budget is used up.
        """
        for _ in range(self.padding):
            self._send(self._honest())
        row = self.gateway.victim.from_box(np.clip(point, 0, 1)[None])[0]
        answer, told = self._send(row)
        if told is Told.ANSWERED:
            self._noticed = 0
            self.width = max(1.0, self.width * NARROW)
        else:
            self._adapt()
        if told is Told.REFUSED:
            return None
        if answer.argmax() != self._label and self._is_close(row):
            raise Found
        return answer

    def _is_close(self, row: Singles) -> bool:
        victim = self.gateway.victim
        step = victim.to_box(row) - victim.to_box(self.base)
        near = np.linalg.norm(step) <= CLOSE * victim.near
        return bool(near or np.abs(step).max() <= self.step + 1e-5)

    @property
    def step(self) -> float:
        """The L∞ bound."""
        return STEP_TABLE if self.gateway.victim.split.table else STEP_IMAGE

    def is_other(self, point: Doubles) -> bool | None:
        """Whether the point is decided otherwise than the base, or None if it was refused."""
        answer = self.ask(point)
        return None if answer is None else bool(answer.argmax() != self._label)

    def _send(self, row: Singles) -> tuple[Floats, Told]:
        if self.spent >= self.budget:
            raise Spent
        self.spent += 1
        return self.gateway.ask(*self._names(), row)

    def _names(self) -> tuple[str, str]:
        return f"attacker-{self.used}", f"subnet-{self.used}"

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
            self._warm_up()

    def _warm_up(self) -> None:
        for _ in range(WARM_UP):
            self.gateway.ask(*self._names(), self._honest())

    def _honest(self) -> Singles:
        rows = self.own.rows
        row: Singles = rows[self.random.integers(len(rows))]
        return row


def decisions(attacker: Attacker) -> None:
    """From labels alone, in HopSkipJump's way (Chen et al. 2020): to the boundary by bisection,
    along it by the mean of probes, and back. Runs until the attacker stops it."""
    victim, random = attacker.gateway.victim, attacker.random
    base = victim.to_box(attacker.base[None])[0].astype(np.float64)
    point = _start(attacker, base)
    turn = 0
    while True:
        turn += 1
        point = _bisect(attacker, base, point)
        distance = float(np.linalg.norm(point - base))
        reach = 0.1 * distance * attacker.width
        total = np.zeros_like(base)
        votes: list[tuple[float, Doubles]] = []
        for _ in range(int(10 * np.sqrt(turn))):
            direction = random.standard_normal(base.size)
            direction /= np.linalg.norm(direction)
            other = attacker.is_other(point + reach * direction)
            if other is not None:
                votes.append((1.0 if other else -1.0, direction))
            reach = 0.1 * distance * attacker.width
        mean = np.mean([vote for vote, _ in votes]) if votes else 0.0
        for vote, direction in votes:
            total += (vote - mean) * direction
        length = float(np.linalg.norm(total))
        if not length:
            continue
        step = distance / np.sqrt(turn)
        for _ in range(6):
            if attacker.is_other(point + step * total / length):
                point = np.clip(point + step * total / length, 0, 1)
                break
            step /= 2


def scores(attacker: Attacker) -> None:
    """From scores, in Square's way (Andriushchenko et al. 2020): random patches of plus or minus
    the bound, kept where the margin falls. Runs until the attacker stops it."""
    victim, random = attacker.gateway.victim, attacker.random
    base = victim.to_box(attacker.base[None])[0].astype(np.float64)
    height, width = victim.split.image
    change = attacker.step * random.choice([-1.0, 1.0], base.size)
    best = np.inf
    share = 0.5
    while True:
        side = max(1, round(np.sqrt(min(1.0, share * attacker.width) * height * width)))
        proposal = change.reshape(height, width).copy()
        top = random.integers(0, max(1, height - side + 1))
        left = random.integers(0, max(1, width - side + 1))
        patch = proposal[top : top + side, left : left + side]
        if attacker.width > 1:  # noticed: no two proposals agree on a whole block
            patch[:] = attacker.step * random.choice([-1.0, 1.0], patch.shape)
        else:
            patch[:] = attacker.step * random.choice([-1.0, 1.0])
        answer = attacker.ask(base + proposal.ravel())
        share = max(0.02, share * 0.985)
        if answer is None:
            continue
        others = np.delete(answer, attacker.label)
        margin = float(answer[attacker.label] - others.max())
        if margin < best:
            best, change = margin, proposal.ravel()


WAYS: Final[dict[str, Callable[[Attacker], None]]] = {"decisions": decisions, "scores": scores}


def run(attacker: Attacker, way: str) -> bool:
    """Whether the attack finds an adversarial example within its budget."""
    try:
        WAYS[way](attacker)
    except Found:
        return True
    except Spent:
        return False
    raise AssertionError("an attack only ends when the attacker stops it")


def _start(attacker: Attacker, base: Doubles) -> Doubles:
    """The nearest of the attacker's own rows of another class, if the model sees it so too."""
    others = attacker.own.rows[attacker.own.labels != attacker.label]
    box = np.clip(attacker.gateway.victim.to_box(others).astype(np.float64), 0, 1)
    for index in np.argsort(((box - base) ** 2).sum(axis=1)):
        if attacker.is_other(box[index]):
            found: Doubles = box[index]
            return found
    raise Spent


def _bisect(attacker: Attacker, base: Doubles, point: Doubles) -> Doubles:
    """A point near the boundary on the way from the base to a point beyond it. Steps are fewer, and
    beside the line, the more was noticed."""
    low, high = 0.0, 1.0
    aside = 0.02 * (attacker.width - 1) * float(np.linalg.norm(point - base))
    for _ in range(max(3, round(8 / attacker.width))):
        middle = (low + high) / 2
        jitter = attacker.random.standard_normal(base.size)
        jitter *= aside / np.linalg.norm(jitter)
        other = attacker.is_other(base + middle * (point - base) + jitter)
        if other is None:
            continue
        if other:
            high = middle
        else:
            low = middle
    found: Doubles = base + high * (point - base)
    return found
