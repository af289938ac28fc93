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


def lenient(name):
    """The widest bound that a metric takes."""
    return "<= 1" if METRICS[name.split("[")[0]].better == "lower" else ">= 0"


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
    hostile = run(load(kind="hostile", n=1000, refused=900, part="noise"))
    assert 0.87 < one(hostile, "hostile_refusals", ">= 50 %").observed < 0.9


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
        check = one(empty(), name, lenient(name))
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


@pytest.mark.parametrize("side", ["direct", "firewall"])
def test_a_rate_beside_many_failures_is_no_ceiling(side):
    loads = {one: load("most", one, arrivals="closed loop") for one in ("direct", "firewall")}
    assert one(run(*loads.values()), "ceiling_ratio", ">= 0.5").passed
    sent = loads[side].sent
    for failed, passes in ((sent // 20, True), (sent // 20 + 1, False)):
        loads[side] = replace(loads[side], errors={"reset": failed})
        check = one(run(*loads.values()), "ceiling_ratio", ">= 0.5")
        assert check.passed is passes
    assert f"{side}: {failed} of {sent} requests failed" in check.why


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


def test_one_bad_round_on_one_side_voids_latency():
    rounds = [load(side=side, round=r) for r in range(6) for side in ("direct", "firewall")]
    rounds[4] = load(side="direct", round=2, late=60)
    check = judge(run(*rounds), [threshold("overhead_p50_seconds", "<= 1 s")])[1]
    assert (check.metric, check.observed, check.passed) == ("late", 0.03, False)
    assert "60 of 2000 requests sent late, direct, round 3" in check.why


@pytest.mark.parametrize(
    ("names", "borne"),
    [(["latency_p50_seconds"], 0.01), (["overhead_p99_ratio"], 0.005),
     (["latency_p50_seconds", "latency_p999_seconds"], 0.0005), (["refusal_p99_seconds"], 0.01)],
)  # fmt: skip
def test_a_high_percentile_bears_fewer_late_requests(names, borne):
    checks = judge(run(), [threshold(name, "<= 1") for name in names])
    assert [check.bound for check in checks[len(names) :]] == 2 * [f"<= {borne:g} measured"]


@pytest.mark.parametrize("lost", ["errors", "shed", "dropped"])
@pytest.mark.parametrize("side", ["direct", "firewall"])
def test_what_was_never_served_took_for_ever(lost, side):
    whole = {"direct": load(side="direct", n=1000), "firewall": load(n=1000)}

    def losing(count):
        one = load(side=side, n=1000, shed=count)
        if lost == "errors":
            one = replace(one, said={"answered": 1000 - count}, errors={"timeout": count})
        elif lost == "dropped":
            one = load(side=side, n=1000, dropped=count)
        return run(*(whole | {side: one}).values())

    names = ["overhead_p99_seconds", "overhead_p99_ratio"]
    names += ["latency_p99_seconds"] if side == "firewall" else []
    for name in names:
        bound = "<= 1000"
        assert one(losing(10), name, bound).passed
        check = one(losing(11), name, bound)
        assert (check.observed, check.passed) == (None, False)
        assert "11 of 1000 requests were dropped, shed or failed" in check.why
    # And what is lost lets the percentile rise before that.
    if side == "firewall":
        few, none = (
            one(results, "latency_p99_seconds", "<= 1000 measured").observed
            for results in (losing(9), losing(0))
        )
        assert few > none


def test_the_latency_of_the_few_that_were_not_refused_says_nothing():
    assert one(run(load(n=1000, refused=499)), "latency_p50_seconds", "<= 1 s").passed
    check = one(run(load(n=1000, refused=501)), "latency_p50_seconds", "<= 1 s")
    assert (check.observed, check.passed) == (None, False)
    assert "499 of 1000" in check.why


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("attack_success", "<= 20", "at most 1"),
        ("attack_success[square]", "<= 150 %", "at most 1"),
        ("attack_success", "<= -1 %", "at least 0"),
        ("attack_success", ">= 0", "lower is better"),
        ("recognised", ">= -1", "at least 0"),
        ("recognised", "<= 0.5", "higher is better"),
        ("recognised", ">= 80", "at most 1"),
        ("membership_auc", "<= 1.5", "at most 1"),
        ("goodput_ratio", ">= -1", "at least 0"),
        ("attack_success_reduction", ">= -1.5", "at least -1"),
        ("overhead_p99_seconds", "> 2 ms", "lower is better"),
    ],
)
def test_bounds_that_could_not_fail(name, text, words):
    with pytest.raises(ValueError, match=words):
        threshold(name, text)


def test_differences_may_be_negative():
    for name, text in [
        ("overhead_p99_seconds", "<= -1 ms"),
        ("attack_success_reduction", ">= -0.1"),
        ("surrogate_fidelity_gain", "<= -0.1"),
    ]:
        assert threshold(name, text).bound.limit < 0


def test_refusals_are_of_what_was_decided():
    check = one(run(load(n=1000, refused=10, shed=900)), "honest_refusals", "<= 1 % measured")
    assert check.observed == pytest.approx(10 / 100)
    hostile = load(kind="hostile", n=1000, refused=900, part="noise")
    results = run(load(n=1000), hostile, load(n=500, limited=5, beside="square"))
    assert one(results, "honest_refusals", "<= 1 % measured").observed == pytest.approx(5 / 1500)
    during = one(results, "honest_refusals_during_attacks[square]", "<= 1 measured")
    assert during.observed == pytest.approx(0.01)
    assert one(results, "hostile_refusals", ">= 0 measured").observed == pytest.approx(0.9)


def test_what_was_never_sent_has_failed_too():
    hung = replace(load(n=1000, dropped=151), errors={"timeout": 8}, said={"answered": 841})
    check = one(run(hung), "failures", "<= 5 %")
    assert not check.passed
    assert "159 of 1000" in check.why


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
    found = missing(threshold(name, lenient(name)), given_)
    assert words in found
    assert bool(words) == bool(found)


def test_the_documentation_lists_every_metric():
    page = Path(__file__).parents[3] / "docs" / "loadtest.md"
    if not page.exists():
        pytest.skip("there is no such page yet")
    text = page.read_text()
    for name, metric in METRICS.items():
        assert f"| `{name}` | {metric.words} | {metric.unit} | {metric.better} |" in text
