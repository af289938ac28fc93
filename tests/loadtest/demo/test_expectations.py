"""What the demonstration holds against the firewall, and what it lets pass."""

import math
from collections import Counter
from fractions import Fraction

import pytest

from loadtest.demo.expectations import (
    Admitted,
    Climbs,
    Expectation,
    Outcome,
    Recognised,
    Refused,
    Verdict,
    WithinBudget,
    most_false_alarms,
    quota,
)
from proxy import rules

OK, FAILED, INFORMATION = Verdict.OK, Verdict.FAILED, Verdict.INFORMATION
OUTLIER, RATE = rules.OUTLIER.id, rules.CLIENT_RATE.id


def outcome(statuses, refused_by=None, wrong=0):
    return Outcome("x", Counter(statuses), Counter(refused_by or {}), wrong)


def _tail(rows, budget, k):
    """P(Bin > k), summed from the other end, in whole numbers."""
    p = Fraction(budget).limit_denominator(10_000)
    return float(
        sum(math.comb(rows, i) * p**i * (1 - p) ** (rows - i) for i in range(k + 1, k + 60))
    )


@pytest.mark.parametrize(("rows", "budget"), [(1, 0.01), (350, 0.01), (100, 0.2), (2000, 0.001)])
def test_the_bound_on_false_alarms_is_the_smallest_that_chance_hardly_passes(rows, budget):
    bound = most_false_alarms(rows, budget)
    assert _tail(rows, budget, bound) <= 1e-3
    assert bound == 0 or _tail(rows, budget, bound - 1) > 1e-3


def test_the_bound_is_loose_neither_way():
    assert most_false_alarms(350, 0.01) == 10  # expected are 3.5
    assert most_false_alarms(0, 0.5) == 0


@pytest.mark.parametrize(("rows", "budget"), [(10, 0.0), (10, 1.0), (-1, 0.5), (10, math.nan)])
def test_a_budget_outside_its_range_is_refused(rows, budget):
    with pytest.raises(ValueError, match="budget"):
        most_false_alarms(rows, budget)


def within(refused, **more):
    return outcome({200: 350 - refused, 403: refused}, {OUTLIER: refused}, **more)


CASES = [
    ("honest, none refused", WithinBudget(0.01), within(0), OK),
    ("honest, at the bound", WithinBudget(0.01), within(10), OK),
    ("honest, above the bound", WithinBudget(0.01), within(11), FAILED),
    ("honest, a wrong answer", WithinBudget(0.01), within(0, wrong=1), FAILED),
    ("honest, limited", WithinBudget(0.01), outcome({200: 349, 429: 1}, {RATE: 1}), FAILED),
    ("honest, a fault", WithinBudget(0.01), outcome({200: 349, 503: 1}, {"BZ-900": 1}), FAILED),
    ("honest, nothing sent", WithinBudget(0.01), outcome({}), FAILED),
    ("refused, not in the audit log", WithinBudget(0.01), outcome({200: 9, 403: 1}), FAILED),
    ("outliers, enough", Recognised(0.95), outcome({200: 5, 403: 95}, {OUTLIER: 95}), OK),
    ("outliers, too few", Recognised(0.95), outcome({200: 6, 403: 94}, {OUTLIER: 94}), FAILED),
    ("outliers, by another rule", Recognised(0.5), outcome({403: 9}, {"BZ-112": 9}), FAILED),
    ("outliers, none sent", Recognised(0.5), outcome({}), FAILED),
    ("malformed", Refused((rules.SHAPE,)), outcome({400: 1}, {"BZ-202": 1}), OK),
    ("malformed, passed", Refused((rules.SHAPE,)), outcome({200: 1}), FAILED),
    ("malformed, one passed", Refused((rules.SHAPE,)), outcome({400: 1, 200: 1},
                                                                    {"BZ-202": 1}), FAILED),
    ("malformed, other rule", Refused((rules.SHAPE,)), outcome({400: 1}, {"BZ-120": 1}),
     FAILED),
    ("malformed, other status", Refused((rules.SHAPE,)), outcome({500: 1}, {"BZ-202": 1}),
     FAILED),
    ("malformed, either rule", Refused((rules.SHAPE, rules.SYNTAX)),
     outcome({400: 1}, {"BZ-120": 1}), OK),
    ("malformed, nothing sent", Refused((rules.SHAPE,)), outcome({}), FAILED),
    ("flood, exact", Admitted(5, 5), outcome({200: 5, 429: 7}, {RATE: 7}), OK),
    ("flood, an outlier is admitted", Admitted(5, 5),
     outcome({200: 4, 403: 1, 429: 7}, {RATE: 7, OUTLIER: 1}), OK),
    ("flood, one too many", Admitted(5, 5), outcome({200: 6, 429: 6}, {RATE: 6}), FAILED),
    ("flood, one too few", Admitted(5, 5), outcome({200: 4, 429: 8}, {RATE: 8}), FAILED),
    ("flood, never limited", Admitted(5, 12), outcome({200: 12}), FAILED),
    ("flood, other rule", Admitted(5, 5), outcome({200: 5, 429: 7}, {"BZ-605": 7}), FAILED),
    ("flood, a fault", Admitted(5, 5), outcome({200: 5, 429: 6, 503: 1},
                                               {RATE: 6, "BZ-900": 1}), FAILED),
    ("information", Expectation(), outcome({200: 3, 403: 1}, {OUTLIER: 1}), INFORMATION),
    ("information, all passed", Expectation(), outcome({200: 3}), INFORMATION),
    ("information, a fault", Expectation(), outcome({200: 3, 503: 1}, {"BZ-390": 1}), FAILED),
    ("information, a wrong answer", Expectation(), outcome({200: 3}, wrong=1), FAILED),
    ("information, nothing sent", Expectation(), outcome({}), FAILED),
]  # fmt: skip


