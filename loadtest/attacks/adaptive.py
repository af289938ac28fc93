"""The adaptive attacker of ``loadtest.drivers.adaptive_search``, rehearsed against patterns and
ladder in this process. It is granted that it recognises a coarse answer."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from loadtest.attacks.datasets import Part, Singles
from loadtest.attacks.gateway import Gateway, Told
from loadtest.drivers import adaptive_search
from loadtest.drivers.adaptive_search import (
    CLOSE,
    MOST_PADDING,
    STEP_IMAGE,
    STEP_TABLE,
    WARM_UP,
    WAYS,
    Adapting,
    Purpose,
    Search,
    Target,
)
from loadtest.drivers.base import Spent
from loadtest.mlp import Floats

__all__ = ["MOST_PADDING", "WARM_UP", "WAYS", "Attacker", "run"]


@dataclass(slots=True)
class Attacker:
    """Asks on behalf of an attack, and adapts.

    Attributes:
        gateway: what it asks.
        base: (d,) the row that it attacks.
        own: its honest rows, for padding and to start from, and what they are.
        random: its own randomness.
        budget: queries that it may send, refused ones and padding included; warm-up is beyond it.
        accounts: how many it may use, one after the other, each in a subnet of its own.
        pads: whether it hides among honest queries too, ever more of them.
        spent: queries of its budget.
    """

    gateway: Gateway
    base: Singles
    own: Part
    random: np.random.Generator
    budget: int
    accounts: int
    pads: bool = True
    spent: int = 0
    manner: Adapting = field(init=False)
    search: Search = field(init=False)

    def __post_init__(self) -> None:
        victim = self.gateway.victim
        split = victim.split
        label = int(victim.label(self.base[None])[0])
        target = Target(
            self.base,
            label,
            self.own.rows[self.own.labels != label],
            split.low,
            split.high,
            CLOSE * victim.near,
            STEP_TABLE if split.table else STEP_IMAGE,
            split.image,
        )
        self.manner = Adapting(self._send, self.own.rows, self.random, self.accounts, self.pads)
        self.search = Search(target, self.manner, self.random)
        self.manner.begin()

    @property
    def used(self) -> int:
        """Accounts, so far."""
        return self.manner.used

    @property
    def padding(self) -> int:
        """Honest queries before each one of the attack's, now."""
        return self.manner.padding

    def _send(self, number: int, row: Singles, purpose: Purpose) -> tuple[Floats | None, bool]:
        if purpose is not Purpose.WARM_UP:
            if self.spent >= self.budget:
                raise Spent
            self.spent += 1
        answer, told = self.gateway.ask(f"attacker-{number}", f"subnet-{number}", row)
        return None if told is Told.REFUSED else answer, told is not Told.ANSWERED


def run(attacker: Attacker, way: str) -> bool:
    """Whether the attack finds an adversarial example within its budget."""
    return adaptive_search.run(attacker.search, way) is not None
