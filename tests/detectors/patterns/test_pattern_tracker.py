"""The tracker: what every family and scope must keep, attacked."""

import math
import sys

import numpy as np
import pytest
from pattern_subjects import FEATURES, honest, model, probes, send, tracker

from detectors.patterns import evidence
from detectors.patterns.base import Family, Scope
from detectors.patterns.profiles import PROFILES
from detectors.scorer import ScoreFault


def rows_of(seed, count):
    return honest(seed)[0][:count]


def scopes(alarms):
    return {(alarm.family, alarm.scope) for alarm in alarms}


# ------------------------------------------------------------------------- common checks


def test_honest_clients_are_quiet():
    watch = tracker()
    found = [send(watch, f"c{k}", rows_of(20 + k, 300), subnet="s") for k in range(6)]
    assert found == [None] * 6


def test_one_kind_of_honest_rows_is_quiet():
    watch = tracker()
    for kind in range(5):
        rows, kinds = honest(40 + kind)
        assert send(watch, f"c{kind}", rows[kinds == kind][:100]) is None


@pytest.mark.parametrize("warm", [0, 100])
def test_a_walk_is_recognised(warm):
    for seed in range(3):
        watch = tracker()
        assert send(watch, "a", rows_of(9, warm)) is None
        queries, alarms = send(watch, "a", probes(40, seed))
        assert queries <= 15
        assert alarms[0].family is Family.PROBING
        assert alarms[0].evidence >= alarms[0].threshold
        assert all(0 < p <= 1 for name, p in alarms[0].detail.items() if name.startswith("p_"))


def test_far_rows_are_recognised_as_extraction():
    random = np.random.default_rng(0)
    rows = random.uniform(-12, 12, size=(100, FEATURES)).astype(np.float32)
    watch = tracker()
    seen = set()
    for index, row in enumerate(rows):
        seen |= scopes(watch.observe("a", "", row[None], None, index * 0.1))
    assert (Family.EXTRACTION, Scope.CLIENT) in seen


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_a_fault(bad):
    watch = tracker()
    rows = rows_of(2, 3).copy()
    rows[1, 5] = bad
    with pytest.raises(ScoreFault):
        watch.observe("a", "", rows, None, 0.0)
    assert watch.standing("a").queries == 1


@pytest.mark.parametrize("bad", [np.nan, 0.0, -1.0, 1.5])
def test_a_p_value_that_is_none_is_a_fault(bad):
    with pytest.raises(ScoreFault):
        tracker().observe("a", "", rows_of(2, 1), np.array([bad]), 0.0)


def test_p_values_of_another_length_are_refused():
    with pytest.raises(ValueError, match="p-value"):
        tracker().observe("a", "", rows_of(2, 2), np.array([0.5]), 0.0)


def test_huge_values_stay_finite():
    watch = tracker()
    rows = np.full((2, FEATURES), 3e38, dtype=np.float32)
    rows[1] = -3e38
    watch.observe("a", "", rows, None, 0.0)
    assert all(math.isfinite(level) for level in watch.standing("a").evidence.values())


def test_no_rows_change_nothing():
    watch = tracker()
    assert list(watch.observe("a", "s", rows_of(2, 0), None, 0.0)) == []
    assert watch.standing("a").queries == 0


def test_exact_retries_are_free():
    plain, retrying = tracker(), tracker()
    rows = rows_of(3, 120)
    send(plain, "a", rows)
    for index, row in enumerate(rows):
        for _ in range(3):
            retrying.observe("a", "", row[None], None, index * 0.1)
        again = rows[max(index - 200, 0)]
        retrying.observe("a", "", again[None], None, index * 0.1)
    # Time is the same: so is everything.
    assert retrying.standing("a") == plain.standing("a")


def test_a_retry_in_an_alarm_is_still_alarmed():
    watch = tracker()
    rows = probes(40)
    queries, _ = send(watch, "a", rows)
    assert watch.observe("a", "", rows[queries - 1][None], None, 2.0)


