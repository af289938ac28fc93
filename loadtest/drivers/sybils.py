"""One attack from many accounts in turn, so that no account asks much."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from loadtest.drivers.accounts import Client
from loadtest.drivers.adaptive_search import Manner, Plain, Target
from loadtest.drivers.adaptive_target import WayKnobs, attack
from loadtest.drivers.base import Asked, Means, Outcome
from loadtest.drivers.knobs import read
from loadtest.targets.base import Oracle


class SybilKnobs(WayKnobs):
    """What a scenario may say of Sybils."""

    warm_up: Annotated[int, Field(ge=0)] = 2
    """Honest queries that an account begins with."""
    accounts: Annotated[int, Field(ge=2)] | None = None
    """How many it uses in turn; by default all that a try is given."""


class Sybils:
    """See ``Driver``."""

    name = "sybils"
    family = "sybils"
    atlas: tuple[str, ...] = ("AML.T0043.001", "AML.T0015", "AML.T0040")
    goal = "a near row that the model decides otherwise"
    words = (
        "evades by one search whose queries come from many accounts in turn "
        "(Sybils, Douceur, IPTPS 2002, on HopSkipJump)"
    )
    needs = frozenset({"classes", "labels"})

    def run(self, oracle: Asked, judge: Oracle | None, means: Means) -> Outcome:
        """See ``Driver``."""
        knobs = read(SybilKnobs, means.knobs)
        count = min(len(means.accounts), knobs.accounts or len(means.accounts))
        if count < 2:
            raise ValueError("Sybils need at least two accounts for each try")

        def begin(client: Client, target: Target, random: np.random.Generator) -> Manner:
            client.take(count)
            for turn in range(count * knobs.warm_up):
                row = means.own[random.integers(len(means.own))]
                client.ask_as(turn % count, row, own=False)
            return Plain(client.scores)

        outcome = attack(oracle, judge, means, knobs=knobs, way=knobs.way, begin=begin)
        return Outcome(outcome.tries, details={**outcome.details, "accounts": count})
