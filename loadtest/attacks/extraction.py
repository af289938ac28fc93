"""Theft of a model through its answers: where the thief's queries come from, and what it has in the
end.

A strategy is a generator: it yields (k, d) rows to ask, and is sent the labels that came back, -1
for a query that had no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final

import numpy as np

from loadtest.attacks.datasets import Labels, Part, Singles, Split, load
from loadtest.attacks.gateway import Gateway, Told
from loadtest.attacks.victims import train
from loadtest.mlp import Mlp

NO_ANSWER: Final = -1
BATCH: Final = 50
SEEDS: Final = 100
"""Honest rows that Jacobian-based augmentation and active learning begin with."""
JACOBIAN_STEP: Final = 0.1
"""In units of the box (Papernot et al. 2017)."""
QUICK: Final = 40
"""Epochs of a surrogate that only says what to ask next."""
PATIENCE: Final = 5
"""Refused so often in a row, an account is left for the next."""

Strategy = Generator[Singles, Labels, None]
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


@dataclass(frozen=True, slots=True)
class Surrogate:
    """A stolen model.

    Attributes:
        model: the network.
        names: the victim's label of each of its outputs.
    """

    model: Mlp
    names: Labels

    @classmethod
    def of(cls, rows: Singles, labels: Labels, seed: int, epochs: int = 300) -> Surrogate | None:
        """Learns from answers; None from answers of fewer than two classes."""
        names, positions = np.unique(labels, return_inverse=True)
        if names.size < 2:
            return None
        return cls(train(Part(rows, positions.astype(np.int64)), seed, epochs), names)

    def label(self, rows: Singles) -> Labels:
        """Its decisions."""
        found: Labels = self.names[self.model.probabilities(rows).argmax(axis=1)]
        return found


def uniform(means: Means, random: np.random.Generator) -> Strategy:
    """Uniform over the box."""
    low, high = means.split.low, means.split.high
    while True:
        yield random.uniform(low, high, (BATCH, low.size)).astype(np.float32)


def matched_noise(means: Means, random: np.random.Generator) -> Strategy:
    """Normal, each feature with the mean and deviation of the thief's rows, inside the box."""
    mean, deviation = means.own.mean(axis=0), means.own.std(axis=0)
    while True:
        rows = mean + deviation * random.standard_normal((BATCH, mean.size))
        yield np.clip(rows, means.split.low, means.split.high).astype(np.float32)


def blends(means: Means, random: np.random.Generator) -> Strategy:
    """Weighted means of two of the thief's rows."""
    own = means.own
    while True:
        left, right = own[random.integers(len(own), size=(2, BATCH))]
        weight = random.uniform(0.3, 0.7, (BATCH, 1))
        yield (weight * left + (1 - weight) * right).astype(np.float32)


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


def jacobian(means: Means, random: np.random.Generator) -> Strategy:
    """Jacobian-based augmentation (Papernot et al., AsiaCCS 2017): from a few honest rows, steps
    along the sign of the surrogate's gradient, round after round."""
    asked = means.own[:SEEDS]
    labels = yield asked
    low, high = means.split.low, means.split.high
    step = JACOBIAN_STEP * (high - low)
    while True:
        known = labels != NO_ANSWER
        surrogate = Surrogate.of(asked[known], labels[known], 0, QUICK)
        if surrogate is None or len(asked) > 4 * SEEDS:
            # As published from then on: a reservoir of rows instead of ever longer rounds.
            kept = random.choice(len(asked), min(len(asked), 4 * SEEDS), replace=False)
            asked, labels = asked[kept], labels[kept]
        if surrogate is None:
            fresh = asked + random.choice([-1, 1], asked.shape) * step
        else:
            inside = np.isin(labels, surrogate.names)
            position = np.where(inside, np.searchsorted(surrogate.names, labels), 0)
            position = np.minimum(position, surrogate.names.size - 1)
            sign = np.sign(surrogate.model.loss_gradient(asked, position))
            fresh = asked + step * random.choice([-1, 1]) * sign
        fresh = np.clip(fresh, low, high).astype(np.float32)
        answers = yield fresh
        asked, labels = np.concatenate([asked, fresh]), np.concatenate([labels, answers])


def active(means: Means, random: np.random.Generator) -> Strategy:
    """Active learning: of the thief's own rows, those that its surrogate is least sure of. It ends
    when they are used up."""
    own = means.own
    asked, left = np.arange(min(SEEDS, len(own))), np.arange(SEEDS, len(own))
    labels = yield own[asked]
    while left.size:
        known = labels != NO_ANSWER
        surrogate = Surrogate.of(own[asked[known]], labels[known], 0, QUICK)
        if surrogate is None:
            best = np.arange(left.size)[: 2 * BATCH]
        else:
            sorted_ = np.sort(surrogate.model.probabilities(own[left]), axis=1)
            best = np.argsort(sorted_[:, -1] - sorted_[:, -2])[: 2 * BATCH]
        answers = yield own[left[best]]
        asked, labels = np.concatenate([asked, left[best]]), np.concatenate([labels, answers])
        left = np.delete(left, best)


def in_distribution(means: Means, random: np.random.Generator) -> Strategy:
    """Honest rows, as an honest client would ask them. It ends when they are used up."""
    for begin in range(0, len(means.own), BATCH):
        yield means.own[begin : begin + BATCH]


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
        accounts: used in turn, each in a subnet of its own; one that is refused ``PATIENCE`` times
            in a row asks no more.
        honest: rows for the padding; none is sent twice until all were.
        padding: the share of queries that are honest ones.
        random: for the places of the padding.
    """
    rows: list[Singles] = []
    labels: list[int] = []
    refusals = [0] * accounts
    padded, turn = 0, 0

    def send(row: Singles) -> int:
        nonlocal turn
        usable = [number for number in range(accounts) if refusals[number] < PATIENCE]
        number = (usable or list(range(accounts)))[turn % len(usable or refusals)]
        turn += 1
        answer, told = gateway.ask(f"attacker-{number}", f"subnet-{number}", row)
        refusals[number] = refusals[number] + 1 if told is Told.REFUSED else 0
        return NO_ANSWER if told is Told.REFUSED else int(answer.argmax())

    try:
        batch = next(strategy)
        while gateway.sent < budget:
            answers = np.full(len(batch), NO_ANSWER, np.int64)
            for index, row in enumerate(batch):
                while random.random() < padding and gateway.sent < budget:
                    send(honest[padded % len(honest)])
                    padded += 1
                if gateway.sent >= budget:
                    break
                answers[index] = send(row)
            known = answers != NO_ANSWER
            rows.append(batch[known])
            labels.extend(answers[known].tolist())
            batch = strategy.send(answers)
    except StopIteration:
        pass
    strategy.close()
    return Theft(
        np.concatenate(rows) if rows else np.empty((0, honest.shape[1]), np.float32),
        np.array(labels, np.int64),
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
