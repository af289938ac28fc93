"""scikit-learn estimators, fitted and compiled to the arrays that the gateway scores with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest as SklearnForest
from sklearn.mixture import GaussianMixture as SklearnMixture
from sklearn.svm import OneClassSVM as SklearnSVM

from detectors.arrays import Floats, Singles
from detectors.outlier import (
    GaussianMixture,
    IsolationForest,
    Mahalanobis,
    NearestNeighbours,
    OneClassSVM,
    OutlierDetector,
    PrincipalComponents,
)
from detectors.outlier.projection import Projection

RANK_CAP: Final = 256
"""Components of the shared projection: bounds its cost, and its size at 2 MiB per 1024 features."""
SVM_RANK_CAP: Final = 64
NEAR_RANK_CAP: Final = 32
MIXTURE_RANK_CAP: Final = 32
"""Components that each of these uses, at most: bounds the cost of a request."""
REFERENCE_CAP: Final = 1000
"""Rows that knn searches."""
SVM_ROW_CAP: Final = 2000
"""Rows that the machine is fitted on: its time grows with their square."""
NEIGHBOURS: Final = 5
KEPT_VARIANCE: Final = 0.95
TREES: Final = 100
TREE_ROWS: Final = 256
MIXTURE_COMPONENTS: Final = 5
SVM_NU: Final = 0.05
FEATURE_CAP: Final = 1 << 16
SETTINGS: Final[dict[str, dict[str, int | float | str]]] = {
    "mahalanobis": {"covariance": "ledoit-wolf", "rank_cap": RANK_CAP},
    "isolation_forest": {"trees": TREES, "rows_per_tree": TREE_ROWS},
    "pca": {"kept_variance": KEPT_VARIANCE, "rank_cap": RANK_CAP},
    "knn": {"reference_cap": REFERENCE_CAP, "rank_cap": NEAR_RANK_CAP},
    "gmm": {"components_cap": MIXTURE_COMPONENTS, "rank_cap": MIXTURE_RANK_CAP},
    "one_class_svm": {"nu": SVM_NU, "rank_cap": SVM_RANK_CAP, "rows_cap": SVM_ROW_CAP},
}
"""What each kind was fitted with, for the manifest: the kinds that are fitted by name."""
KINDS: Final = tuple(SETTINGS)
EULER_GAMMA: Final = 0.5772156649015329


def fit_detectors(rows: Singles, kinds: Sequence[str], seed: int) -> list[OutlierDetector]:
    """Fits each kind on (n, d) float32 training rows; deterministic under ``seed``.

    All kinds but the forest share one projection.
    """
    needs_projection = any(kind != IsolationForest.name for kind in kinds)
    space = Space(rows, seed) if needs_projection else None
    fitted: list[OutlierDetector] = []
    for kind in kinds:
        if kind == IsolationForest.name:
            fitted.append(fit_isolation_forest(rows, seed))
        elif space is not None:
            fitted.append(_FITTERS[kind](space))
    return fitted


class Space:
    """The training rows, standardised and in principal components.

    Attributes:
        projection: the compiled projection.
        standard: (n, d) standardised rows.
        components: (n, rank) rows along the basis.
        variances: (rank,) variance of each component (divided by n).
        seed: for estimators that need one.
    """

    def __init__(self, rows: Singles, seed: int) -> None:
        wide = rows.astype(np.float64)
        mean = wide.mean(axis=0)
        scale = feature_scale(wide)
        self.standard: Floats = (wide - mean) / scale
        count, features = rows.shape
        rank = min(features, RANK_CAP, count)
        pca = PCA(n_components=rank, svd_solver="full").fit(self.standard)
        basis = pca.components_.astype(np.float64)
        self.variances: Floats = pca.explained_variance_ * (count - 1) / count
        self.projection = Projection(mean, scale, basis)
        self.components: Floats = self.standard @ basis.T
        self.seed = seed

    @property
    def total_variance(self) -> float:
        """The trace of the covariance of the standardised rows."""
        return float(self.standard.var(axis=0).sum())

    def leading(self, cap: int) -> Floats:
        """The first components, at most ``cap``, as (n, r)."""
        return np.ascontiguousarray(self.components[:, :cap])


def constant_features(rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(d,) True where every row holds the same value."""
    constant: npt.NDArray[np.bool_] = (rows == rows[:1]).all(axis=0)
    return constant


