import math
from dataclasses import replace
from pathlib import Path

import pytest
from evidence_samples import attack, empty, full, load

from loadtest.evidence.bounds import bound
from loadtest.evidence.metrics import METRICS, Given, judge, missing, threshold
from loadtest.evidence.results import Estimate


def one(results, name, text):
    return judge(results, [threshold(name, text)])[0]


def run(*loads, attacks=(), **other):
    return empty(loads=loads, attacks=attacks, **other)


@pytest.mark.parametrize(
    ("text", "unit", "limit"),
    [("<= 0.01", "share", 0.01), ("<=1%", "share", 0.01), (" < 2 ms ", "seconds", 0.002),
     (">= .5", "ratio", 0.5), ("<= 250us", "seconds", 0.00025), ("> 1e-3 s", "seconds", 0.001)],
)  # fmt: skip
def test_bounds(text, unit, limit):
    found = bound(text, unit)
    assert found.limit == pytest.approx(limit)
    assert not found.measured
    assert not found.holds(math.nan)
    assert found.upper == found.compare.startswith("<")


@pytest.mark.parametrize(
    ("text", "unit", "words"),
    [("0.01", "share", "one of <="), ("<= nan", "share", "not a bound"),
     ("== 1", "share", "one of"),
     ("<= 2 ms", "share", "'ms' is no unit here"), ("<= 1e999", "share", "large"),
     ("<= 5 %", "seconds", "'%' is no unit"), ("<= 1 maybe", "ratio", "no unit"),
     ("", "auc", "one of"),
     ("<= inf", "ratio", "not a bound"), ("<= 1 measured measured", "ratio", "no")],
)  # fmt: skip
def test_bounds_that_are_none(text, unit, words):
    with pytest.raises(ValueError, match=words):
        bound(text, unit)


def test_a_bound_says_what_is_compared():
    results = run(load(refused=10, n=1000))
    assert not one(results, "honest_refusals", "<= 1 %").passed
    assert one(results, "honest_refusals", "<= 1 % measured").passed
    check = one(results, "honest_refusals", "<= 2 %")
    assert check.passed
    assert check.why.startswith("upper end of the interval")
    assert 0.017 < check.observed < 0.019
    assert one(results, "honest_refusals", ">= 0.5 %").observed < 0.01


@pytest.mark.parametrize(
    "name", ["nonsense", "honest_refusals[", "honest refusals", "", "late[a]b"]
)
def test_names_that_are_none(name):
    with pytest.raises(ValueError, match="metric"):
        threshold(name, "<= 1")


def test_every_metric_is_measured_of_a_full_run_and_of_an_empty_one_it_fails():
    measured = {name for name in METRICS if METRICS[name].measure(full(), "")}
    assert measured == set(METRICS)
    for name in METRICS:
        for text in ("<= 1e9", ">= -1e9"):
            check = one(empty(), name, text)
            assert (check.observed, check.passed) == (None, False), name
            assert "not measured" in check.why


def test_unmeasured_fails_whatever_the_bound():
    results = run(load(side="direct"))
    check = one(results, "overhead_p99_seconds[steady]", "<= 1000 s")
    assert (check.observed, check.passed) == (None, False)


def test_overhead_is_within_rounds():
    loads = []
    # Rounds of very different speed, whose difference is the same: pooled, it would drown.
    for round, slow in enumerate((1, 5, 25, 2, 7, 3)):
        loads.append(load(side="direct", round=round, median=0.001 * slow, seed=1))
        loads.append(load(side="firewall", round=round, median=0.001 * slow + 0.0005, seed=1))
    check = one(run(*loads), "overhead_p50_seconds", "<= 2 ms")
    assert check.passed
    assert "median of 6 rounds, 97% interval" in check.why
    assert 0.0004 < one(run(*loads), "overhead_p50_seconds", "<= 2 ms measured").observed < 0.0008