def test_rows_of_one_request_count_as_if_sent_one_by_one():
    together, singly = tracker(), tracker()
    rows = rows_of(4, 64)
    together.observe("a", "s", rows, None, 0.0)
    send(singly, "a", rows, subnet="s", pace=0.0)
    assert together.standing("a") == singly.standing("a")


def test_it_does_not_matter_in_which_slot_a_client_is():
    early, late = tracker(), tracker()
    for index in range(7):
        late.observe(f"other {index}", "", rows_of(5, 8)[index][None], None, 0.0)
    rows = probes(8)
    send(early, "a", rows)
    send(late, "a", rows)
    assert late.standing("a").evidence == early.standing("a").evidence


def test_several_alarms_come_the_strongest_first():
    watch = tracker(coverage_limit=0.001)
    send(watch, "a", rows_of(6, 30), subnet="s")
    alarms = watch.observe("a", "s", probes(40), None, 9.0)
    margins = [alarm.evidence - alarm.threshold for alarm in alarms]
    assert len(alarms) >= 2
    assert margins == sorted(margins, reverse=True)


# --------------------------------------------------------------------- groups and lineages


def test_a_lineage_that_others_made_says_so_of_a_client_without_evidence_of_its_own():
    watch = tracker()
    rows = probes(40)
    assert send(watch, "a", rows[:-1]) is not None
    found = watch.observe("b", "", rows[-1:], None, 50.0)
    assert {(alarm.scope, alarm.shared) for alarm in found} == {(Scope.LINEAGE, True)}
    again = watch.observe("a", "", probes(41)[-1:], None, 51.0)
    lineages = [alarm for alarm in again if alarm.scope is Scope.LINEAGE]
    assert lineages and not any(alarm.shared for alarm in lineages)


def test_an_attack_spread_over_accounts_is_one_lineage():
    watch = tracker(clients=256)
    found = None
    for index, row in enumerate(probes(60)):
        alarms = watch.observe(f"a{index}", "", row[None], None, index * 0.1)
        if alarms:
            found = index + 1, alarms
            break
    assert found[0] <= 25
    assert scopes(found[1]) == {(Family.PROBING, Scope.LINEAGE)}


def test_an_honest_neighbour_does_not_answer_for_an_attacker():
    watch = tracker()
    attacked = [
        watch.observe("a", "s", row[None], None, index * 0.1)
        for index, row in enumerate(probes(200))
    ]
    assert attacked[-1]
    assert send(watch, "b", rows_of(7, 200), subnet="s", now=30.0) is None


def test_a_client_that_alarms_adds_nothing_to_its_groups():
    watch = tracker()
    rows = probes(60)
    queries, _ = send(watch, "a", rows, subnet="s")
    watch.observe("a", "s", rows[queries:], None, 9.0)
    told = {delta.key: np.frombuffer(delta.sums)[-1] for delta in watch.drain(9) if delta.sums}
    assert told == {"endpoint": queries, "subnet:s": queries, "client:a": 60}


def test_accounts_of_one_subnet_are_tied_together_without_a_lineage():
    watch = tracker(clients=64, profile="frames")
    random = np.random.default_rng(0)
    rows = random.uniform(-12, 12, size=(300, FEATURES)).astype(np.float32)
    seen = set()
    for index, row in enumerate(rows):
        seen |= scopes(watch.observe(f"a{index % 16}", "s", row[None], None, index * 0.1))
    assert Scope.SUBNET in {scope for _, scope in seen}


# ------------------------------------------------------------------------------- recovery


def alarmed():
    watch = tracker()
    watch.observe("a", "", probes(60), None, 0.0)
    return watch


def test_evidence_is_capped_so_that_everybody_can_recover():
    watch = alarmed()
    standing = watch.standing("a")
    for family, level in standing.evidence.items():
        assert level <= standing.thresholds[family] + evidence.HEADROOM + 1e-9


