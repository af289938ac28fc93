"""The histogram: three digits, exact merging, and an encoding that others read."""

import math

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from loadtest.load.hdr import Histogram, merged

latencies = st.lists(st.floats(0, 3600), max_size=60)


@given(latencies, latencies)
def test_merging_is_recording_both(one, other):
    both = merged([Histogram(one), Histogram(other)])
    assert both == Histogram(one + other) == merged([Histogram(other), Histogram(one)])
    assert both.total == len(one) + len(other)


@given(latencies)
def test_the_encoding_comes_back(values):
    histogram = Histogram(values)
    assert Histogram.decode(histogram.encode()) == histogram
    assert bool(histogram.encode()) == bool(values)


@given(st.lists(st.floats(1e-6, 3600), min_size=1, max_size=60), st.sampled_from([50, 90, 99.9]))
def test_percentiles_have_three_digits(values, percent):
    rank = max(1, math.ceil(len(values) * percent / 100 - 1e-9))
    truth = sorted(values)[rank - 1]
    assert Histogram(values).percentile(percent) == pytest.approx(truth, rel=1e-3, abs=1e-6)


def test_others_read_the_same_buckets():
    edges = 2 ** np.arange(32)
    values = np.unique(np.concatenate([edges, edges - 1, edges + 1, np.arange(5000)]))
    values = values[values <= 3_600_000_000]
    histogram = Histogram(values / 1e6)
    theirs = HdrHistogram(1, 3_600_000_000, 3)
    for value in values:
        theirs.record_value(int(value))
    read = HdrHistogram.decode(histogram.encode().encode())
    assert list(read.counts) == list(theirs.counts)
    assert Histogram.decode(theirs.encode().decode()) == histogram


def test_others_find_the_same_percentiles():
    histogram = Histogram(np.random.default_rng(0).exponential(0.01, 100_000))
    theirs = HdrHistogram.decode(histogram.encode().encode())
    for percent in (1, 50, 90, 99, 99.9, 100):
        expected = theirs.get_value_at_percentile(percent) / 1e6
        assert histogram.percentile(percent) == pytest.approx(expected, rel=2e-3)


def test_an_hour_is_the_most():
    assert Histogram([7200.0]) == Histogram([3600.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1e-3])
def test_what_is_no_latency(bad):
    with pytest.raises(ValueError, match="latency"):
        Histogram([0.1, bad])


@pytest.mark.parametrize(
    "text", ["x", "AAAA", "é", "A" * 80, Histogram([1.0]).encode()[:40], "HISTFAAAAAR4"]
)
def test_what_is_no_histogram(text):
    with pytest.raises(ValueError):
        Histogram.decode(text)


def test_other_bounds_are_refused():
    other = HdrHistogram(1, 1000, 2)
    other.record_value(7)
    with pytest.raises(ValueError, match="bounds"):
        Histogram.decode(other.encode().decode())


def test_nothing_has_no_percentile():
    assert Histogram().percentile(50) is None
    assert Histogram().interval(50) is None


def test_the_interval_of_a_median_by_the_tables():
    # Conover, table of the sign test: of ten values, the second and the ninth.
    estimate = Histogram(np.arange(1, 11) / 1000).interval(50)
    found = (estimate.value, estimate.low, estimate.high)
    assert found == pytest.approx((0.005, 0.002, 0.009), rel=1e-3)


def test_too_few_values_have_no_upper_bound():
    # 0.999 ** n <= 0.025 takes 3688 values.
    assert Histogram(np.full(3600, 0.001)).interval(99.9) is None
    assert Histogram(np.full(3700, 0.001)).interval(99.9) is not None


@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0])
def test_intervals_hold_the_truth_as_often_as_they_say(percent):
    generator = np.random.default_rng(3)
    truth = -math.log(1 - percent / 100) / 100
    held = 0
    for _ in range(400):
        estimate = Histogram(generator.exponential(0.01, 2000)).interval(percent)
        held += estimate.low <= truth <= estimate.high
    assert 0.92 <= held / 400 <= 0.99
