"""Names and settings of trainers: what is read, and what is refused in which words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.outlier import REGISTRY
from detectors.training import compile as compiling
from detectors.training import trainers
from detectors.training.compile import CompileError
from detectors.training.trainers import SettingsError, check, fit_detectors, parse_settings

ROWS = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)
FOREST = "sklearn.ensemble.IsolationForest"
ECOD = "pyod.models.ecod.ECOD"
LOF = "sklearn.neighbors.LocalOutlierFactor"


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        (b"", {}),
        (b"{}", {}),
        (b"a: {n: 3, m: 0.5, k: rbf, t: true, z: null}", {"a": None}),
        (b'{"sklearn.ensemble.IsolationForest": {"n_estimators": 300}}', {FOREST: None}),
        (b"pca: {}", {"pca": {}}),
    ],
)
def test_settings_are_read(text, parsed):
    found = parse_settings(text)
    if parsed is not None:
        assert list(found) == list(parsed)


def test_values_keep_their_types():
    found = parse_settings(b"a: {n: 3, m: 0.5, k: rbf, t: true, z: null}")
    assert found == {"a": {"n": 3, "m": 0.5, "k": "rbf", "t": True, "z": None}}
    assert [type(value) for value in found["a"].values()] == [int, float, str, bool, type(None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff", "settings:"),
        (b"[1, 2]", "expected a mapping"),
        (b"a", "expected a mapping"),
        (b"a: 3", "'a': expected a mapping of arguments"),
        (b"3: {n: 1}", "3: expected a mapping"),
        (b"a: {n: [1]}", "'n': expected a plain value"),
        (b"a: {n: {m: 1}}", "'n': expected a plain value"),
        (b"a: {1: 1}", "1: expected a plain value"),
        (b"a: {n: 2026-01-01}", "'n': expected a plain value"),
        (b"a: {n: 1, n: 2}", "a key occurs twice"),
        (b"a: {n: 1}\na: {m: 1}", "a key occurs twice"),
        (b"a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        (b"a: {n: .nan}", None),
        (b"a: {" + b"x: 1, " * 20_000 + b"}", "at most 64 KiB"),
        (b"a: &a {b: *a}", None),
        (b"[" * 1500, "settings"),
        (b"a: {b: !!bool maybe}", "settings"),
        (b"a: {b: !!int ''}", "settings"),
        (b"a: {b: !!float ''}", "settings"),
        (b"a: {b: !!timestamp abc}", "settings"),
    ],
)
def test_settings_that_cannot_be_read(text, message):
    if message is None:
        try:
            parse_settings(text)
        except SettingsError:
            return
    else:
        with pytest.raises(SettingsError, match=message):
            parse_settings(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_settings_or_one_error(data):
    try:
        found = parse_settings(data)
    except SettingsError:
        return
    assert all(isinstance(value, dict) for value in found.values())


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        ([], {}, "at least one"),
        (["mahalanobiss"], {}, "unknown detector 'mahalanobiss': did you mean mahalanobis"),
        (["sklearn.ensemble.IsolatonForest"], {}, "did you mean sklearn.ensemble.IsolationForest"),
        (["xyzzy"], {}, "expected one of mahalanobis, "),
        (["hbos"], {}, "unknown detector 'hbos'"),  # a kind that only a library fits
        (["pca", "pca"], {}, "pca is named twice"),
        ([FOREST, FOREST], {}, "is named twice"),
        (["pca"], {FOREST: {}}, "which is not fitted"),
        (["pca"], {"pca": {"n": 1}}, "pca takes no settings"),
        ([FOREST], {FOREST: {"n_estimator": 3}}, "takes no 'n_estimator': did you mean n_estim"),
        ([FOREST], {FOREST: {"self": 3}}, "takes no 'self'"),
        ([FOREST], {FOREST: {"max_rows": 9}}, "max_rows must be a whole number from 10, got 9"),
        ([FOREST], {FOREST: {"max_rows": True}}, "max_rows must be"),
        ([FOREST], {FOREST: {"max_rows": 1e3}}, "max_rows must be"),
    ],
)
def test_what_cannot_be_fitted_is_refused_before_it_is(names, settings, message):
    with pytest.raises(SettingsError, match=message):
        check(names, settings)


def test_short_names_are_the_same_as_long_ones():
    assert "pyod.KNN" in trainers.names()
    assert trainers.canonical("pyod.KNN") == "pyod.models.knn.KNN"
    assert trainers.canonical(FOREST) == FOREST


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_estimators": -3}, "n_estimators"),
        ({"n_estimators": "many"}, "n_estimators"),
        ({"max_samples": 0.0}, "max_samples"),
    ],
)
def test_what_the_library_refuses_is_told(settings, message):
    with pytest.raises(SettingsError, match=f"IsolationForest: .*{message}"):
        fit_detectors(ROWS, [FOREST], 0, {FOREST: settings})


def test_whatever_a_library_raises_is_told_as_the_setting_it_is():
    pytest.importorskip("pyod", reason="pyod is not installed")
    with pytest.raises(SettingsError, match=r"ECOD: .*str.* has no attribute"):
        fit_detectors(ROWS, [ECOD], 0, {ECOD: {"contamination": "much"}})


def test_what_cannot_be_compiled_is_told():
    with pytest.raises(CompileError, match="LocalOutlierFactor: metric='manhattan'"):
        fit_detectors(ROWS, [LOF], 0, {LOF: {"metric": "manhattan"}})
    with pytest.raises(CompileError, match="novelty=True is needed"):
        fit_detectors(ROWS, [LOF], 0, {LOF: {"novelty": False}})


def test_a_kind_comes_once():
    with pytest.raises(
        CompileError, match=r"isolation_forest and sklearn\S+ both come to the kind"
    ):
        fit_detectors(ROWS, ["isolation_forest", FOREST], 0)


def test_own_and_library_kinds_together_in_the_order_asked_for():
    names = [FOREST, "pca", LOF, "mahalanobis"]
    trained = fit_detectors(ROWS, names, 0, {FOREST: {"n_estimators": 7, "bootstrap": True}})
    kinds = [one.detector.name for one in trained]
    assert kinds == ["isolation_forest", "pca", "lof", "mahalanobis"]
    assert set(kinds) <= set(REGISTRY)
    assert trained[1].detector.projection is trained[3].detector.projection
    told = trained[0].fitted_with
    assert told["n_estimators"] == 7
    assert told["bootstrap"] == "True"
    assert told["random_state"] == 0
    assert told["rows"] == len(ROWS)
    assert told["library"].startswith("scikit-learn ")
    assert trained[0].detector.roots.size == 7


def test_the_same_seed_gives_the_same_detector():
    for name in (FOREST, LOF):
        settings = {name: {"max_rows": 50}}
        first, again, other = (
            fit_detectors(ROWS, [name], seed, settings)[0].detector.score(ROWS)
            for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)


def test_the_reference_is_bounded(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(compiling.REFERENCE_CAP + 50, 2))
    [trained] = fit_detectors(rows.astype(np.float32), [LOF], 0)
    assert trained.detector.reference.shape == (compiling.REFERENCE_CAP, 2)
    assert trained.fitted_with["rows"] == compiling.REFERENCE_CAP


def test_a_library_that_is_not_there(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(compiling.importlib, "import_module", missing)
    with pytest.raises(
        CompileError, match=r"pip install '\.\[pyod\]' in a checkout \(No module named"
    ):
        check(["pyod.KNN"])
