"""How an image's edges run: a view that survives what fools a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from detectors.agreement.space import CHUNK_ELEMENTS, Space
from detectors.arrays import Floats, Singles, check_rows, frozen, real, whole
from detectors.base import Rows

DIRECTIONS = 8
SIDE_CAP = 2048


@dataclass(frozen=True, eq=False, slots=True)
class Gradients(Space):
    """Principal components of a histogram of oriented gradients (Dalal and Triggs 2005).

    Channels are averaged. Each pixel's gradient, as far as it is longer than ``floor``, is shared
    among eight directions by the square of the cosine and summed over overlapping cells; the
    histogram is scaled to sum to 1 and its square root taken. A perturbation that is bounded at
    each pixel makes many short gradients, which the floor leaves out.

    Attributes:
        weights: (r, k) float32, of the k cells and directions.
        offset: (r,) float64.
        height, width, channels: of an image; d is their product.
        channels_first: 1 if a row holds one channel after the other, 0 if one pixel.
        cell_height, cell_width: of a cell in pixels; cells begin half a cell apart.
        unit: above 0: the range of the pixels' values.
        floor: length, in units, of gradients that count for nothing.
    """

    name: ClassVar[str] = "gradients"

    height: int
    width: int
    channels: int
    channels_first: int
    cell_height: int
    cell_width: int
    unit: float
    floor: float
    _down: Floats = field(init=False, repr=False)
    _across: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        whole(self.height, "height", 2, SIDE_CAP)
        whole(self.width, "width", 2, SIDE_CAP)
        whole(self.channels, "channels", 1, 64)
        whole(self.channels_first, "channels_first", 0, 1)
        whole(self.cell_height, "cell_height", 1, self.height)
        whole(self.cell_width, "cell_width", 1, self.width)
        object.__setattr__(self, "unit", real(self.unit, "unit", low=1e-30, high=1e30))
        object.__setattr__(self, "floor", real(self.floor, "floor", low=0.0, high=10.0))
        Space.__post_init__(self)
        starts = [
            len(window_starts(*side))
            for side in ((self.height, self.cell_height), (self.width, self.cell_width))
        ]
        if self.weights.shape[1] != starts[0] * starts[1] * DIRECTIONS:
            raise ValueError(f"{self.weights.shape[1]} weights do not fit the cells")
        down = window_means(self.height, self.cell_height)
        across = window_means(self.width, self.cell_width)
        object.__setattr__(self, "_down", frozen(down, np.float64, down.shape))
        object.__setattr__(self, "_across", frozen(across, np.float64, across.shape))

    @property
    def features(self) -> int:
        """d: the number of features of a row."""
        return self.height * self.width * self.channels

    def apply(self, rows: Rows) -> Floats:
        """(n, d) float32 to (n, r).

        Raises:
            ValueError: if ``rows`` is not (n, d) float32.
        """
        check_rows(rows, self.features)
        found = np.empty((len(rows), self.rank))
        chunk = max(1, CHUNK_ELEMENTS // (self.height * self.width * DIRECTIONS))
        with np.errstate(all="ignore"):
            for start in range(0, len(rows), chunk):
                found[start : start + chunk] = self._project(
                    self.histograms(rows[start : start + chunk])
                )
        return found

    def histograms(self, rows: Rows) -> Floats:
        """(n, d) float32 to (n, k)."""
        return histograms(
            grey(rows, (self.height, self.width, self.channels), bool(self.channels_first)),
            self._down,
            self._across,
            unit=self.unit,
            floor=self.floor,
        )


def grey(rows: Singles, shape: tuple[int, int, int], channels_first: bool) -> Floats:
    """(n, d) rows to (n, height, width): the mean of the channels."""
    height, width, channels = shape
    if channels == 1:
        return rows.reshape(len(rows), height, width).astype(np.float64)
    if channels_first:
        planes = rows.reshape(len(rows), channels, height, width)
        return np.asarray(planes.mean(axis=1, dtype=np.float64))
    pixels = rows.reshape(len(rows), height, width, channels)
    return np.asarray(pixels.mean(axis=3, dtype=np.float64))


def histograms(
    images: Floats, down: Floats, across: Floats, *, unit: float, floor: float
) -> Floats:
    """(n, height, width) to (n, k): square roots of shares that sum to 1.

    Args:
        down, across: the cells, from :func:`window_means`.
    """
    count, height, width = images.shape
    padded = np.empty((count, height + 2, width + 2))
    padded[:, 1:-1, 1:-1] = images
    padded[:, 0], padded[:, -1] = padded[:, 1], padded[:, -2]
    padded[:, :, 0], padded[:, :, -1] = padded[:, :, 1], padded[:, :, -2]
    gradients = np.empty((count, height, width, 2))
    np.subtract(padded[:, 1:-1, 2:], padded[:, 1:-1, :-2], out=gradients[..., 0])
    np.subtract(padded[:, 2:, 1:-1], padded[:, :-2, 1:-1], out=gradients[..., 1])
    squared = np.einsum("nhwg,nhwg->nhw", gradients, gradients)
    squared += (1e-9 * unit) ** 2
    length = np.sqrt(squared)
    length -= floor * unit
    np.maximum(length, 0.0, out=length)
    length /= squared
    shares = gradients @ _COMPASS
    np.maximum(shares, 0.0, out=shares)
    np.square(shares, out=shares)
    shares *= length[..., None]
    pooled = down @ shares.reshape(count, height, width * DIRECTIONS)
    cells = across @ pooled.reshape(count, len(down), width, DIRECTIONS)
    flat: Floats = cells.reshape(count, -1)
    flat /= flat.sum(axis=1, keepdims=True) + 1e-6 * unit
    np.sqrt(flat, out=flat)
    return flat


def window_starts(length: int, cell: int) -> range:
    """Where the windows of a side begin: half a cell apart."""
    return range(0, length - cell + 1, max(1, cell // 2))


def window_means(length: int, cell: int) -> Floats:
    """(cells, length): the mean over each of the windows."""
    starts = window_starts(length, cell)
    weights = np.zeros((len(starts), length))
    for place, start in enumerate(starts):
        weights[place, start : start + cell] = 1.0 / cell
    return weights


_ANGLES = np.arange(DIRECTIONS) * (2.0 * np.pi / DIRECTIONS)
_COMPASS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])
