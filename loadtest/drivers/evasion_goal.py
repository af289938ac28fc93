"""What an evasion wants: the box it works in, the rows it begins with, and when it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from loadtest.attacks.datasets import Labels
from loadtest.drivers.base import Means
from loadtest.targets.base import Oracle, Rows

_MOST_ROWS: Final = 400
"""Of the attacker's own, from which it learns how far classes are apart."""
_SLACK: Final = 1e-5


@dataclass(frozen=True)
class Box:
    """The box that rows stay in, scaled to [0, 1].

    Attributes:
        low, high: (d,).
        image: (height, width); of a table, the shape nearest to a square.
    """

    low: Rows
    high: Rows
    image: tuple[int, int]

    def inside(self, rows: Rows) -> Rows:
        """Rows in units of the box, cut to it."""
        return np.clip((rows - self.low) / (self.high - self.low), 0, 1).astype(np.float32)

    def outside(self, cells: npt.NDArray[np.floating]) -> Rows:
        """Rows in the model's units. What is no number is the box's lower edge."""
        cells = np.nan_to_num(np.asarray(cells, np.float32), nan=0.0, posinf=1.0, neginf=0.0)
        return np.ascontiguousarray(self.low + cells * (self.high - self.low), np.float32)


def box_of(means: Means) -> Box:
    """The box of the means; a feature that does not vary gets a width of 1."""
    low = np.asarray(means.low, np.float32)
    high = np.asarray(means.high, np.float32)
    high = np.where(high > low, high, low + np.float32(1))
    return Box(low, high, means.image or _shape(low.size))


def _shape(features: int) -> tuple[int, int]:
    height = max(size for size in range(1, int(features**0.5) + 1) if features % size == 0)
    return height, features // height


@dataclass(frozen=True)
class Goal:
    """A row near the base that the model decides otherwise.

    Attributes:
        box: of the rows.
        near: the greatest L2 distance in units of the box; ``linf``: the L∞ distance that will do
            instead.
        judge: by which it is decided; None: the answer is believed.
        client: as whom it is asked.
    """

    box: Box
    near: float
    linf: float
    judge: Oracle | None
    client: str

    def reached(self, base: Rows, row: Rows, label: int) -> float | None:
        """The L2 distance of a row that was answered with another label than the base's; None if
        it is not near, or the model itself decides it as it does the base."""
        step = self.box.inside(row) - self.box.inside(base)
        distance = float(np.linalg.norm(step))
        if distance > self.near and float(np.abs(step).max()) > self.linf + _SLACK:
            return None
        if self.judge is None:
            return distance
        said = self.judge.ask(row, self.client).label
        before = self.judge.ask(base, self.client).label
        return distance if said >= 0 and said != before and before == label else None


def bases(means: Means, judge: Oracle | None, count: int, *, turn: int = 0) -> list[Rows]:
    """At most ``count`` own rows, inside the box, that the model gets right, as evenly over their
    classes as there are; without labels, by what the model says, and without a judge, any.

    Args:
        turn: other rows for another number, as far as there are.
    """
    rows = np.clip(means.own, box_of(means).low, box_of(means).high)
    chosen: list[tuple[int, int]] = []
    turns: dict[int, int] = {}
    tried = 0
    for index in means.random(43, turn).permutation(len(rows)):
        # Twice as many as needed leave a choice of classes.
        if len(chosen) >= 2 * count or tried >= 10 * count + 20:
            break
        tried += 1
        label = -1 if means.labels is None else int(means.labels[index])
        if judge is not None:
            said = judge.ask(rows[index], means.accounts[0]).label
            if said < 0 or (label >= 0 and said != label):
                continue
            label = said
        chosen.append((turns.get(label, 0), int(index)))
        turns[label] = turns.get(label, 0) + 1
    chosen.sort(key=lambda entry: entry[0])
    return [np.ascontiguousarray(rows[index]) for _, index in chosen[:count]]


def near_of(means: Means, box: Box, judge: Oracle | None) -> float:
    """Half the median distance of an own row to its nearest neighbour of another class, in units of
    the box; of any other row, where the classes are not known."""
    rows = box.inside(means.own[:_MOST_ROWS])
    labels = _labels(means, judge)
    squares = (rows**2).sum(axis=1, dtype=np.float64)
    distances = squares[:, None] + squares - 2 * rows.astype(np.float64) @ rows.T
    same = np.eye(len(rows), dtype=bool) if labels is None else labels[:, None] == labels
    distances[same] = np.inf
    nearest = distances.min(axis=1)
    nearest = nearest[np.isfinite(nearest)]
    if not nearest.size:
        raise ValueError("all own rows are of one class: say the knob distance")
    return float(0.5 * np.sqrt(np.median(np.maximum(nearest, 0))))


def _labels(means: Means, judge: Oracle | None) -> Labels | None:
    if means.labels is not None:
        return np.asarray(means.labels[:_MOST_ROWS], np.int64)
    if judge is None:
        return None
    said: Sequence[int] = [
        judge.ask(row, means.accounts[0]).label for row in means.own[:_MOST_ROWS]
    ]
    return np.array(said, np.int64)