def test_honest_queries_lower_evidence():
    watch = alarmed()
    before = watch.standing("a").evidence["probing"]
    rows = rows_of(8, 800)
    assert watch.observe("a", "", rows[0][None], None, 1.0)
    for row in rows:
        watch.observe("a", "", row[None], None, 1.0)
    assert watch.standing("a").evidence["probing"] < before / 2
    assert list(watch.observe("a", "", rows[-1][None], None, 1.0)) == []


def test_time_lowers_evidence_by_a_nat_an_hour():
    watch = alarmed()
    before = watch.standing("a").evidence["probing"]
    watch.observe("a", "", rows_of(8, 0), None, 3600.0)
    watch.observe("a", "", probes(1), None, 3600.0)  # a retry
    assert watch.standing("a").evidence["probing"] == pytest.approx(before - 1.0)


def test_a_clock_that_goes_back_raises_nothing():
    watch = alarmed()
    before = watch.standing("a").evidence["probing"]
    watch.observe("a", "", probes(1), None, -3600.0)
    assert watch.standing("a").evidence["probing"] == before


def test_a_new_day_counts_anew_and_forgives_nobody():
    watch = tracker(retention=100.0, recovery=0.0)
    watch.observe("a", "s", probes(60), None, 0.0)
    before = watch.standing("a")
    watch.observe("a", "s", rows_of(8, 1), None, 100.0)
    after = watch.standing("a")
    assert (before.queries, after.queries) == (60, 1)
    assert after.evidence["probing"] == pytest.approx(before.evidence["probing"], abs=1.0)


def test_a_forgiven_client_begins_anew():
    watch = alarmed()
    watch.forget("a")
    assert watch.standing("a").evidence == {"probing": 0.0, "extraction": 0.0}
    assert watch.standing("a").queries == 0
    assert [d.key for d in watch.drain(100) if d.key.startswith("client")] == []
    watch.forget("nobody")


# ------------------------------------------------------------------------------- coverage


def test_a_client_that_sees_too_much_alarms():
    watch = tracker(coverage_limit=0.5)
    queries, alarms = send(watch, "a", rows_of(10, 800))
    assert scopes(alarms) == {(Family.COVERAGE, Scope.CLIENT)}
    assert alarms[0].detail["coverage"] >= 0.5
    assert queries > 20
    assert watch.standing("a").coverage >= 0.5
    assert watch.standing("a").evidence["coverage"] >= watch.standing("a").thresholds["coverage"]


def test_without_a_limit_coverage_is_told_but_never_alarms():
    watch = tracker()
    assert send(watch, "a", rows_of(10, 800)) is None
    assert 0.5 < watch.standing("a").coverage <= 1.0


# ------------------------------------------------------------------------------- profiles


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_says_what_it_leaves_out(profile):
    watch = tracker(profile=profile)
    assert watch.profile.uncovered
    found = send(watch, "a", probes(60))
    assert (found is not None) is (profile == "default")


def scenes(count, frames, seed):
    """Honest rows, each followed by noisy copies of itself."""
    random = np.random.default_rng(seed)
    still = np.repeat(rows_of(seed, count), frames, axis=0)
    noise = random.normal(size=still.shape) * 0.01
    return (still + noise).astype(np.float32)


