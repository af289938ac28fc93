"""Every scikit-learn trainer: compiled, it scores as the library does."""

import numpy as np
import pytest
import sklearn.covariance
import sklearn.decomposition
import sklearn.ensemble
import sklearn.mixture
import sklearn.neighbors
import sklearn.svm
from library_cases import SETTINGS, cases, draw, same, told_apart

from detectors.training.compile import CompileError
from detectors.training.sklearn_estimators import TRAINERS
from detectors.training.trainers import compile_estimator

ROWS, QUERY = draw(6)
CASES = cases("sklearn")


def test_the_table_has_every_trainer():
    assert {name for name in SETTINGS if name.startswith("sklearn.")} == set(TRAINERS)
    assert len(TRAINERS) == 13
    assert len(CASES) == 40
    assert all(trainer.name == name for name, trainer in TRAINERS.items())


@pytest.mark.filterwarnings("ignore:The covariance matrix")  # far fewer rows than it would like
@pytest.mark.parametrize(("name", "settings", "features"), CASES)
def test_scores_equal_the_librarys(name, settings, features):
    compared, asked, alike, trained = same(name, settings, features)
    assert alike
    assert compared >= 0.9 * asked
    assert trained.fitted_with["estimator"] == name
    for key, value in settings.items():
        if key != "max_rows":
            assert trained.fitted_with[key] in {value, str(value)}


def test_scores_stated_once_more_without_the_table():
    """The library's own call, with the sign turned: nothing of the trainers in between."""
    wide = QUERY.astype(np.float64)
    fitted = ROWS.astype(np.float64)
    forest = sklearn.ensemble.IsolationForest(random_state=0).fit(fitted)
    lof = sklearn.neighbors.LocalOutlierFactor(novelty=True).fit(fitted)
    mixture = sklearn.mixture.GaussianMixture(2, random_state=0).fit(fitted)
    machine = sklearn.svm.OneClassSVM().fit(fitted)
    line = sklearn.svm.OneClassSVM(kernel="linear").fit(fitted)
    envelope = sklearn.covariance.EllipticEnvelope(random_state=0).fit(fitted)
    pca = sklearn.decomposition.PCA(3).fit(fitted)
    near = sklearn.neighbors.NearestNeighbors(n_neighbors=3).fit(fitted)
    table = [
        (forest, -forest.score_samples(wide), 1e-12, lambda s: s),
        (lof, -lof.score_samples(wide), 1e-6, lambda s: s),
        (mixture, -mixture.score_samples(wide), 1e-9, lambda s: s),
        (machine, machine.score_samples(wide), 1e-9, lambda s: np.exp(-s)),
        (line, -line.score_samples(wide), 1e-9, lambda s: s),
        (envelope, -envelope.score_samples(wide), 1e-9, lambda s: s),
        (
            pca,
            np.square(wide - pca.inverse_transform(pca.transform(wide))).sum(axis=1),
            1e-9,
            lambda s: s,
        ),
        (near, near.kneighbors(wide)[0][:, -1], 1e-9, lambda s: s),
    ]
    assert len(table) == 8
    for estimator, expected, tolerance, turned in table:
        found = turned(compile_estimator(estimator, ROWS).score(QUERY))
        clear = told_apart(QUERY)
        if estimator is not lof:
            np.testing.assert_allclose(found[~clear], expected[~clear], rtol=1e-9)
        scale = np.abs(expected[clear]).max() * 1e-13  # what the library rounds away
        np.testing.assert_allclose(
            found[clear], expected[clear], rtol=tolerance, atol=scale, err_msg=str(estimator)
        )


REFUSED = [
    (sklearn.ensemble.IsolationForest(), "not fitted"),
    (sklearn.svm.OneClassSVM(), "not fitted"),
    (sklearn.neighbors.LocalOutlierFactor(novelty=True), "not fitted"),
    (sklearn.mixture.GaussianMixture(), "not fitted"),
    (sklearn.covariance.MinCovDet(), "not fitted"),
    (sklearn.svm.OneClassSVM(kernel="poly").fit(ROWS), "kernel='poly': only 'rbf' and 'linear'"),
    (sklearn.svm.OneClassSVM(kernel="sigmoid").fit(ROWS), "kernel='sigmoid'"),
    (sklearn.neighbors.LocalOutlierFactor().fit(ROWS), "novelty=True is needed"),
    (
        sklearn.neighbors.LocalOutlierFactor(novelty=True, metric="manhattan").fit(ROWS),
        "metric='manhattan', p=2: only Euclidean",
    ),
    (sklearn.neighbors.NearestNeighbors(p=3).fit(ROWS), "p=3: only Euclidean"),
    (sklearn.neighbors.NearestNeighbors(metric="cosine").fit(ROWS), "metric='cosine'"),
    (sklearn.decomposition.PCA().fit(ROWS), "all components are kept"),
    (sklearn.ensemble.RandomForestRegressor(), "cannot be compiled: expected one of"),
    (object(), "builtins.object cannot be compiled"),
    (sklearn.ensemble.IsolationForest, "cannot be compiled"),
]


