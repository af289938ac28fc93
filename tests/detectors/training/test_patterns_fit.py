"""Fitting the patterns: repeatable, honest about what rows support, and quiet on honest rows."""

import numpy as np
import pytest

from detectors.patterns.tracker import PatternTracker
from detectors.training.patterns import MIN_SPACE, PatternRowsError, fit_patterns, rows_needed


def normal(count, features=8, seed=0):
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(features, features))
    return (random.normal(size=(count, features)) @ mixing).astype(np.float32)


def same(one, other):
    first, second = one.parts(), other.parts()
    return first[0] == second[0] and all(
        np.array_equal(first[1][name], second[1][name]) for name in first[1]
    )


def test_the_seed_decides():
    rows = normal(800)
    one = fit_patterns(rows[:400], rows[400:], seed=1)
    assert same(one, fit_patterns(rows[:400], rows[400:], seed=1))
    assert not same(one, fit_patterns(rows[:400], rows[400:], seed=2))
    assert same(
        fit_patterns(rows[:400], rows[400:], seed=1 << 100),
        fit_patterns(rows[:400], rows[400:], seed=1 << 100),
    )


@pytest.mark.parametrize(
    ("budget", "need"), [(0.1, 300), (0.001, 300), (1e-4, 3000), (1e-5, 30000)]
)
def test_a_smaller_budget_takes_more_rows(budget, need):
    assert rows_needed(budget) == need
    with pytest.raises(PatternRowsError) as error:
        fit_patterns(normal(200), normal(need - 1), seed=0, budget=budget)
    assert (error.value.have, error.value.need) == (need - 1, need)
    assert str(need) in str(error.value)


def test_too_few_rows_for_the_space_are_refused():
    with pytest.raises(PatternRowsError) as error:
        fit_patterns(normal(MIN_SPACE - 1), normal(300), seed=0)
    assert error.value.need == MIN_SPACE


@pytest.mark.parametrize("budget", [0.0, 1.0, -1.0, float("nan")])
def test_a_budget_outside_0_and_1_is_refused(budget):
    with pytest.raises(ValueError):
        fit_patterns(normal(200), normal(400), seed=0, budget=budget)


def broken():
    good, bad = normal(300), normal(300)
    bad[3, 2] = np.nan
    return {
        "nan": {"space": good, "streams": bad},
        "dtype": {"space": good.astype(np.float64), "streams": good},
        "widths": {"space": good[:, :7], "streams": good},
        "labels": {"space": good, "streams": good, "space_labels": np.zeros(3)},
        "p-values": {"space": good, "streams": good, "stream_p": np.zeros(300)},
    }


@pytest.mark.parametrize("case", list(broken()))
def test_arrays_that_do_not_fit_are_refused(case):
    with pytest.raises(ValueError):
        fit_patterns(**broken()[case], seed=0)


ODD = {
    "one feature": lambda: normal(800, 1),
    "constant features": lambda: np.c_[normal(800, 3), np.full((800, 5), 7)].astype(np.float32),
    "all constant but one value": lambda: np.eye(800, 6, dtype=np.float32),
    "whole numbers": lambda: np.random.default_rng(0).poisson(2, (800, 6)).astype(np.float32),
    "dependent features": lambda: np.repeat(normal(800, 4), 3, axis=1),
    "large values": lambda: normal(800) * np.float32(1e15),
    "small values": lambda: normal(800) * np.float32(1e-15),
    "one huge row": lambda: np.r_[normal(799), np.full((1, 8), 1e12)].astype(np.float32),
    "wide": lambda: normal(800, 300),
    "wider than long": lambda: normal(600, 900),
}


@pytest.mark.parametrize("kind", list(ODD))
def test_odd_rows_fit_and_are_quiet(kind):
    rows = np.random.default_rng(1).permutation(ODD[kind]())
    half = len(rows) // 2
    fitted = fit_patterns(rows[:half], rows[half:], seed=3)
    watch = PatternTracker(fitted, clients=4, engine="numpy")
    quiet = rows[half : half + 150]
    for index, row in enumerate(quiet):
        assert not watch.observe("a", "", row[None], None, index * 0.1)


def test_labels_may_be_words():
    rows = normal(800)
    labels = np.where(rows[:, 0] > 0, "yes", "no")
    fitted = fit_patterns(
        rows[:400],
        rows[400:],
        space_labels=labels[:400],
        stream_labels=labels[400:],
        stream_p=np.linspace(0.01, 1, 400),
        seed=0,
    )
    assert fitted.has_outlier == 1


def test_days_of_unseen_clients_are_quiet():
    fitted = fit_patterns(normal(1000, seed=1), normal(1000, seed=2), seed=0)
    watch = PatternTracker(fitted, clients=20, engine="numpy")
    alarmed = set()
    for client in range(8):
        for index, row in enumerate(normal(150, seed=100 + client)):
            if watch.observe(f"c{client}", "s", row[None], None, index * 0.1):
                alarmed.add(client)
    assert not alarmed