def cases(count, seed):
    """Honest rows with one feature at a time moved over a wide range."""
    rows = np.repeat(rows_of(seed, count), 20, axis=0)
    for index, row in enumerate(rows):
        row[index // 10 % FEATURES] = np.linspace(-8, 8, 10)[index % 10]
    return rows


@pytest.mark.parametrize(
    ("profile", "rows"), [("frames", scenes(30, 20, 50)), ("exploration", cases(30, 51))]
)
def test_a_profile_is_quiet_on_what_it_is_for(profile, rows):
    assert send(tracker(), "a", rows) is not None
    watch = tracker(profile=profile)
    assert send(watch, "a", rows) is None
    assert watch.standing("a").queries < len(rows) / 5


def test_frames_of_inputs_unlike_the_honest_ones_are_recognised():
    random = np.random.default_rng(0)
    rows = random.uniform(-12, 12, size=(200, FEATURES)).astype(np.float32)
    assert send(tracker(profile="frames"), "a", rows) is not None


# ------------------------------------------------------------------------------- eviction


def test_an_attacker_cannot_clear_its_record_with_other_accounts():
    watch = tracker(clients=16)
    rows = probes(60)
    send(watch, "a", rows[:10])
    before = watch.standing("a").evidence["probing"]
    assert before > evidence.NEGLIGIBLE
    fresh = rows_of(11, 400)
    for index, row in enumerate(fresh):
        watch.observe(f"account {index}", "", row[None], None, 2.0)
    assert watch.standing("a").evidence["probing"] == pytest.approx(before, abs=0.01)
    assert watch.sizes()["evictions"] >= 380
    assert send(watch, "a", rows[10:], now=3.0) is not None


def test_where_all_hold_evidence_newcomers_do_not_answer_for_each_other():
    watch = tracker(clients=4)
    for index in range(4):
        send(watch, f"a{index}", probes(12, seed=index))
    found = []
    for index, row in enumerate(probes(60, seed=9)):
        found += watch.observe(f"new {index}", "s", row[None], None, 5.0)
    assert {alarm.scope for alarm in found} == {Scope.LINEAGE}, "only what they do together"
    assert all(alarm.shared for alarm in found)
    honest = [
        watch.observe(f"own {i}", "s", r[None], None, 6.0) for i, r in enumerate(rows_of(3, 40))
    ]
    assert not any(honest)
    assert watch.sizes()["clients"] == 4
    assert watch.sizes()["overflow"] > 0
    assert watch.standing("new 0") is None


def test_what_an_evicted_client_taught_is_handed_over():
    watch = tracker(clients=1)
    send(watch, "a", rows_of(12, 30))
    send(watch, "b", rows_of(13, 1), now=4.0)
    assert watch.standing("a") is None
    keys = {delta.key: delta for delta in watch.drain(100)}
    assert np.frombuffer(keys["client:a"].sums)[-1] == 30
    assert len(keys["client:a"].entries) == 30 * watch.layout.entry_bytes
    assert np.frombuffer(keys["client:b"].sums)[-1] == 1


# ---------------------------------------------------------------------------------- sizes


def test_a_client_takes_at_most_16_kib():
    watch = tracker(clients=64)
    names = [f"{index:032x}" for index in range(64)]
    for name in names:
        watch.observe(name, "", rows_of(14, 1), None, 0.0)
    table = sum(sys.getsizeof(name) + sys.getsizeof("client:" + name) + 300 for name in names) / 64
    assert watch.sizes()["client_bytes"] + table <= 16 * 1024


def test_standings_are_the_strongest_first():
    watch = tracker()
    send(watch, "calm", rows_of(15, 20))
    send(watch, "hostile", probes(12))
    send(watch, "calmer", rows_of(16, 20))
    assert watch.standings(2)[0].client == "hostile"
    assert len(watch.standings(2)) == 2
    assert watch.standings(0) == []
    assert watch.standing("nobody") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"clients": 0},
        {"budget": 0.0},
        {"budget": 1.0},
        {"retention": 0.0},
        {"coverage_limit": 0.0},
        {"coverage_limit": 1.0},
        {"profile": "none"},
        {"recovery": -1.0},
        {"engine": "fast"},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        tracker(**wrong)


def test_a_smaller_budget_asks_for_more_evidence():
    strict, lax = tracker(budget=1e-6), tracker(budget=0.01)
    rows = probes(60)
    assert send(strict, "a", rows)[0] > send(lax, "a", rows)[0]
    assert model().rows == 800
