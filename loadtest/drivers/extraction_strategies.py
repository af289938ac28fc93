"""Where the queries of a thief of models come from.

A strategy is a generator: it yields (k, d) rows to ask, and is sent (k, classes) scores that came
back, rows of nan for queries without an answer. What asks, and what stands between, is elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from loadtest.attacks.datasets import Labels, Part
from loadtest.attacks.victims import train
from loadtest.drivers.base import Spent
from loadtest.mlp import Mlp
from loadtest.targets.base import Rows, Scores

NO_ANSWER: Final = -1
BATCH: Final = 50
SEEDS: Final = 100
"""Honest rows that Jacobian-based augmentation and active learning begin with."""
JACOBIAN_STEP: Final = 0.1
"""In units of the box (Papernot et al. 2017)."""
QUICK: Final = 40
"""Epochs of a surrogate that only says what to ask next."""

Strategy = Generator[Rows, npt.NDArray[Any], None]


class Thief(Protocol):
    """What a thief has to begin with."""

    @property
    def low(self) -> Rows:
        """(d,) the lower end of the box that rows must stay in."""

    @property
    def high(self) -> Rows:
        """(d,) its upper end."""

    @property
    def own(self) -> Rows:
        """(n, d) honest rows of its own, in random order."""


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
    def of(cls, rows: Rows, labels: Labels, seed: int, epochs: int = 300) -> Surrogate | None:
        """Learns from answers; None from answers of fewer than two classes."""
        names, positions = np.unique(labels, return_inverse=True)
        if names.size < 2:
            return None
        return cls(train(Part(rows, positions.astype(np.int64)), seed, epochs), names)

    def label(self, rows: Rows) -> Labels:
        """Its decisions."""
        found: Labels = self.names[self.model.probabilities(rows).argmax(axis=1)]
        return found


@dataclass(slots=True)
class Taken:
    """What a thief has learnt: rows that were answered, and their scores, in the order asked."""

    rows: list[Rows] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)


def harvest(strategy: Strategy, ask: Callable[[Rows], Any], taken: Taken) -> None:
    """Asks until the strategy is used up, or ``ask`` raises ``Spent``.

    Args:
        strategy: where queries come from; it is closed in the end.
        ask: about one row, (d,): its scores, or None if there was no answer.
        taken: gets what was answered.
    """
    try:
        batch = next(strategy)
        while len(batch):
            answers = []
            for row in batch:
                answer = ask(row)
                answers.append(answer)
                if answer is not None:
                    taken.rows.append(row)
                    taken.scores.append(answer)
            batch = strategy.send(matrix(answers))
    except (StopIteration, Spent):
        pass
    finally:
        strategy.close()


def matrix(answers: Sequence[Any]) -> npt.NDArray[np.float64]:
    """(n, classes) scores, nan where an answer is None; the widest answer says how many classes
    there are, and what a narrower one leaves out is 0."""
    width = max((len(answer) for answer in answers if answer is not None), default=0)
    found = np.zeros((len(answers), width))
    for row, answer in zip(found, answers, strict=True):
        if answer is None:
            row[:] = np.nan
        else:
            row[: len(answer)] = answer
    return found


def decided(scores: npt.NDArray[Any]) -> Labels:
    """(n,) the best class of each row of scores, ``NO_ANSWER`` where there was none."""
    if not scores.shape[1]:
        return np.full(len(scores), NO_ANSWER, np.int64)
    known = ~np.isnan(scores[:, 0])
    return np.where(known, np.nan_to_num(scores).argmax(axis=1), NO_ANSWER).astype(np.int64)


def uniform(means: Thief, random: np.random.Generator) -> Strategy:
    """Uniform over the box."""
    low, high = means.low, means.high
    while True:
        yield random.uniform(low, high, (BATCH, low.size)).astype(np.float32)


def matched_noise(means: Thief, random: np.random.Generator) -> Strategy:
    """Normal, each feature with the mean and deviation of the thief's rows, inside the box."""
    mean, deviation = means.own.mean(axis=0), means.own.std(axis=0)
    while True:
        rows = mean + deviation * random.standard_normal((BATCH, mean.size))
        yield np.clip(rows, means.low, means.high).astype(np.float32)


def blends(means: Thief, random: np.random.Generator) -> Strategy:
    """Weighted means of two of the thief's rows."""
    own = means.own
    while True:
        left, right = own[random.integers(len(own), size=(2, BATCH))]
        weight = random.uniform(0.3, 0.7, (BATCH, 1))
        yield (weight * left + (1 - weight) * right).astype(np.float32)


def jacobian(means: Thief, random: np.random.Generator) -> Strategy:
    """Jacobian-based augmentation (Papernot et al., AsiaCCS 2017): from a few honest rows, steps
    along the sign of the surrogate's gradient, round after round."""
    asked = means.own[:SEEDS]
    labels = decided((yield asked))
    low, high = means.low, means.high
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
        answers = decided((yield fresh))
        asked, labels = np.concatenate([asked, fresh]), np.concatenate([labels, answers])


def active(means: Thief, random: np.random.Generator) -> Strategy:
    """Active learning (ActiveThief, Pal et al., AAAI 2020): of the thief's own rows, those that its
    surrogate is least sure of. It ends when they are used up."""
    return _chosen(means, _unsure)


def k_centre(means: Thief, random: np.random.Generator) -> Strategy:
    """Active learning (as above): of the thief's own rows, those whose answers, as its surrogate
    foresees them, lie farthest from all that it has."""
    return _chosen(means, _farthest)


def in_distribution(means: Thief, random: np.random.Generator) -> Strategy:
    """Honest rows, as an honest client would ask them. It ends when they are used up."""
    for begin in range(0, len(means.own), BATCH):
        yield means.own[begin : begin + BATCH]


def _chosen(means: Thief, choose: Callable[[Any, Any], Labels]) -> Strategy:
    own = means.own
    asked, left = np.arange(min(SEEDS, len(own))), np.arange(SEEDS, len(own))
    labels = decided((yield own[asked]))
    while left.size:
        known = labels != NO_ANSWER
        surrogate = Surrogate.of(own[asked[known]], labels[known], 0, QUICK)
        if surrogate is None:
            best = np.arange(left.size)[: 2 * BATCH]
        else:
            foresee = surrogate.model.probabilities
            best = choose(foresee(own[left]), foresee(own[asked]))
        answers = decided((yield own[left[best]]))
        asked, labels = np.concatenate([asked, left[best]]), np.concatenate([labels, answers])
        left = np.delete(left, best)


def _unsure(left: Any, asked: Any) -> Labels:
    ordered = np.sort(left, axis=1)
    found: Labels = np.argsort(ordered[:, -1] - ordered[:, -2])[: 2 * BATCH]
    return found


def _farthest(left: Any, asked: Any) -> Labels:
    """Greedily (Sener and Savarese, ICLR 2018)."""
    nearest = np.full(len(left), np.inf)
    for centre in asked:
        nearest = np.minimum(nearest, ((left - centre) ** 2).sum(axis=1))
    best: list[int] = []
    for _ in range(min(2 * BATCH, len(left))):
        nearest[best] = -1.0
        best.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((left - left[best[-1]]) ** 2).sum(axis=1))
    return np.array(best, np.int64)
