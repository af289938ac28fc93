"""Membership inference and inversion: what a model betrays of its training data."""

import numpy as np
import pytest
from tiny_endpoint import (
    attack,
    labels_only,
    limited_after,
    refusing,
    rounded,
    tiny_means,
    tiny_model,
    undefended,
    values,
)

from loadtest.attacks.datasets import Part
from loadtest.attacks.victims import train
from loadtest.drivers import membership
from loadtest.drivers.inversion import Inversion, likeness
from loadtest.drivers.membership import Membership, true_positives
from loadtest.mlp import Mlp

FEATURES = 100


def _rows(count, seed):
    return np.random.default_rng(seed).uniform(0, 1, (count, FEATURES)).astype(np.float32)


@pytest.fixture(scope="module")
def learnt_by_heart():
    """A network that was taught nonsense, and the rows that it was taught with."""
    members = _rows(60, 1)
    labels = np.random.default_rng(2).integers(3, size=60)
    return train(Part(members, labels), 0, 400), members


def infer(learnt, answer=undefended, **given):
    model, members = learnt
    means = tiny_means(model, **({"members": members, "test": _rows(60, 3), "budget": 200} | given))
    return attack(Membership(), means, answer, model=model)


def test_members_are_told_from_others_by_scores(learnt_by_heart):
    outcome, asked = infer(learnt_by_heart)
    assert outcome.tries[0].reached
    assert outcome.baseline == 0.5 < outcome.value.low < outcome.value.value
    assert outcome.details["inferred_from"] == ["scores"]
    assert outcome.details["rows_of_each_kind"] == [60]
    assert asked.total == asked.own == 120
    assert infer(learnt_by_heart)[1].digest == asked.digest
    assert infer(learnt_by_heart, seed=5)[1].digest != asked.digest


def test_members_are_told_from_others_by_labels_alone(learnt_by_heart):
    knobs = {"copies": 20, "noise": 0.2, "true_positives": 0.0}
    outcome, asked = infer(learnt_by_heart, labels_only, budget=3000, knobs=knobs)
    assert outcome.details["inferred_from"] == ["labels"]
    assert outcome.value.low > 0.5
    assert asked.total == 120 * 21


def test_a_model_that_saw_neither_betrays_nothing(learnt_by_heart):
    outcome, _ = infer(learnt_by_heart, members=_rows(60, 7))
    assert not outcome.tries[0].reached
    assert outcome.value.low < 0.5 < outcome.value.high


@pytest.mark.parametrize("answer", [rounded, limited_after(60)])
def test_defended_in_part_it_tells_what_it_has(learnt_by_heart, answer):
    outcome, asked = infer(learnt_by_heart, answer)
    assert outcome.value.low <= outcome.value.value <= outcome.value.high
    assert asked.total == 120
    assert outcome.details["unanswered"] == (0 if answer is rounded else 60)


def test_refused_everything_it_knows_nothing(learnt_by_heart):
    outcome, asked = infer(learnt_by_heart, refusing)
    assert (outcome.value.value, outcome.value.low, outcome.value.high) == (0.5, 0, 1)
    assert outcome.details["inferred_from"] == ["nothing"]
    assert not outcome.tries[0].reached
    assert asked.total == 120


@pytest.mark.parametrize("answer", [undefended, labels_only])
@pytest.mark.parametrize("budget", [0, 1, 2, membership.PROBE - 1, 12])
def test_a_small_budget_is_spent_in_order(learnt_by_heart, budget, answer):
    outcome, asked = infer(learnt_by_heart, answer, budget=budget)
    assert asked.total == budget
    assert outcome.value.high - outcome.value.low > 0.3
    if answer is undefended:
        assert outcome.details["rows_of_each_kind"] == [budget // 2]


def test_several_tries_are_not_told_as_more_data(learnt_by_heart):
    one, _ = infer(learnt_by_heart)
    three, asked = infer(learnt_by_heart, tries=3)
    assert asked.tries == 3
    assert three.value.high - three.value.low == pytest.approx(one.value.high - one.value.low)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"members": None}, "trained on"),
        ({"members": np.empty((0, FEATURES), np.float32)}, "trained on"),
        ({"test": np.empty((0, FEATURES), np.float32)}, "others"),
        ({"knobs": {"copies": 0}}, "copies"),
    ],
)
def test_membership_says_what_it_lacks(learnt_by_heart, given, words):
    with pytest.raises(ValueError, match=words):
        infer(learnt_by_heart, **given)


