"""Compiled detectors equal the scikit-learn estimators that they were compiled from."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import OneClassSVM

from detectors.training import estimators

CONFIGURATIONS = range(12)


def draw(seed):
    """Random rows of a random width, scale and correlation, some of them constant or integer."""
    rng = np.random.default_rng(seed)
    features = int(rng.integers(1, 30))
    count = int(rng.integers(60, 500))
    mix = rng.normal(size=(features, features))
    scale = np.exp(rng.normal(size=features) * 3)
    rows = (rng.normal(size=(count, features)) @ mix + rng.normal(size=features) * 5) * scale
    if features > 3:
        rows[:, 1] = 7.0
        rows[:, 2] = np.round(rows[:, 2] / scale[2])
    query = np.vstack([rows[:20], rows[:20] * 3, rng.normal(size=(20, features)) * scale * 30])
    return rows.astype(np.float32), query.astype(np.float32), seed


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def case(request):
    rows, query, seed = draw(request.param)
    space = estimators.Space(rows, seed)
    standard = (query - space.projection.mean) / space.projection.scale
    return rows, query, space, standard


def components(space, standard, cap):
    return (standard @ space.projection.basis.T)[:, :cap]


def test_mahalanobis(case):
    _, query, space, standard = case
    expected = LedoitWolf().fit(space.standard).mahalanobis(standard)
    np.testing.assert_allclose(
        estimators.fit_mahalanobis(space).score(query), expected, rtol=1e-9, atol=1e-9
    )


def test_mahalanobis_beyond_the_rank_cap(monkeypatch):
    monkeypatch.setattr(estimators, "RANK_CAP", 1000)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(30, 80)).astype(np.float32)  # fewer rows than features
    query = rng.normal(size=(10, 80)).astype(np.float32) * 2
    space = estimators.Space(rows, 0)
    standard = (query - space.projection.mean) / space.projection.scale
    expected = LedoitWolf().fit(space.standard).mahalanobis(standard)
    detector = estimators.fit_mahalanobis(space)
    assert detector.rest > 0
    np.testing.assert_allclose(detector.score(query), expected, rtol=1e-9)


@pytest.mark.parametrize("cap", [256, 3])
def test_pca(case, cap, monkeypatch):
    rows, query, _, standard = case
    monkeypatch.setattr(estimators, "RANK_CAP", cap)
    space = estimators.Space(rows, 0)
    detector = estimators.fit_pca(space)
    if space.projection.complete:
        kept = int((detector.weights == 0).sum())
    else:
        kept = detector.weights.size
    if kept == 0:
        expected = np.square(standard).sum(axis=1)
    else:
        pca = PCA(n_components=kept, svd_solver="full").fit(space.standard)
        back = pca.inverse_transform(pca.transform(standard))
        expected = np.square(standard - back).sum(axis=1)
    lengths = np.square(standard).sum(axis=1)
    np.testing.assert_allclose(
        (detector.score(query) - expected) / np.maximum(lengths, 1), 0, atol=1e-9
    )


def test_knn(case):
    _, query, space, standard = case
    detector = estimators.fit_knn(space)
    neighbours = NearestNeighbors(n_neighbors=detector.neighbours, algorithm="kd_tree")
    points = components(space, standard, estimators.NEAR_RANK_CAP)
    expected = neighbours.fit(detector.reference).kneighbors(points)[0][:, -1]
    lengths = np.linalg.norm(points, axis=1)
    allowed = 1e-9 * expected + 1e-7 * lengths
    assert (np.abs(detector.score(query) - expected) <= allowed + 1e-9).all()


def test_knn_reference_is_bounded():
    rows = np.random.default_rng(0).normal(size=(3000, 4)).astype(np.float32)
    detector = estimators.fit_knn(estimators.Space(rows, 0))
    assert detector.reference.shape == (estimators.REFERENCE_CAP, 4)


def test_knn_of_a_reference_row_with_copies_is_zero():
    rows = np.repeat(np.random.default_rng(0).normal(size=(40, 6)), 6, axis=0).astype(np.float32)
    detector = estimators.fit_knn(estimators.Space(rows, 0))
    assert (detector.score(rows) < 1e-12).all()


@pytest.mark.parametrize("count", [1, 4])
def test_gmm(case, count):
    _, query, space, standard = case
    rows = space.leading(estimators.MIXTURE_RANK_CAP)
    mixture = GaussianMixture(count, reg_covar=1e-3, random_state=0, max_iter=500, tol=1e-2)
    mixture.fit(rows)
    detector = estimators.compile_gmm(space.projection, mixture)
    expected = -mixture.score_samples(components(space, standard, rows.shape[1]))
    np.testing.assert_allclose(detector.score(query), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("nu", [0.05, 0.5])
def test_one_class_svm(case, nu):
    _, query, space, standard = case
    rows = space.leading(estimators.SVM_RANK_CAP)
    gamma = 1 / (rows.shape[1] * rows.var())
    machine = OneClassSVM(gamma=gamma, nu=nu).fit(rows)
    detector = estimators.compile_one_class_svm(space.projection, machine, gamma)
    sums = machine.score_samples(components(space, standard, rows.shape[1]))
    scores = detector.score(query)
    lost = 1e-12 * detector.weights.sum()  # where scikit-learn rounds its offset away
    np.testing.assert_allclose(np.exp(-scores), sums, rtol=1e-9, atol=lost)
    assert (sums > 1e3 * lost).sum() >= 20
    assert np.isfinite(scores).all()


@pytest.mark.parametrize(("trees", "samples"), [(100, 256), (7, 2), (30, 1000)])
def test_isolation_forest(case, trees, samples):
    rows, query, _, _ = case
    forest = IsolationForest(
        n_estimators=trees, max_samples=min(samples, len(rows)), random_state=3
    ).fit(rows)
    detector = estimators.compile_isolation_forest(forest)
    np.testing.assert_allclose(detector.score(query), -forest.score_samples(query), rtol=1e-12)


def test_isolation_forest_on_its_own_thresholds():
    """A value that equals a threshold goes left: rounding to float32 must not turn it."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 4, size=(300, 5)).astype(np.float32) / 3
    forest = IsolationForest(n_estimators=50, random_state=0).fit(rows)
    detector = estimators.compile_isolation_forest(forest)
    thresholds = np.concatenate([tree.tree_.threshold for tree in forest.estimators_])
    values = thresholds.astype(np.float32)
    values = np.concatenate([values, np.nextafter(values, 9), np.nextafter(values, -9)])
    query = rng.choice(values, size=(500, 5)).astype(np.float32)
    np.testing.assert_allclose(detector.score(query), -forest.score_samples(query), rtol=1e-12)


def test_constant_features_are_kept_and_count():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 6)).astype(np.float32)
    rows[:, 2] = 5.0
    detector = estimators.fit_mahalanobis(estimators.Space(rows, 0))
    moved = rows.copy()
    moved[:, 2] = 7.0
    assert np.median(detector.score(moved)) > np.quantile(detector.score(rows), 0.99)


def test_every_feature_constant_is_an_error():
    with pytest.raises(ValueError, match="every feature is constant"):
        estimators.Space(np.ones((50, 3), dtype=np.float32), 0)
