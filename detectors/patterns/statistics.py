"""The statistics of a query against queries before it. Pure functions of distances and weights.

Each takes any leading shape, so that calibration evaluates thousands of streams at once with the
very function that serves.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats

FAR: Final = 1e18
"""A squared distance, in steps, that stands for "no such neighbour"."""
NEIGHBOUR: Final = 3
"""Which neighbour counts: with the nearest, an honest client that sends a row twice in slightly
different form would alarm."""
ANCHORS: Final = 4
"""Nearest entries from which lines are drawn."""
ROUNDING: Final = 4.0
"""Squared steps that fixed-point rounding may add to the distance from a line."""
DEGENERATE: Final = 1e-3
"""Two points that are this much closer to each other than to the third draw no line."""


def near(squared: Floats) -> Floats:
    """-log distance to the third nearest: steps towards a decision boundary are small.

    Args:
        squared: (…, n) squared distances, :data:`FAR` where there is no entry; n at least 3.
    """
    third = np.partition(squared, NEIGHBOUR - 1, axis=-1)[..., NEIGHBOUR - 1]
    value: Floats = -0.5 * np.log(third + 1.0)
    return value


def equal(agreement: Floats) -> Floats:
    """The third largest agreement: attacks that change few coordinates leave the others equal.

    Args:
        agreement: (…, n) sum of the weights of equal blocks; 0 where there is no entry.
    """
    value: Floats = np.partition(agreement, -NEIGHBOUR, axis=-1)[..., -NEIGHBOUR]
    return value


def segment(squared: Floats, anchors: npt.NDArray[Any], between: Floats) -> Floats:
    """-log of the sine-like distance to the nearest line through an anchor and another entry:
    attacks walk along lines.

    With a, b the squared distances of the query to the two and c that between them, the squared
    distance to their line is a - (a + c - b)^2 / 4c, relative to the smaller of a and b.

    Args:
        squared: (…, n) squared distances to every entry; :data:`FAR` where there is none.
        anchors: (…, 4) positions of the nearest entries.
        between: (…, 4, n) squared distances between anchors and entries.
    """
    a = np.take_along_axis(squared, anchors, axis=-1)[..., None]
    b = squared[..., None, :]
    nearest = np.minimum(a, b)
    valid = (
        (between > DEGENERATE * nearest)
        & (nearest > DEGENERATE * between)
        & (between > 0)
        & (np.maximum(a, b) < FAR)
    )
    c = np.where(valid, between, 1.0)
    along = a + c - b
    beside = np.maximum(np.where(valid, a - along * along / (4.0 * c), FAR), 0.0)
    ratio = np.where(valid, (beside + ROUNDING) / (nearest + ROUNDING), 1.0)
    value: Floats = -0.5 * np.log(ratio.min(axis=(-2, -1)))
    return value