@pytest.mark.parametrize(
    ("members", "others", "found"),
    [
        ([2.0] * 10, [1.0] * 20, 1.0),
        ([1.0] * 10, [1.0] * 20, 0.0),  # a tie is none
        ([2.0, 0.0], [1.0] * 19 + [3.0], 0.5),  # one of twenty may exceed it
        ([2.0, 0.0], [1.0] * 18 + [3.0] * 2, 0.0),
        ([], [1.0], 0.0),
    ],
)
def test_true_positives_are_counted_at_one_false_one_in_twenty(members, others, found):
    assert true_positives(members, others) == found


MODEL = tiny_model(features=16, classes=4)


def invert(answer=undefended, *, model=MODEL, judged=True, **given):
    means = tiny_means(model, **({"budget": 400, "tries": 4} | given))
    return attack(Inversion(), means, answer, model=model, judged=judged)


@pytest.mark.parametrize("judged", [True, False])
def test_classes_are_reconstructed(judged):
    outcome, asked = invert(judged=judged)
    assert sum(one.reached for one in outcome.tries) >= 3
    assert outcome.value.low > outcome.baseline
    assert outcome.details["classes"] == [0, 1, 2, 3]
    assert asked.total == asked.own == 4 * 400
    assert invert(judged=judged)[1].digest == asked.digest


def test_a_likeness_of_which_the_model_is_not_sure_is_no_success():
    vague = Mlp([MODEL.weights[0] / 20], [MODEL.biases[0] / 20])
    outcome, _ = invert(model=vague)
    assert outcome.value.low > outcome.baseline
    assert not any(one.reached for one in outcome.tries)
    assert max(outcome.details["confidence"]) < 0.9


def test_a_picture_is_reconstructed_smoothly():
    outcome, asked = invert(image=(4, 4), tries=2)
    assert asked.digest != invert(tries=2)[1].digest
    assert -1 <= outcome.value.value <= 1


@pytest.mark.parametrize("answer", [refusing, labels_only, rounded, limited_after(20)])
def test_defended_it_ends_with_its_budget(answer):
    outcome, asked = invert(answer, tries=2)
    assert asked.total == 800
    assert len(outcome.details["likeness"]) == 2
    if answer is refusing:
        assert not any(one.reached for one in outcome.tries)
        assert outcome.value.value == 0.0


@pytest.mark.parametrize("budget", [0, 1, 39])
def test_with_less_than_a_step_nothing_is_reconstructed(budget):
    outcome, asked = invert(budget=budget, tries=1)
    assert asked.total == budget
    assert not outcome.tries[0].reached


def test_a_model_of_one_class_has_nothing_to_tell():
    outcome, _ = invert(model=tiny_model(features=16, classes=1), tries=1)
    assert not outcome.tries[0].reached


def test_values_are_not_classes(learnt_by_heart):
    with pytest.raises(ValueError, match="classifier"):
        invert(values)
    with pytest.raises(ValueError, match="classifier"):
        infer(learnt_by_heart, values)


def test_inversion_says_what_it_lacks():
    with pytest.raises(ValueError, match="test rows"):
        invert(test=np.empty((0, 16), np.float32))
    with pytest.raises(ValueError, match="labels"):
        invert(judged=False, labels=None)


def test_likeness_is_a_correlation():
    row = np.array([1.0, 2, 3, 4])
    assert likeness(row, 3 * row + 1) == pytest.approx(1)
    assert likeness(row, -row) == pytest.approx(-1)
    assert likeness(row, np.ones(4)) == 0.0