@pytest.mark.parametrize(
    ("expectation", "seen", "verdict"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_verdicts(expectation, seen, verdict):
    assert expectation.judge(seen) is verdict


def test_every_verdict_was_tried():
    assert len(CASES) == 31


def test_a_quota_grants_its_burst_and_what_refills_meanwhile():
    assert quota(500, 10.0, 0.35, 0.39) == Admitted(503, 503)
    assert quota(500, 10.0, 0.35, 0.41) == Admitted(503, 504)
    assert quota(500, 10.0, 0.35, 0.41).text == "503 to 504 admitted, else 429"
    assert quota(500, 10.0, 0.0, 0.05).text == "500 admitted, else 429"


def test_a_simulated_bucket_agrees_with_the_quota():
    rate, burst, tokens, last, admitted = 10.0, 50, 50.0, 0.0, 0
    for step in range(4000):
        now = step * 0.0005
        tokens = min(burst, tokens + (now - last) * rate)
        last = now
        if tokens >= 1 - 1e-9:
            tokens -= 1
            admitted += 1
    assert quota(burst, rate, last, last).low == admitted


def probed(own, coarse, slowed, refused, rule=rules.PROBING_CLIENT.id, **statuses):
    """Of a probing client's queries, those answered as the model does, coarsely, and not at all."""
    given = outcome(
        {200: own + coarse, 429: slowed, 403: refused, **statuses}, {rule: slowed + refused}
    )
    given.coarse = coarse
    return given


def test_a_black_box_attack_ends_within_so_many_answers():
    expected = Climbs(25)
    assert expected.judge(probed(25, 3, 2, 30)) is OK
    assert expected.judge(probed(26, 3, 2, 30)) is FAILED  # too late
    assert expected.judge(probed(60, 0, 0, 0)) is FAILED  # never
    assert expected.judge(probed(9, 51, 0, 0)) is FAILED  # coarse, but without end
    assert expected.judge(probed(9, 0, 0, 51)) is FAILED  # refused at once: an oracle
    assert expected.judge(probed(9, 3, 2, 46, rules.CLIENT_RATE.id)) is FAILED
    assert expected.judge(probed(9, 3, 2, 46, rules.OUTLIER.id)) is FAILED
