"""The labelled rows that witnesses learn from, and the views of them."""

from __future__ import annotations

from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from detectors.agreement.base import Labels
from detectors.agreement.gradients import Gradients, grey, histograms, window_means
from detectors.agreement.space import CHUNK_ELEMENTS, Space
from detectors.arrays import Floats, Singles
from detectors.training.estimators import feature_scale

RANK_CAP: Final = 64
HELD_OUT: Final = 0.25
"""Of the training rows, for the temperature of the witnesses."""
MIN_ROWS: Final = 20
EDGE_FLOOR: Final = 0.3
"""Gradients up to this share of the pixels' range do not count."""
CELLS: Final = 4
"""An image's side in cells that do not overlap."""
NOISY_COPIES: Final = 2
NOISY_ELEMENTS: Final = 1 << 25
"""Values of a noisy copy, at most: what the fit holds in memory beside the rows."""
SAMPLE: Final = 1500
"""Rows that the components of wider rows than this are taken from."""
NOISE: Final = 0.3
"""Of the pixels' range: the largest deviation of a noisy copy."""


class Shape(NamedTuple):
    """Of an image."""

    height: int
    width: int
    channels: int
    channels_first: bool


class Lesson:
    """Labelled rows to learn from, and what several kinds need of them.

    Attributes:
        rows: (n, d) float32.
        labels: (n,) int64.
        classes: C.
        shape: of an image, or None.
        seed: of everything drawn at random.
    """

    def __init__(
        self,
        rows: Singles,
        labels: Labels,
        classes: int,
        row_shape: tuple[int, ...] | None,
        seed: int,
    ) -> None:
        if len(rows) < MIN_ROWS or labels.shape != (len(rows),):
            raise ValueError(f"{len(rows)} rows and {labels.shape} labels to learn from")
        if int(labels.min()) < 0 or int(labels.max()) >= classes or classes < 2:
            raise ValueError(f"a label is not one of the {classes} classes")
        self.rows, self.labels, self.classes, self.seed = rows, labels, classes, seed
        self.shape = image_shape(row_shape, rows.shape[1])

    @cached_property
    def space(self) -> Space:
        """Principal components of the rows, shared by the witnesses."""
        return fit_space(self.rows, image=self.shape is not None)

    @cached_property
    def seen(self) -> Floats:
        """(n, r): the rows in the space."""
        return self.space.apply(self.rows)

    @cached_property
    def gradients(self) -> Gradients | None:
        """How the images' edges run; None if the rows are no images, or show no edges."""
        return None if self.shape is None else fit_gradients(self.rows, self.shape)

    @property
    def complete(self) -> bool:
        """Whether the space has as many components as a row has features."""
        features: int = self.rows.shape[1]
        return min(RANK_CAP, len(self.rows) - 1) >= features

    def noisy(self) -> list[Singles]:
        """Disturbed copies of the first rows: as many as stay within :data:`NOISY_ELEMENTS`."""
        rng = np.random.default_rng((self.seed, 1))
        rows = self.rows[: max(500, NOISY_ELEMENTS // self.rows.shape[1])]
        low, high = rows.min(axis=0), rows.max(axis=0)
        unit = np.float32(pixel_range(rows))
        copies = []
        for _ in range(NOISY_COPIES):
            spread = rng.uniform(0.0, NOISE, (len(rows), 1)).astype(np.float32)
            noise = rng.standard_normal(rows.shape, np.float32)
            copies.append(np.clip(rows + unit * spread * noise, low, high))
        return copies

    @cached_property
    def held(self) -> npt.NDArray[np.bool_]:
        """(n,) True for rows that are held out to find temperatures with."""
        rng = np.random.default_rng(self.seed)
        return rng.random(len(self.rows)) < HELD_OUT

    @cached_property
    def one_hot(self) -> Floats:
        """(n, C): 1 for the label's class, -1 for the others."""
        targets = -np.ones((len(self.rows), self.classes))
        targets[np.arange(len(self.rows)), self.labels] = 1.0
        return targets


def image_shape(row_shape: tuple[int, ...] | None, features: int) -> Shape | None:
    """What image a row is: (height, width) or with up to four channels, first or last; or None.

    Raises:
        ValueError: if the shape does not hold the features.
    """
    if row_shape is None:
        return None
    if int(np.prod(row_shape)) != features:
        raise ValueError(f"rows of shape {row_shape} do not have {features} features")
    if len(row_shape) == 2 and min(row_shape) > CELLS:
        return Shape(row_shape[0], row_shape[1], 1, channels_first=False)
    if len(row_shape) == 3 and row_shape[2] <= CELLS < min(row_shape[:2]):
        return Shape(*row_shape, channels_first=False)
    if len(row_shape) == 3 and row_shape[0] <= CELLS < min(row_shape[1:]):
        return Shape(row_shape[1], row_shape[2], row_shape[0], channels_first=True)
    return None


def fit_space(rows: Singles, *, image: bool) -> Space:
    """Leading principal components; features are scaled to one unit each but for an image's."""
    wide = rows.astype(np.float64)
    mean = wide.mean(axis=0)
    deviation = feature_scale(wide)
    if image:
        deviation = np.full(wide.shape[1], float(np.sqrt(wide.var(axis=0).mean())))
    weights = (components((wide - mean) / deviation) / deviation).astype(np.float32)
    return Space(weights, -(weights.astype(np.float64) @ mean))


def fit_gradients(rows: Singles, shape: Shape) -> Gradients | None:
    """Principal components of the histograms of (n, d) images; None if these do not differ."""
    unit = pixel_range(rows)
    sides = [max(3, round(side / CELLS)) for side in (shape.height, shape.width)]
    cells = [window_means(n, side) for n, side in zip(shape[:2], sides, strict=True)]
    chunk = max(1, CHUNK_ELEMENTS // (shape.height * shape.width))
    parts = [
        histograms(
            grey(rows[start : start + chunk], shape[:3], shape.channels_first),
            *cells,
            unit=unit,
            floor=EDGE_FLOOR,
        )
        for start in range(0, len(rows), chunk)
    ]
    found = np.concatenate(parts)
    mean = found.mean(axis=0)
    variance = float(found.var(axis=0).mean())
    if not variance > 1e-12:
        return None
    basis = components(found - mean) / np.sqrt(variance)
    weights = basis.astype(np.float32)
    return Gradients(
        weights,
        -(weights.astype(np.float64) @ mean),
        height=shape.height,
        width=shape.width,
        channels=shape.channels,
        channels_first=int(shape.channels_first),
        cell_height=sides[0],
        cell_width=sides[1],
        unit=unit,
        floor=EDGE_FLOOR,
    )


def pixel_range(rows: Singles) -> float:
    """The range of nearly all values of (n, d) images, above 0."""
    low, high = np.quantile(rows[:: max(1, len(rows) // 2000)], [0.001, 0.999])
    found = float(high) - float(low)
    return found if found > 0 else 1.0


def components(centred: Floats) -> Floats:
    """(r, d): the leading principal components of centred rows, by falling variance."""
    count, features = centred.shape
    rank = min(RANK_CAP, features, count - 1)
    if features <= SAMPLE:
        values, vectors = np.linalg.eigh(centred.T @ centred)
        leading: Floats = vectors[:, np.argsort(values)[::-1][:rank]].T
        return leading
    part = centred[:: -(-count // SAMPLE)]  # the smaller of the two Gram matrices
    values, vectors = np.linalg.eigh(part @ part.T)
    order = np.argsort(values)[::-1][: min(rank, len(part) - 1)]
    order = order[values[order] > 1e-12 * values[order[0]]]  # less is rounding
    basis: Floats = (vectors[:, order] / np.sqrt(values[order])).T @ part
    return basis
