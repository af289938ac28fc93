"""One attack whose queries lie among honest ones of the same account."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from loadtest.drivers.accounts import Client
from loadtest.drivers.adaptive_search import Answer, Manner, Plain, Target
from loadtest.drivers.adaptive_target import WayKnobs, attack
from loadtest.drivers.base import Asked, Means, Outcome
from loadtest.drivers.knobs import read
from loadtest.targets.base import Oracle, Rows


class InterleavingKnobs(WayKnobs):
    """What a scenario may say of interleaving."""

    every: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = 2.0
    """Honest queries before each of the attack's, on average: their number is Poisson's, not like
    clockwork."""


class Interleaving:
    """See ``Driver``."""

    name = "interleaving"
    family = "interleaving"
    atlas: tuple[str, ...] = ("AML.T0043.001", "AML.T0015", "AML.T0046", "AML.T0040")
    goal = "a near row that the model decides otherwise"
    words = (
        "evades by one search that hides each of its queries among honest ones "
        "(chaff, as in Feng et al., CCS 2023, on HopSkipJump)"
    )
    needs = frozenset({"classes", "labels"})

    def run(self, oracle: Asked, judge: Oracle | None, means: Means) -> Outcome:
        """See ``Driver``."""
        knobs = read(InterleavingKnobs, means.knobs)

        def begin(client: Client, target: Target, random: np.random.Generator) -> Manner:
            chaff = np.random.default_rng(random.integers(2**63))

            def honest(count: int) -> None:
                for _ in range(count):
                    client.ask(means.own[chaff.integers(len(means.own))], own=False)

            def ask(row: Rows) -> Answer | None:
                honest(int(chaff.poisson(knobs.every)))
                return client.scores(row)

            honest(knobs.warm_up)
            return Plain(ask)

        outcome = attack(oracle, judge, means, knobs=knobs, way=knobs.way, begin=begin)
        details: dict[str, object] = {**outcome.details, "honest_for_each": knobs.every}
        return Outcome(outcome.tries, details=details)
