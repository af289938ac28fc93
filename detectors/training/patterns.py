"""Fits the patterns on honest rows: the space, the regimes, and the tables of p-values."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats, Singles
from detectors.patterns.model import PatternModel
from detectors.training.pattern_space import Seed, Space, fit_space
from detectors.training.pattern_tables import calibrate

MIN_SPACE: Final = 100
MIN_STREAM: Final = 300
STREAM_CAP: Final = 2500
"""Rows of which streams are made: their distances to each other fill a table."""
SPACE_CAP: Final = 20_000


class PatternRowsError(ValueError):
    """The rows are too few for the patterns.

    Attributes:
        have: rows for calibration.
        need: how many it would take.
    """

    def __init__(self, have: int, need: int, budget: float) -> None:
        super().__init__(
            f"a client alarm budget of {budget:g} takes {need} distinct rows to calibrate client "
            f"patterns on, that were used for nothing else; there are {have}"
        )
        self.have = have
        self.need = need


def rows_needed(budget: float) -> int:
    """Distinct calibration rows that support a budget of alarms a client-day.

    An oddity that n rows do not show may still occur in 3/n of all (the rule of three). An alarm
    takes several odd queries together, so tables are trusted if that is no more than ten budgets.
    """
    if not 0 < budget < 1:
        raise ValueError(f"a budget lies strictly between 0 and 1, not {budget!r}")
    return max(MIN_STREAM, math.ceil(0.3 / budget))


def fit_patterns(
    space: Singles,
    streams: Singles,
    *,
    space_labels: npt.NDArray[Any] | None = None,
    stream_labels: npt.NDArray[Any] | None = None,
    stream_p: Floats | None = None,
    seed: Seed,
    budget: float = 0.001,
) -> PatternModel:
    """Fits the patterns; deterministic under ``seed``, which is to be kept secret.

    Args:
        space: (n, d) float32, finite, distinct: the space, regimes and cells are fitted on these.
        streams: (m, d) float32, finite, distinct, and none of them in ``space``: honest clients'
            days are drawn from these.
        space_labels, stream_labels: the classes, or None: then regimes are found by clustering.
        stream_p: (m,) the outlier scorer's p-values of ``streams``, or None.
        seed: of everything random, the secret sketch and hash keys included.
        budget: false alarms a client-day that the rows are to support.

    Raises:
        PatternRowsError: if the rows are too few.
        ValueError: if the arrays do not fit each other.
    """
    _check(space, streams, space_labels, stream_labels, stream_p)
    need = rows_needed(budget)
    if len(streams) < need:
        raise PatternRowsError(len(streams), need, budget)
    if len(space) < MIN_SPACE:
        raise PatternRowsError(len(space), MIN_SPACE, budget)
    random = np.random.default_rng(seed)
    chosen = _some(len(space), SPACE_CAP, random)
    labels = None if space_labels is None else space_labels[chosen]
    fitted: Space = fit_space(space[chosen], labels, seed, random)
    chosen = _some(len(streams), max(STREAM_CAP, need), random)
    return calibrate(
        fitted,
        streams[chosen],
        None if stream_labels is None else stream_labels[chosen],
        None if stream_p is None else stream_p[chosen],
        random,
    )


def _some(count: int, most: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """At most so many positions, rising."""
    if count <= most:
        return np.arange(count)
    return np.sort(random.choice(count, most, replace=False))


def _check(
    space: Singles,
    streams: Singles,
    space_labels: npt.NDArray[Any] | None,
    stream_labels: npt.NDArray[Any] | None,
    stream_p: Floats | None,
) -> None:
    for name, rows in (("space", space), ("streams", streams)):
        if rows.ndim != 2 or rows.dtype != np.float32 or not bool(np.isfinite(rows).all()):
            raise ValueError(f"{name} must be (n, d) float32 and finite")
    if space.shape[1] != streams.shape[1]:
        raise ValueError("space and streams differ in their number of features")
    for name, rows, values in (
        ("space_labels", space, space_labels),
        ("stream_labels", streams, stream_labels),
        ("stream_p", streams, stream_p),
    ):
        if values is not None and values.shape != (len(rows),):
            raise ValueError(f"{name} must hold one value a row")
    if stream_p is not None and not bool(((stream_p > 0) & (stream_p <= 1)).all()):
        raise ValueError("stream_p must lie in (0, 1]")
