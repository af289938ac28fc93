"""Honest clients: what one asks in a day, in order.

Days are resampled from rows that neither fitted the firewall nor play any other part. A day of one
client never repeats a row but for retries; days of different clients share rows, so an interval
over days is conditional on those rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from loadtest.attacks.datasets import Part, Singles

DAY: Final = 1000
"""Distinct rows a day, or all that there are."""
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Day:
    """One client's day.

    Attributes:
        rows: (n, d) float32, in the order in which they are asked.
        sizes: rows of each request, in order; they add up to n.
    """

    rows: Singles
    sizes: Positions

    @classmethod
    def singly(cls, rows: Singles) -> Day:
        """Every row in a request of its own."""
        return cls(np.ascontiguousarray(rows), np.ones(len(rows), np.int64))


Make = Callable[[Part, np.random.Generator, tuple[int, int]], Day]


def mixed(part: Part, random: np.random.Generator, image: tuple[int, int]) -> Day:
    """Everything, as it comes."""
    return Day.singly(part.rows[random.permutation(len(part.rows))[:DAY]])


def skewed(part: Part, random: np.random.Generator, image: tuple[int, int]) -> Day:
    """Classes in the client's own proportions: Dirichlet, 0.3."""
    return Day.singly(part.rows[_by_class(part, random, 0.3)])


def one_class(part: Part, random: np.random.Generator, image: tuple[int, int]) -> Day:
    """One class only."""
    label = random.choice(np.unique(part.labels))
    inside = np.flatnonzero(part.labels == label)
    return Day.singly(part.rows[random.permutation(inside)[:DAY]])


def retries(part: Part, random: np.random.Generator, image: tuple[int, int]) -> Day:
    """A third of the requests is sent again, once to five times, now and among the next twenty."""
    rows = random.permutation(len(part.rows))[:DAY]
    when, what = [np.arange(rows.size, dtype=np.float64)], [rows]
    for _ in range(5):
        again = np.flatnonzero(random.random(rows.size) < 0.12)
        when.append(again + 20 * random.random(again.size) ** 2)
        what.append(rows[again])
    order = np.argsort(np.concatenate(when), kind="stable")
    return Day.singly(part.rows[np.concatenate(what)[order]])


def bursty(part: Part, random: np.random.Generator, image: tuple[int, int]) -> Day:
    """Sessions of 5 to 60 rows, mostly of one class each, in requests of up to 16 rows."""
    left = [
        list(random.permutation(np.flatnonzero(part.labels == k))) for k in np.unique(part.labels)
    ]
    chosen: list[int] = []
    most = min(DAY, len(part.rows))
    while len(chosen) < most:
        usual = random.integers(len(left))
        for _ in range(random.integers(5, 61)):
            label = usual if random.random() < 0.9 else random.integers(len(left))
            if left[label]:
                chosen.append(left[label].pop())
        if not left[usual]:
            del left[usual]
        if not left:
            break
    rows = part.rows[chosen[:most]]
    sizes: list[int] = []
    while sum(sizes) < len(rows):
        sizes.append(min(int(random.integers(1, 17)), len(rows) - sum(sizes)))
    return Day(np.ascontiguousarray(rows), np.array(sizes))


def drifting(part: Part, random: np.random.Generator, image: tuple[int, int]) -> Day:
    """Classes shift from one mixture to another over the day, and the instrument's gain by 3 %."""
    first, last = random.dirichlet(np.ones(len(np.unique(part.labels))), 2)
    most = min(DAY, len(part.rows)) // 2
    left = [
        list(random.permutation(np.flatnonzero(part.labels == k))) for k in np.unique(part.labels)
    ]
    chosen: list[int] = []
    for step in np.linspace(0, 1, most):
        weights = (1 - step) * first + step * last
        weights = weights * [bool(rows) for rows in left]
        if weights.sum() <= 0:
            break
        chosen.append(left[random.choice(len(left), p=weights / weights.sum())].pop())
    gain = np.linspace(1, 1 + random.choice([-0.03, 0.03]), len(chosen))[:, None]
    return Day.singly((part.rows[chosen] * gain).astype(np.float32))


