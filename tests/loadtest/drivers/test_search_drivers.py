"""Adaptive attacks, Sybils and interleaving: searches for an adversarial example."""

import numpy as np
import pytest
from tiny_endpoint import (
    REFUSED,
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

from loadtest.drivers import adaptive_search
from loadtest.drivers.adaptive import Decisions, Scores
from loadtest.drivers.interleaving import Interleaving
from loadtest.drivers.sybils import Sybils

MODEL = tiny_model()
DRIVERS = (Decisions, Scores, Sybils, Interleaving)
BUDGET = 400


def search(kind, answer=undefended, *, model=MODEL, judged=True, **given):
    means = tiny_means(model, **({"budget": BUDGET, "tries": 4, "accounts": 4} | given))
    return attack(kind(), means, answer, model=model, judged=judged)


@pytest.mark.parametrize("kind", DRIVERS)
@pytest.mark.parametrize("judged", [True, False])
def test_undefended_it_succeeds_and_the_same_seed_asks_the_same(kind, judged):
    outcome, asked = search(kind, judged=judged)
    assert sum(one.reached for one in outcome.tries) >= 2
    assert len(outcome.tries) == asked.tries == 4
    assert sum(one.queries for one in outcome.tries) == asked.own
    assert 0 < outcome.details["median_distance"] < 1.5
    assert search(kind, judged=judged)[1].digest == asked.digest
    assert search(kind, seed=9, judged=judged)[1].digest != asked.digest


@pytest.mark.parametrize("kind", DRIVERS)
def test_refused_everything_it_ends_with_its_budget(kind):
    outcome, asked = search(kind, refusing, tries=2)
    assert [one.reached for one in outcome.tries] == [False, False]
    assert "median_distance" not in outcome.details
    assert asked.total <= 2 * BUDGET


@pytest.mark.parametrize("kind", DRIVERS)
@pytest.mark.parametrize("answer", [labels_only, rounded, limited_after(30)])
def test_defended_in_part_it_ends_in_order(kind, answer):
    outcome, asked = search(kind, answer, tries=2)
    assert len(outcome.tries) == 2
    assert asked.total <= 2 * BUDGET
    again, _ = search(kind, answer, tries=2)
    assert list(again.tries) == list(outcome.tries)


@pytest.mark.parametrize("kind", DRIVERS)
@pytest.mark.parametrize("budget", [0, 1, 5])
def test_a_budget_below_the_warm_up_is_spent_on_it(kind, budget):
    outcome, asked = search(kind, budget=budget, tries=1)
    assert asked.total == budget
    assert asked.own == 0
    assert (outcome.tries[0].reached, outcome.tries[0].queries) == (False, 0)


@pytest.mark.parametrize("kind", DRIVERS)
def test_a_model_of_one_class_cannot_be_fooled(kind):
    outcome, asked = search(kind, model=tiny_model(classes=1), tries=1)
    assert not outcome.tries[0].reached
    assert asked.total <= BUDGET


@pytest.mark.parametrize("kind", DRIVERS)
def test_a_model_of_two_classes_is_fooled(kind):
    outcome, _ = search(kind, model=tiny_model(classes=2), knobs={"near": 2, "step": 0.3})
    assert any(one.reached for one in outcome.tries)


@pytest.mark.parametrize("kind", DRIVERS)
def test_values_are_not_classes(kind):
    with pytest.raises(ValueError, match="classifier"):
        search(kind, values)


@pytest.mark.parametrize("kind", DRIVERS)
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"labels": None}, "label"),
        ({"labels": np.zeros(3, np.int64)}, "label"),
        ({"own": np.empty((0, 6), np.float32), "labels": np.zeros(0, np.int64)}, "label"),
        ({"tries": 400}, "400 tries"),
        ({"knobs": {"step": 0}}, "step"),
        ({"knobs": {"paddings": 1}}, "paddings"),
    ],
)
def test_means_that_do_not_do_are_told(kind, given, words):
    with pytest.raises(ValueError, match=words):
        search(kind, **({"budget": 1} | given))


