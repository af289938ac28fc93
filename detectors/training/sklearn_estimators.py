"""scikit-learn's estimators, compiled.

In the rows' own space: what was fitted on rows as they come is served on rows as they come.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse

from detectors.arrays import Floats, Singles
from detectors.outlier import (
    DiagonalMixture,
    GaussianMixture,
    HalfSpace,
    LocalOutlierFactor,
    Mahalanobis,
    NearestNeighbours,
    OneClassSVM,
    OutlierDetector,
    PrincipalComponents,
)
from detectors.outlier.projection import Projection
from detectors.training.compile import REFERENCE_CAP, CompileError, Trainer
from detectors.training.estimators import compile_gmm, compile_isolation_forest


def compile_covariance(estimator: Any) -> Mahalanobis:
    """The squared Mahalanobis distance under any fitted covariance.

    Features are measured in their standard deviations before the precision's eigenvectors are
    taken: features of very different units would lose digits otherwise.
    """
    precision = np.asarray(estimator.get_precision(), dtype=np.float64)
    variance = np.diag(np.asarray(estimator.covariance_, dtype=np.float64))
    scale = np.sqrt(np.where(variance > 0, variance, 1.0))
    values, vectors = np.linalg.eigh(scale[:, None] * (precision + precision.T) / 2 * scale)
    projection = Projection(_location(estimator), scale, _plain(vectors.T[::-1]))
    # A singular covariance has a pseudo-inverse: what should be 0 may come out a hair below.
    return Mahalanobis(projection, _plain(np.maximum(values[::-1], 0.0)), 0.0)


def compile_pca(estimator: Any) -> PrincipalComponents:
    """The squared reconstruction error; whitening does not change it."""
    basis = _plain(estimator.components_)
    projection = Projection(_plain(estimator.mean_), np.ones(basis.shape[1]), basis)
    if len(basis) == basis.shape[1]:
        raise CompileError("all components are kept: nothing is left to be an error")
    return PrincipalComponents(projection, np.zeros(len(basis)), 1.0)


def compile_nearest(estimator: Any) -> NearestNeighbours:
    """The distance to the k-th neighbour."""
    reference = reference_of(estimator)
    return NearestNeighbours(
        Projection.identity(reference.shape[1]),
        _plain(reference[np.argsort(reference[:, 0], kind="stable")]),
        int(estimator.n_neighbors),
    )


def compile_lof(estimator: Any) -> LocalOutlierFactor:
    """The local outlier factor of new rows."""
    if not estimator.novelty:
        raise CompileError("novelty=False scores no new rows: novelty=True is needed")
    reference = reference_of(estimator)
    neighbours = int(estimator.n_neighbors_)
    radius = _plain(estimator._distances_fit_X_[:, neighbours - 1])
    space = Projection.identity(reference.shape[1])
    return LocalOutlierFactor(space, reference, radius, _plain(estimator._lrd), neighbours)


def compile_mixture(estimator: Any) -> OutlierDetector:
    """A Gaussian mixture of any covariance."""
    means = _plain(estimator.means_)
    count, features = means.shape
    space = Projection.identity(features)
    factors = np.asarray(estimator.precisions_cholesky_, dtype=np.float64)
    kind = estimator.covariance_type
    if kind == "full":
        return compile_gmm(space, estimator)
    log_weights = np.log(np.asarray(estimator.weights_, dtype=np.float64))
    constant = log_weights - 0.5 * features * np.log(2 * np.pi)
    if kind == "tied":
        log_determinant = np.log(np.diagonal(factors)).sum()
        spread = _plain(np.broadcast_to(np.tril(factors.T), (count, features, features)))
        return GaussianMixture(space, means, spread, constant + log_determinant)
    roots = _plain(np.broadcast_to(factors.reshape(count, -1), means.shape))  # diag, or spherical
    return DiagonalMixture(space, means, roots, constant + np.log(roots).sum(axis=1))


def compile_svm(estimator: Any) -> OutlierDetector:
    """A machine with a Gaussian or a linear kernel."""
    if estimator.kernel == "linear":
        return HalfSpace(_plain(np.asarray(estimator.coef_)[0]))
    if estimator.kernel != "rbf":
        raise CompileError(f"kernel={estimator.kernel!r}: only 'rbf' and 'linear' are served")
    if issparse(estimator.support_vectors_):
        raise CompileError("it was fitted on sparse rows")
    weights = np.asarray(estimator.dual_coef_, dtype=np.float64)[0]
    vectors = np.asarray(estimator.support_vectors_, dtype=np.float64)
    space = Projection.identity(vectors.shape[1])
    keep = weights > 0
    # The resolved width: the parameter may be "scale" or "auto".
    gamma = float(estimator._gamma)
    return OneClassSVM(space, _plain(vectors[keep]), _plain(weights[keep]), gamma)


def compile_plane(estimator: Any) -> HalfSpace:
    """A linear machine fitted by stochastic gradient descent."""
    return HalfSpace(_plain(np.asarray(estimator.coef_).ravel()))


def reference_of(estimator: Any) -> Floats:
    """(m, d) the rows that a neighbours' estimator searches, if it searches them as we do.

    Raises:
        CompileError: if its distances are not Euclidean, or its rows sparse.
    """
    metric = getattr(estimator, "effective_metric_", None)
    if metric != "euclidean" or getattr(estimator, "effective_metric_params_", None):
        if metric is None:
            raise CompileError("it is not fitted")
        raise CompileError(
            f"metric={estimator.metric!r}, p={estimator.p}: only Euclidean distances are served"
        )
    if issparse(estimator._fit_X):
        raise CompileError("it was fitted on sparse rows")
    return _plain(estimator._fit_X)


def lengths(rows: Singles) -> Floats:
    """(n,) the length of each row, in double precision."""
    found: Floats = np.linalg.norm(rows.astype(np.float64), axis=1)
    return found


def near_slack(_estimator: Any, _detector: OutlierDetector, rows: Singles) -> Floats:
    """Brute-force distances of the library's lose half the digits of a row's length."""
    return 1e-7 * lengths(rows) + 1e-9


def plane_slack(_estimator: Any, detector: Any, rows: Singles) -> Floats:
    """Products of both signs cancel."""
    magnitude: Floats = np.abs(rows.astype(np.float64)) @ np.abs(detector.normal)
    return 1e-9 * (magnitude + 1.0)


def kernel_slack(estimator: Any, detector: Any, rows: Singles) -> Floats | float:
    """The library subtracts an offset, and adds it again."""
    if isinstance(detector, HalfSpace):
        return plane_slack(estimator, detector, rows)
    return 1e-12 * float(detector.weights.sum()) + 1e-12


def quadratic_slack(_estimator: Any, detector: Any, rows: Singles) -> Floats:
    """Squares of what is then taken away again."""
    with np.errstate(over="ignore"):
        norms: Floats = detector.projection.apply(rows).norms
    weight = max(float(detector.weights.max()), float(detector.rest))
    return 1e-9 * weight * norms + 1e-9


def reconstruction_slack(estimator: Any, detector: Any, rows: Singles) -> Floats:
    """Fitted in single precision, the library transforms with that: mean and basis round."""
    slack = quadratic_slack(estimator, detector, rows)
    if np.asarray(estimator.components_).dtype == np.float32:
        slack = slack + 1e-5 * lengths(rows) ** 2
    return slack


def mixture_slack(estimator: Any, detector: Any, rows: Singles) -> Floats | float:
    """Fitted in single precision, the library turns its means with that, and takes the result off
    the turned rows."""
    if np.asarray(estimator.means_).dtype != np.float32:
        return 1e-9
    factors = detector.factors if isinstance(detector, GaussianMixture) else detector.roots
    steepest = float(np.abs(factors).max()) * np.sqrt(rows.shape[1])
    reach = steepest * float(np.linalg.norm(detector.means, axis=1).max())
    slack: Floats = 1e-5 * (reach**2 + reach * steepest * lengths(rows) + 1.0)
    return slack


def untied(estimator: Any, detector: Any, rows: Singles) -> npt.NDArray[np.bool_]:
    """Where the k-th neighbour is the only one at its distance, or no choice is left."""
    wide = rows.astype(np.float64)
    squared = np.square(wide[:, None] - detector.reference).sum(axis=2)
    squared.sort(axis=1)
    k = detector.neighbours
    if k >= squared.shape[1]:
        return np.ones(len(rows), dtype=bool)
    gap: npt.NDArray[np.bool_] = (
        squared[:, k] - squared[:, k - 1] > 1e-9 * squared[:, k] + 1e-12 * lengths(rows) ** 2
    )
    return gap


def sum_of_kernels(_estimator: Any, scores: Floats) -> Floats:
    """-score_samples of a Gaussian kernel; of a linear one the score is that already."""
    return scores if _estimator.kernel == "linear" else -np.exp(-scores)


def negative_scores(estimator: Any, rows: Floats) -> npt.ArrayLike:
    """``-score_samples``: the library's run low = abnormal."""
    scores: Floats = -estimator.score_samples(rows)
    return scores


