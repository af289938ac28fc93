"""One detector of every kind, made of plain arrays or of scikit-learn's own attributes."""

import numpy as np
from sklearn.neighbors import LocalOutlierFactor as SklearnFactor

from detectors import outlier
from detectors.outlier.projection import Projection
from detectors.training.estimators import KINDS, fit_detectors
from detectors.training.sklearn_estimators import compile_lof


def _standard(rows):
    scale = rows.std(axis=0)
    return Projection(rows.mean(axis=0), scale, np.zeros((0, rows.shape[1])))


def _reference(rows):
    reference = _standard(rows).apply(rows.astype(np.float32)).components
    return np.ascontiguousarray(reference[np.argsort(reference[:, 0])])


def _histograms(columns):
    cuts, levels = [], []
    for column in columns:
        density, edges = np.histogram(column, bins=8, density=True)
        level = -np.log(density + 0.1)
        cuts.append(edges)
        levels.append(np.concatenate([[level.max()], level, [level.max()]]))
    return np.array(cuts), np.array(levels)


def _lof(rows):
    return compile_lof(SklearnFactor(n_neighbors=10, novelty=True).fit(rows))


def _diagonal(rows):
    means = np.vstack([rows.mean(axis=0)] * 2)
    roots = np.vstack([1 / rows.std(axis=0)] * 2)
    return outlier.DiagonalMixture(
        Projection.identity(rows.shape[1]), means, roots * [[1.0], [0.5]], np.log(roots).sum(axis=1)
    )


def _component(rows):
    centred = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    _, _, basis = np.linalg.svd(centred, full_matrices=False)
    projection = Projection(rows.mean(axis=0), rows.std(axis=0), basis)
    return outlier.ComponentDistance(projection, np.arange(1.0, 1.0 + rows.shape[1]))


def _clusters(rows):
    centres = np.ascontiguousarray(rows[:3])
    large = np.array([1, 0, 1], dtype=np.uint8)
    space = Projection.identity(rows.shape[1])
    return outlier.ClusterDistance(space, centres, large, np.array([1.0, 2.0, 3.0]))


def _loda(rows):
    directions = np.random.default_rng(0).normal(size=(12, rows.shape[1]))
    return outlier.ProjectedHistograms(directions, *_histograms(directions @ rows.T))


def _neighbours(kind):
    return lambda rows: kind(_standard(rows), _reference(rows), 4)


MAKERS = {
    "knn_mean": _neighbours(outlier.MeanNeighbours),
    "knn_median": _neighbours(outlier.MedianNeighbours),
    "lof": _lof,
    "diagonal_gmm": _diagonal,
    "component_distance": _component,
    "cblof": _clusters,
    "half_space": lambda rows: outlier.HalfSpace(-rows.mean(axis=0)),
    "hbos": lambda rows: outlier.Histograms(*_histograms(rows.T)),
    "loda": _loda,
    "ecod": lambda rows: outlier.Ecod(np.ascontiguousarray(np.sort(rows, axis=0).T)),
    "copod": lambda rows: outlier.Copod(np.ascontiguousarray(np.sort(rows, axis=0).T)),
}
"""Kinds without a trainer of their own; each takes (n, d) float64 rows."""


def every_kind(rows):
    """One detector of each of these and of our own kinds, fitted on (n, d) float32 rows."""
    own = fit_detectors(rows, KINDS, seed=1)
    return own + [make(rows.astype(np.float64)) for make in MAKERS.values()]
