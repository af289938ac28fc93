import numpy as np
import pytest
from tiny_endpoint import (
    Model,
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

from loadtest.drivers import accounts, extraction
from loadtest.drivers.extraction import (
    Active,
    Copycat,
    Jacobian,
    Knockoff,
    OutOfDistribution,
    Random,
    surrogate,
)

MODEL = tiny_model()
DRIVERS = (Random, OutOfDistribution, Jacobian, Knockoff, Copycat, Active)
BUDGET = 150


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Small models need little training."""
    monkeypatch.setattr(extraction, "STEPS", 400)
    monkeypatch.setattr(extraction, "EPOCHS", 10)


def steal(kind, answer=undefended, *, model=MODEL, judged=True, **given):
    means = tiny_means(model, **({"budget": BUDGET} | given))
    return attack(kind(), means, answer, model=model, judged=judged)


@pytest.mark.parametrize("kind", DRIVERS)
def test_undefended_a_copy_is_made_and_the_same_seed_asks_the_same(kind):
    outcome, asked = steal(kind)
    assert [one.reached for one in outcome.tries] == [True]
    assert outcome.tries[0].queries == 100
    assert outcome.value.value >= 0.8
    assert outcome.value.low < outcome.value.value < outcome.value.high
    assert outcome.baseline < 0.5
    assert asked.total == BUDGET == asked.own
    points = outcome.details["fidelity_over_queries"]
    assert [queries for queries, _ in points] == [100, BUDGET]
    assert points[-1][1] == outcome.value.value
    assert steal(kind)[1].digest == asked.digest
    if kind is not Active:  # which begins with the same rows, and then asks what is left
        assert steal(kind, seed=4, own=tiny_means(MODEL).own)[1].digest != asked.digest


@pytest.mark.parametrize("kind", [OutOfDistribution, Knockoff, Copycat])
def test_pictures_are_stolen_with_pictures(kind):
    outcome, asked = steal(kind, image=(2, 3))
    assert outcome.value.value > outcome.baseline + 0.2
    assert outcome.details["source"] in {"pictures", "photographs"}
    assert asked.total == BUDGET


@pytest.mark.parametrize("answer", [labels_only, rounded])
def test_coarse_answers_still_teach(answer):
    outcome, _ = steal(Random, answer)
    assert outcome.value.value > 0.6
    assert outcome.details["answers"] == ("labels" if answer is labels_only else "scores")


def test_copycat_wants_nothing_but_labels():
    assert steal(Copycat)[0].value == steal(Copycat, labels_only)[0].value
    assert steal(Random)[0].value != steal(Random, labels_only)[0].value


@pytest.mark.parametrize("kind", DRIVERS)
def test_refused_everything_a_thief_has_nothing_but_the_commonest_class(kind):
    outcome, asked = steal(kind, refusing, accounts=3)
    assert not outcome.tries[0].reached
    assert outcome.value.value == outcome.baseline
    assert outcome.details["answered"] == 0
    assert outcome.details["answers"] == "none"
    assert asked.total == BUDGET
    assert set(asked.clients) == {"account-0", "account-1", "account-2"}


@pytest.mark.parametrize("kind", DRIVERS)
def test_what_came_before_the_limit_is_what_it_learns_from(kind):
    outcome, asked = steal(kind, limited_after(60))
    assert outcome.details["answered"] == 60
    assert asked.total == BUDGET


@pytest.mark.parametrize("kind", DRIVERS)
@pytest.mark.parametrize("budget", [0, 1, 7])
def test_a_budget_that_is_hardly_one_ends_in_order(kind, budget):
    outcome, asked = steal(kind, budget=budget)
    assert asked.total == budget == outcome.tries[0].queries
    assert 0 <= outcome.value.value <= 1
    assert outcome.details["answered"] == budget


def test_each_try_has_a_budget_and_randomness_of_its_own():
    outcome, asked = steal(Random, tries=2, budget=60)
    assert len(outcome.tries) == 2
    assert (asked.tries, asked.total) == (2, 120)


def test_padding_is_not_the_attacks_own_and_counts_against_the_budget():
    _, asked = steal(Random, knobs={"padding": 0.5})
    assert asked.total == BUDGET
    assert 50 < asked.own < 100


def test_with_no_judge_some_of_the_budget_goes_into_rows_to_judge_by():
    outcome, asked = steal(Random, judged=False)
    assert asked.total == BUDGET
    assert asked.total - asked.own == int(extraction.HELD * BUDGET)
    assert outcome.value.value > 0.6
    nothing, _ = steal(Random, refusing, judged=False)
    assert nothing.value is None
    assert not nothing.tries[0].reached


def test_a_model_of_one_class_is_no_success():
    model = tiny_model(classes=1)
    outcome, _ = steal(Random, model=model)
    assert (outcome.value.value, outcome.baseline) == (1.0, 1.0)
    assert not outcome.tries[0].reached


def test_a_model_of_two_classes_is_stolen():
    outcome, _ = steal(Jacobian, model=tiny_model(classes=2))
    assert outcome.tries[0].reached


@pytest.mark.parametrize("kind", DRIVERS)
def test_values_are_not_classes(kind):
    with pytest.raises(ValueError, match="classifier"):
        steal(kind, values)


def test_an_active_thief_ends_when_its_rows_are_used_up():
    outcome, asked = steal(Active, own=tiny_means(MODEL).own[:120])
    assert asked.total == 120
    assert outcome.details["fidelity_over_queries"][-1][0] == 120
    _, centred = steal(Active, knobs={"choice": "k-centre"}, own=tiny_means(MODEL).own[:250])
    _, unsure = steal(Active, own=tiny_means(MODEL).own[:250])
    assert centred.digest != unsure.digest


@pytest.mark.parametrize("source", ["noise", "blends"])
def test_a_source_may_be_chosen(source):
    outcome, _ = steal(OutOfDistribution, knobs={"source": source})
    assert outcome.details["source"] == source
    assert outcome.tries[0].reached


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"knobs": {"fidelty": 0.5}}, "fidelty"),
        ({"knobs": {"fidelity": 2}}, "fidelity"),
        ({"knobs": {"wait": float("nan")}}, "wait"),
        ({"own": np.empty((0, 6), np.float32)}, "rows of its own"),
        ({"test": np.empty((0, 6), np.float32)}, "test rows"),
        ({"accounts": 0}, "account"),
        ({"knobs": {"source": "pictures"}}, "not pictures"),
        ({"knobs": {"source": "pictures"}, "image": (4, 4)}, "no picture of 4 by 4"),
    ],
)
def test_means_that_do_not_do_are_told(given, words):
    with pytest.raises(ValueError, match=words):
        steal(OutOfDistribution, **given)


def test_the_surrogate_ignores_answers_that_are_no_distribution():
    random = np.random.default_rng(0)
    rows = list(random.random((40, 6)).astype(np.float32))
    answers = list(MODEL.probabilities(np.array(rows)).astype(float))
    answers[3] = np.full(3, -1.0)
    answers[4] = np.zeros(3)
    answers[5] = np.array([0.2, 0.8])  # narrower: the last class has none
    copy = surrogate(rows, answers, 0, scores=True)
    assert np.isfinite(copy.probabilities(np.array(rows))).all()
    assert surrogate([], [], 0, scores=True) is None


def test_a_patient_client_waits_as_long_as_it_may():
    pauses = []
    from tiny_endpoint import Endpoint

    endpoint = Endpoint(Model(MODEL), 10, limited_after(2))
    client = accounts.Client(endpoint, ["a"], wait=3.0, sleep=pauses.append)
    row = np.full(6, 0.5, np.float32)
    for _ in range(5):
        client.ask(row)
    assert pauses == [3.0] * 3  # it was told 7
    assert (client.answered, client.unanswered, client.waited) == (2, 3, 9.0)
    impatient = accounts.Client(endpoint, ["a"], sleep=pauses.append)
    impatient.ask(row)
    assert len(pauses) == 3


def test_an_account_that_is_refused_too_often_is_passed_over():
    def first_is_banned(reply, number, client):
        return refusing(reply, number, client) if client == "account-0" else reply

    _, asked = steal(Random, first_is_banned, accounts=2)
    assert asked.clients.count("account-0") == accounts.PATIENCE
    assert asked.total == BUDGET
