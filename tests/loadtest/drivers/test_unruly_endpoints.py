"""Whatever an endpoint says, a driver ends in order, within its budget, with sound values."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from tiny_endpoint import attack, tiny_means, tiny_model

from loadtest.drivers import extraction
from loadtest.drivers.registry import DRIVERS
from loadtest.targets.base import Reply, Said

MODEL = tiny_model()
MEMBERS = np.random.default_rng(8).random((50, 6)).astype(np.float32)
NAMES = [
    name
    for name in DRIVERS
    if name.startswith(("extraction", "adaptive"))
    or name in {"membership", "inversion", "sybils", "interleaving"}
]


def unruly(seed):
    random = np.random.default_rng(seed)

    def answer(reply, number, client):
        kind = random.integers(8)
        if kind == 0:
            scores = np.zeros(3)
        elif kind == 1:
            scores = np.eye(3)[random.integers(3)]
        elif kind == 2:
            scores = np.full(3, 1 / 3)
        elif kind == 3:
            scores = random.standard_normal(random.integers(1, 6)) * 10.0 ** random.integers(-9, 9)
        elif kind < 6:
            scores = reply.scores
        else:
            said = [said for said in Said if said is not Said.ANSWERED][random.integers(5)]
            retry = random.choice([0.0, 1e9, -1.0])
            return Reply(said, 400, retry_after=float(retry))
        return Reply(Said.ANSWERED, 200, scores, int(scores.argmax()))

    return answer


def test_every_driver_is_here():
    assert len(NAMES) == 12


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(2))
def test_a_driver_ends_in_order(name, seed, monkeypatch):
    monkeypatch.setattr(extraction, "STEPS", 50)
    monkeypatch.setattr(extraction, "EPOCHS", 1)
    means = tiny_means(MODEL, budget=120, tries=2, accounts=3, members=MEMBERS, seed=seed)
    outcome, asked = attack(DRIVERS[name], means, unruly(seed), model=MODEL, judged=seed == 0)
    assert len(outcome.tries) == 2
    assert asked.total <= 240
    found = json.dumps(asdict(outcome), allow_nan=False)
    assert found == json.dumps(
        asdict(attack(DRIVERS[name], means, unruly(seed), model=MODEL, judged=seed == 0)[0])
    )
    if outcome.value is not None:
        ends = (outcome.value.low, outcome.value.value, outcome.value.high)
        assert all(map(math.isfinite, ends))
        assert list(ends) == sorted(ends)
