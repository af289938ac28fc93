"""What an attack is given, what it leaves, and how it ends: the same for every driver.

A driver asks an oracle and knows nothing of what answers: the model server alone, the firewall, or
a rehearsal of either. It draws all randomness from what it is given, so that the same seed asks the
same questions as long as it gets the same answers: by that a broken run is resumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from loadtest.evidence.results import Estimate
from loadtest.targets.base import Oracle, Reply, Rows, Said


class Spent(Exception):  # noqa: N818 - how a try ends
    """The budget of queries is used up. Drivers let it pass: what they have by then is judged."""


@dataclass(frozen=True, slots=True)
class Means:
    """What an attacker has.

    Attributes:
        own: (n, d) honest rows of the attacker's own, in random order.
        labels: (n,) what they truly are, or None.
        low, high: (d,) the box that rows must stay in.
        image: (height, width) where a row is a picture, else None.
        members: (m, d) rows that the model was trained on, or None: only membership needs them, to
            be judged by.
        test: (t, d) rows that nothing else uses, by which a stolen model is judged.
        accounts: names of clients that it may use; the first is its own.
        budget: queries of one try, refused ones, warm-up and padding included.
        tries: how often it is tried, each on a base or with a seed of its own.
        seed: of everything random.
        knobs: what else the scenario says of this driver, validated by it.
    """

    own: Rows
    low: Rows
    high: Rows
    test: Rows
    accounts: Sequence[str]
    budget: int
    tries: int
    seed: int
    labels: Any = None
    image: tuple[int, int] | None = None
    members: Rows | None = None
    knobs: Mapping[str, Any] = field(default_factory=dict)

    def random(self, *purpose: int) -> np.random.Generator:
        """A generator for one purpose, the same in every run of this seed."""
        return np.random.default_rng((self.seed, *purpose))


@dataclass(frozen=True, slots=True)
class Try:
    """How one try went.

    Attributes:
        reached: whether the goal was.
        queries: the attack's own until it was, or all of them.
    """

    reached: bool
    queries: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a driver leaves.

    Attributes:
        tries: in their order.
        measure, value, baseline, details: as in ``AttackResult``.
    """

    tries: Sequence[Try]
    measure: str = ""
    value: Estimate | None = None
    baseline: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class Asked(Oracle, Protocol):
    """The oracle as a driver gets it: counted, held to the budget, journalled.

    Attributes:
        queries: sent so far in this try.
        raw: how bytes are sent to the same side, where the attack is upon the wire itself; None:
            it is not asked over HTTP. See ``loadtest.drivers.abuse_wire.Raw``.
    """

    queries: int
    raw: Any

    def ask(self, row: Rows, client: str, *, own: bool = True) -> Reply:
        """Asks about one row.

        Args:
            own: whether it belongs to the attack itself: neither warm-up nor padding.

        Raises:
            Spent: if the try's budget is used up.
        """

    def count(self, said: Said) -> None:
        """Counts a query that was sent byte by byte, and what became of it.

        Raises:
            Spent: if the try's budget is used up.
        """

    def next_try(self) -> None:
        """Begins the next try, with a budget of its own."""


class Driver(Protocol):
    """One attack.

    Attributes:
        name: as it is called for: lower-case words joined by hyphens.
        family, atlas, goal: as in ``AttackResult``.
        words: one line for ``bartizan attack --list``, with the source.
        needs: names of fields of ``Means`` that it cannot do without (``image``, ``members``,
            ``labels``), and ``classes`` where it attacks classifiers only.
    """

    name: str
    family: str
    atlas: tuple[str, ...]
    goal: str
    words: str
    needs: frozenset[str]

    def run(self, oracle: Asked, judge: Oracle | None, means: Means) -> Outcome:
        """Attacks.

        Args:
            judge: the model without a firewall, by which alone success is judged; its answers are
                not the attacker's. None: what the oracle says is believed.

        Raises:
            ValueError: if the means or the knobs do not do; says why.
        """
