"""Evasion and transfer, live: they succeed where nothing defends, and know no more than they are
told."""

import numpy as np
import pytest
from attacked_in_process import CENTRES, Pair, means, probabilities, refused

from loadtest.drivers.evasion_goal import bases, box_of, near_of
from loadtest.drivers.registry import DRIVERS
from loadtest.drivers.run import attack
from loadtest.evidence.results import Share
from loadtest.targets.base import Reply, Said

EVASION = ("hopskipjump", "boundary", "signopt", "zoo", "simba", "square")


def needs_art():
    return pytest.importorskip("art", reason="the adversarial-robustness-toolbox is not installed")


@pytest.mark.parametrize("name", EVASION)
def test_an_attack_succeeds_undefended_the_same_way_each_time(name):
    needs_art()
    results = []
    for _ in range(2):
        pair = Pair()
        results.append(attack(DRIVERS[name], pair, "firewall", means(budget=2500)))
    one, other = results
    assert one.fault == ""
    assert one.success == Share(2, 2)
    assert one.to_success == other.to_success
    assert one.queries == one.distinct == other.queries
    # What it ended with is near, and decided otherwise than what it began with.
    start, end = pair.firewall.asked[0][0], pair.firewall.asked[one.to_success[0] - 1][0]
    assert probabilities(start).argmax() != probabilities(end).argmax()
    step = np.abs(start - end)
    assert np.linalg.norm(step) <= one.details["near"] or step.max() <= 0.3 + 1e-5


def test_a_picture_and_two_classes_will_do():
    needs_art()

    def two(row, _client, _number):
        scores = probabilities(row)[:2]
        scores = scores / scores.sum()
        return Reply(Said.ANSWERED, 200, scores, int(scores.argmax()))

    for name in ("signopt", "square"):
        pair = Pair(two)
        pair.direct.answer = two
        labels = np.array([int(probabilities(row)[:2].argmax()) for row in means().own])
        given = means(image=(2, 3), labels=labels, tries=1)
        result = attack(DRIVERS[name], pair, "firewall", given)
        assert result.fault == ""
        assert result.success == Share(1, 1)


def test_a_refused_query_shows_nothing():
    needs_art()

    def after_the_first(row, client, number):
        return None if number == 1 else refused(row, client, number)

    pair = Pair(after_the_first)
    result = attack(DRIVERS["square"], pair, "firewall", means(tries=1, budget=60))
    assert result.success == Share(0, 1)
    assert result.queries <= 60
    assert result.details["unanswered"] == result.queries - 1
    blind = attack(DRIVERS["hopskipjump"], Pair(refused), "firewall", means(budget=60))
    assert blind.success == Share(0, 2)
    assert blind.queries == 10  # a base that is never answered is given up


def test_an_answer_that_only_looks_like_success_is_none():
    needs_art()

    def lying(row, _client, number):
        scores = np.array([0.1, 0.2, 0.7] if number % 2 else [0.7, 0.2, 0.1])
        return Reply(Said.ANSWERED, 200, scores, int(scores.argmax()))

    result = attack(DRIVERS["simba"], Pair(lying), "firewall", means(tries=1, budget=40))
    assert result.success.count == 0


def test_answers_that_contradict_each_other_keep_nobody_busy_for_ever():
    needs_art()

    def contradicting(_row, _client, number):
        scores = np.random.default_rng(number).dirichlet(np.ones(3))
        return Reply(Said.ANSWERED, 200, scores, int(scores.argmax()))

    # HopSkipJump halves its step until it asks about the same row for ever.
    pair = Pair(contradicting)
    result = attack(DRIVERS["hopskipjump"], pair, "firewall", means(tries=1, budget=10**6))
    assert result.fault == ""
    assert result.success.count == 0


def test_without_a_judge_the_answers_are_believed():
    needs_art()
    pair = Pair()
    pair.sides = ("firewall",)
    result = attack(DRIVERS["simba"], pair, "firewall", means(labels=None))
    assert result.success == Share(2, 2)
    assert not pair.direct.asked


