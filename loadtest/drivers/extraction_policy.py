"""Which of another distribution's rows a thief asks: any, or those that pay."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from loadtest.attacks.distillation import distil
from loadtest.drivers.extraction_sources import Source
from loadtest.drivers.extraction_strategies import BATCH, Strategy
from loadtest.targets.base import Rows

WINDOW: Final = 25
"""Answers of which the mean is a reward's baseline."""
STEPS: Final = 200
"""Of the training of a copy that only says what surprises it."""


def other_rows(source: Source, random: np.random.Generator) -> Strategy:
    """Every kind of row as often."""
    while True:
        yield source.draw(random.integers(source.arms, size=BATCH), random)


def knockoff(source: Source, random: np.random.Generator) -> Strategy:
    """The adaptive policy of Knockoff Nets (Orekondy et al., CVPR 2019): a gradient bandit over
    kinds of rows, paid by how sure the model is, how unlike what it said before, and how much the
    copy is surprised."""
    bandit = Bandit(source.arms)
    rewards = Rewards()
    while True:
        arms = random.choice(source.arms, BATCH, p=bandit.shares)
        rows = source.draw(arms, random)
        answers = yield rows
        known = ~np.isnan(answers).any(axis=1) if answers.shape[1] else np.zeros(len(rows), bool)
        if known.any():
            for arm, reward in zip(
                arms[known], rewards.of(rows[known], answers[known]), strict=True
            ):
                bandit.pay(int(arm), float(reward))


class Bandit:
    """Preferences among kinds, learnt by their rewards (Sutton and Barto, "Reinforcement Learning",
    2018, 2.8), with the step of the paper: one over how often a kind was chosen.

    Attributes:
        shares: (arms,) how often each is to be chosen.
    """

    def __init__(self, arms: int) -> None:
        self._preferences = np.zeros(arms)
        self._chosen = np.zeros(arms)
        self._mean = 0.0
        self._paid = 0
        self.shares: npt.NDArray[np.float64] = np.full(arms, 1 / arms)

    def pay(self, arm: int, reward: float) -> None:
        """Takes what a kind brought."""
        self._chosen[arm] += 1
        step = (reward - self._mean) / self._chosen[arm]
        self._preferences -= step * self.shares
        self._preferences[arm] += step
        self._paid += 1
        self._mean += (reward - self._mean) / self._paid
        powers = np.exp(self._preferences - self._preferences.max())
        self.shares = powers / powers.sum()


class Rewards:
    """Certainty, diversity and surprise, each brought to 0 to 1, less its mean of late."""

    def __init__(self) -> None:
        self._rows: list[Rows] = []
        self._answers: list[Any] = []
        self._low = np.full(3, np.inf)
        self._high = np.full(3, -np.inf)
        self._late = np.zeros((0, 3))

    def of(self, rows: Rows, answers: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """(n,) the rewards of (n, d) rows that got (n, classes) scores."""
        width = max(answers.shape[1], self._answers[-1].shape[1] if self._answers else 0)
        scores = _wide(np.clip(answers, 0, None), width)
        total = scores.sum(axis=1, keepdims=True)
        scores = np.where(total > 0, scores / np.where(total > 0, total, 1), 1 / scores.shape[1])
        found = np.stack(
            [_certainty(scores), self._diversity(scores), self._surprise(rows, scores)], axis=1
        )
        self._rows.append(rows)
        self._answers.append(scores)
        self._low = np.minimum(self._low, found.min(axis=0))
        self._high = np.maximum(self._high, found.max(axis=0))
        span = np.where(self._high > self._low, self._high - self._low, 1)
        scaled = (found - self._low) / span
        baseline = self._late.mean(axis=0) if len(self._late) else scaled.mean(axis=0)
        self._late = np.concatenate([self._late, scaled])[-WINDOW:]
        rewards: npt.NDArray[np.float64] = (scaled - baseline).mean(axis=1)
        return rewards

    def _diversity(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        before = self._past(scores.shape[1])
        mean = before.mean(axis=0) if len(before) else scores.mean(axis=0)
        return np.asarray(np.maximum(scores - mean, 0).sum(axis=1))

    def _surprise(self, rows: Rows, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        before = self._past(scores.shape[1])
        if not len(before):
            return np.zeros(len(rows))
        copy = distil(np.concatenate(self._rows), before, 0, STEPS)
        foreseen = np.maximum(copy.probabilities(rows), 1e-9)
        return np.asarray(-(scores * np.log(foreseen)).sum(axis=1), np.float64)

    def _past(self, classes: int) -> npt.NDArray[np.float64]:
        """(n, classes) all answers so far; of classes that an earlier one did not have, 0."""
        return np.concatenate([np.zeros((0, classes)), *(_wide(a, classes) for a in self._answers)])


def _wide(scores: npt.NDArray[Any], classes: int) -> npt.NDArray[np.float64]:
    return np.pad(scores, ((0, 0), (0, classes - scores.shape[1])))


def _certainty(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if scores.shape[1] < 2:
        return np.zeros(len(scores))
    ordered = np.sort(scores, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])