def one_region(part: Part, random: np.random.Generator, image: tuple[int, int]) -> Day:
    """The quarter of all rows that lies nearest to one of them."""
    scale = np.maximum(part.rows.std(axis=0), 1e-6)
    centre = part.rows[random.integers(len(part.rows))]
    away = (((part.rows - centre) / scale) ** 2).sum(axis=1)
    inside = np.argsort(away)[: len(part.rows) // 4]
    return Day.singly(part.rows[random.permutation(inside)[:DAY]])


def frames(part: Part, random: np.random.Generator, image: tuple[int, int]) -> Day:
    """A camera: scenes of 20 to 60 frames of one image that drifts by parts of a pixel, with the
    sensor's noise."""
    rows: list[Singles] = []
    scenes = random.permutation(len(part.rows))
    for scene in scenes:
        shift = np.zeros(2)
        for _ in range(random.integers(20, 61)):
            shift = np.clip(shift + random.normal(0, 0.1, 2), -1, 1)
            rows.append(_frame(part.rows[scene], shift, random, image))
        if len(rows) >= DAY:
            break
    return Day.singly(np.array(rows[:DAY]))


def exploration(part: Part, random: np.random.Generator, image: tuple[int, int]) -> Day:
    """What if: a row of one's own with one feature moved over the values that others have, ten
    steps a feature, three features a row."""
    rows: list[Singles] = []
    for base in random.permutation(len(part.rows)):
        for feature in random.choice(part.rows.shape[1], 3, replace=False):
            values = np.quantile(part.rows[:, feature], np.linspace(0.05, 0.95, 10))
            rows.extend(_moved(part.rows[base], int(feature), value) for value in values)
        if len(rows) >= DAY:
            break
    return Day.singly(np.array(rows[:DAY]))


KINDS: Final[dict[str, Make]] = {
    "mixed": mixed,
    "skewed": skewed,
    "one class": one_class,
    "retries": retries,
    "bursty": bursty,
    "drifting": drifting,
    "one region": one_region,
}
STRESSORS: Final[dict[str, Make]] = {"frames": frames, "exploration": exploration}
"""Honest, and yet what an attack looks like: a profile of the same name is made for each."""


def stressed(kind: str, part: Part, random: np.random.Generator, image: tuple[int, int]) -> Part:
    """What an endpoint of a stressor is fitted on: one such row from each row of the part."""
    if kind == "frames":
        shifts = random.normal(0, 0.3, (len(part.rows), 2)).clip(-1, 1)
        rows = [
            _frame(row, shift, random, image) for row, shift in zip(part.rows, shifts, strict=True)
        ]
    else:
        features = random.integers(part.rows.shape[1], size=len(part.rows))
        steps = np.linspace(0.05, 0.95, 10)[random.integers(10, size=len(part.rows))]
        rows = [
            _moved(row, int(feature), np.quantile(part.rows[:, feature], step))
            for row, feature, step in zip(part.rows, features, steps, strict=True)
        ]
    kept = np.sort(np.unique(np.array(rows), axis=0, return_index=True)[1])
    return Part(np.ascontiguousarray(np.array(rows)[kept]), part.labels[kept])


def shares(part: Part, clients: int, random: np.random.Generator) -> list[Singles]:
    """The rows cut among clients that share none, for what looks at several clients at once."""
    order = random.permutation(len(part.rows))
    return [np.ascontiguousarray(part.rows[piece]) for piece in np.array_split(order, clients)]


def _by_class(part: Part, random: np.random.Generator, concentration: float) -> Positions:
    labels = np.unique(part.labels)
    weights = random.dirichlet(np.full(labels.size, concentration))
    # Keys of weighted sampling without replacement (Efraimidis and Spirakis 2006).
    chance = np.maximum(weights[np.searchsorted(labels, part.labels)], 1e-12)
    keys = np.log(random.random(part.labels.size)) / chance
    most = min(DAY, len(part.rows) // 2)
    chosen: Positions = random.permutation(np.argsort(-keys)[:most])
    return chosen


def _frame(
    row: Singles,
    shift: npt.NDArray[np.float64],
    random: np.random.Generator,
    image: tuple[int, int],
) -> Singles:
    frame = _shifted(row.reshape(image), shift) + random.normal(0, 0.01, image)
    return np.clip(frame, 0, 1).astype(np.float32).ravel()


def _moved(row: Singles, feature: int, value: float) -> Singles:
    moved = row.copy()
    moved[feature] = value
    return moved


def _shifted(picture: Singles, shift: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The picture moved by less than a pixel each way, by bilinear interpolation; dark outside."""
    padded = np.pad(picture.astype(np.float64), 1)
    down, right = np.abs(shift)
    rows = np.roll(padded, int(np.sign(shift[0])), axis=0)
    padded = (1 - down) * padded + down * rows
    columns = np.roll(padded, int(np.sign(shift[1])), axis=1)
    padded = (1 - right) * padded + right * columns
    moved: npt.NDArray[np.float64] = padded[1:-1, 1:-1]
    return moved
