import numpy as np
import pytest

from detectors.patterns.base import Alarm, Family, Scope
from loadtest.attacks import adaptive
from loadtest.attacks.datasets import load
from loadtest.attacks.gateway import IMMEDIATE, Gateway
from loadtest.attacks.victims import Victim


@pytest.fixture(scope="module")
def victim():
    return Victim(load("digits", 1))


class Deaf:
    """Alarms from a client's n-th query on."""

    def __init__(self, after):
        self.after = after
        self.asked = {}

    def observe(self, client, subnet, rows, p_values, now):
        self.asked[client] = self.asked.get(client, 0) + 1
        if self.asked[client] <= self.after:
            return []
        return [Alarm(Family.PROBING, Scope.CLIENT, 20.0, 14.0, client)]


class Scores:
    def p_values(self, rows):
        return np.ones(len(rows))


def attacker(victim, gateway, base, *, accounts=1, pads=False, budget=600):
    random = np.random.default_rng(0)
    return adaptive.Attacker(gateway, base, victim.split.pool, random, budget, accounts, pads)


@pytest.mark.parametrize("way", sorted(adaptive.WAYS))
def test_it_succeeds_where_nothing_defends_and_repeats(victim, way):
    bases = victim.bases(12, 1)
    spent = []
    for _ in range(2):
        runs = [attacker(victim, Gateway(victim), base, budget=1000) for base in bases]
        assert sum(adaptive.run(run, way) for run in runs) >= 2
        spent.append([run.spent for run in runs])
    assert spent[0] == spent[1]


@pytest.mark.parametrize("way", sorted(adaptive.WAYS))
def test_it_never_sends_more_than_its_budget_and_refusals_stop_it(victim, way):
    gateway = Gateway(victim, Scores(), Deaf(0), IMMEDIATE)
    run = attacker(victim, gateway, victim.bases(1, 1)[0], budget=50)
    assert not adaptive.run(run, way)
    assert run.spent == 50
    assert gateway.sent == 50 + adaptive.WARM_UP


def test_it_leaves_an_account_that_was_noticed(victim):
    tracker = Deaf(adaptive.WARM_UP + 5)
    gateway = Gateway(victim, Scores(), tracker, IMMEDIATE)
    run = attacker(victim, gateway, victim.bases(1, 1)[0], accounts=4, budget=60)
    adaptive.run(run, "scores")
    assert run.used == 4
    assert set(tracker.asked) == {f"attacker-{number}" for number in range(1, 5)}


def test_it_pads_more_the_more_it_is_noticed(victim):
    gateway = Gateway(victim, Scores(), Deaf(0), IMMEDIATE)
    run = attacker(victim, gateway, victim.bases(1, 1)[0], pads=True, budget=200)
    adaptive.run(run, "scores")
    assert run.padding == adaptive.MOST_PADDING