def feature_scale(rows: Floats) -> Floats:
    """(d,) the unit of each feature: its standard deviation.

    A constant feature has none. It is kept, since a row that departs from it is suspicious, and
    measured with the median of the others.
    """
    deviation = rows.std(axis=0)
    flat = constant_features(rows) | (deviation <= 1e-12 * np.abs(rows).max(axis=0))
    if flat.all():
        raise ValueError("every feature is constant: there is nothing to learn")
    scale: Floats = np.where(flat, np.median(deviation[~flat]), deviation)
    return scale


def fit_mahalanobis(space: Space) -> Mahalanobis:
    """Ledoit-Wolf covariance, as weights of the principal components."""
    features = space.projection.features
    shrinkage = float(ledoit_wolf_shrinkage(space.standard))
    mean_variance = space.total_variance / features
    if shrinkage * mean_variance < 1e-9 * mean_variance:
        shrinkage = 1e-9  # rows far more numerous than features, and a singular covariance
    shrunk = (1.0 - shrinkage) * space.variances + shrinkage * mean_variance
    left = features - len(shrunk)
    rest = 0.0
    if left:
        unexplained = max(space.total_variance - float(space.variances.sum()), 0.0) / left
        rest = 1.0 / ((1.0 - shrinkage) * unexplained + shrinkage * mean_variance)
    return Mahalanobis(space.projection, 1.0 / shrunk, rest)


def fit_pca(space: Space) -> PrincipalComponents:
    """Keeps the most components that explain at most 95 % of the variance.

    At most, not at least: the rest then has variance, and the error is not mere rounding.
    """
    share = np.cumsum(space.variances) / space.total_variance
    kept = int(np.searchsorted(share, KEPT_VARIANCE, side="right"))
    rank, features = space.projection.rank, space.projection.features
    if rank == features:
        return PrincipalComponents(
            space.projection, np.where(np.arange(rank) < kept, 0.0, 1.0), 0.0
        )
    # The components that the projection lacks are reached by subtraction.
    return PrincipalComponents(space.projection, np.zeros(max(kept, 1)), 1.0)


def fit_knn(space: Space) -> NearestNeighbours:
    """Keeps a random part of the training rows, at most 1000, as the reference."""
    rows = space.leading(NEAR_RANK_CAP)
    if len(rows) > REFERENCE_CAP:
        rows = rows[np.random.default_rng(space.seed).permutation(len(rows))[:REFERENCE_CAP]]
    reference = np.ascontiguousarray(rows[np.argsort(rows[:, 0], kind="stable")])
    return NearestNeighbours(space.projection, reference, min(NEIGHBOURS, len(reference)))


