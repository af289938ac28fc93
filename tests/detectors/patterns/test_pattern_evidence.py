"""Bets are bets: their mean under honest p-values is at most 1; thresholds spend the budget."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pattern_subjects import model

from detectors.patterns import evidence
from detectors.patterns.layout import NEAR, SHARED_EQUAL, SHARED_NEAR, STATISTICS


def test_the_mean_bet_of_uniform_p_values_is_1():
    edges = np.linspace(0, 1, 2_000_001)[1:]
    assert evidence.betting(edges).mean() == pytest.approx(1.0, abs=0.05)


def test_the_shares_add_up_to_the_budget():
    assert sum(evidence.SHARES.values()) == pytest.approx(1.0)


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(1e-9, 0.5))
def test_a_threshold_rises_with_volume_and_falls_with_budget(one, other, budget):
    low, high = sorted((one, other))
    assert evidence.threshold(low, budget) <= evidence.threshold(high, budget)
    assert evidence.threshold(high, budget) > evidence.threshold(high, 2 * budget)


@pytest.mark.parametrize("statistic", range(len(STATISTICS)))
def test_a_bet_never_falls_as_its_statistic_rises(statistic):
    knots = model().knots[statistic]
    values = np.sort(np.concatenate([knots[np.abs(knots) < 1e200], np.linspace(-30, 60, 200)]))
    bets = [evidence.bet(model(), statistic, float(value), 0) for value in values]
    assert all(a[0] <= b[0] and a[1] >= b[1] for a, b in pairwise(bets))
    assert all(math.isfinite(e) and 0 < p <= 1 for e, p in bets)


def test_a_value_on_a_knot_is_given_the_benefit_of_the_tie():
    offset = model().offsets[NEAR, 0]
    knot = float(model().knots[NEAR, -1])
    at = evidence.bet(model(), NEAR, knot + offset, 0)
    above = evidence.bet(model(), NEAR, knot + offset + 1e-6, 0)
    assert at[0] < above[0] == model().bets[NEAR, -1]


def test_what_is_off_says_nothing():
    off = np.zeros(len(STATISTICS))
    assert evidence.increment(off, np.full(off.size, 100.0), 0.2) == 0.0
    assert evidence.descent(off, np.full(off.size, 100.0)) == 1.0


def test_equality_counts_with_nearness_only():
    mix, bets = np.zeros(len(STATISTICS)), np.ones(len(STATISTICS))
    mix[[SHARED_NEAR, SHARED_EQUAL]] = 0.5
    bets[SHARED_NEAR], bets[SHARED_EQUAL] = 0.2, 400.0
    far = evidence.descent(mix, bets)
    bets[SHARED_NEAR] = 400.0
    assert far < 5.0
    assert evidence.descent(mix, bets) == 400.0
