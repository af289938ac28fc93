"""Four outlier detectors straight from scikit-learn, as one would call them inside a handler."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors

Floats = npt.NDArray[np.float32]
Scorer = Callable[[Floats], npt.NDArray[np.float64]]


def fit_detectors(rows: Floats) -> list[tuple[Scorer, float]]:
    """Four detectors: each a score, high = suspicious, and a limit far above honest scores."""
    covariance = LedoitWolf().fit(rows)
    forest = IsolationForest(n_estimators=100, random_state=0).fit(rows)
    pca = PCA(n_components=0.95, svd_solver="full").fit(rows)
    neighbours = NearestNeighbors(n_neighbors=5).fit(rows)

    def residual(x: Floats) -> npt.NDArray[np.float64]:
        error = x - pca.inverse_transform(pca.transform(x))
        return np.asarray((error**2).sum(axis=1), np.float64)

    scorers: list[Scorer] = [
        covariance.mahalanobis,
        lambda x: -forest.score_samples(x),
        residual,
        lambda x: neighbours.kneighbors(x)[0][:, -1],
    ]
    sample = rows[:500]
    limits = []
    for scorer in scorers:
        scores = scorer(sample)
        limits.append(float(scores.max() + 10 * (np.ptp(scores) + 1)))
    return list(zip(scorers, limits, strict=True))