def test_what_only_looks_adversarial_to_the_attacker_is_no_success():
    def lying(reply, number, client):
        wrong = np.roll(reply.scores, 1)
        return type(reply)(reply.said, 200, wrong, int(wrong.argmax()))

    outcome, asked = search(Scores, lying, knobs={"near": 0.01, "step": 0.001})
    assert not any(one.reached for one in outcome.tries)
    assert asked.own == 4  # it was sure at once


def test_with_no_judge_a_base_is_what_the_model_says_it_is():
    wrong = (tiny_means(MODEL).labels + 1) % 3
    knobs = {"near": 0.001, "step": 0.0001}
    outcome, _ = search(Decisions, labels=wrong, judged=False, knobs=knobs, tries=2)
    assert not any(one.reached for one in outcome.tries)


def test_a_feature_that_never_varies_is_no_trouble():
    means = tiny_means(MODEL)
    low, high = means.low.copy(), means.high.copy()
    low[2] = high[2] = 0.5
    outcome, _ = search(Decisions, low=low, high=high)
    assert any(one.reached for one in outcome.tries)


def test_who_is_refused_moves_on_and_pads_more():
    def wary(reply, number, client):
        return reply if number <= 22 else REFUSED

    outcome, asked = search(Scores, wary, tries=1)
    assert outcome.details["accounts_used"] == [4]
    assert outcome.details["padding_at_end"] == [adaptive_search.MOST_PADDING]
    assert set(asked.clients) == {f"account-{number}" for number in range(4)}
    bold, asked = search(Scores, wary, tries=1, knobs={"pads": False, "accounts": 2})
    assert bold.details["padding_at_end"] == [0]
    assert set(asked.clients) == {"account-0", "account-1"}


def test_coarse_answers_are_noticed_where_finer_ones_came_before():
    def suspicious(reply, number, client):
        return reply if number <= 22 else labels_only(reply, number, client)

    noticed, _ = search(Decisions, suspicious, tries=1, knobs={"near": 0.01, "step": 0.001})
    assert noticed.details["accounts_used"] == [4]
    usual, _ = search(Decisions, labels_only, tries=1, knobs={"near": 0.01, "step": 0.001})
    assert usual.details["accounts_used"] == [1]


def test_sybils_ask_in_turn():
    _, asked = search(Sybils, accounts=5, tries=1, knobs={"accounts": 3, "near": 0.01})
    assert asked.clients[:7] == [f"account-{number % 3}" for number in range(7)]
    assert len(set(asked.clients)) == 3
    counts = [asked.clients.count(f"account-{number}") for number in range(3)]
    assert max(counts) - min(counts) <= 1
    assert asked.own == asked.total - 3 * 2
    with pytest.raises(ValueError, match="two accounts"):
        search(Sybils, accounts=1)


@pytest.mark.parametrize(("every", "least", "most"), [(0, 0.0, 0.0), (2, 0.55, 0.75), (9, 0.85, 1)])
def test_interleaving_sends_as_many_honest_queries_as_it_says(every, least, most):
    knobs = {"every": every, "near": 0.01, "step": 0.001, "warm_up": 0}
    _, asked = search(Interleaving, tries=1, accounts=1, knobs=knobs)
    assert asked.total == BUDGET
    assert least <= 1 - asked.own / asked.total <= most


def test_the_way_is_a_knob():
    by_labels = search(Sybils, tries=1)[1].digest
    by_scores, asked = search(Sybils, tries=1, knobs={"way": "scores"})
    assert by_scores.details["way"] == "scores"
    assert asked.digest != by_labels


@pytest.mark.parametrize(
    ("features", "image", "shape"),
    [(6, None, (2, 3)), (7, None, (1, 7)), (6, (3, 2), (3, 2)), (6, (1, 2), (2, 3))],
)
def test_patches_see_a_row_as_a_picture(features, image, shape):
    from loadtest.drivers.adaptive_target import _shape

    assert _shape(tiny_means(tiny_model(features=features), image=image)) == shape


def test_near_is_half_the_way_to_the_nearest_of_another_class():
    rows = np.array([[0.0, 0], [0, 0.1], [0.8, 0], [0.8, 0.1]], np.float32)
    assert adaptive_search.near(rows, np.array([0, 0, 1, 1])) == pytest.approx(0.4)
    assert adaptive_search.near(rows, np.zeros(4)) == np.inf
