"""Second opinions: the model is asked again about copies that an honest answer survives."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from detectors.agreement.base import Answers, Need
from detectors.agreement.witness import check_labels
from detectors.arrays import Floats, Singles, check_rows, frozen, real, whole
from detectors.base import Rows, Scores

FEATURE_CAP = 1 << 16


@dataclass(frozen=True, eq=False, slots=True)
class FeatureSqueezing:
    """Copies in fewer shades and, of images, under a median filter (Xu et al. 2018, 1704.01155).

    The first copy is rounded to ``levels`` steps between the training rows' extremes of each
    feature. Rows of a known image shape get a second one: the median over 2 by 2 neighbours.
    Score: the largest L1 distance between the probabilities of the row and of a copy.

    Attributes:
        low, high: (d,) float32 extremes of each feature.
        levels: steps, from 1 (two shades) on.
        height, width: of an image, d = height * width * channels; 0 and 0: not an image.
        channels_first: 1 if a row holds one channel after the other, 0 if one pixel.
    """

    name = "feature_squeezing"

    low: Singles
    high: Singles
    levels: int
    height: int
    width: int
    channels_first: int

    def __post_init__(self) -> None:
        low = frozen(self.low, np.float32, (None,))
        whole(low.size, "features", 1, FEATURE_CAP)
        high = frozen(self.high, np.float32, (low.size,))
        if not bool((high >= low).all()):
            raise ValueError("a feature's highest value lies below its lowest")
        whole(self.levels, "levels", 1, 1 << 16)
        whole(self.height, "height", 0, FEATURE_CAP)
        whole(self.width, "width", 0, FEATURE_CAP)
        whole(self.channels_first, "channels_first", 0, 1)
        pixels = self.height * self.width
        if (self.height == 0) != (self.width == 0) or (pixels and low.size % pixels):
            raise ValueError("the image's shape does not fit the features")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @property
    def features(self) -> int:
        """d: the number of features of a row."""
        return self.low.size

    @property
    def needs(self) -> Need:
        """Scores of all classes."""
        return "probabilities"

    @property
    def copies(self) -> int:
        """v: one, of an image two."""
        return 2 if self.height else 1

    def views(self, rows: Rows) -> Rows:
        """(n, d) to (n * v, d) float32.

        Raises:
            ValueError: if ``rows`` is not (n, d) float32.
        """
        check_rows(rows, self.features)
        found = np.empty((len(rows), self.copies, self.features), np.float32)
        low, span = self.low.astype(np.float64), (self.high.astype(np.float64) - self.low)
        step = np.where(span > 0, span / self.levels, 1.0)
        with np.errstate(all="ignore"):
            shades = np.rint((rows - low) / step) * step + low
            found[:, 0] = np.clip(shades, self.low, self.high)
        if self.height:
            channels = self.features // (self.height * self.width)
            outer, inner = (channels, 1) if self.channels_first else (1, channels)
            images = rows.reshape(len(rows) * outer, self.height, self.width, inner)
            padded = np.pad(images, ((0, 0), (1, 0), (1, 0), (0, 0)), mode="edge")
            four = np.stack(
                [padded[:, 1:, 1:], padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, :-1, :-1]]
            )
            four.sort(axis=0)  # of four values the median is the mean of the middle two
            middle = four[1] * np.float32(0.5) + four[2] * np.float32(0.5)
            found[:, 1] = middle.reshape(rows.shape)
        return found.reshape(-1, self.features)

    def score(self, answers: Answers, again: Answers) -> Scores:
        """The n answers and the n * v answers to the views, to (n,), high = suspicious.

        Raises:
            ValueError: if the answers do not fit each other.
        """
        first, copies = _probabilities(answers, again, self.copies)
        found: Scores = np.abs(copies - first[:, None]).sum(axis=2).max(axis=1)
        return found


@dataclass(frozen=True, eq=False, slots=True)
class NoiseConsistency:
    """Copies with fixed noise: what was pushed just over a boundary falls back.

    Score: the label's log-odds against the best other class, averaged over the copies, fallen
    short of 0 counting as suspicious: -mean log-odds. After Hu et al. (2019, 1910.07629) and Roth
    et al. (2019, 1902.04818), with the noise drawn once.

    Attributes:
        noise: (v, d) float32, in the rows' units.
        low, high: (d,) float32: where copies are clipped to.
        floor: log-probability below which a class counts as excluded.
    """

    name = "noise_consistency"

    noise: Singles
    low: Singles
    high: Singles
    floor: float = field(default=-12.0)

    def __post_init__(self) -> None:
        noise = frozen(self.noise, np.float32, (None, None))
        whole(len(noise), "copies", 1, 64)
        whole(noise.shape[1], "features", 1, FEATURE_CAP)
        low = frozen(self.low, np.float32, (noise.shape[1],))
        high = frozen(self.high, np.float32, (noise.shape[1],))
        if not bool((high >= low).all()):
            raise ValueError("a feature's highest value lies below its lowest")
        object.__setattr__(self, "noise", noise)
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)
        object.__setattr__(self, "floor", real(self.floor, "floor", low=-100.0, high=-1.0))

    @property
    def features(self) -> int:
        """d: the number of features of a row."""
        return int(self.noise.shape[1])

    @property
    def needs(self) -> Need:
        """Scores of all classes."""
        return "probabilities"

    @property
    def copies(self) -> int:
        """v."""
        return len(self.noise)

    def views(self, rows: Rows) -> Rows:
        """(n, d) to (n * v, d) float32.

        Raises:
            ValueError: if ``rows`` is not (n, d) float32.
        """
        check_rows(rows, self.features)
        with np.errstate(all="ignore"):
            found: Singles = np.clip(rows[:, None] + self.noise, self.low, self.high)
        return found.reshape(-1, self.features)

    def score(self, answers: Answers, again: Answers) -> Scores:
        """The n answers and the n * v answers to the views, to (n,), high = suspicious.

        Raises:
            ValueError: if the answers do not fit each other.
        """
        first, copies = _probabilities(answers, again, self.copies)
        assert answers.labels is not None
        with np.errstate(all="ignore"):
            logs = np.maximum(np.log(copies), self.floor)
            places = answers.labels[:, None, None]
            said = np.take_along_axis(logs, places, axis=2)[..., 0]
            np.put_along_axis(logs, places, -np.inf, axis=2)
            found: Scores = (logs.max(axis=2) - said).mean(axis=1)
            found += 0.0 * (first.sum(axis=1) + copies.sum(axis=(1, 2)))
        return found


def _probabilities(answers: Answers, again: Answers, copies: int) -> tuple[Floats, Floats]:
    """(n, C) probabilities, and (n, v, C) of the copies.

    Raises:
        ValueError: if either is missing, or they do not fit each other.
    """
    first, other = answers.probabilities, again.probabilities
    if first is None or other is None:
        raise ValueError("the answers have no probabilities")
    if first.ndim != 2 or other.shape != (len(first) * copies, first.shape[1]):
        raise ValueError(f"{other.shape} answers to {copies} copies each of {first.shape}")
    check_labels(answers, len(first), first.shape[1])
    return first, other.reshape(len(first), copies, first.shape[1])
