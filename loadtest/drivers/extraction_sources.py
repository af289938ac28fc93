"""Rows of another distribution than the model's, for thieves that have none of its own kind.

Pictures: patches of the two photographs that come with scikit-learn, or, made here, dead leaves and
noise of a natural spectrum, from which vision models learn nearly as from photographs (Baradad et
al., "Learning to See by Looking at Noise", NeurIPS 2021). Tables: rows of the tables that come with
scikit-learn, each of their columns brought to the values of one of the model's features.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from loadtest.drivers.base import Means
from loadtest.targets.base import Rows

Doubles = npt.NDArray[np.float64]

SCALES: Final = (0.5, 0.2, 0.1)
"""Sides of a patch, of the photograph's smaller one."""
ASSIGNMENTS: Final = 4
"""Ways in which the columns of one table are taken for the model's features."""
LEAVES: Final = 12


class Source(Protocol):
    """Where rows come from.

    Attributes:
        name: for the report.
        arms: how many kinds of rows there are to choose from.
    """

    name: str
    arms: int

    def draw(self, arms: npt.NDArray[np.int64], random: np.random.Generator) -> Rows:
        """(n, d) rows in the box, one of each of the (n,) kinds named, from 0."""


def natural(means: Means) -> Source:
    """Photographs for pictures, tables for tables.

    Raises:
        ValueError: if the package that they come with is not installed.
    """
    return Photographs(means) if means.image else Tables(means)


