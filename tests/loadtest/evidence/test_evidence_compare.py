import json

import pytest
from evidence_samples import attack, empty, full, load

from loadtest.evidence import compare
from loadtest.evidence.compare import Comparison


def run(*loads, attacks=(), **other):
    return empty(loads=loads, attacks=tuple(attacks), **other)


def rounds(median, *, seed=0, count=6, refused=0):
    """Pairs of a load."""
    return [
        load(side=side, round=i, median=m, seed=seed, refused=refused if side == "firewall" else 0)
        for i in range(count)
        for side, m in (("direct", 0.001), ("firewall", median))
    ]


def of(found: Comparison, metric):
    return next(change for change in found.changes if change.metric == metric)


def test_a_run_is_like_itself():
    found = compare.compare(full(), full())
    assert {change.verdict for change in found.changes} == {"unchanged", "not comparable"}
    assert found.passed


def test_chance_is_no_change():
    found = compare.compare(run(*rounds(0.002)), run(*rounds(0.002, seed=9)))
    assert of(found, "overhead_p99_seconds").verdict == "unchanged"


def test_slower_is_worse_and_faster_better():
    slow, fast = run(*rounds(0.003)), run(*rounds(0.002, seed=9))
    worse = compare.compare(fast, slow)
    change = of(worse, "overhead_p50_seconds")
    assert change.verdict == "worse"
    assert change.difference.low < 0.001 < change.difference.high
    assert not worse.passed
    better = compare.compare(slow, fast)
    assert of(better, "overhead_p50_seconds").verdict == "better"
    assert better.passed


def test_what_is_tolerated():
    slow, fast = run(*rounds(0.0022)), run(*rounds(0.002, seed=9))
    assert not compare.compare(fast, slow).passed
    assert compare.compare(fast, slow, tolerance=0.5).passed
    for bad in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="tolerance"):
            compare.compare(fast, slow, bad)


def test_more_is_better_where_it_is():
    before = run(attacks=[attack(success=(0, 20), recognised=(20, 20))])
    after = run(attacks=[attack(success=(0, 20), recognised=(4, 20))])
    found = compare.compare(before, after)
    assert of(found, "recognised").verdict == "worse"
    assert of(compare.compare(after, before), "recognised").verdict == "better"
    # All but four of them are never recognised: an order, without a difference.
    queries = of(found, "queries_to_recognition_median")
    assert (queries.verdict, queries.difference, queries.after) == ("worse", None, None)


@pytest.mark.parametrize("until", [(1, 1), (1, 900), ()])
def test_an_interval_that_too_few_tries_bear_is_not_compared(until):
    def two(*queries):
        return run(attacks=[attack(recognised=(len(queries), 2), to_recognition=queries)])

    found = compare.compare(two(500, 600), two(*until))
    for metric in ("queries_to_recognition_median", "queries_to_recognition_p95"):
        change = of(found, metric)
        assert (change.verdict, change.difference) == ("not comparable", None)
        assert "too few tries" in change.why


def test_few_tries_are_no_evidence():
    before = run(attacks=[attack(success=(0, 3))])
    after = run(attacks=[attack(success=(1, 3))])
    assert of(compare.compare(before, after), "attack_success").verdict == "unchanged"


@pytest.mark.parametrize(
    ("other", "words"),
    [({"digest": "00"}, "scenarios differ"), ({"seed": 8}, "seeds differ: 0 and 8"),
     ({"target": {"protocol": "x"}}, "'' and 'x'"), ({"complete": False}, "second run was")],
)  # fmt: skip
def test_what_cannot_be_compared(other, words):
    before, after = run(*rounds(0.002)), run(*rounds(0.002), **other)
    found = compare.compare(before, after)
    assert words in compare.verdict(found)
    assert {change.verdict for change in found.changes} == {"not comparable"}
    assert not found.passed


def test_what_is_compared_may_differ():
    before, after = (run(*rounds(0.002), target={"bundle": one}) for one in "ab")
    found = compare.compare(before, after)
    assert found.notes == ("target: bundle was a, is b",)
    assert found.passed


def test_times_of_other_machines_do_not_compare():
    found = compare.compare(run(*rounds(0.002)), run(*rounds(0.002), machine={"cores": "64"}))
    assert of(found, "overhead_p99_seconds").verdict == "not comparable"
    assert of(found, "overhead_p99_ratio").verdict == "unchanged"


def test_what_is_not_measured_any_more_is_no_success():
    before = run(*rounds(0.002), attacks=[attack()])
    after = run(*rounds(0.002), attacks=[attack(fault="the server went away")])
    found = compare.compare(before, after)
    assert not found.passed
    assert of(found, "attack_success").why == "not measured in the second run"
    nothing = compare.compare(empty(), empty())
    assert not nothing.passed
    # But a firewall that refuses nobody any more has no time in which it refuses.
    assert compare.compare(run(*rounds(0.002, refused=90)), run(*rounds(0.002))).passed


def test_a_single_round_tells_nothing():
    found = compare.compare(run(*rounds(0.002, count=1)), run(*rounds(0.009, count=1)))
    assert of(found, "overhead_p50_seconds").verdict == "not comparable"


def test_as_json_and_markdown():
    found = compare.compare(
        run(*rounds(0.002)), run(*rounds(0.003), notes=("<b>",), versions={"a|": "<b>"})
    )
    read = json.loads(compare.as_json(found))
    assert read["passed"] is False
    assert read["changes"][0]["difference"]["low"] is not None
    text = compare.as_markdown(found)
    assert "<" not in text
    first = compare.table(found).rows[0]
    assert first[0] == "worse"
