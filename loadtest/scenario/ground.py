"""What a scenario is carried out on, as its run sees it: real servers, or a rehearsal of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from loadtest.evidence.results import AttackResult, LoadResult, Side
from loadtest.load.plan import Progress
from loadtest.scenario.load_settings import Load
from loadtest.scenario.settings import Attack

Loading = Callable[[Progress], None]
Asking = Callable[[int, Mapping[str, int]], None]
"""Told about once a second: queries so far, and what was said to them."""


class GroundError(Exception):
    """The ground cannot be used any more: a server ended, or does not answer. Says which."""


class UnreachableError(GroundError):
    """A server cannot be reached, before anything began."""


class Ground(Protocol):
    """Where loads and attacks take place."""

    def check(self, sides: Sequence[Side]) -> None:
        """Whether the servers of these sides are up, and answer an honest request.

        Raises:
            GroundError: if not.
        """

    def prepare(self, attack: Attack) -> None:
        """Makes ready for an attack through the firewall.

        Raises:
            GroundError: if that fails.
        """

    def load(self, load: Load, side: Side, turn: int, progress: Loading) -> Sequence[LoadResult]:
        """One round of a load: a result for each of its parts.

        Raises:
            GroundError, LoadError: if it cannot be run. What progress raises ends it.
        """

    def attack(self, attack: Attack, side: Side, journal: Path, progress: Asking) -> AttackResult:
        """One attack on one side, gone on with where the journal ends.

        Raises:
            GroundError: if it cannot be run. What progress raises ends it.
        """

    def describe(self) -> Mapping[str, str]:
        """What is loaded and attacked, for the report: ``Results.target``."""

    def notes(self) -> Sequence[str]:
        """What a reader must know of it."""
