"""Bounds of shares, against scipy where it is."""

import pytest

from proxy.promotion.intervals import lower, needed, two_sided, upper


@pytest.mark.parametrize(
    ("hits", "trials"),
    [
        (0, 10),
        (1, 10),
        (9, 10),
        (3, 1000),
        (120, 100_000),
        (5000, 10**7),
        (10, 10),
        (50_000, 100_000),
    ],
)
def test_they_are_clopper_and_pearsons(hits, trials):
    beta = pytest.importorskip("scipy.stats").beta
    high = 1.0 if hits == trials else beta.ppf(0.95, hits + 1, trials - hits)
    low = 0.0 if not hits else beta.ppf(0.05, hits, trials - hits + 1)
    assert upper(hits, trials) == pytest.approx(high, rel=1e-9)
    assert lower(hits, trials) == pytest.approx(low, rel=1e-9)


def test_nothing_seen_proves_nothing():
    assert upper(0, 0) == 1.0
    assert lower(0, 0) == 0.0


def test_the_rule_of_three():
    assert 2990 <= needed(0, 10, 0.001) <= 3000
    assert upper(0, 2995) <= 0.001 < upper(0, 2990)


def test_what_more_traffic_cannot_do():
    assert needed(2, 1000, 0.001) is None
    assert needed(1, 1000, 0.001) is None
    more = needed(5, 10_000, 0.001)
    assert 10_000 < more < 20_000
    assert upper(-(-5 * more // 10_000), more) <= 0.001


def test_two_sides():
    stats = pytest.importorskip("scipy.stats")
    for hits, trials in ((0, 20), (3, 20), (10, 20), (20, 20)):
        below, above = stats.binom.cdf(hits, trials, 0.3), stats.binom.sf(hits - 1, trials, 0.3)
        assert two_sided(hits, trials, 0.3) == pytest.approx(min(1, 2 * min(below, above)))
