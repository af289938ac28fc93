"""P-values, thresholds and tails, against scipy and against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from detectors.calibration import (
    BudgetError,
    Calibration,
    Tail,
    binomial_tail,
    empirical_p_values,
    merge,
    rows_for_rank,
    rows_needed,
    threshold_rank,
)
from detectors.training.tails import fit_tail

finite = st.floats(-1e6, 1e6)


def test_p_value_by_its_definition():
    calibration = np.array([1.0, 2.0, 2.0, 5.0])
    scores = np.array([0.0, 1.0, 2.0, 2.5, 5.0, 6.0])
    expected = [(1 + sum(c >= s for c in calibration)) / 5 for s in scores]
    np.testing.assert_array_equal(empirical_p_values(calibration, scores), expected)


@given(st.lists(finite, min_size=1, max_size=50), st.lists(finite, min_size=2, max_size=20))
def test_p_value_never_rises_with_the_score(calibration, scores):
    values = empirical_p_values(np.sort(calibration), np.sort(scores))
    assert (np.diff(values) <= 0).all()
    assert (values > 0).all()
    assert (values <= 1).all()


def test_p_values_of_exchangeable_rows_are_valid():
    rng = np.random.default_rng(0)
    hits = [
        empirical_p_values(np.sort(rng.normal(size=99)), rng.normal(size=1))[0] <= 0.05
        for _ in range(4000)
    ]
    assert 0.035 < np.mean(hits) < 0.065  # exactly 0.05, within four standard errors


def test_the_rows_that_a_budget_takes():
    assert rows_needed(0.001, 0.05) == 2995
    assert rows_needed(0.01, 0.05) == 299
    assert rows_needed(0.05, 0.05) == 59
    assert threshold_rank(2995, 0.001, 0.05) == 1
    assert threshold_rank(10_000, 0.001, 0.05) == 5
    with pytest.raises(BudgetError, match="takes 2995 calibration rows; there are 2994") as caught:
        threshold_rank(2994, 0.001, 0.05)
    assert (caught.value.have, caught.value.need) == (2994, 2995)


@given(
    st.integers(1, 3000),
    st.floats(0.0005, 0.5),
    st.floats(0.001, 0.5),
)
@settings(max_examples=200)
def test_rank_is_the_largest_that_holds(n, alpha, delta):
    try:
        rank = threshold_rank(n, alpha, delta)
    except BudgetError as error:
        assert binom.cdf(0, n, alpha) > delta * (1 - 1e-9)
        assert error.need > n
        assert binom.cdf(0, error.need, alpha) <= delta * (1 + 1e-9)
        assert binom.cdf(0, error.need - 1, alpha) > delta * (1 - 1e-9)
        return
    assert binom.cdf(rank - 1, n, alpha) <= delta * (1 + 1e-9)
    assert rank == n or binom.cdf(rank, n, alpha) > delta * (1 - 1e-9)
    assert binomial_tail(n, alpha, rank - 1) == pytest.approx(binom.cdf(rank - 1, n, alpha))


@given(st.integers(1, 20), st.floats(0.001, 0.9), st.floats(0.001, 0.5))
@settings(max_examples=100)
def test_the_rows_that_a_rank_takes(rank, alpha, delta):
    need = rows_for_rank(rank, alpha, delta)
    assert threshold_rank(need, alpha, delta) >= rank
    if need > max(rank, rows_needed(alpha, delta)):
        assert threshold_rank(need - 1, alpha, delta) < rank


def test_the_rows_that_rank_five_takes():
    assert [rows_for_rank(5, alpha, 0.05) for alpha in (0.05, 0.02, 0.01, 0.001)] == [
        *(181, 456, 913, 9151),
    ]
    assert rows_for_rank(1, 0.01, 0.05) == rows_needed(0.01, 0.05)


def test_a_large_calibration_set_does_not_underflow():
    rank = threshold_rank(1_000_000, 0.001, 0.05)
    assert rank == binom.ppf(0.05, 1_000_000, 0.001)


@pytest.mark.parametrize(("alpha", "delta"), [(0, 0.05), (1, 0.05), (0.1, 0), (0.1, 1), (-1, 0.1)])
def test_a_budget_outside_its_range(alpha, delta):
    with pytest.raises(ValueError, match="strictly between"):
        threshold_rank(100, alpha, delta)


def test_the_threshold_keeps_its_promise():
    """Over many draws the true rate exceeds the budget in at most delta of them."""
    rng = np.random.default_rng(1)
    over = 0
    for _ in range(2000):
        calibration = Calibration.of(rng.uniform(size=500), 0.01, 0.05)
        over += 1 - calibration.threshold > 0.01  # the true rate: scores are uniform
    expected = binom.cdf(calibration.rank - 1, 500, 0.01)
    assert expected <= 0.05
    assert abs(over / 2000 - expected) < 4 * np.sqrt(expected / 2000)


def test_a_tie_with_the_threshold_is_not_flagged():
    scores = np.repeat([1.0, 2.0, 3.0], 100)
    calibration = Calibration.of(scores, 0.05, 0.05)
    assert calibration.threshold == 3.0
    assert calibration.flag_above > 3.0 * (1 + 1e-12)
    assert calibration.flag_above < 3.0 + 1e-5


def test_calibration_refuses_what_is_not_finite():
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            Calibration.of(np.append(np.arange(400.0), bad), 0.01, 0.05)


@st.composite
def samples(draw):
    kind = draw(st.sampled_from(["normal", "cauchy", "ties", "one", "huge", "negative"]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    size = draw(st.integers(2, 400))
    return {
        "normal": rng.normal(size=size),
        "cauchy": rng.standard_cauchy(size=size) * 1e5,
        "ties": rng.integers(0, 3, size=size).astype(float),
        "one": np.full(size, 4.0),
        "huge": np.exp(rng.normal(size=size) * 100),
        "negative": -np.exp(rng.normal(size=size) * 5),
    }[kind]


@given(samples())
@settings(max_examples=150, deadline=None)
def test_evidence_rises_with_the_score_and_stays_finite(scores):
    tail = fit_tail(scores)
    top = float(np.abs(scores).max())
    # Apart by more than rounding, of tiny scores too.
    beyond = top + max(top, 1e-3) * np.array([0.01, 1.0, 10.0, 1e6, 1e30])
    grid = np.unique(np.concatenate([scores, np.linspace(-top, top, 300), beyond]))
    evidence = tail(grid)
    assert np.isfinite(evidence).all()
    assert (evidence >= 0).all()
    assert (np.diff(evidence) >= -1e-12).all()
    above = tail(np.unique(beyond))
    assert (np.diff(above) > 0).all()  # no ties at a cap


def test_evidence_follows_the_empirical_p_value():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=5000)
    tail = fit_tail(scores)
    for level, tolerance in ((0.5, 0.01), (0.2, 0.01), (0.1, 0.01), (0.05, 0.2), (0.01, 0.5)):
        score = np.array([np.quantile(scores, 1 - level)])
        assert np.exp(-tail(score)[0]) == pytest.approx(level, rel=tolerance)


def test_nan_has_no_evidence():
    tail = fit_tail(np.random.default_rng(0).normal(size=100))
    assert np.isnan(tail(np.array([np.nan]))).all()


@pytest.mark.parametrize(
    ("knots", "evidence", "shape", "scale"),
    [
        ([], [], 0.1, 1.0),
        ([1.0, 1.0], [0.0, 1.0], 0.1, 1.0),
        ([2.0, 1.0], [0.0, 1.0], 0.1, 1.0),
        ([1.0, 2.0], [1.0, 0.5], 0.1, 1.0),
        ([1.0, 2.0], [-1.0, 0.5], 0.1, 1.0),
        ([1.0, 2.0], [0.0], 0.1, 1.0),
        ([1.0, np.nan], [0.0, 1.0], 0.1, 1.0),
        ([1.0, 2.0], [0.0, 1.0], 0.0, 1.0),
        ([1.0, 2.0], [0.0, 1.0], 0.1, 0.0),
        ([1.0, 2.0], [0.0, 1.0], 0.1, np.inf),
    ],
)
def test_a_tail_that_makes_no_sense(knots, evidence, shape, scale):
    with pytest.raises(ValueError, match=r"."):
        Tail(np.array(knots), np.array(evidence), shape, scale)


@given(st.lists(st.lists(st.floats(0, 1e4), min_size=3, max_size=3), min_size=1, max_size=5))
def test_the_merge_lies_between_mean_and_maximum(evidence):
    columns = [np.array(values) for values in evidence]
    merged = merge(columns)
    top = np.max(columns, axis=0)
    assert (merged <= top + 1e-9).all()
    assert (merged >= top - np.log(len(columns)) - 1e-9).all()
    for k in range(len(columns)):  # more evidence never lowers the merged score
        raised = [column + (index == k) for index, column in enumerate(columns)]
        assert (merge(raised) >= merged).all()
