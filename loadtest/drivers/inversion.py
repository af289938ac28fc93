"""Whether the model betrays what its training data looked like (M. Fredrikson et al., "Model
Inversion Attacks that Exploit Confidence Information", CCS 2015): from the middle of the box, a row
is changed until the model is sure that it is of a class, and is then compared with that class.

Gradients are estimated from scores of antithetic probes (natural evolution strategies, A. Ilyas et
al., ICML 2018). Pictures are probed with smooth noise, and smoothed as they grow: that is what the
paper's ``PROCESS`` is for.
"""

from __future__ import annotations

from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from loadtest.attacks.datasets import Labels
from loadtest.drivers import judging
from loadtest.drivers.accounts import Client
from loadtest.drivers.base import Asked, Means, Outcome, Spent, Try
from loadtest.drivers.knobs import Fraction, Knobs, read
from loadtest.targets.base import Oracle, Rows

Doubles = npt.NDArray[np.float64]

CHANCE: Final = 200
"""Rows of noise whose likeness to a class is what chance gives."""
LEAST: Final = 1e-6
"""Scores below this count as this: their logarithm is climbed."""


class InversionKnobs(Knobs):
    """What a scenario may say of inversion."""

    confidence: Fraction = 0.9
    """The score of the class that the model must give to what was reconstructed."""
    probes: Annotated[int, Field(ge=2, le=10_000)] = 40
    """Queries of each step: half as many directions, each both ways."""
    reach: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.25
    """How far a probe lies from the row, as the root mean square over its features, as a share of
    the box."""
    stride: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.08
    """How far a step goes, so measured."""


class Inversion:
    """See ``Driver``."""

    name = "inversion"
    family = "inversion"
    atlas: tuple[str, ...] = ("AML.T0024.001", "AML.T0040")
    goal = "a likeness of a class, from nothing"
    words = (
        "reconstructs a typical row of a class by climbing the model's confidence "
        "(Fredrikson et al., CCS 2015)"
    )
    needs = frozenset({"classes"})

    def run(self, oracle: Asked, judge: Oracle | None, means: Means) -> Outcome:
        """See ``Driver``. Each try is for the next class that the test rows have."""
        knobs = read(InversionKnobs, means.knobs)
        rows, labels = _truth(judge, means)
        classes = np.unique(labels)
        middle = rows.mean(axis=0, dtype=np.float64)
        tries, likenesses, chances, sure = [], [], [], []
        unanswered = 0
        for number in range(means.tries):
            if number:
                oracle.next_try()
            label = int(classes[number % classes.size])
            # What sets the class apart: what all rows have in common is no secret of one.
            trait = rows[labels == label].mean(axis=0, dtype=np.float64) - middle
            climb = Climb(Client(oracle, means.accounts, knobs.wait), means, knobs, label, number)
            row = climb.run()
            unanswered += climb.client.unanswered
            like = likeness(row - climb.begin, trait)
            chance = climb.chance(trait)
            score = climb.best if judge is None else _score(judge, row, label, means)
            reached = score >= knobs.confidence and like > chance
            tries.append(Try(reached, climb.client.own))
            likenesses.append(like)
            chances.append(chance)
            sure.append(score)
        return Outcome(
            tries,
            "likeness to the class (correlation)",
            judging.mean(likenesses, -1, 1) if tries else None,
            float(np.mean(chances)) if chances else None,
            {
                "classes": [int(classes[k % classes.size]) for k in range(means.tries)],
                "likeness": likenesses,
                "likeness_of_noise_95_percent": chances,
                "confidence": sure,
                "unanswered": unanswered,
            },
        )


class Climb:
    """One reconstruction.

    Attributes:
        client: what asks.
        begin: (d,) the row that it begins from: the middle of the box.
        best: the score of the class, as far as it was told.
    """

    def __init__(
        self, client: Client, means: Means, knobs: InversionKnobs, label: int, number: int
    ) -> None:
        self.client = client
        self.best = 0.0
        self._low, self._high = means.low.astype(np.float64), means.high.astype(np.float64)
        self._span = self._high - self._low
        self.begin = (self._low + self._high) / 2
        self._label = label
        self._knobs = knobs
        self._random = means.random(number, 4)
        self._image = means.image
        if means.image and means.image[0] * means.image[1] != means.low.size:
            self._image = None  # its channels' order is not known

    def run(self) -> Doubles:
        """(d,) the row that it ends with, when the budget is used up."""
        row, pace = np.full(self.begin.size, 0.5), np.zeros(self.begin.size)
        try:
            while True:
                slope = self._slope(row)
                # Momentum: a step's few probes tell only roughly which way is up.
                pace = 0.8 * pace + slope
                size = float(np.sqrt((pace**2).mean()))
                if size:
                    row = np.clip(row + self._knobs.stride * pace / size, 0, 1)
        except Spent:
            return np.asarray(self._low + self._span * row, np.float64)

    def chance(self, trait: Doubles) -> float:
        """The likeness that 95 % of rows of noise of the same kind stay below."""
        found = [likeness(self._noise() * self._span, trait) for _ in range(CHANCE)]
        return float(np.quantile(found, 0.95))

    def _slope(self, row: Doubles) -> Doubles:
        total = np.zeros_like(row)
        for _ in range(self._knobs.probes // 2):
            noise = self._noise()
            up = self._height(row + self._knobs.reach * noise)
            down = self._height(row - self._knobs.reach * noise)
            if up is not None and down is not None:
                total += (up - down) * noise
        return total

    def _height(self, point: Doubles) -> float | None:
        row = (self._low + self._span * np.clip(point, 0, 1)).astype(np.float32)
        scores = self.client.scores(row)
        if scores is None:
            return None
        score = float(scores[self._label]) if self._label < scores.size else 0.0
        self.best = max(self.best, score)
        return float(np.log(max(score, LEAST)))

    def _noise(self) -> Doubles:
        noise = self._random.standard_normal(self.begin.size)
        if self._image:
            noise = _smooth(noise.reshape(self._image)).ravel()
        return np.asarray(noise / np.sqrt((noise**2).mean()), np.float64)


def likeness(found: Doubles, trait: Doubles) -> float:
    """The correlation of two rows; 0 where one does not vary."""
    first, second = found - found.mean(), trait - trait.mean()
    size = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second / size) if size > 1e-12 else 0.0


def _smooth(picture: Doubles) -> Doubles:
    """Each pixel, the mean of itself and its neighbours by 1 2 1 both ways."""
    for axis in (0, 1):
        padded = np.pad(picture, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], "edge")
        length = picture.shape[axis]
        before, at, after = (padded.take(range(k, k + length), axis) for k in range(3))
        picture = (before + 2 * at + after) / 4
    return picture


def _truth(judge: Oracle | None, means: Means) -> tuple[Rows, Labels]:
    """Rows and what they are."""
    if judge is None:
        if means.labels is None or len(means.labels) != len(means.own) or not len(means.own):
            raise ValueError("with no model to judge by, inversion needs own rows with labels")
        return means.own, np.asarray(means.labels, np.int64)
    if not len(means.test):
        raise ValueError("inversion is judged on test rows: there are none")
    labels = judging.labels(judge, means.test, means)
    return means.test[labels >= 0], labels[labels >= 0]


def _score(judge: Oracle, row: Doubles, label: int, means: Means) -> float:
    reply = judging.ask(judge, row.astype(np.float32), means)
    if reply.scores is None or label >= reply.scores.size:
        return 0.0
    return float(reply.scores[label])
