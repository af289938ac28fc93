import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.evidence.results import Estimate, Share
from loadtest.evidence.statistics import (
    difference,
    difference_of_means,
    median,
    of_share,
    pooled,
    quantile,
    student,
)


def test_difference_of_shares_is_newcombes():
    # Newcombe (1998), table II: 56/70 - 48/80, method 10: 0.0524 to 0.3339.
    found = difference(of_share(Share(56, 70)), of_share(Share(48, 80)))
    assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)
    none = difference(of_share(Share(10, 10)), of_share(Share(0, 10)))
    assert (round(none.low, 4), none.high) == (0.6075, 1.0)


def test_a_share_of_nothing_is_not_measured():
    assert of_share(Share(0, 0)) is None
    assert pooled([Share(1, 2), Share(3, 10)]) == Share(4, 12)


def test_welch():
    # As scipy.stats.ttest_ind(equal_var=False) has it, with its degrees of freedom rounded down.
    found = difference_of_means([10.0, 12.0, 11.0, 13.0], [1.0, 2.0, 3.0, 4.0])
    assert found.value == 9.0
    assert (round(found.low, 3), round(found.high, 3)) == (6.766, 11.234)
    assert difference_of_means([1.0], [1.0, 2.0]) is None


def test_students_quantile():
    assert [student(f) for f in (0.5, 1, 2.9, 30)] == [12.706, 12.706, 4.303, 2.042]
    assert student(31) == pytest.approx(2.0395, abs=2e-4)
    assert student(1e6) == pytest.approx(1.95996, abs=1e-4)


def test_the_interval_of_a_median_of_six_is_all_of_them():
    found = median([5.0, 1.0, 4.0, 2.0, 3.0, 6.0])
    assert found.estimate == Estimate(3.5, 1.0, 6.0)
    assert found.level == pytest.approx(1 - 2 * 0.5**6)
    assert median([7.0]).estimate == Estimate(7.0, 7.0, 7.0)
    assert median([7.0]).level == pytest.approx(0.0, abs=1e-12)
    assert median([]) is None


def test_quantile_takes_what_was_never_reached():
    found = quantile([3.0, math.inf, 5.0, math.inf], 0.5)
    assert found.estimate.value == 5.0
    assert found.estimate.high == math.inf


def test_intervals_of_quantiles_hold_what_they_say():
    generator = random.Random(4)
    for q in (0.5, 0.95):
        held = 0
        for _ in range(2000):
            found = quantile([generator.random() for _ in range(40)], q)
            held += found.estimate.low <= q <= found.estimate.high
        assert held / 2000 >= found.level - 0.02


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_a_quantile_lies_in_its_interval(values, q):
    found = quantile(values, q)
    assert min(values) <= found.estimate.low <= found.estimate.value <= found.estimate.high
    assert found.estimate.high <= max(values)
    assert 0 <= found.level <= 1 + 1e-9
