"""Fits a detector's tail on split A."""

from __future__ import annotations

from typing import Final

import numpy as np

from detectors.arrays import Floats
from detectors.calibration import Tail

TAIL_SHARE: Final = 0.1
"""Above A's 90th percentile the generalised Pareto tail takes over from counting."""
KNOTS: Final = 64
SHAPE_RANGE: Final = (0.05, 0.9)
_SPACING: Final = 1e-4  # of the spread of A: rounding of a score is not blown up to evidence


def fit_tail(scores: Floats) -> Tail:
    """The tail of a detector from its (n,) scores on split A.

    The shape is estimated by probability-weighted moments (Hosking and Wallis 1987) and kept
    positive, so that evidence has no bound that scores could pile up at.
    """
    ordered = np.sort(scores)
    count = ordered.size
    start = float(np.quantile(ordered, 1.0 - TAIL_SHARE))
    spread = float(ordered[-1] - ordered[0]) or max(abs(float(ordered[0])), 1.0)
    levels = np.unique(np.quantile(ordered, np.linspace(0.0, 1.0 - TAIL_SHARE, KNOTS)))
    knots = [float(levels[-1])]
    for level in levels[-2::-1]:  # from the tail inwards: the last knot stays where it is
        if knots[-1] - level >= _SPACING * spread:
            knots.append(float(level))
    rising = np.array(knots[::-1])
    at_least = count - np.searchsorted(ordered, rising, side="left")
    evidence = -np.log((1.0 + at_least) / (count + 1.0))
    # The tail begins at its nominal mass, wherever ties put the empirical count.
    evidence[-1] = max(evidence[-1], -np.log(TAIL_SHARE)) if rising.size > 1 else evidence[-1]
    shape, scale = _generalised_pareto(ordered[ordered > start] - start)
    return Tail(rising, np.maximum.accumulate(evidence), shape, max(scale, _SPACING * spread))


def _generalised_pareto(excess: Floats) -> tuple[float, float]:
    """Shape and scale from rising excesses over the tail's start."""
    count = excess.size
    if count == 0:
        return SHAPE_RANGE[1], 0.0
    mean = float(excess.mean())
    if count < 2 or mean <= 0.0:
        return SHAPE_RANGE[1], mean
    weighted = float((excess * (count - 1.0 - np.arange(count))).mean() / (count - 1.0))
    shape = 2.0 - mean / (mean - 2.0 * weighted) if mean > 2.0 * weighted else SHAPE_RANGE[1]
    shape = float(np.clip(shape, *SHAPE_RANGE))
    return shape, mean * (1.0 - shape)
