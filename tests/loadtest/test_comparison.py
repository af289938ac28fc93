"""The arithmetic of the benchmark: ratios within rounds, medians, ranges, targets."""

import math

import pytest

from loadtest.comparison import TARGETS, Sample, Spread, Target, ratio, valid


def sample(peer, round_, rate, *, fault="", case="64-json", p50=1.0):
    return Sample(
        peer, case, round_, rate, cpu=1 / rate, busy=1.0, others=0.0, p50=p50, p99=2.0, fault=fault
    )


def test_a_spread_is_the_median_and_the_range():
    assert Spread.of([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0, 3)
    assert Spread.of([1.0, 2.0]).median == 1.5
    empty = Spread.of([])
    assert math.isnan(empty.median)
    assert empty.count == 0


def test_ratios_are_taken_within_rounds_not_over_medians():
    # The machine is three times slower in round 2: the ratio of medians would hide the 2.
    samples = [
        sample("a", 1, 300), sample("b", 1, 150),
        sample("a", 2, 100), sample("b", 2, 50),
        sample("a", 3, 290), sample("b", 3, 145),
    ]  # fmt: skip
    assert ratio(samples, "a", "b", "64-json", "rate") == Spread(2.0, 2.0, 2.0, 3)
    assert ratio(samples, "b", "a", "64-json", "rate").median == 0.5
    assert ratio(samples, "a", "b", "64-json", "cpu").median == 0.5


def test_a_round_counts_only_if_it_counts_for_both():
    samples = [
        sample("a", 1, 100), sample("b", 1, 100, fault="a 503"),
        sample("a", 2, 100), sample("b", 2, 50),
        sample("a", 3, 100, fault="reset"), sample("b", 3, 10),
        sample("a", 4, 100),
        sample("b", 2, 1, case="4-json"),
    ]  # fmt: skip
    assert ratio(samples, "a", "b", "64-json", "rate") == Spread(2.0, 2.0, 2.0, 1)
    assert [s.round for s in valid(samples, "a", "64-json")] == [1, 2, 4]


def test_a_peer_that_was_not_measured_gives_no_ratio():
    assert ratio([sample("a", 1, 100)], "a", "b", "64-json", "rate").count == 0


@pytest.mark.parametrize(
    ("at_least", "median", "met"),
    [
        (True, 2.5, True), (True, 2.49, False), (False, 1.5, True), (False, 1.51, False),
        (True, math.nan, False), (False, math.nan, False),
    ],
)  # fmt: skip
def test_a_target_is_met_at_its_bound_and_never_by_nothing(at_least, median, met):
    bound = 2.5 if at_least else 1.5
    target = Target("x", "b", "64-json", "rate", bound, at_least)
    assert target.met(Spread(median, median, median, 1)) is met


def test_the_targets_are_those_that_were_promised():
    assert [(t.peer, t.metric, t.bound, t.at_least) for t in TARGETS] == [
        ("envoy", "rate", 1.0, True),
        ("envoy", "p50", 1.5, False),
        ("aiohttp", "rate", 2.5, True),
        ("aiohttp-sklearn", "rate", 20.0, True),
    ]
