"""The space that patterns are recognised in: scale, signal, sketch, blocks, regimes, cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from detectors.arrays import Floats, Indices, Singles
from detectors.patterns import space as served
from detectors.patterns.layout import BLOCKS, CELLS, FEATURES, SHARED, SKETCH, SKETCH_LIMIT
from detectors.patterns.model import MAX_RANK, MAX_SIGNAL, STATISTICS, PatternModel

Seed = int | None

KEPT_VARIANCE: Final = 0.9
SCALE_FLOOR: Final = 0.1
"""Of the mean deviation: a feature that hardly varies does not drown the others."""
VARIANCE_FLOOR: Final = 1e-6
"""Of the largest: features that depend on each other leave no variance to divide by."""
SKETCH_REACH: Final = 32.0
"""Honest deviations at which a sketch saturates."""
REGIME_ROWS: Final = 40
SMALLEST_REGIME: Final = 20
CELL_ROWS: Final = 4
REGIMES: Final = 32
BANDWIDTH: Final = 0.5
"""Of the median distance between honest sketches: the kernel's."""
WEIGHT_STEP: Final = 1024.0
RAREST: Final = 1e-4


@dataclass(frozen=True, slots=True)
class Space:
    """A model without tables, and the rows that it was fitted on.

    Attributes:
        model: its offsets, knots and tails say nothing yet.
        rows: (n, d) float32.
        labels: (n,) their classes, or None.
    """

    model: PatternModel
    rows: Singles
    labels: npt.NDArray[Any] | None