class Photographs:
    """Patches of photographs: kinds are a photograph, a quarter of it, and a scale."""

    name = "photographs"

    def __init__(self, means: Means) -> None:
        self._frame = Frame(means)
        pictures = _photographs()
        self._quarters = [
            picture[top : top + picture.shape[0] // 2, left : left + picture.shape[1] // 2]
            for picture in pictures
            for top in (0, picture.shape[0] // 2)
            for left in (0, picture.shape[1] // 2)
        ]
        self.arms = len(self._quarters) * len(SCALES)

    def draw(self, arms: npt.NDArray[np.int64], random: np.random.Generator) -> Rows:
        """See :class:`Source`."""
        return self._frame.rows([self._patch(int(arm), random) for arm in arms])

    def _patch(self, arm: int, random: np.random.Generator) -> Doubles:
        quarter = self._quarters[arm // len(SCALES)]
        side = max(2, round(SCALES[arm % len(SCALES)] * 0.9 * min(quarter.shape)))
        top = random.integers(quarter.shape[0] - side + 1)
        left = random.integers(quarter.shape[1] - side + 1)
        patch = resized(quarter[top : top + side, left : left + side], self._frame.shape)
        # Darker, lighter, negative: pictures of all kinds of contrast say more than grey ones.
        patch = _stretched(patch) ** np.exp(random.uniform(-0.7, 1.6))
        return np.asarray(1 - patch if random.random() < 0.5 else patch, np.float64)


class Generated:
    """Pictures that are made: dead leaves, and noise whose amplitude falls with frequency."""

    name = "generated pictures"
    arms = 2

    def __init__(self, means: Means) -> None:
        self._frame = Frame(means)

    def draw(self, arms: npt.NDArray[np.int64], random: np.random.Generator) -> Rows:
        """See :class:`Source`."""
        made = (_pink, _leaves)
        return self._frame.rows([made[int(arm)](self._frame.shape, random) for arm in arms])


class Tables:
    """Rows of other tables: kinds are a table, and which of its columns stands for a feature. Each
    value is replaced by the one of the same rank among the thief's own values of that feature, so
    that features keep their ranges, and what relates them is another table's."""

    name = "other tables"

    def __init__(self, means: Means) -> None:
        features = means.low.size
        self._own = np.sort(means.own, axis=0)
        self._low, self._high = means.low, means.high
        random = means.random(*b"tables")
        tables = _tables()
        self._kinds = [
            (table, random.integers(table.shape[1], size=features), random.random(features) < 0.5)
            for table in tables
            for _ in range(ASSIGNMENTS)
        ]
        self.arms = len(self._kinds)

    def draw(self, arms: npt.NDArray[np.int64], random: np.random.Generator) -> Rows:
        """See :class:`Source`."""
        rows = np.empty((len(arms), self._low.size), np.float32)
        for row, arm in zip(rows, arms, strict=True):
            table, columns, turned = self._kinds[int(arm)]
            # Between two rows of the table: there are more rows to ask than it has.
            left, right = table[random.integers(len(table), size=2)]
            ranks = (left + random.uniform(0, 0.3) * (right - left))[columns]
            ranks = np.where(turned, 1 - ranks, ranks)
            place = np.rint(ranks * (len(self._own) - 1)).astype(np.int64)
            row[:] = self._own[place, np.arange(row.size)]
        return np.clip(rows, self._low, self._high)


class Frame:
    """Makes rows of pictures: grey in every channel, stretched over the box.

    Raises:
        ValueError: if the picture's size does not divide the row's.
    """

    def __init__(self, means: Means) -> None:
        if means.image is None:
            raise ValueError("rows are not pictures: the data has no image size")
        height, width = means.image
        features = means.low.size
        if features % (height * width):
            raise ValueError(f"a row of {features} is no picture of {height} by {width}")
        self.shape = (height, width)
        self._channels = features // (height * width)
        self._low, self._span = means.low, means.high - means.low

    def rows(self, pictures: list[Doubles]) -> Rows:
        """(n, d) float32."""
        flat = np.array([_stretched(picture) for picture in pictures])
        flat = flat.reshape(len(pictures), self.shape[0] * self.shape[1])
        grey = np.repeat(flat, self._channels, axis=1).astype(np.float32)
        return np.ascontiguousarray(self._low + grey * self._span, np.float32)


def resized(picture: Doubles, shape: tuple[int, int]) -> Doubles:
    """Down by means of areas, up by repetition."""
    for axis in (0, 1):
        edges = np.linspace(0, picture.shape[axis], shape[axis] + 1)
        begins = np.minimum(edges[:-1].astype(np.int64), picture.shape[axis] - 1)
        ends = np.maximum(edges[1:].astype(np.int64), begins + 1)
        sums = np.cumsum(picture, axis=axis)
        sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis=axis)
        total = sums.take(ends, axis) - sums.take(begins, axis)
        counts = (ends - begins).reshape((-1, 1) if axis == 0 else (1, -1))
        picture = total / counts
    return picture


def _stretched(picture: Doubles) -> Doubles:
    low, high = float(picture.min()), float(picture.max())
    return (picture - low) / (high - low if high > low else 1.0)


def _pink(shape: tuple[int, int], random: np.random.Generator) -> Doubles:
    down = np.fft.fftfreq(shape[0])[:, None]
    along = np.fft.fftfreq(shape[1])
    distance = np.hypot(down, along)
    distance[0, 0] = np.inf
    spectrum = np.fft.fft2(random.standard_normal(shape)) / distance ** random.uniform(0.5, 2)
    return np.asarray(np.fft.ifft2(spectrum).real, np.float64)


def _leaves(shape: tuple[int, int], random: np.random.Generator) -> Doubles:
    picture = np.full(shape, random.random())
    down, along = np.mgrid[: shape[0], : shape[1]]
    for _ in range(LEAVES):
        # Radii as natural scenes have them: many small, few large.
        radius = min(shape) / 2 * random.uniform(0.15, 1) ** 2 + 0.5
        squeeze = random.uniform(0.5, 2)
        top, left = random.uniform(0, shape[0]), random.uniform(0, shape[1])
        inside = ((down - top) * squeeze) ** 2 + ((along - left) / squeeze) ** 2 < radius**2
        picture[inside] = random.random()
    return picture


@lru_cache(maxsize=1)
def _photographs() -> tuple[Doubles, ...]:
    try:
        from sklearn.datasets import load_sample_images  # noqa: PLC0415 - an extra, and slow

        pictures = load_sample_images().images
    except ImportError as missing:
        raise ValueError(f"the photographs need scikit-learn and Pillow: {missing}") from None
    return tuple(np.asarray(picture, np.float64).mean(axis=2) for picture in pictures)


@lru_cache(maxsize=1)
def _tables() -> tuple[Doubles, ...]:
    """Each with its values as ranks from 0 to 1, column by column."""
    try:
        from sklearn import datasets  # noqa: PLC0415 - an extra, and slow
    except ImportError as missing:
        raise ValueError(f"the other tables need scikit-learn: {missing}") from None
    read = (datasets.load_breast_cancer, datasets.load_wine, datasets.load_diabetes)
    return tuple(_ranks(np.asarray(load(return_X_y=True)[0], np.float64)) for load in read)


def _ranks(table: Any) -> Doubles:
    ordered = np.sort(table, axis=0)
    columns = [
        np.searchsorted(ordered[:, column], table[:, column]) for column in range(table.shape[1])
    ]
    return np.asarray(np.stack(columns, axis=1) / (len(table) - 1), np.float64)
