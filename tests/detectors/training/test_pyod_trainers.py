"""Every PyOD trainer: compiled, it scores as the library does."""

import warnings

import numpy as np
import pytest
from library_cases import SETTINGS, cases, draw, same, told_apart

from detectors.training.compile import CompileError
from detectors.training.pyod_estimators import ALIASES, TRAINERS
from detectors.training.trainers import TRAINERS as ALL
from detectors.training.trainers import SettingsError, compile_estimator, fit_detectors

with warnings.catch_warnings():  # of the libraries that it imports
    warnings.simplefilter("ignore")
    pytest.importorskip("pyod", reason="the pyod extra is not installed")
    for trainer in TRAINERS.values():
        trainer.estimator()

import sklearn.cluster
from pyod.models.cblof import CBLOF
from pyod.models.copod import COPOD
from pyod.models.ecod import ECOD
from pyod.models.hbos import HBOS
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
from pyod.models.loda import LODA
from pyod.models.lof import LOF
from pyod.models.ocsvm import OCSVM
from pyod.models.pca import PCA

ROWS, QUERY = draw(6)
CASES = cases("pyod")


def test_the_table_has_every_trainer():
    assert {name for name in SETTINGS if name.startswith("pyod.")} == set(TRAINERS)
    assert len(TRAINERS) == len(ALIASES) == 13
    assert len(CASES) == 37
    assert len(ALL) == 26


@pytest.mark.filterwarnings("ignore:The covariance matrix")  # far fewer rows than it would like
@pytest.mark.parametrize(("name", "settings", "features"), CASES)
def test_scores_equal_the_librarys(name, settings, features):
    compared, asked, alike, trained = same(name, settings, features)
    assert alike
    assert compared >= 0.9 * asked
    assert trained.fitted_with["estimator"] == name
    assert trained.fitted_with["library"].startswith("pyod ")


def test_scores_stated_once_more_without_the_table():
    """The library's own call: nothing of the trainers in between."""
    wide = QUERY.astype(np.float64)
    fitted = ROWS.astype(np.float64)
    table = [
        (KNN(), 1e-9, 1e-9),
        (KNN(method="mean"), 1e-9, 1e-9),
        (LOF(), 1e-6, 1e-9),
        (PCA(), 1e-7, 0),
        (LODA(), 1e-9, 1e-9),
        (LODA(random_state=0), 1e-9, 1e-12),
        (CBLOF(random_state=0), 1e-9, 1e-9),
    ]
    for estimator, relative, absolute in table:
        expected = estimator.fit(fitted).decision_function(wide)
        found = compile_estimator(estimator, ROWS).score(QUERY)
        clear = told_apart(QUERY) if isinstance(estimator, LOF) else slice(None)
        np.testing.assert_allclose(
            found[clear], expected[clear], relative, absolute, err_msg=str(estimator)
        )
    for estimator in (ECOD(), COPOD()):
        estimator.fit(fitted)
        expected = [estimator.decision_function(row[None])[0] for row in wide]
        found = compile_estimator(estimator, ROWS).score(QUERY)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    forest = IForest(random_state=0).fit(fitted)
    found = compile_estimator(forest, ROWS).score(QUERY) + forest.detector_.offset_
    np.testing.assert_allclose(found, forest.decision_function(wide), atol=1e-12)
    machine = OCSVM().fit(fitted)
    found = machine.detector_.offset_ - np.exp(-compile_estimator(machine, ROWS).score(QUERY))
    np.testing.assert_allclose(found, machine.decision_function(wide), atol=1e-9)


def test_a_row_is_scored_alone_whatever_else_is_in_the_call():
    """The library mixes the rows of a call into the distribution; one at a time it cannot."""
    estimator = ECOD().fit(ROWS.astype(np.float64))
    detector = compile_estimator(estimator, ROWS)
    alone = np.concatenate([detector.score(row[None]) for row in QUERY])
    np.testing.assert_array_equal(detector.score(QUERY), alone)
    assert not np.allclose(estimator.decision_function(QUERY.astype(np.float64)), alone, rtol=1e-6)


def test_rows_that_move_the_skewness():
    """A symmetric feature: one far value decides which tail counts."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=(60, 3))
    rows = np.vstack([half, -half]).astype(np.float32)
    query = np.array([[9, -9, 0], [-9, 9, 0.5], [40, 40, -40]], dtype=np.float32)
    for estimator in (ECOD(), COPOD()):
        estimator.fit(rows.astype(np.float64))
        expected = [estimator.decision_function(row[None].astype(np.float64))[0] for row in query]
        np.testing.assert_allclose(
            compile_estimator(estimator, rows).score(query), expected, rtol=1e-9
        )


@pytest.mark.filterwarnings("ignore:Precision loss")  # a constant feature has no skewness
def test_integers_and_constant_features():
    """Ties, repeated values, and values that lie on an edge of a histogram."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 5, size=(200, 5)).astype(np.float32)
    rows[:, 3] = 2.0
    query = rng.integers(-2, 8, size=(40, 5)).astype(np.float32)
    for estimator in (ECOD(), COPOD(), HBOS(n_bins=4), HBOS(n_bins="auto"), HBOS(tol=0.01)):
        estimator.fit(rows.astype(np.float64))
        wide = query.astype(np.float64)
        expected = [estimator.decision_function(row[None])[0] for row in wide]
        found = compile_estimator(estimator, rows).score(query)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9, err_msg=str(estimator))


class Doubled(LODA):
    def decision_function(self, rows):
        return 2 * super().decision_function(rows)


def test_what_cannot_be_compiled_says_why():
    changed = KNN().fit(ROWS)
    changed.n_neighbors = 7
    with pytest.warns(UserWarning, match="cluster"):
        other = CBLOF(clustering_estimator=sklearn.cluster.Birch(n_clusters=8)).fit(ROWS)
    table = [
        (ECOD(), "not fitted"),
        (LODA(), "not fitted"),
        (LOF(), "not fitted"),
        (IForest(), "not fitted"),
        (KNN(metric="manhattan").fit(ROWS), "metric='manhattan'"),
        (LOF(p=1).fit(ROWS), "p=1: only Euclidean"),
        (OCSVM(kernel="poly").fit(ROWS), "kernel='poly'"),
        (other, "clustering_estimator=Birch: only k-means"),
        (changed, "changed after it was fitted"),
        (
            Doubled(random_state=0).fit(ROWS),
            "a subclass of pyod.models.loda.LODA may score otherwise",
        ),
    ]
    for estimator, message in table:
        with pytest.raises(CompileError, match=message):
            compile_estimator(estimator, ROWS)


def test_a_library_that_refuses_its_settings_says_so():
    with pytest.raises(SettingsError, match=r"pyod\.models\.hbos\.HBOS: .*alpha"):
        fit_detectors(ROWS, ["pyod.HBOS"], 0, {"pyod.HBOS": {"alpha": 7}})
