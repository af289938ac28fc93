"""A small evaluation: it fails if recognition, or peace for honest clients, breaks."""

import numpy as np
import pytest

from loadtest.attacks import guard, honest, mixing, replicas
from loadtest.attacks.datasets import load
from loadtest.attacks.measure_honest import alarms_of_day
from loadtest.attacks.study import Study
from loadtest.attacks.victims import Victim


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study("digits", 1, tmp_path_factory.mktemp("attacks"))


@pytest.fixture(scope="module")
def attacks(study):
    published = pytest.importorskip("loadtest.attacks.published")
    pytest.importorskip("art", reason="the adversarial-robustness-toolbox is not installed")
    return published.attacks(study.victim, "hopskipjump", 3, 1)


def test_hopskipjump_is_recognised(study, attacks):
    assert len(attacks) == 3
    for every in (0, 10):
        for attack in attacks:
            random = np.random.default_rng(0)
            traffic = mixing.interleaved(attack, study.split.honest.rows, every, 60, random)
            found = guard.recognise(study.guard, study.guard.tracker(clients=4), traffic)
            assert found is not None
            assert found.queries <= 25


def test_honest_clients_are_left_alone(study):
    random = np.random.default_rng(0)
    for _ in range(6):
        day = honest.mixed(study.split.honest, random, study.split.image)
        assert not alarms_of_day(study.guard, study.guard.tracker(clients=4), day)


def test_random_theft_is_recognised(study):
    rows = study.theft("uniform", 1, 100)[0]
    assert len(rows) == 100
    names = [f"{mixing.ATTACKER}-0"] * len(rows)
    traffic = mixing.Traffic(rows, names, ["subnet"] * len(rows), np.ones(len(rows), bool))
    assert guard.recognise(study.guard, study.guard.tracker(clients=4), traffic) is not None
    # Kept, and read again the same.
    assert np.array_equal(study.theft("uniform", 1, 100)[0], rows)


def test_a_client_wronged_by_its_warm_up_is_no_recognition(study):
    rows = np.concatenate([study.theft("uniform", 1, 100)[0], study.split.honest.rows[:5]])
    hostile = np.arange(len(rows)) >= 100
    names = [mixing.ATTACKER] * len(rows)
    traffic = mixing.Traffic(rows, names, ["subnet"] * len(rows), hostile)
    assert guard.recognise(study.guard, study.guard.tracker(clients=4), traffic) is None


def test_replicas_that_exchange_recognise_it_too(study, attacks):
    group = replicas.Replicas([study.guard.tracker(clients=4) for _ in range(replicas.REPLICAS)])
    random = np.random.default_rng(0)
    traffic = mixing.interleaved(attacks[0], study.split.honest.rows, 0, 200, random)
    found = replicas.recognise_over(study.guard, group, traffic, 4, random)
    assert found is not None
    assert found.queries <= 60


def test_a_victim_is_read_back_as_it_was_saved(study):
    rows = study.split.honest.rows[:50]
    again = Study("digits", 1, study._folder.parent)
    assert np.array_equal(again.victim.ask(rows), study.victim.ask(rows))
    assert Victim(load("digits", 2)).accuracy() > 0.85
