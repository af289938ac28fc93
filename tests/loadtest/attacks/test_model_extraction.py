from itertools import islice

import numpy as np
import pytest

from detectors.patterns.base import Alarm, Family, Scope
from loadtest.attacks import extraction
from loadtest.attacks.datasets import load
from loadtest.attacks.extraction import STRATEGIES, Means
from loadtest.attacks.gateway import IMMEDIATE, Gateway
from loadtest.attacks.victims import Victim

SPLIT = load("digits", 1)


@pytest.fixture(scope="module")
def victim():
    return Victim(SPLIT)


def begin(name, seed=0):
    means = Means(SPLIT, SPLIT.pool.rows)
    return STRATEGIES[name](means, np.random.default_rng(seed))


def steal(gateway, name, **options):
    settings = {"budget": 300, "accounts": 1, "honest": SPLIT.honest.rows, "padding": 0.0}
    random = np.random.default_rng(0)
    return extraction.steal(gateway, begin(name), random=random, **(settings | options))


@pytest.mark.parametrize("name", ["uniform", "matched noise", "blends", "in-distribution"])
def test_what_is_asked_lies_in_the_box_and_repeats_by_seed(name):
    batches = [np.concatenate(list(islice(begin(name), 3))) for _ in range(2)]
    assert np.array_equal(*batches)
    assert batches[0].dtype == np.float32
    assert batches[0].shape == (150, 64)
    assert (batches[0] >= SPLIT.low).all()
    assert (batches[0] <= SPLIT.high).all()


def test_a_theft_learns_the_victim(victim):
    gateway = Gateway(victim)
    theft = steal(gateway, "blends")
    assert theft.sent == len(theft.labels) == 300
    assert (theft.alarm, theft.refusal) == (0, 0)
    assert extraction.fidelity(theft, gateway, SPLIT.fit.rows, 0) > 0.7


@pytest.mark.parametrize("name", ["jacobian", "active"])
def test_strategies_that_learn_go_on_where_nothing_is_answered(name):
    strategy = begin(name)
    asked = next(strategy)
    for _ in range(2 if name == "jacobian" else 1):  # active has 70 rows left, and then no more
        asked = strategy.send(np.full((len(asked), 10), np.nan))
        assert len(asked)


def test_padding_is_the_share_that_was_asked_for(victim):
    theft = steal(Gateway(victim), "uniform", padding=0.9, budget=1000)
    assert theft.sent == 1000
    assert 60 < len(theft.labels) < 150


class Blocks:
    """Blocks a client from its n-th query on."""

    def __init__(self, after):
        self.after = after
        self.asked = {}

    def observe(self, client, subnet, rows, p_values, now):
        self.asked[client] = self.asked.get(client, 0) + 1
        if self.asked[client] <= self.after:
            return []
        return [Alarm(Family.EXTRACTION, Scope.CLIENT, 20.0, 14.0, client)]

    def p_values(self, rows):
        return np.ones(len(rows))


def test_an_account_that_is_refused_gives_nothing_more(victim):
    tracker = Blocks(20)
    gateway = Gateway(victim, tracker, tracker, IMMEDIATE)
    theft = steal(gateway, "uniform", accounts=3)
    assert len(theft.labels) == 60
    assert theft.alarm == theft.refusal == 61
    assert len(tracker.asked) == 3
    # Of fewer than two labels there is no surrogate: the commonest is all that is left.
    nothing = extraction.Theft(theft.rows[:0], theft.labels[:0], 0, 0, 0)
    commonest = np.bincount(victim.label(SPLIT.fit.rows)).max() / len(SPLIT.fit.rows)
    assert extraction.fidelity(nothing, gateway, SPLIT.fit.rows, 0) == pytest.approx(commonest)
