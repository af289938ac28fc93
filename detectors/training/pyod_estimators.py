"""PyOD's detectors, compiled. Its scores run high = abnormal, as ours do.

PyOD wraps scikit-learn where it can, and so does this; what it wraps is in ``detector_``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans, MiniBatchKMeans

from detectors.arrays import Floats, Singles
from detectors.outlier import (
    ClusterDistance,
    ComponentDistance,
    Copod,
    Ecod,
    Histograms,
    MeanNeighbours,
    MedianNeighbours,
    NearestNeighbours,
    OutlierDetector,
    ProjectedHistograms,
)
from detectors.outlier.projection import Projection
from detectors.training import sklearn_estimators as from_sklearn
from detectors.training.compile import REFERENCE_CAP, CompileError, Trainer
from detectors.training.estimators import compile_isolation_forest

_NEAREST: Final = {
    "largest": NearestNeighbours,
    "mean": MeanNeighbours,
    "median": MedianNeighbours,
}


def compile_knn(estimator: Any) -> NearestNeighbours:
    """The largest, the mean or the median distance to the neighbours."""
    kind = _NEAREST.get(estimator.method)
    if kind is None:
        raise CompileError(f"method={estimator.method!r}: expected one of {', '.join(_NEAREST)}")
    if estimator.n_neighbors != estimator.neigh_.n_neighbors:
        raise CompileError("n_neighbors was changed after it was fitted")
    plain = from_sklearn.compile_nearest(estimator.neigh_)
    return kind(plain.projection, plain.reference, plain.neighbours)


def compile_pca(estimator: Any) -> ComponentDistance:
    """Weighted distances to the eigenvectors."""
    basis = _plain(estimator.selected_components_)
    shares = _plain(estimator.selected_w_components_)
    if not bool((shares > 0).all()):
        raise CompileError("a component explains no variance at all: set n_components lower")
    mean, scale = np.zeros(basis.shape[1]), np.ones(basis.shape[1])
    if estimator.standardization:
        mean, scale = _plain(estimator.scaler_.mean_), _plain(estimator.scaler_.scale_)
    return ComponentDistance(Projection(mean, scale, basis), 1.0 / shares)


def compile_ecod(estimator: Any) -> Ecod:
    """Empirical tails, against the rows that it was fitted on."""
    return Ecod(_plain(np.sort(estimator.X_train, axis=0).T))


def compile_copod(estimator: Any) -> Copod:
    """Empirical copula, against the rows that it was fitted on."""
    return Copod(_plain(np.sort(estimator.X_train, axis=0).T))


def compile_hbos(estimator: Any) -> Histograms:
    """One histogram a feature.

    Below the first edge and above the last one the bin goes on for ``tol`` of its width; beyond,
    the score is that of the emptiest bin.
    """
    edges, densities = estimator.bin_edges_, estimator.hist_
    if isinstance(edges, np.ndarray):  # one column a feature; a list where n_bins is "auto"
        edges, densities = edges.T, densities.T
    cuts, levels = [], []
    for feature_edges, density in zip(edges, densities, strict=True):
        edge = np.asarray(feature_edges, dtype=np.float64)
        level = -np.log2(np.asarray(density, dtype=np.float64) + estimator.alpha)
        low = edge[0] - (edge[1] - edge[0]) * estimator.tol
        high = edge[-1] + (edge[-1] - edge[-2]) * estimator.tol
        # A value on the lower limit is inside; a cut counts only values above it.
        cuts.append(np.concatenate([[np.nextafter(low, -np.inf)], edge[1:-1], [high]]))
        levels.append(np.concatenate([[level.max()], level, [level.max()]]))
    return Histograms(*_even(cuts, levels))


def compile_loda(estimator: Any) -> ProjectedHistograms:
    """Histograms of sparse random projections, with the library's own choice of a bin."""
    cuts, levels = [], []
    for weight, limits, density in zip(
        estimator.weights, estimator.limits_, estimator.histograms_, strict=True
    ):
        level = -weight * np.log(np.asarray(density, dtype=np.float64)) / len(estimator.weights)
        cut = np.asarray(limits, dtype=np.float64)[: max(len(level) - 1, 1)]
        cuts.append(cut)
        levels.append(level if len(level) > 1 else np.repeat(level, 2))
    return ProjectedHistograms(_plain(estimator.projections_), *_even(cuts, levels))


def compile_cblof(estimator: Any) -> ClusterDistance:
    """Distances to clusters found by k-means."""
    found = estimator.clustering_estimator_
    if type(found) not in {KMeans, MiniBatchKMeans}:
        raise CompileError(
            f"clustering_estimator={type(found).__name__}: only k-means assigns rows as we do"
        )
    centres = _plain(estimator.cluster_centers_)
    large = np.zeros(len(centres), dtype=np.uint8)
    large[np.asarray(estimator.large_cluster_labels_)] = 1
    sizes = np.asarray(estimator.cluster_sizes_, dtype=np.float64)
    if len(sizes) != len(centres):
        raise CompileError("a cluster is empty")
    weights = sizes if estimator.use_weights else np.ones(len(centres))
    return ClusterDistance(Projection.identity(centres.shape[1]), centres, large, weights)


def compile_sampling(estimator: Any) -> NearestNeighbours:
    """The distance to the nearest of a random sample."""
    if estimator.metric not in {"minkowski", "euclidean"} or estimator.metric_params:
        raise CompileError(f"metric={estimator.metric!r}: only Euclidean distances are served")
    sample = _plain(estimator.subset)
    order = np.argsort(sample[:, 0], kind="stable")
    return NearestNeighbours(Projection.identity(sample.shape[1]), _plain(sample[order]), 1)