def test_overhead_takes_neither_ceilings_nor_loads_beside_attacks():
    results = full()
    names = {found.of for found in METRICS["overhead_p99_ratio"].measure(results, "")}
    assert names == {"steady", "burst"}
    (alone,) = METRICS["latency_p50_seconds"].measure(run(load()), "")
    beside = load(beside="square", median=0.5, n=90000)
    assert METRICS["latency_p50_seconds"].measure(run(load(), beside), "") == [alone]
    assert {found.of for found in METRICS["ceiling_ratio"].measure(results, "")} == {"ceiling"}


def test_too_few_answers_bear_no_high_percentile():
    results = run(load(side="direct", n=300), load(n=300))
    assert one(results, "overhead_p99_seconds", "<= 1 s").passed
    check = one(results, "overhead_p999_seconds", "<= 1 s")
    assert not check.passed
    assert "300 answers: too few for p99.9" in check.why


def test_the_worst_load_is_compared():
    loads = [load(side=side, median=m) for side, m in (("direct", 0.001), ("firewall", 0.002))]
    loads += [load("fast", side, median=0.001) for side in ("direct", "firewall")]
    check = one(run(*loads), "overhead_p50_seconds", "<= 0.1 ms")
    assert not check.passed
    assert "the worst of 2: steady" in check.why
    assert one(run(*loads), "overhead_p50_seconds[fast]", "<= 0.1 ms").passed


def test_a_late_generator_voids_latency():
    loads = [load(side="direct"), load(late=200)]
    checks = judge(run(*loads), [threshold("overhead_p50_seconds[steady]", "<= 1 s")])
    assert [(check.metric, check.passed) for check in checks] == [
        ("overhead_p50_seconds[steady]", True), ("late[steady]", False), ("dropped[steady]", True),
    ]  # fmt: skip
    stated = [threshold("overhead_p50_seconds", "<= 1 s"), threshold("late", "<= 50 %")]
    assert all(check.passed for check in judge(run(*loads), stated))
    assert len(judge(run(*loads), [threshold("honest_refusals", "<= 1 %")])) == 1


def test_refusals_are_of_what_was_decided():
    check = one(run(load(n=1000, refused=10, shed=900)), "honest_refusals", "<= 1 % measured")
    assert check.observed == pytest.approx(10 / 100)
    hostile = load(kind="hostile", n=1000, refused=900, part="noise")
    results = run(load(n=1000), hostile, load(n=500, limited=5, beside="square"))
    assert one(results, "honest_refusals", "<= 1 % measured").observed == pytest.approx(5 / 1500)
    during = one(results, "honest_refusals_during_attacks[square]", "<= 1 measured")
    assert during.observed == pytest.approx(0.01)
    assert one(results, "hostile_refusals", ">= 0 measured").observed == pytest.approx(0.9)


def test_what_honest_clients_are_told_is_malformed_is_refused():
    told = replace(load(n=100), said={"answered": 90, "invalid": 10})
    assert one(run(told), "honest_refusals", "<= 1 measured").observed == pytest.approx(0.1)


def test_attacks_are_meant_by_name_driver_and_family():
    named = attack("square", success=(6, 20), details={"as": "square-sybils"})
    results = run(attacks=(attack("square", success=(2, 20)), named, attack(success=(1, 20))))
    for selector, worst in [("hopskipjump", 0.05), ("square-sybils", 0.3), ("square", 0.3)]:
        check = one(results, f"attack_success[{selector}]", "<= 1 measured")
        assert check.observed == pytest.approx(worst)
    assert one(results, "attack_success[evasion]", "<= 1 measured").observed == pytest.approx(0.3)
    assert one(results, "attack_success[zoo]", "<= 1").observed is None


def test_a_broken_attack_is_not_measured():
    results = run(attacks=(attack(), attack("square", fault="the server went away")))
    check = one(results, "attack_success", "<= 1")
    assert (check.observed, check.passed) == (None, False)
    assert "square: the server went away" in check.why