def fit_gmm(space: Space) -> GaussianMixture:
    """Full covariances, fewer components where the rows are too few to fill them."""
    rows = space.leading(MIXTURE_RANK_CAP)
    rank = rows.shape[1]
    count = int(np.clip(len(rows) // (4 * rank), 1, MIXTURE_COMPONENTS))
    mixture = SklearnMixture(
        n_components=count, reg_covar=1e-3, max_iter=200, tol=1e-3, random_state=space.seed
    )
    mixture.fit(rows)
    return compile_gmm(space.projection, mixture)


def compile_gmm(projection: Projection, mixture: SklearnMixture) -> GaussianMixture:
    """A fitted mixture with full covariances as arrays."""
    factors = np.swapaxes(mixture.precisions_cholesky_.astype(np.float64), 1, 2)
    rank = factors.shape[1]
    log_determinants = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    offsets = np.log(mixture.weights_) + log_determinants - 0.5 * rank * np.log(2 * np.pi)
    return GaussianMixture(projection, mixture.means_.astype(np.float64), np.tril(factors), offsets)


def fit_one_class_svm(space: Space) -> OneClassSVM:
    """Gaussian kernel; the width follows the variance, as scikit-learn's ``scale`` does."""
    rows = space.leading(SVM_RANK_CAP)
    if len(rows) > SVM_ROW_CAP:
        rows = rows[np.random.default_rng(space.seed).permutation(len(rows))[:SVM_ROW_CAP]]
    gamma = 1.0 / (rows.shape[1] * float(rows.var()))
    machine = SklearnSVM(kernel="rbf", gamma=gamma, nu=SVM_NU, tol=1e-4).fit(rows)
    return compile_one_class_svm(space.projection, machine, gamma)


def compile_one_class_svm(projection: Projection, machine: SklearnSVM, gamma: float) -> OneClassSVM:
    """A fitted machine with a Gaussian kernel as arrays."""
    weights = machine.dual_coef_[0]
    keep = weights > 0
    return OneClassSVM(
        projection,
        np.ascontiguousarray(machine.support_vectors_[keep], dtype=np.float64),
        np.ascontiguousarray(weights[keep], dtype=np.float64),
        gamma,
    )


def fit_isolation_forest(rows: Singles, seed: int) -> IsolationForest:
    """A hundred trees of at most 256 rows each."""
    forest = SklearnForest(
        n_estimators=TREES, max_samples=min(TREE_ROWS, len(rows)), random_state=seed
    )
    return compile_isolation_forest(forest.fit(rows))


def compile_isolation_forest(forest: SklearnForest) -> IsolationForest:
    """A fitted forest as arrays; each tree may know only some of the features."""
    roots: list[int] = []
    parts: list[tuple[npt.NDArray[Any], ...]] = []
    offset = 0
    for estimator, known in zip(forest.estimators_, forest.estimators_features_, strict=True):
        roots.append(offset)
        part = _flatten(estimator.tree_, np.asarray(known), offset)
        parts.append(part)
        offset += len(part[0])
    feature, threshold, left, length = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    return IsolationForest(
        roots=np.array(roots, dtype=np.int32),
        feature=feature,
        threshold=threshold,
        left=left,
        length=length,
        normaliser=len(roots) * float(unsuccessful_search(np.array([forest.max_samples_]))[0]),
        features=int(forest.n_features_in_),
    )


def _flatten(
    tree: Any, known: npt.NDArray[np.integer], offset: int
) -> tuple[npt.NDArray[Any], ...]:
    """One tree, breadth first, as feature, threshold, left and length."""
    order = [0]
    depth = [0]
    for position, node in enumerate(order):  # grows while it is walked
        if tree.children_left[node] >= 0:
            order += [int(tree.children_left[node]), int(tree.children_right[node])]
            depth += [depth[position] + 1] * 2
    nodes = np.array(order)
    place = np.empty(len(nodes), dtype=np.int64)
    place[nodes] = np.arange(len(nodes))
    children = tree.children_left[nodes]
    leaf = children < 0
    left = np.where(leaf, np.arange(len(nodes)), place[children]) + offset
    length = np.where(leaf, depth + unsuccessful_search(tree.n_node_samples[nodes]), 0.0)
    return (
        np.where(leaf, 0, known[np.where(leaf, 0, tree.feature[nodes])]).astype(np.int32),
        np.where(leaf, np.float32(np.inf), _round_down(tree.threshold[nodes])),
        left.astype(np.int32),
        length,
    )


def _round_down(values: Floats) -> Singles:
    """The largest float32 not above each value: x <= value alike for every float32 x."""
    rounded = values.astype(np.float32)
    lower: Singles = np.where(rounded > values, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    return lower


def unsuccessful_search(rows: npt.NDArray[Any]) -> Floats:
    """c(n): the mean path length of an unsuccessful search in a binary tree of n rows."""
    count = np.asarray(rows, dtype=np.float64)
    lengths = np.where(count == 2, 1.0, 0.0)
    many = count > 2
    lengths[many] = 2.0 * (np.log(count[many] - 1.0) + EULER_GAMMA)
    lengths[many] -= 2.0 * (count[many] - 1.0) / count[many]
    return lengths


_FITTERS: Final[dict[str, Callable[[Space], OutlierDetector]]] = {
    Mahalanobis.name: fit_mahalanobis,
    PrincipalComponents.name: fit_pca,
    NearestNeighbours.name: fit_knn,
    GaussianMixture.name: fit_gmm,
    OneClassSVM.name: fit_one_class_svm,
}
