"""The scorer, on both engines: equal results, equal decisions, nothing that is not finite."""

import os
import subprocess
import sys

import numpy as np
import pytest

from detectors.calibration import BudgetError, Calibration
from detectors.scorer import ENGINE_VARIABLE, ScoreFault, Scorer
from detectors.training.estimators import KINDS
from detectors.training.fit import DEFAULT_DETECTORS, fit

ENGINES = ["numpy", "native"]


def draw(seed, features, count=1200):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(features, features)) / np.sqrt(features)
    rows = np.vstack([rng.normal(size=(count, features)) @ mix, 9 * rng.normal(size=(8, features))])
    return rows.astype(np.float32)


def both(scorer):
    parts = (scorer.detectors, scorer.tails, scorer.calibration)
    return Scorer(*parts, engine="numpy"), Scorer(*parts, engine="native")


@pytest.fixture(scope="module")
def scorer():
    return fit(draw(0, 12), kinds=KINDS, alpha=0.02, engine="numpy").scorer


@pytest.fixture(scope="module", params=ENGINES)
def served(request, scorer):
    if request.param == "native":
        pytest.importorskip("numba", reason="the fast extra is not installed")
    return Scorer(scorer.detectors, scorer.tails, scorer.calibration, engine=request.param)


ENSEMBLES = [(seed, features) for seed in range(3) for features in (1, 3, 17, 70)]