def test_reduction_leaves_out_what_never_succeeds():
    pairs = [attack("zoo", "direct", success=(0, 20)), attack("zoo", success=(0, 20))]
    pairs += [attack("square", "direct", success=(18, 20)), attack("square", success=(3, 20))]
    results = run(attacks=tuple(pairs))
    check = one(results, "attack_success_reduction", ">= 0.4")
    assert check.passed
    assert check.observed < 0.75
    assert "never succeeds" in one(results, "attack_success_reduction[zoo]", ">= 0").why
    alone = run(attacks=(attack("square"),))
    assert one(alone, "attack_success_reduction", ">= 0").observed is None


def test_what_was_not_recognised_takes_for_ever():
    few = attack(recognised=(9, 20), to_recognition=range(9, 18))
    check = one(run(attacks=(few,)), "queries_to_recognition_median", "<= 1000 measured")
    assert (check.observed, check.passed) == (None, False)
    assert "never reached" in check.why
    many = attack(recognised=(20, 20), to_recognition=range(10, 30))
    results = run(attacks=(many,))
    assert one(results, "queries_to_recognition_median", "<= 19 measured").passed
    assert one(results, "queries_to_recognition_p95", "<= 29").observed == 29


def test_a_surrogate_is_worth_what_it_gains():
    stolen = attack("knockoff", family="extraction", value=Estimate(0.4, 0.35, 0.45), baseline=0.3)
    results = run(attacks=(stolen, attack()))
    assert one(results, "surrogate_fidelity_gain", "<= 1").observed == pytest.approx(0.15)
    assert one(results, "membership_auc", "<= 1").observed is None


def test_abuse_counts_apart():
    results = run(attacks=(attack("abuse-slow", family="abuse", success=(2, 9)), attack()))
    assert one(results, "abuse_findings", "<= 0").observed == 2
    assert one(results, "attack_success", "<= 1 measured").observed == 0


def test_nothing_passes_in_a_run_that_was_interrupted():
    results = run(load(), complete=False)
    check = one(results, "honest_refusals", "<= 100 %")
    assert not check.passed
    assert "interrupted" in check.why


GIVEN = Given(
    open=frozenset({"steady"}), closed=frozenset({"ceiling"}),
    beside=frozenset({"steady", "square"}),
    attacks={"square": "evasion", "abuse-slow": "abuse"}, pairs=True, audit=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "given_", "words"),
    [
        ("honest_refusals", GIVEN, ""),
        ("honest_refusals_during_attacks[square]", GIVEN, ""),
        ("overhead_p99_seconds[steady]", GIVEN, ""),
        ("overhead_p99_seconds[ceiling]", GIVEN, "no such load of that kind"),
        ("overhead_p99_seconds[typo]", GIVEN, "no such load: 'typo'"),
        ("overhead_p99_seconds", replace(GIVEN, pairs=False), "no way to the model server alone"),
        ("recognised", replace(GIVEN, audit=False), "no audit log"),
        ("attack_success[evasion]", GIVEN, ""),
        ("attack_success[abuse-slow]", GIVEN, "no such attack"),
        ("abuse_findings", GIVEN, ""),
        ("membership_auc", GIVEN, "no attack that it is measured of"),
        ("hostile_refusals", GIVEN, "no load with hostile traffic"),
        ("late", Given(), "no load with honest traffic"),
    ],
)
def test_what_a_scenario_cannot_measure(name, given_, words):
    found = missing(threshold(name, "<= 1"), given_)
    assert words in found
    assert bool(words) == bool(found)


def test_the_documentation_lists_every_metric():
    page = Path(__file__).parents[3] / "docs" / "loadtest.md"
    if not page.exists():
        pytest.skip("there is no such page yet")
    text = page.read_text()
    for name, metric in METRICS.items():
        assert f"| `{name}` | {metric.words} | {metric.unit} | {metric.better} |" in text