def _even(cuts: list[Floats], levels: list[Floats]) -> tuple[Floats, Floats]:
    """Step functions of different lengths as two arrays: a last cut is repeated."""
    longest = max(map(len, cuts))
    even_cuts = [np.pad(cut, (0, longest - len(cut)), mode="edge") for cut in cuts]
    even_levels = [np.pad(level, (0, longest + 1 - len(level)), mode="edge") for level in levels]
    return _plain(even_cuts), _plain(even_levels)


def _plain(array: npt.ArrayLike) -> Floats:
    return np.ascontiguousarray(array, dtype=np.float64)


def _wrapped(compile_inner: Callable[[Any], OutlierDetector]) -> Callable[[Any], OutlierDetector]:
    def of(estimator: Any) -> OutlierDetector:
        if getattr(estimator, "detector_", None) is None:
            raise CompileError("it is not fitted")
        return compile_inner(estimator.detector_)

    return of


def _decision(estimator: Any, rows: Floats) -> npt.ArrayLike:
    scores: Floats = estimator.decision_function(rows)
    return scores


def _shifted(estimator: Any, scores: Floats) -> Floats:
    """With scikit-learn's offset, which depends on the contamination."""
    shifted: Floats = scores + estimator.detector_.offset_
    return shifted


def _machine(estimator: Any, scores: Floats) -> Floats:
    inner = estimator.detector_
    sums: Floats = from_sklearn.sum_of_kernels(inner, scores) + inner.offset_
    return sums


def _machine_slack(estimator: Any, detector: Any, rows: Singles) -> Floats | float:
    offset = float(np.abs(estimator.detector_.offset_).max())
    return from_sklearn.kernel_slack(estimator.detector_, detector, rows) + 1e-12 * offset


def _mixture_slack(estimator: Any, detector: Any, rows: Singles) -> Floats | float:
    return from_sklearn.mixture_slack(estimator.detector_, detector, rows)


def _off_cuts(_estimator: Any, detector: Any, rows: Singles) -> npt.NDArray[np.bool_]:
    along = rows.astype(np.float64) @ detector.directions.T
    scale = np.abs(rows.astype(np.float64)) @ np.abs(detector.directions).T + np.abs(
        detector.cuts
    ).max(axis=1)
    gap = np.abs(along[:, :, None] - detector.cuts).min(axis=2)
    far: npt.NDArray[np.bool_] = (gap > 1e-12 * scale).all(axis=1)
    return far


def _one_nearest(_estimator: Any, detector: Any, rows: Singles) -> npt.NDArray[np.bool_]:
    wide = rows.astype(np.float64)
    squared = np.square(wide[:, None] - detector.centres).sum(axis=2)
    if squared.shape[1] == 1:
        return np.ones(len(rows), dtype=bool)
    squared.sort(axis=1)
    apart: npt.NDArray[np.bool_] = squared[:, 1] - squared[:, 0] > 1e-9 * squared[:, 1]
    return apart


def _trainer(name: str, compiled: Callable[[Any], OutlierDetector], **more: Any) -> Trainer:
    module, attribute = name.rsplit(".", 1)
    return Trainer(name, module, attribute, compiled, _decision, **more)


_ALL: Final = (
    _trainer(
        "pyod.models.iforest.IForest",
        _wrapped(compile_isolation_forest),
        as_library=_shifted,
        slack=lambda *_: 1e-12,
    ),
    _trainer(
        "pyod.models.knn.KNN",
        compile_knn,
        slack=from_sklearn.near_slack,
        max_rows=REFERENCE_CAP,
    ),
    _trainer(
        "pyod.models.lof.LOF",
        _wrapped(from_sklearn.compile_lof),
        relative=1e-6,
        slack=from_sklearn.near_slack,
        certain=from_sklearn.untied,
        max_rows=REFERENCE_CAP,
    ),
    _trainer("pyod.models.pca.PCA", compile_pca, relative=1e-7),
    _trainer("pyod.models.gmm.GMM", _wrapped(from_sklearn.compile_mixture), slack=_mixture_slack),
    _trainer(
        "pyod.models.mcd.MCD",
        _wrapped(from_sklearn.compile_covariance),
        slack=from_sklearn.quadratic_slack,
    ),
    _trainer(
        "pyod.models.ocsvm.OCSVM",
        _wrapped(from_sklearn.compile_svm),
        as_library=_machine,
        slack=_machine_slack,
        max_rows=REFERENCE_CAP,
    ),
    _trainer("pyod.models.ecod.ECOD", compile_ecod, alone=True, max_rows=REFERENCE_CAP),
    _trainer("pyod.models.copod.COPOD", compile_copod, alone=True, max_rows=REFERENCE_CAP),
    _trainer("pyod.models.hbos.HBOS", compile_hbos, slack=lambda *_: 1e-9),
    _trainer("pyod.models.loda.LODA", compile_loda, certain=_off_cuts),
    _trainer("pyod.models.cblof.CBLOF", compile_cblof, certain=_one_nearest),
    _trainer("pyod.models.sampling.Sampling", compile_sampling, slack=from_sklearn.near_slack),
)

TRAINERS: Final[dict[str, Trainer]] = {trainer.name: trainer for trainer in _ALL}
"""By name."""

ALIASES: Final[dict[str, str]] = {f"pyod.{t.attribute}": t.name for t in _ALL}
"""Short names: every class of PyOD has one of its own."""
