"""Where a thief's rows come from, and which it asks."""

import numpy as np
import pytest
from tiny_endpoint import tiny_means, tiny_model

from loadtest.drivers.accounts import PATIENCE, Turns
from loadtest.drivers.base import Spent
from loadtest.drivers.extraction_policy import Bandit, Rewards, knockoff, other_rows
from loadtest.drivers.extraction_sources import (
    Generated,
    Photographs,
    Tables,
    natural,
    resized,
)
from loadtest.drivers.extraction_strategies import (
    NO_ANSWER,
    Taken,
    _farthest,
    decided,
    harvest,
    k_centre,
    matrix,
    uniform,
)


def given(features=6, **settings):
    return tiny_means(tiny_model(features=features), **settings)


@pytest.mark.parametrize(
    ("kind", "features", "image"),
    [
        (Photographs, 64, (8, 8)),
        (Photographs, 48, (4, 4)),  # in three channels
        (Photographs, 2, (1, 2)),
        (Generated, 64, (8, 8)),
        (Generated, 1, (1, 1)),
        (Generated, 784, (28, 28)),
        (Tables, 6, None),
        (Tables, 64, None),
        (Tables, 1, None),
    ],
)
def test_rows_lie_in_the_box_and_repeat_by_seed(kind, features, image):
    means = given(features, image=image)
    source = kind(means)
    arms = np.tile(np.arange(source.arms), 4)
    rows = source.draw(arms, np.random.default_rng(0))
    assert rows.shape == (4 * source.arms, features)
    assert rows.dtype == np.float32
    assert (rows >= means.low).all()
    assert (rows <= means.high).all()
    assert np.array_equal(rows, kind(means).draw(arms, np.random.default_rng(0)))
    if features > 2:
        assert len(np.unique(rows, axis=0)) == len(rows)
        assert rows.std(axis=0).min() > 0


def test_what_is_natural_depends_on_what_a_row_is():
    assert natural(given()).name == "other tables"
    assert natural(given(image=(2, 3))).name == "photographs"


def test_tables_keep_the_values_of_each_feature():
    means = given()
    rows = Tables(means).draw(np.zeros(50, np.int64), np.random.default_rng(0))
    assert all(np.isin(rows[:, k], means.own[:, k]).all() for k in range(6))


@pytest.mark.parametrize("shape", [(4, 6), (2, 2), (3, 5), (8, 12), (1, 1)])
def test_a_picture_of_one_grey_stays_one_whatever_its_size(shape):
    assert np.allclose(resized(np.full((4, 6), 0.3), shape), 0.3)
    assert resized(np.zeros((4, 6)), shape).shape == shape


def test_a_picture_made_smaller_is_a_mean_of_its_areas():
    picture = np.arange(16.0).reshape(4, 4)
    assert resized(picture, (2, 2)).tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_answers_that_did_not_come_are_no_labels():
    scores = matrix([np.array([0.2, 0.8]), None, np.array([0.1, 0.2, 0.7]), np.array([1.0])])
    assert decided(scores).tolist() == [1, NO_ANSWER, 2, 0]
    assert decided(matrix([None, None])).tolist() == [NO_ANSWER, NO_ANSWER]


def test_a_harvest_keeps_what_was_answered_until_it_is_stopped():
    asked = []

    def ask(row):
        if len(asked) == 5:
            raise Spent
        asked.append(row)
        return None if len(asked) % 2 else np.array([1.0, 0.0])

    taken = Taken()
    strategy = uniform(given(), np.random.default_rng(0))
    harvest(strategy, ask, taken)
    assert strategy.gi_frame is None  # closed
    assert len(taken.rows) == len(taken.scores) == 2
    assert np.array_equal(taken.rows[0], asked[1])


def test_no_row_is_chosen_twice_even_among_equals():
    left = np.zeros((150, 3))
    left[7] = 1.0
    chosen = _farthest(left, np.zeros((1, 3)))
    assert chosen[0] == 7
    assert len(set(chosen.tolist())) == 100


def test_a_harvest_of_nothing_ends():
    means = given(own=np.empty((0, 6), np.float32))
    harvest(k_centre(means, np.random.default_rng(0)), lambda row: None, Taken())


def test_the_bandit_comes_to_choose_what_pays():
    bandit = Bandit(3)
    random = np.random.default_rng(0)
    for _ in range(300):
        arm = int(random.choice(3, p=bandit.shares))
        bandit.pay(arm, 1.0 if arm == 2 else 0.0)
    assert bandit.shares.sum() == pytest.approx(1)
    assert bandit.shares[2] > 0.5


def test_rewards_are_for_what_is_sure_new_and_surprising():
    rewards = Rewards()
    rows = given().own[:20]
    same = np.tile([0.9, 0.1, 0.0], (20, 1))
    rewards.of(rows, same)
    found = rewards.of(rows[:2], np.array([[0.9, 0.1, 0.0], [0.0, 0.0, 1.0]]))
    assert found[1] > found[0]
    wider = rewards.of(rows[:1], np.array([[0.1, 0.1, 0.1, 0.7]]))
    assert np.isfinite(wider).all()
    assert np.isfinite(rewards.of(rows[:1], np.array([[0.0, 0.0]]))).all()


def test_knockoff_goes_on_where_nothing_is_answered():
    strategy = knockoff(natural(given()), np.random.default_rng(0))
    rows = next(strategy)
    for _ in range(3):
        rows = strategy.send(np.full((len(rows), 0), np.nan))
    plain = other_rows(natural(given()), np.random.default_rng(0))
    assert next(plain).shape == rows.shape


def test_turns_pass_over_who_is_refused_until_nobody_is_left():
    turns = Turns(2)
    for _ in range(PATIENCE):
        turns.note(0, refused=True)
    assert [turns.next() for _ in range(3)] == [1, 1, 1]
    for _ in range(PATIENCE):
        turns.note(1, refused=True)
    assert {turns.next() for _ in range(4)} == {0, 1}
    turns.note(0, refused=False)
    assert {turns.next() for _ in range(4)} == {0}