@pytest.mark.parametrize(("estimator", "message"), REFUSED)
def test_what_cannot_be_compiled_says_why(estimator, message):
    with pytest.raises(CompileError, match=message):
        compile_estimator(estimator, ROWS)


def test_refusals_are_all_tried():
    assert len(REFUSED) == 15


class Sharper(sklearn.ensemble.IsolationForest):
    def score_samples(self, rows):
        return 2 * super().score_samples(rows)


def test_a_subclass_is_refused():
    with pytest.raises(CompileError, match=r"a subclass of sklearn\.ensemble\.IsolationForest may"):
        compile_estimator(Sharper().fit(ROWS), ROWS)


def test_a_library_that_scores_otherwise_is_noticed(monkeypatch):
    """Another version, or attributes changed after the fit: seen before anyone gets the scores."""
    forest = sklearn.ensemble.IsolationForest(random_state=0).fit(ROWS)
    forest._decision_path_lengths  # noqa: B018 - there: what the version is known by
    monkeypatch.setattr(
        sklearn.ensemble.IsolationForest, "score_samples", lambda self, rows: -np.ones(len(rows))
    )
    with pytest.raises(CompileError, match=r"does not score as compiled \(scikit-learn "):
        compile_estimator(forest, ROWS)


def test_attributes_that_were_changed_are_noticed():
    mixture = sklearn.mixture.GaussianMixture(random_state=0).fit(ROWS)
    mixture.means_ = mixture.means_ + 1e-3
    compile_estimator(mixture, ROWS)  # the library reads this one too: they agree
    mixture.precisions_cholesky_ = mixture.precisions_cholesky_ * np.nan
    with pytest.raises(CompileError, match="not finite"):
        compile_estimator(mixture, ROWS)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[:, :5], "fitted on 6 features, the reference rows have 5"),
        (ROWS[0], r"must be \(n, d\) numbers"),
        (ROWS[:0], r"must be \(n, d\) numbers"),
        (ROWS.astype(str), r"must be \(n, d\) numbers"),
        (ROWS.astype(object), r"must be \(n, d\) numbers"),
        (np.where(ROWS > 0, ROWS, np.nan), "not finite"),
        (ROWS.astype(np.float64) * 1e39, "not finite in float32"),
    ],
)
def test_reference_rows_must_be_rows(rows, message):
    forest = sklearn.ensemble.IsolationForest(n_estimators=3, random_state=0).fit(ROWS)
    with pytest.raises(CompileError, match=message):
        compile_estimator(forest, rows)


def test_an_estimator_fitted_in_single_precision_or_on_lists_compiles():
    for rows in (ROWS, ROWS.tolist(), np.asfortranarray(ROWS, dtype=np.float64)):
        for estimator in (
            sklearn.neighbors.LocalOutlierFactor(novelty=True, n_neighbors=5),
            sklearn.decomposition.PCA(2),
            sklearn.mixture.GaussianMixture(2, random_state=0),
            sklearn.mixture.GaussianMixture(2, covariance_type="diag", random_state=0),
            sklearn.covariance.LedoitWolf(),
            sklearn.svm.OneClassSVM(),
            sklearn.neighbors.NearestNeighbors(n_neighbors=2),
        ):
            detector = compile_estimator(estimator.fit(rows), ROWS)
            assert np.isfinite(detector.score(QUERY)).all()


def test_features_of_very_different_units_lose_no_digits():
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(300, 4)) * [1e-3, 1.0, 1e3, 10.0]).astype(np.float32)
    estimator = sklearn.covariance.EmpiricalCovariance().fit(rows.astype(np.float64))
    detector = compile_estimator(estimator, rows)
    white = np.linalg.solve(
        np.linalg.cholesky(np.cov(rows.T.astype(np.float64), bias=True)),
        (rows - rows.astype(np.float64).mean(axis=0)).T,
    )
    np.testing.assert_allclose(detector.score(rows), np.square(white).sum(axis=0), rtol=1e-6)