def reconstruction_errors(estimator: Any, rows: Floats) -> npt.ArrayLike:
    """Squared distances to what comes back."""
    back = estimator.inverse_transform(estimator.transform(rows))
    errors: Floats = np.square(rows - back).sum(axis=1)
    return errors


def _location(estimator: Any) -> Floats:
    return _plain(np.broadcast_to(estimator.location_, (len(estimator.covariance_),)))


def _plain(array: npt.ArrayLike) -> Floats:
    return np.ascontiguousarray(array, dtype=np.float64)


def _covariance(attribute: str) -> Trainer:
    return Trainer(
        name=f"sklearn.covariance.{attribute}",
        module="sklearn.covariance",
        attribute=attribute,
        compile=compile_covariance,
        library_scores=lambda estimator, rows: estimator.mahalanobis(rows),
        slack=quadratic_slack,
    )


_ALL: Final = (
    Trainer(
        name="sklearn.ensemble.IsolationForest",
        module="sklearn.ensemble",
        attribute="IsolationForest",
        compile=compile_isolation_forest,
        library_scores=negative_scores,
        relative=1e-12,
    ),
    Trainer(
        name="sklearn.svm.OneClassSVM",
        module="sklearn.svm",
        attribute="OneClassSVM",
        compile=compile_svm,
        library_scores=negative_scores,
        as_library=sum_of_kernels,
        slack=kernel_slack,
        max_rows=REFERENCE_CAP,
    ),
    Trainer(
        name="sklearn.linear_model.SGDOneClassSVM",
        module="sklearn.linear_model",
        attribute="SGDOneClassSVM",
        compile=compile_plane,
        library_scores=negative_scores,
        slack=plane_slack,
    ),
    *map(
        _covariance,
        (
            "EllipticEnvelope",
            "MinCovDet",
            "EmpiricalCovariance",
            "LedoitWolf",
            "OAS",
            "ShrunkCovariance",
        ),
    ),
    Trainer(
        name="sklearn.decomposition.PCA",
        module="sklearn.decomposition",
        attribute="PCA",
        compile=compile_pca,
        library_scores=reconstruction_errors,
        slack=reconstruction_slack,
        defaults={"n_components": 0.95, "svd_solver": "full"},
    ),
    Trainer(
        name="sklearn.neighbors.LocalOutlierFactor",
        module="sklearn.neighbors",
        attribute="LocalOutlierFactor",
        compile=compile_lof,
        library_scores=negative_scores,
        relative=1e-6,
        slack=near_slack,
        certain=untied,
        defaults={"novelty": True},
        max_rows=REFERENCE_CAP,
    ),
    Trainer(
        name="sklearn.neighbors.NearestNeighbors",
        module="sklearn.neighbors",
        attribute="NearestNeighbors",
        compile=compile_nearest,
        library_scores=lambda estimator, rows: estimator.kneighbors(rows)[0][:, -1],
        slack=near_slack,
        max_rows=REFERENCE_CAP,
    ),
    Trainer(
        name="sklearn.mixture.GaussianMixture",
        module="sklearn.mixture",
        attribute="GaussianMixture",
        compile=compile_mixture,
        library_scores=negative_scores,
        slack=mixture_slack,
    ),
)


TRAINERS: Final[dict[str, Trainer]] = {trainer.name: trainer for trainer in _ALL}
"""By name."""
