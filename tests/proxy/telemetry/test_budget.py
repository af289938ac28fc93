"""The alert window: what it holds, and when it calls the budget passed."""

import math
import random

import pytest

from proxy.telemetry.budget import WINDOW_ROWS, AlertWindow


def test_an_empty_window_has_no_rate_and_no_signal():
    window = AlertWindow(0.001)
    assert math.isnan(window.rate)
    assert not window.exceeded
    window.add(0, 0, 0)
    assert window.rows == 0


@pytest.mark.parametrize("budget", [0.0, 1.0, -0.1, math.nan, math.inf])
def test_a_budget_that_is_none_is_refused(budget):
    with pytest.raises(ValueError, match="between 0 and 1"):
        AlertWindow(budget)


def test_the_window_forgets_what_is_old():
    window = AlertWindow(0.01)
    for _ in range(100):
        window.add(100, 100, 100)
    assert window.rate == 1.0
    assert window.exceeded
    for _ in range(2 * WINDOW_ROWS // 100):
        window.add(100, 0, 0)
    assert window.rate == 0.0
    assert not window.exceeded
    assert WINDOW_ROWS <= window.rows <= WINDOW_ROWS * 1.1


def test_the_window_is_long_enough_for_a_small_budget():
    window = AlertWindow(1e-5)
    for _ in range(2000):
        window.add(1000, 0, 0)
    assert window.rows >= 10 / 1e-5


def test_honest_traffic_at_its_budget_does_not_cry():
    """A thousand windows, looked at every hundred rows: not one signal at a level of 1e-6."""
    draw = random.Random(7)
    budget = 0.01
    window = AlertWindow(budget)
    signals = 0
    for _ in range(20_000):
        flagged = sum(draw.random() < budget for _ in range(100))
        window.add(100, flagged, flagged)
        signals += window.exceeded
    assert signals == 0


@pytest.mark.parametrize("budget", [0.05, 0.01, 0.001])
def test_three_times_the_budget_is_noticed(budget):
    draw = random.Random(3)
    window = AlertWindow(budget)
    rows = max(WINDOW_ROWS, int(10 / budget))
    for _ in range(rows // 10):
        flagged = sum(draw.random() < 4 * budget for _ in range(10))
        window.add(10, flagged, flagged)
    assert window.exceeded


def test_one_request_of_many_flagged_rows_is_one_alarm():
    """The rows of one request may be copies of each other: together they prove nothing."""
    window = AlertWindow(0.001)
    window.add(5000, 0, 0)
    window.add(256, 256, 1)
    assert window.rate > 0.04
    assert not window.exceeded


def test_the_bound_is_chernoffs():
    """Against the exact binomial tail: never smaller, so that the level holds."""
    budget, rows = 0.01, 1000

    def tail(k):
        return sum(
            math.comb(rows, i) * budget**i * (1 - budget) ** (rows - i) for i in range(k, rows + 1)
        )

    def exceeded(k):
        window = AlertWindow(budget)
        window.add(rows, k, k)
        return window.exceeded

    least = next(k for k in range(rows) if exceeded(k))
    assert tail(least) < 1e-6
    assert tail(least - 4) > 1e-6  # and it is not blunt
