"""Theft of a model through its answers, rehearsed: what a thief has in the end. Where its queries
come from is ``loadtest.drivers.extraction_strategies``, which attacks real endpoints too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from loadtest.attacks.datasets import Labels, Singles, Split, load
from loadtest.attacks.gateway import Gateway, Told
from loadtest.drivers.accounts import Turns
from loadtest.drivers.base import Spent
from loadtest.drivers.extraction_strategies import (
    BATCH,
    Strategy,
    Surrogate,
    Taken,
    active,
    blends,
    harvest,
    in_distribution,
    jacobian,
    matched_noise,
    uniform,
)
from loadtest.mlp import Floats

Begin = Callable[["Means", np.random.Generator], Strategy]


@dataclass(frozen=True, slots=True)
class Means:
    """What a thief has to begin with.

    Attributes:
        split: for the box and the shape.
        own: (n, d) honest rows of its own, in random order.
    """

    split: Split
    own: Singles

    @property
    def low(self) -> Singles:
        """(d,) the lower end of the box."""
        return self.split.low

    @property
    def high(self) -> Singles:
        """(d,) its upper end."""
        return self.split.high


def other_images(means: Means, random: np.random.Generator) -> Strategy:
    """Another source's handwritten digits, scaled to the size: out of the distribution, if not far
    out of it. Each with a brightness of its own, so that none is sent twice.

    Raises:
        Unavailable: if there is no other source.
    """
    height, width = means.split.image
    source = load("mnist" if means.split.name == "digits" else "digits", means.split.seed)
    pictures = source.pool.rows.reshape(-1, *source.image)
    pictures = np.concatenate([pictures, source.honest.rows.reshape(-1, *source.image)])
    if source.image[0] > height:
        # 28 to 8: the middle, by means of 3 by 3.
        pictures = pictures[:, 2:26, 2:26].reshape(-1, height, 3, width, 3).mean(axis=(2, 4))
    else:
        places = np.arange(height) * source.image[0] // height
        pictures = pictures[:, places][:, :, places]
    scaled = pictures.reshape(len(pictures), -1)
    while True:
        chosen = scaled[random.integers(len(scaled), size=BATCH)]
        yield (chosen * random.uniform(0.7, 1.0, (BATCH, 1))).astype(np.float32)


STRATEGIES: Final[dict[str, Begin]] = {
    "uniform": uniform,
    "matched noise": matched_noise,
    "blends": blends,
    "other images": other_images,
    "jacobian": jacobian,
    "active": active,
    "in-distribution": in_distribution,
}


@dataclass(frozen=True, slots=True)
class Theft:
    """How a theft went.

    Attributes:
        rows, labels: what was asked and answered.
        sent: queries sent, padding included.
        alarm: the number of the query at which the first alarm was raised, or 0.
        refusal: the number of the first query without an answer, or 0.
    """

    rows: Singles
    labels: Labels
    sent: int
    alarm: int
    refusal: int


def steal(
    gateway: Gateway,
    strategy: Strategy,
    *,
    budget: int,
    accounts: int,
    honest: Singles,
    padding: float,
    random: np.random.Generator,
) -> Theft:
    """Asks until the budget or the strategy is used up.

    Args:
        gateway: what is asked.
        strategy: where queries come from.
        budget: queries, padding included.
        accounts: used in turn, each in a subnet of its own; one that is refused too often in a row
            asks no more, see ``Turns``.
        honest: rows for the padding; none is sent twice until all were.
        padding: the share of queries that are honest ones.
        random: for the places of the padding.
    """
    turns = Turns(accounts)
    padded = 0

    def send(row: Singles) -> Floats | None:
        if gateway.sent >= budget:
            raise Spent
        number = turns.next()
        answer, told = gateway.ask(f"attacker-{number}", f"subnet-{number}", row)
        turns.note(number, refused=told is Told.REFUSED)
        return None if told is Told.REFUSED else answer

    def ask(row: Singles) -> Floats | None:
        nonlocal padded
        while random.random() < padding:
            send(honest[padded % len(honest)])
            padded += 1
        return send(row)

    taken = Taken()
    harvest(strategy, ask, taken)
    return Theft(
        np.array(taken.rows, np.float32).reshape(-1, honest.shape[1]),
        np.array([answer.argmax() for answer in taken.scores], np.int64),
        gateway.sent,
        gateway.first_alarm,
        gateway.first_refusal,
    )


def fidelity(theft: Theft, gateway: Gateway, test: Singles, seed: int) -> float:
    """The share of test rows that the surrogate decides as the victim does; that of the commonest
    label if there is no surrogate."""
    truth = gateway.victim.label(test)
    surrogate = Surrogate.of(theft.rows, theft.labels, seed)
    if surrogate is None:
        return float(np.bincount(truth).max() / truth.size)
    return float((surrogate.label(test) == truth).mean())
