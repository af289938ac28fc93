"""What a scenario does, one after the other: a list that is known before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loadtest.evidence.results import Side
from loadtest.scenario.load_settings import BOTH, Load
from loadtest.scenario.settings import Attack, Scenario


@dataclass(frozen=True, slots=True)
class LoadStep:
    """One round of a load on one side."""

    load: Load
    side: Side
    round: int

    @property
    def key(self) -> str:
        """By which it is known in a broken run."""
        return f"load.{self.load.name}.{self.round}.{self.side}"

    @property
    def words(self) -> str:
        """For people."""
        turn = f", round {self.round + 1} of {self.load.rounds}" if self.load.rounds > 1 else ""
        return f"load {self.load.name}, {self.side}{turn}"


@dataclass(frozen=True, slots=True)
class AttackStep:
    """One attack on one side.

    Attributes:
        beside: the load that is under way meanwhile, or None.
    """

    attack: Attack
    side: Side
    beside: Load | None = None

    @property
    def key(self) -> str:
        """By which it is known in a broken run."""
        return f"attack.{self.attack.title}.{self.side}"

    @property
    def words(self) -> str:
        """For people."""
        during = f", during load {self.beside.name}" if self.beside else ""
        return f"attack {self.attack.title}, {self.side}{during}"


Step = LoadStep | AttackStep


def steps(scenario: Scenario) -> tuple[Step, ...]:
    """The loads with their sides taking turns, the attacks on the model server, the attacks
    through the firewall."""
    return (*_loads(scenario), *_attacks(scenario))


def _loads(scenario: Scenario) -> Iterator[LoadStep]:
    for load in scenario.load:
        for turn in range(load.rounds):
            sides = load.sides if turn % 2 == 0 else tuple(reversed(load.sides))
            for side in sides:
                yield LoadStep(load, side, turn)


def _attacks(scenario: Scenario) -> Iterator[AttackStep]:
    loads = {load.name: load for load in scenario.load}
    for side in BOTH:
        for attack in scenario.attacks:
            if side in attack.sides:
                beside = loads[attack.during] if attack.during and side == "firewall" else None
                yield AttackStep(attack, side, beside)