@pytest.mark.parametrize("name", ["simba", "transfer"])
def test_a_regression_and_unknown_knobs_are_told(name):
    needs_art()

    def value(_row, _client, _number):
        return Reply(Said.ANSWERED, 200, np.array([1.5]), -1)

    pair = Pair(value)
    pair.direct.answer = value
    pair.sides = ("firewall",)
    assert "values" in attack(DRIVERS[name], pair, "firewall", means(tries=1)).fault
    assert "knob" in attack(DRIVERS[name], Pair(), "firewall", means(knobs={"knob": 1})).fault


def test_bases_are_rows_that_the_model_gets_right_of_all_classes():
    pair = Pair()
    given = means()
    wrong = given.labels.copy()
    wrong[given.labels == 2] = 0
    found = bases(means(labels=wrong), pair.direct, 10)
    labels = [int(probabilities(row).argmax()) for row in found]
    assert sorted(set(labels)) == [0, 1]
    assert abs(labels.count(0) - labels.count(1)) <= 1
    assert len(bases(given, pair.direct, 3)) == 3
    assert not np.array_equal(bases(given, None, 3, turn=0), bases(given, None, 3, turn=1))


def test_near_is_half_the_way_to_another_class():
    given = means()
    box = box_of(given)
    between = np.linalg.norm(CENTRES[:, None] - CENTRES, axis=2)
    closest = between[between > 0].min()
    assert near_of(given, box, None) < closest
    assert near_of(given, box, None) == near_of(means(labels=None), box, Pair().direct)
    with pytest.raises(ValueError, match="say the knob distance"):
        near_of(means(labels=np.zeros(120, int)), box, None)


def test_rows_stay_in_the_box_and_are_numbers():
    box = box_of(means(low=np.full(6, -1.0), high=np.full(6, 3.0)))
    cells = np.array([np.nan, np.inf, -np.inf, 0.5, 0, 1])
    assert box.outside(cells).tolist() == [-1, 3, -1, 1, -1, 3]
    assert box_of(means(low=np.zeros(7), high=np.zeros(7))).image == (1, 7)
    assert box_of(means(low=np.zeros(30), high=np.ones(30))).image == (5, 6)


def test_what_is_crafted_on_a_stolen_copy_carries_over():
    pair = Pair()
    given = means(budget=300, knobs={"epsilon": 0.25, "rows": 10})
    result = attack(DRIVERS["transfer"], pair, "firewall", given)
    assert result.fault == ""
    assert result.success == Share(2, 2)
    assert result.value is not None
    assert result.value.value > 0.6 > result.baseline
    assert result.queries <= 600
    assert len(pair.firewall.asked) == result.queries
    low, high = given.low, given.high
    assert all(((low <= row) & (row <= high)).all() for row, _ in pair.firewall.asked)


def test_nothing_is_carried_over_where_nothing_was_told():
    result = attack(DRIVERS["transfer"], Pair(refused), "firewall", means(budget=100))
    assert result.success == Share(0, 2)
    assert result.value is None
    assert result.details["substitutes"] == 0
    small = attack(DRIVERS["transfer"], Pair(), "firewall", means(budget=50))
    assert "leaves no queries" in small.fault


def test_a_resumed_evasion_ends_as_the_whole_one(tmp_path):
    needs_art()
    whole = attack(DRIVERS["boundary"], Pair(), "firewall", means())
    journal = tmp_path / "journal"
    attack(DRIVERS["boundary"], Pair(), "firewall", means(), journal=journal)
    lines = journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join(lines[:30]) + b"\n[29,")
    resumed = attack(DRIVERS["boundary"], Pair(), "firewall", means(), journal=journal, resume=True)
    assert resumed.resumed == 29
    assert (resumed.to_success, resumed.queries) == (whole.to_success, whole.queries)
    assert resumed.details == whole.details