def fit_space(
    rows: Singles,
    labels: npt.NDArray[Any] | None,
    seed: Seed,
    random: np.random.Generator,
) -> Space:
    """Fits everything but the tables."""
    wide = rows.astype(np.float64)
    features = wide.shape[1]
    scale = feature_scales(wide)
    mean = wide.mean(axis=0)
    state = int(random.integers(1 << 31))
    directions, variances = _principal((wide - mean) / scale, state)
    total = float((((wide - mean) / scale) ** 2).mean(axis=0).sum())
    explained = np.cumsum(variances) / max(total, 1e-300)
    signal = int(np.searchsorted(explained, KEPT_VARIANCE) + 1)
    signal = max(1, min(signal, MAX_SIGNAL, len(directions), max(features - 1, 1)))
    complete = features <= MAX_RANK and len(directions) == features
    rank = features if complete else signal
    weights = np.zeros(rank)
    if complete:
        floor = max(float(variances[0]) * VARIANCE_FLOOR, 1e-12)
        weights[signal:] = 1.0 / np.maximum(variances[signal:rank], floor)
    basis = np.ascontiguousarray((directions[:rank] / scale).T).astype(np.float32)
    centre = mean @ basis.astype(np.float64)
    components = wide @ basis.astype(np.float64) - centre
    order, starts = _blocks(features, random)
    model = PatternModel(
        basis=basis,
        centre=centre,
        squares=1.0 / scale**2,
        cross=mean / scale**2,
        norm=float((mean**2 / scale**2).sum()),
        weights=weights,
        rest=0.0 if complete else 1.0,
        sketch=_sketch(components[:, :signal], random),
        order=order,
        starts=starts,
        keys=np.bitwise_or(random.integers(0, 1 << 64, features, dtype=np.uint64), np.uint64(1)),
        modes=np.zeros(starts.size, dtype=np.int32),
        block_weights=np.zeros((2, starts.size)),
        centroids=np.zeros((1, SKETCH)),
        offsets=np.zeros((len(STATISTICS), 1)),
        knots=np.full((len(STATISTICS), 1), 1e300),
        tails=np.ones((len(STATISTICS), 1)),
        frequencies=np.zeros((SKETCH, FEATURES)),
        phases=random.uniform(0.0, 2.0 * np.pi, FEATURES),
        means=np.zeros((1, FEATURES)),
        scales=np.ones((1, FEATURES)),
        cells=np.zeros((1, SKETCH)),
        cell_starts=np.array([0, 1], dtype=np.int32),
        mass=np.ones(1),
        shared=min(SHARED, max(2 * (len(rows) // 4), 8)),
        rows=1,
        has_outlier=0,
    )
    modes, block_weights = _block_weights(served.hashes(model, rows).blocks[:, : starts.size])
    model = replace(model, modes=modes, block_weights=block_weights)
    position = served.sketch(model, rows).sketch
    model = _regimes(model, position, state)
    regime = served.nearest(position, model.centroids)
    model = _cells(model, position, regime, state)
    frequencies = random.standard_normal((SKETCH, FEATURES)) / _bandwidth(position, random)
    model = replace(model, frequencies=frequencies)
    return Space(_moments(model, position, regime), rows, labels)


def feature_scales(rows: Floats) -> Floats:
    """(d,) the unit of each feature.

    Features that share one range, as pixels do, share one unit, so that a dead pixel's noise does
    not weigh as much as an image; other features are measured by their own deviation.
    """
    reach = rows.max(axis=0) - rows.min(axis=0)
    varying = reach > 0
    deviation = rows.std(axis=0)
    if not varying.any():
        return np.ones(rows.shape[1])
    if float(np.median(reach[varying])) >= 0.5 * float(reach.max()):
        return np.full(rows.shape[1], float(np.sqrt((deviation**2).mean())))
    floored: Floats = np.maximum(deviation, SCALE_FLOOR * float(deviation[varying].mean()))
    return floored


def _principal(standard: Floats, state: int) -> tuple[Floats, Floats]:
    """Principal directions (r, d) and variances (r,), by falling variance."""
    count, features = standard.shape
    if features <= 2 * MAX_RANK:
        covariance = standard.T @ standard / count
        variances, vectors = np.linalg.eigh(covariance)
        rank = min(features, MAX_RANK)
        return np.ascontiguousarray(vectors.T[::-1][:rank]), np.maximum(variances[::-1][:rank], 0.0)
    pca = PCA(
        n_components=min(MAX_SIGNAL, count - 1, features),
        svd_solver="randomized",
        random_state=state,
    )
    pca.fit(standard)
    return pca.components_, pca.explained_variance_


def _sketch(components: Floats, random: np.random.Generator) -> Floats:
    """(k, 32) a random rotation, or projection where the signal is larger; in fixed-point steps."""
    signal = components.shape[1]
    wide = max(signal, SKETCH)
    rotation, _ = np.linalg.qr(random.standard_normal((wide, wide)))
    matrix = rotation[:signal, :SKETCH] * np.sqrt(wide / SKETCH)
    position = components @ matrix
    low, high = np.quantile(position, [0.05, 0.95], axis=0)
    unit = float(np.median(high - low)) / 3.29
    if unit <= 0:
        unit = float(position.std()) or 1.0
    return np.ascontiguousarray(matrix * (SKETCH_LIMIT / (SKETCH_REACH * unit)))


def _blocks(features: int, random: np.random.Generator) -> tuple[Any, Any]:
    """Half the blocks are runs of neighbours, half are scattered; each feature is in one."""
    blocks = min(BLOCKS, features)
    if blocks < BLOCKS or features < 2 * BLOCKS:
        order = random.permutation(features)
        edges = np.linspace(0, features, blocks + 1).astype(np.int64)[:-1]
        return order.astype(np.int32), edges.astype(np.int32)
    order = np.roll(np.arange(features), int(random.integers(features)))
    edges = np.linspace(0, features, blocks + 1).astype(np.int64)[:-1]
    return order.astype(np.int32), edges.astype(np.int32)


def _block_weights(blocks: npt.NDArray[np.uint16]) -> tuple[Indices, Floats]:
    """The mode of each block, which weighs nothing, and -log of the chance, at least 1e-4, that
    another honest row agrees with one that has any other value.

    Modes are blank corners and zeros, which come together: rows with many would all agree.
    """
    count = len(blocks)
    modes, chances = [], []
    for column in blocks.T:
        values, times = np.unique(column, return_counts=True)
        mode = int(np.argmax(times))
        others = np.delete(times, mode).astype(np.float64)
        modes.append(int(values[mode]))
        chances.append((others * (others - 1.0)).sum() / (max(others.sum(), 1.0) * (count - 1.0)))
    exact = -np.log(np.maximum(chances, RAREST))
    weights = np.zeros((2, len(modes)))
    weights[1] = np.rint(exact * WEIGHT_STEP) / WEIGHT_STEP
    return np.array(modes, dtype=np.int32), weights


def _regimes(model: PatternModel, position: Floats, state: int) -> PatternModel:
    """Centroids of clusters. Not of the classes, which are too coarse: a client that asks about one
    corner of a class would look like an attack."""
    count = max(1, min(REGIMES, len(position) // REGIME_ROWS, len(np.unique(position, axis=0))))
    centroids: Floats = KMeans(count, n_init=2, random_state=state).fit(position).cluster_centers_
    regime = served.nearest(position, centroids)
    counts = np.bincount(regime, minlength=len(centroids))
    kept = np.flatnonzero(counts >= min(SMALLEST_REGIME, int(counts.max())))
    centroids = np.ascontiguousarray(centroids[kept])
    classes = len(centroids)
    return replace(
        model,
        centroids=centroids,
        offsets=np.zeros((len(STATISTICS), classes)),
        means=np.zeros((classes, FEATURES)),
        scales=np.ones((classes, FEATURES)),
        cells=np.zeros((classes, SKETCH)),
        cell_starts=np.arange(classes + 1, dtype=np.int32),
        mass=np.full(classes, 1.0 / classes),
    )


def _cells(
    model: PatternModel, position: Floats, regime: npt.NDArray[np.int64], state: int
) -> PatternModel:
    """Each regime's part of the honest space, cut into cells of a few rows at least."""
    most = CELLS // model.classes
    parts: list[Floats] = []
    mass: list[Floats] = []
    for index in range(model.classes):
        inside = position[regime == index]
        count = max(1, min(most, len(inside) // CELL_ROWS, len(np.unique(inside, axis=0))))
        clusters = KMeans(count, n_init=1, max_iter=20, random_state=state).fit(inside)
        parts.append(np.asarray(clusters.cluster_centers_, dtype=np.float64))
        found = served.nearest(inside, parts[-1])
        mass.append(np.bincount(found, minlength=count) / len(position))
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    return replace(
        model,
        cells=np.concatenate(parts),
        cell_starts=starts.astype(np.int32),
        mass=np.concatenate(mass),
    )


def _bandwidth(position: Floats, random: np.random.Generator) -> float:
    pairs = random.integers(len(position), size=(2, 4000))
    apart = position[pairs[0]] - position[pairs[1]]
    lengths = np.sqrt((apart * apart).sum(axis=1))
    lengths = lengths[lengths > 0]
    return BANDWIDTH * float(np.median(lengths)) if lengths.size else 1.0


def _moments(model: PatternModel, position: Floats, regime: npt.NDArray[np.int64]) -> PatternModel:
    """Mean and deviation of the features in each regime."""
    features = served.features(model, position, regime)
    means = np.stack([features[regime == index].mean(axis=0) for index in range(model.classes)])
    scales = np.stack([features[regime == index].std(axis=0) for index in range(model.classes)])
    return replace(model, means=means, scales=np.maximum(scales, 0.05))
