"""Attackers who know the defence and adapt to what it does, after OARS (Feng et al., CCS 2023)."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from loadtest.drivers.accounts import Client
from loadtest.drivers.adaptive_search import Adapting, Answer, Manner, Purpose, Target
from loadtest.drivers.adaptive_target import SearchKnobs, attack
from loadtest.drivers.asked import is_coarse
from loadtest.drivers.base import Asked, Means, Outcome
from loadtest.drivers.knobs import read
from loadtest.targets.base import Oracle, Rows, Said


class AdaptiveKnobs(SearchKnobs):
    """What a scenario may say of an attacker who adapts."""

    pads: bool = True
    """Whether it hides among ever more honest queries once it is noticed."""
    accounts: Annotated[int, Field(ge=1)] | None = None
    """How many it may use, one after the other; by default all that a try is given."""


class Adaptive:
    """What both share; see ``Driver``."""

    name: str
    words: str
    way: ClassVar[str]
    family = "adaptive"
    atlas: tuple[str, ...] = ("AML.T0043.001", "AML.T0015", "AML.T0046", "AML.T0040")
    goal = "a near row that the model decides otherwise"
    needs = frozenset({"classes", "labels"})

    def run(self, oracle: Asked, judge: Oracle | None, means: Means) -> Outcome:
        """See ``Driver``."""
        knobs = read(AdaptiveKnobs, means.knobs)
        accounts = min(len(means.accounts), knobs.accounts or len(means.accounts))
        manners: list[Adapting] = []

        def begin(client: Client, target: Target, random: np.random.Generator) -> Manner:
            fine = False

            def send(number: int, row: Rows, purpose: Purpose) -> tuple[Answer | None, bool]:
                nonlocal fine
                own = purpose is Purpose.ATTACK
                reply = client.ask_as(number - 1, row, own=own)
                if reply.said is not Said.ANSWERED or reply.scores is None:
                    return None, True
                # Where nothing finer ever came, coarse is how the model answers.
                coarse = is_coarse(reply.scores)
                fine = fine or not coarse
                return reply.scores, coarse and fine

            manner = Adapting(send, means.own, random, accounts, knobs.pads, knobs.warm_up)
            manners.append(manner)
            manner.begin()
            return manner

        outcome = attack(oracle, judge, means, knobs=knobs, way=self.way, begin=begin)
        details = {
            **outcome.details,
            "accounts": accounts,
            "accounts_used": [manner.used for manner in manners],
            "padding_at_end": [manner.padding for manner in manners],
        }
        return Outcome(outcome.tries, details=details)


class Decisions(Adaptive):
    """Led by labels."""

    name = "adaptive-decisions"
    words = (
        "evades by labels alone, widens its probes, changes account and pads when it is noticed "
        "(OARS, Feng et al., CCS 2023, on HopSkipJump)"
    )
    way = "decisions"


class Scores(Adaptive):
    """Led by scores."""

    name = "adaptive-scores"
    words = (
        "evades by scores, varies its patches, changes account and pads when it is noticed "
        "(OARS, Feng et al., CCS 2023, on Square)"
    )
    way = "scores"
