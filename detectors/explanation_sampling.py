"""Shapley values of features over sampled orders, for scores that have no form of their own.

Štrumbelj and Kononenko (2014): features take the row's values one after another, in a random order,
in a reference row; each is credited with what the score changes. The credits of an order sum to the
score less the reference's, so their mean over orders does too. Each order is walked backwards as
well, which takes away most of the noise (Mitchell et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats, Singles
from detectors.base import Rows
from detectors.explanation_values import Attribution

Groups: TypeAlias = npt.NDArray[np.intp]
"""(d,): the group of each feature, from 0. A group's features change together."""

EVALUATIONS: Final = 4096
"""Rows that a score is asked about, at most, for one explanation."""
_TOLERANCE: Final = 1e-6
_ORDERS: Final = 2  # fewer say little: features are grouped before
_CHUNK_ELEMENTS: Final = 1 << 13


def sampled(
    scores: Callable[[Rows], Floats],
    row: Rows,
    references: Rows,
    *,
    groups: Groups | None = None,
    evaluations: int = EVALUATIONS,
    seed: int = 0,
    pause: Callable[[], object] | None = None,
) -> list[Attribution | None]:
    """The contributions to each of k scores of one row; None for a score that is not finite.

    Args:
        scores: (n, d) float32 to (n, k) float64.
        row: (1, d) float32.
        references: (m, d) float32: what features are that do not take part. The baseline is the
            mean score over those that orders began with.
        groups: features that change together, sharing what they are credited; None: each by itself,
            or blocks of them where they are too many.
        evaluations: rows that the scores are asked about, at most; but two orders' at least.
        seed: of the orders. The same seed yields the same contributions.
        pause: called between chunks of a few milliseconds: other threads may want the interpreter.
    """
    features = row.shape[1]
    if groups is None:
        groups = blocks((features,), max(1, evaluations // (2 * _ORDERS) - 1))

    def ask(rows: Rows) -> Floats:
        found = scores(rows)
        if pause is not None:
            pause()
        return found

    count = int(groups.max()) + 1
    pairs = max(1, evaluations // (2 * (count + 1)))
    random = np.random.default_rng(seed)
    gains, ends = [], []
    for index in range(pairs):
        rank = random.permutation(count)
        reference = references[index % len(references)]
        for walked in (rank, count - 1 - rank):
            steps = _walk(ask, row[0], reference, walked[groups], count)
            gains.append(np.diff(steps, axis=0)[walked])
            ends.append(steps[[0, -1]])
    size = np.bincount(groups)
    with np.errstate(all="ignore"):  # what is not finite is not complete, and seen below
        spread = (np.mean(gains, axis=0) / size[:, None])[groups]
        base, top = np.mean(ends, axis=0)
        found = [
            Attribution(float(end), float(start), np.ascontiguousarray(values), "sampled")
            for end, start, values in zip(top, base, spread.T, strict=True)
        ]
        return [one if one.is_complete(_TOLERANCE) else None for one in found]


def blocks(shape: tuple[int, ...], most: int) -> Groups:
    """Features in at most ``most`` groups of neighbours.

    Args:
        shape: of a row: (d,) or an image's, (height, width) or with channels before or after.
            An image is cut into square tiles, over all its channels.
        most: at least 1.
    """
    features = prod(shape)
    if features <= most:
        return np.arange(features)
    if len(shape) not in (2, 3):
        return np.arange(features) * most // features
    # Channels are few: the two longest axes are the image's.
    axes = sorted(np.argsort(shape, kind="stable")[-2:])
    height, width = (shape[axis] for axis in axes)
    side = 1
    while -(-height // side) * -(-width // side) > most:
        side += 1
    places = np.indices(shape)
    across = -(-width // side)
    tiles: Groups = (places[axes[0]] // side * across + places[axes[1]] // side).ravel()
    return tiles


def _walk(
    scores: Callable[[Rows], Floats],
    row: Singles,
    reference: Singles,
    rank: Groups,
    count: int,
) -> Floats:
    """(count + 1, k): the scores as one group after another takes the row's values.

    Args:
        rank: (d,): after how many others each feature's group does.
    """
    chunk = max(1, _CHUNK_ELEMENTS // row.size)
    found = []
    for start in range(0, count + 1, chunk):
        steps = np.arange(start, min(start + chunk, count + 1))[:, None]
        found.append(scores(np.where(rank < steps, row, reference)))
    return np.concatenate(found)
