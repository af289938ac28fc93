"""When requests are due."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.load.schedules import constant, mix, poisson, recorded, steps

rates = st.floats(0.5, 500)
stretches = st.floats(0.01, 5)


@given(rates, stretches, st.integers(0, 2**32))
def test_schedules_are_sorted_within_their_time_and_seeded(rate, seconds, seed):
    times = poisson(rate, seconds, seed)
    assert times.dtype == np.float64
    assert (np.diff(times) >= 0).all()
    assert ((times >= 0) & (times < seconds)).all()
    assert np.array_equal(times, poisson(rate, seconds, seed))


@given(rates, stretches)
def test_constant_arrivals(rate, seconds):
    times = constant(rate, seconds)
    assert times[0] == 0
    assert times[-1] < seconds
    assert abs(len(times) - rate * seconds) <= 1
    assert np.diff(times) == pytest.approx(1 / rate)


def test_poisson_arrivals_are_what_they_are_called():
    times = poisson(1000, 20, seed=3)
    assert abs(len(times) - 20_000) < 5 * math.sqrt(20_000)
    gaps = np.diff(times)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert not np.array_equal(times, poisson(1000, 20, seed=4))


@pytest.mark.parametrize("seed", [None, 7])
def test_steps_follow_each_other(seed):
    times = steps([(100, 2.0), (0, 1.0), (500, 2.0)], seed)
    assert (np.diff(times) >= 0).all()
    counts = np.bincount(times.astype(int), minlength=5)
    assert counts[2] == 0
    assert counts[:2].sum() == pytest.approx(200, rel=0.3)
    assert counts[3:].sum() == pytest.approx(1000, rel=0.2)
    # Two stretches of one rate are not the same twice.
    if seed is not None:
        twice = steps([(100, 1.0), (100, 1.0)], seed)
        first, second = twice[twice < 1], twice[twice >= 1] - 1
        assert len(first) != len(second) or not np.allclose(first, second)


def test_recorded_arrivals_begin_at_nought_and_can_be_hurried():
    assert recorded([12.0, 10.0, 11.0], speed=2).tolist() == [0.0, 0.5, 1.0]
    assert len(recorded([])) == 0


@given(st.lists(st.lists(st.floats(0, 10), max_size=9), max_size=4))
def test_a_mix_keeps_every_time_of_every_schedule(schedules):
    times, which = mix([np.sort(np.array(one, np.float64)) for one in schedules])
    assert (np.diff(times) >= 0).all()
    for number, one in enumerate(schedules):
        assert times[which == number].tolist() == sorted(one)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: constant(0, 1),
        lambda: constant(math.nan, 1),
        lambda: poisson(1, math.inf, 0),
        lambda: poisson(-1, 1, 0),
        lambda: steps([(1, 0)]),
        lambda: steps([(0, -1)]),
        lambda: recorded([1.0], speed=0),
        lambda: recorded([math.nan]),
    ],
)
def test_what_is_no_schedule(bad):
    with pytest.raises(ValueError):
        bad()