@pytest.mark.parametrize(("seed", "features"), ENSEMBLES)
def test_native_equals_numpy(seed, features):
    pytest.importorskip("numba", reason="the fast extra is not installed")
    rng = np.random.default_rng((seed, features))
    kinds = rng.permutation(KINDS)[: rng.integers(1, 7)].tolist()
    rows = draw(seed, features, 800)
    plain, native = both(fit(rows[:800], kinds=kinds, alpha=0.05, seed=seed, engine="numpy").scorer)
    assert native.engine == "native"
    spread = rng.choice([1, 1, 3, 100, 1e6], size=(400, 1))
    query = (rows[rng.integers(0, len(rows), 400)] * spread).astype(np.float32)
    a, b = plain.score(query), native.score(query)
    np.testing.assert_allclose(b.scores, a.scores, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(b.merged, a.merged, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(b.detector_p_values, a.detector_p_values, rtol=1e-6)
    off = np.abs(a.merged - plain.threshold) > 1e-7
    assert (a.flagged == b.flagged)[off].all()
    least = plain.calibration.p_values(b.merged + 1e-7)
    most = plain.calibration.p_values(b.merged - 1e-7)
    assert ((least <= a.p_values) & (a.p_values <= most)).all()
    assert (a.p_values == b.p_values).mean() > 0.98
    for index in range(50):
        merged, p_value, flagged = native.score_row(query[index : index + 1])
        assert merged == pytest.approx(b.merged[index], rel=1e-12)
        assert (p_value, flagged) == (b.p_values[index], b.flagged[index])


def test_ensembles_ran():
    assert len(ENSEMBLES) == 12


def test_a_single_row_agrees_with_a_batch(served):
    rows = draw(1, 12, 60)
    batch = served.score(rows)
    assert batch.names == served.names
    for index in range(len(rows)):
        merged, p_value, flagged = served.score_row(rows[index : index + 1])
        assert merged == pytest.approx(batch.merged[index], rel=1e-7, abs=1e-7)
        assert p_value == pytest.approx(batch.p_values[index])
        assert flagged == batch.flagged[index]
        assert type(flagged) is bool
        own = served.row_p_values()
        assert tuple(own) == served.names
        np.testing.assert_allclose(list(own.values()), batch.detector_p_values[index], rtol=1e-6)


def test_p_values_fall_as_scores_rise(served):
    verdicts = served.score(draw(2, 12, 300))
    order = np.argsort(verdicts.merged)
    assert (np.diff(verdicts.p_values[order]) <= 0).all()
    assert (verdicts.flagged == (verdicts.merged > served.threshold)).all()
    assert verdicts.flagged[-8:].all()  # the far rows


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_a_fault(served, value):
    rows = draw(3, 12, 5)
    rows[2, 7] = value
    with pytest.raises(ScoreFault):
        served.score(rows)
    with pytest.raises(ScoreFault):
        served.score_row(rows[2:3])
    merged, _, _ = served.score_row(rows[1:2])  # and the next row is served
    assert np.isfinite(merged)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_each_kind_alone_refuses_nan(scorer, kind, engine):
    if engine == "native":
        pytest.importorskip("numba", reason="the fast extra is not installed")
    index = scorer.names.index(kind)
    alone = Scorer(
        scorer.detectors[index : index + 1],
        scorer.tails[index : index + 1],
        scorer.calibration,
        engine=engine,
    )
    rows = draw(3, 12, 1)[:1]
    assert np.isfinite(alone.score_row(rows)[0])
    rows[0, 11] = np.nan
    with pytest.raises(ScoreFault):
        alone.score_row(rows)


def test_huge_values_are_flagged(served):
    for value in (1e30, -1e30, np.finfo(np.float32).max):
        rows = np.full((1, 12), value, dtype=np.float32)
        merged, p_value, flagged = served.score_row(rows)
        assert np.isfinite(merged)
        assert flagged
        assert p_value == pytest.approx(1 / (served.calibration.scores.size + 1))


def test_shapes(served):
    assert served.score(np.empty((0, 12), dtype=np.float32)).merged.shape == (0,)
    for shape in ((1, 11), (1, 13), (12,), (1, 1, 12)):
        with pytest.raises(ValueError, match="expected"):
            served.score(np.zeros(shape, dtype=np.float32))
        with pytest.raises(ValueError, match="expected"):
            served.score_row(np.zeros(shape, dtype=np.float32))
    for shape in ((0, 12), (2, 12)):
        with pytest.raises(ValueError, match="expected one row"):
            served.score_row(np.zeros(shape, dtype=np.float32))
    for dtype in (np.float64, np.int32):
        with pytest.raises(ValueError, match="float32"):
            served.score_row(np.zeros((1, 12), dtype=dtype))
        with pytest.raises(ValueError, match="float32"):
            served.score(np.zeros((2, 12), dtype=dtype))


def test_rows_of_any_layout(served):
    row = draw(4, 12, 1)[:1]
    expected = served.score_row(row)
    wide = np.zeros((1, 24), dtype=np.float32)
    wide[:, ::2] = row
    readonly = np.frombuffer(row.tobytes(), dtype=np.float32).reshape(1, 12)
    for other in (wide[:, ::2], readonly, np.asfortranarray(row)):
        assert served.score_row(other) == pytest.approx(expected)
        assert served.score(other).merged[0] == pytest.approx(expected[0])


def test_another_budget(served):
    rows = draw(5, 12, 300)
    lax = served.with_budget(0.2, 0.05)
    assert lax.engine == served.engine
    assert lax.threshold < served.threshold
    assert lax.score(rows).flagged.sum() >= served.score(rows).flagged.sum()
    with pytest.raises(BudgetError, match="takes 2995 calibration rows"):
        served.with_budget(0.001, 0.05)


def test_the_threshold_replayed_is_never_flagged():
    """The tie with the threshold, scored alone on either engine, is never flagged."""
    rows = draw(6, 5, 800)[:800]
    fitted = fit(rows, alpha=0.02, kinds=DEFAULT_DETECTORS, engine="numpy").scorer
    engines = [*both(fitted)] if _has_numba() else [fitted]
    for engine in engines:
        replayed = [engine.score_row(row[None]) for row in rows]
        merged = np.array([result[0] for result in replayed])
        at = np.isclose(merged, fitted.calibration.threshold, rtol=0, atol=1e-9)
        assert at.any()
        assert not any(result[2] for result, tie in zip(replayed, at, strict=True) if tie)


def _has_numba():
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def test_parts_that_do_not_fit(scorer):
    other = fit(draw(7, 5), alpha=0.02, engine="numpy").scorer
    detectors, tails, calibration = scorer.detectors, scorer.tails, scorer.calibration
    assert isinstance(calibration, Calibration)
    for bad in (
        ((), ()),
        (detectors, tails[:-1]),
        (detectors[:1] * 2, tails[:2]),
        ((detectors[0], other.detectors[1]), tails[:2]),
    ):
        with pytest.raises(ValueError, match=r"."):
            Scorer(*bad, calibration, engine="numpy")


def test_the_environment_chooses_the_engine(scorer, monkeypatch):
    parts = (scorer.detectors, scorer.tails, scorer.calibration)
    monkeypatch.setenv(ENGINE_VARIABLE, "numpy")
    assert Scorer(*parts).engine == "numpy"
    monkeypatch.setenv(ENGINE_VARIABLE, "quantum")
    with pytest.raises(ValueError, match="must be auto, numpy or native"):
        Scorer(*parts)


def test_without_numba_numpy_serves(scorer, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "detectors.native", raising=False)
    monkeypatch.delenv(ENGINE_VARIABLE, raising=False)
    import detectors

    monkeypatch.delattr(detectors, "native", raising=False)
    parts = (scorer.detectors, scorer.tails, scorer.calibration)
    assert Scorer(*parts).engine == "numpy"
    with pytest.raises(ImportError):
        Scorer(*parts, engine="native")


def test_an_unwritable_cache_is_no_obstacle(monkeypatch):
    native = pytest.importorskip("detectors.native", reason="the fast extra is not installed")
    attempts = []

    def compile_(*, cached):
        attempts.append(cached)
        if cached:
            raise RuntimeError("cannot cache function: no locator available")
        return "kernels"

    monkeypatch.setattr(native, "_compile", compile_)
    assert native.load.__wrapped__() == "kernels"
    assert attempts == [True, False]


def test_serving_imports_neither_scikit_learn_nor_scipy_nor_pyarrow(tmp_path, scorer):
    from detectors.training.fit import Table, write

    fitted = fit(draw(0, 12), alpha=0.02, engine="numpy")
    table = Table(draw(0, 12), None, (12,))
    write(fitted, tmp_path / "b.bundle", table, created="2026-01-01T00:00:00+00:00")
    program = (
        "import sys, numpy\n"
        "from detectors.bundle import load_bundle\n"
        f"b = load_bundle({str(tmp_path / 'b.bundle')!r})\n"
        "b.scorer.score_row(numpy.zeros((1, 12), dtype=numpy.float32))\n"
        "bad = {'sklearn', 'scipy', 'pyarrow', 'joblib', 'dill', 'detectors.training'}\n"
        "print(sorted(bad & set(sys.modules)), b.scorer.engine)\n"
    )
    for engine in ["numpy", "native"] if _has_numba() else ["numpy"]:
        run = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, ENGINE_VARIABLE: engine},
        )
        # numba itself looks for scipy, and does without it where only the gateway is installed.
        found = run.stdout.replace("'scipy'", "") if engine == "native" else run.stdout
        assert found.strip() == f"[] {engine}"
