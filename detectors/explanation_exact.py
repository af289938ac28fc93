"""Contributions of features that follow from a score's own form: nothing is sampled.

A distance in principal components is taken back to the features that span them. For a quadratic
form z'Mz that yields z_j (Mz)_j, which is each feature's Shapley value against the mean: what two
features add together is shared equally.
"""

from __future__ import annotations

from functools import cache
from typing import Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats
from detectors.base import Rows
from detectors.explanation_values import Attribution, Method
from detectors.outlier import (
    DiagonalMixture,
    GaussianMixture,
    IsolationForest,
    MeanNeighbours,
    MedianNeighbours,
    NearestNeighbours,
)
from detectors.outlier.projection import Projection, QuadraticForm

_TOLERANCE: Final = 1e-6
"""Of the sizes that are summed. A form that misses the detector's own score by more is not its."""
_SIZES: Final = 1 << 16
_EULER: Final = 0.5772156649015329


@runtime_checkable
class Additive(Protocol):
    """A detector whose score is a sum over features by construction."""

    def parts(self, rows: Rows) -> Floats:
        """(n, d) float32 to (n, d) float64, each row summing to its score."""


def attribute(detector: object, row: Rows, score: float) -> Attribution | None:
    """The contributions to one row's score, or None if this detector has no such form.

    Args:
        row: (1, d) float32.
        score: the detector's own, that the contributions must sum to.
    """
    method: Method = "exact"
    with np.errstate(all="ignore"):  # what overflows is not complete, and seen below
        if isinstance(detector, Additive):
            contributions = detector.parts(row)[0]
        elif isinstance(detector, QuadraticForm):
            contributions = _quadratic(detector, row)
        elif isinstance(detector, NearestNeighbours):
            contributions = _nearest(detector, row)
        elif isinstance(detector, GaussianMixture | DiagonalMixture):
            contributions = _mixture(detector, row)
        elif isinstance(detector, IsolationForest):
            contributions, method = _forest(detector, row), "path"
        else:
            return None
    if isinstance(detector, IsolationForest | GaussianMixture | DiagonalMixture):
        baseline = score - float(contributions.sum())
    else:
        baseline = 0.0
    found = Attribution(score, baseline, contributions, method)
    return found if found.is_complete(_TOLERANCE) else None


def _quadratic(detector: QuadraticForm, row: Rows) -> Floats:
    projection, weights = detector.projection, detector.weights
    standard = (row - projection.mean) / projection.scale
    components = projection.apply(row).components[:, : weights.size]
    weighted = _back(projection, (weights - detector.rest) * components)
    found: Floats = (standard * (weighted + detector.rest * standard))[0]
    return found


def _nearest(detector: NearestNeighbours, row: Rows) -> Floats:
    """Squared differences to the neighbours that count, as shares of their distances."""
    rank = detector.reference.shape[1]
    gaps = detector.projection.apply(row).components[:, :rank] - detector.reference
    squared = np.einsum("ij,ij->i", gaps, gaps)
    last = detector.neighbours - 1
    counted = slice(last, last + 1)
    if isinstance(detector, MeanNeighbours):
        counted = slice(0, last + 1)
    elif isinstance(detector, MedianNeighbours):
        counted = slice(last // 2, (last + 1) // 2 + 1)
    chosen = np.argsort(squared, kind="stable")[counted]
    distances = np.sqrt(squared[chosen])[:, None]
    differences = np.square(_back(detector.projection, gaps[chosen]))
    shares: Floats = (differences / np.where(distances > 0, distances, 1.0)).mean(axis=0)
    return shares


def _mixture(detector: GaussianMixture | DiagonalMixture, row: Rows) -> Floats:
    """Each component's quadratic form, weighted by how much of the row it explains."""
    rank = detector.means.shape[1]
    gaps = detector.projection.apply(row).components[:, :rank] - detector.means
    if isinstance(detector, DiagonalMixture):
        white = gaps * detector.roots
        pulls = white * detector.roots
    else:
        white = np.einsum("kij,kj->ki", detector.factors, gaps)
        pulls = np.einsum("kij,ki->kj", detector.factors, white)
    logs = detector.offsets - 0.5 * np.einsum("ki,ki->k", white, white)
    shares = np.exp(logs - logs.max())
    shares /= shares.sum()
    projection = detector.projection
    found: Floats = 0.5 * (shares @ (_back(projection, gaps) * _back(projection, pulls)))
    return found


def _back(projection: Projection, components: Floats) -> Floats:
    """(k, r) leading components as (k, d) standardised features.

    The basis is orthonormal, so lengths and products stay what they are.
    """
    rank = components.shape[1]
    if projection.turns:
        return components @ projection.basis[:rank]
    return np.pad(components, ((0, 0), (0, projection.features - rank)))


def _forest(detector: IsolationForest, row: Rows) -> Floats:
    """Each split's credit is how much it shortens the path that is to be expected (Saabas 2014).

    The score is an exponential of the summed path lengths: the credits are shares of its exponent,
    and are scaled by the mean slope between baseline and score.
    """
    feature, left, roots = detector.feature, detector.left, detector.roots
    expected = _expected_lengths(detector)
    credits = np.zeros(detector.features)
    node = roots.astype(np.intp)
    for _ in range(detector.depth):
        child = left[node] + (row[0][feature[node]] > detector.threshold[node])
        np.add.at(credits, feature[node], expected[child] - expected[node])
        node = child
    exponents = -np.log(2.0) / detector.normaliser * credits
    start = float(np.exp2(expected[roots].sum() / -detector.normaliser))
    total = float(exponents.sum())
    slope = start * (float(np.expm1(total)) / total if total else 1.0)
    found: Floats = exponents * slope
    return found


def _expected_lengths(detector: IsolationForest) -> Floats:
    """(nodes,): the mean path length of the training rows that came through each node."""
    left, roots = detector.left, detector.roots
    inner = left != np.arange(left.size)
    depth = np.zeros(left.size)
    levels: list[npt.NDArray[np.intp]] = []
    level = roots[inner[roots]].astype(np.intp)
    while level.size:
        levels.append(level)
        children = np.concatenate([left[level], left[level] + 1])
        depth[children] = np.tile(depth[level] + 1, 2)
        level = children[inner[children]].astype(np.intp)
    # A leaf's length is its depth and what splitting its rows further would have taken.
    known = _unsuccessful_search()
    places = np.searchsorted(known, detector.length - depth)
    above, below = np.minimum(places, known.size - 1), np.maximum(places - 1, 0)
    rest = detector.length - depth
    rows = 1.0 + np.where(known[above] - rest < rest - known[below], above, below)
    expected = detector.length.copy()
    for level in reversed(levels):
        one, other = left[level], left[level] + 1
        rows[level] = rows[one] + rows[other]
        expected[level] = (rows[one] * expected[one] + rows[other] * expected[other]) / rows[level]
    return expected


@cache
def _unsuccessful_search() -> Floats:
    """c(n) for n = 1, 2, …: the mean path length of an unsuccessful search among n rows."""
    sizes = np.arange(3.0, _SIZES + 1)
    lengths = 2.0 * (np.log(sizes - 1.0) + _EULER) - 2.0 * (sizes - 1.0) / sizes
    return np.concatenate([[0.0, 1.0], lengths])
