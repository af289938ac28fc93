"""What measures shaping: its thieves do learn, and its tables say what was measured."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from loadtest.attacks import measure_shaping, shaping
from loadtest.attacks.datasets import load
from loadtest.attacks.distillation import distil
from loadtest.attacks.measure_shaping import DEFENCES, FRESH, Rescaled, Shaped
from loadtest.attacks.victims import Victim

SPLIT = load("digits", 1)


@pytest.fixture(scope="module")
def victim():
    return Victim(SPLIT)


@pytest.fixture
def study(victim):
    return SimpleNamespace(
        victim=victim,
        split=SPLIT,
        seed=1,
        thief=(SPLIT.pool.rows, SPLIT.honest.rows[:30]),
        random=lambda purpose: np.random.default_rng((1, *purpose.encode())),
    )


def test_a_surrogate_learns_from_whole_answers(victim):
    rows = np.concatenate([SPLIT.honest.rows, SPLIT.pool.rows])
    student = distil(rows, victim.ask(rows), 0)
    agreed = student.probabilities(SPLIT.fit.rows).argmax(1) == victim.label(SPLIT.fit.rows)
    assert agreed.mean() > 0.9
    again = distil(rows, victim.ask(rows), 0)
    assert np.array_equal(again.weights[0], student.weights[0])


def test_theft(monkeypatch, study):
    monkeypatch.setattr(measure_shaping, "QUERIES", 100)
    monkeypatch.setattr("loadtest.attacks.distillation.STEPS", 100)
    few = {name: DEFENCES[name] for name in ("none", "label", "noise 1", "noise 2, best free")}
    monkeypatch.setattr(measure_shaping, "DEFENCES", few)
    study.split = replace(SPLIT, table=True)  # queries of which no other source is needed
    rows = measure_shaping.theft(study, quick=True)
    assert len(rows) == 2 * (len(few) + 1)
    assert all(row["queries"] == 100 for row in rows)
    for row in rows:
        assert row["same"] == (row["defence"] != FRESH)
        if row["same"]:
            assert row["repeats"] == row["whole"]
    plain, label = (
        next(row for row in rows if row["defence"] == name) for name in ("none", "label")
    )
    assert label["whole"] == label["best"] == plain["best"]


def test_an_honest_client_loses_nothing_where_the_best_is_kept(study):
    rows = {row["defence"]: row for row in measure_shaping.honest(study, True)}
    assert rows.keys() == DEFENCES.keys()
    for name, row in rows.items():
        assert (row["changed"] == 0) == ("free" not in name)
        assert (row["off"] == 0) == (name in ("none", "top_k 1"))
        assert row["rows"] == len(SPLIT.honest.rows)


def test_what_an_attack_is_told(victim):
    rows = SPLIT.honest.rows[:50]
    rounded = Rescaled(victim, DEFENCES["round, 1 decimal"])
    assert np.allclose(rounded.ask(rows).sum(axis=1), 1, atol=1e-6)
    assert not np.allclose(Shaped(victim, DEFENCES["round, 1 decimal"]).ask(rows).sum(axis=1), 1)
    free = Shaped(victim, DEFENCES["noise 2, best free"])
    assert np.array_equal(free.label(rows), victim.label(rows))
    assert not np.array_equal(free.ask(rows).argmax(axis=1), victim.label(rows))


def test_the_tables():
    theft = [
        {"part": "theft", "set": "digits", "split": split, "strategy": "far", "queries": 1000}
        | {"defence": "none", "whole": 0.5 + split / 100, "best": 0.4, "repeats": 0.2}
        | {"near": 0.1, "votes": 0.1, "same": True}
        for split in (4, 5, 6)
    ]
    honest = {"part": "honest", "set": "digits", "split": 4, "defence": "none"}
    honest |= {"right": 9, "changed": 1, "rows": 10, "off": 0.25}
    probing = {"part": "probing", "set": "digits", "split": 4, "attack": "simba"}
    probing |= {"defence": "none", "runs": 3, "won": 2, "asked": [7, 9]}
    text = shaping.render([*theft, honest, probing])
    assert "Splits: 4, 5, 6." in text
    assert "| none | 55.0 ± 2.5 | 40.0 ± 0.0 | 20.0 ± 0.0 | 10.0 ± 0.0" in text
    assert "| 55.0 ± 2.5 | yes |" in text
    assert "| none | 90.00; 1 of 10; 0.250 |" in text
    assert "| simba | none | 2/3, 8 | 2/3 (21 to 94 %) |" in text
    assert shaping.interval([]) == "-"
    assert shaping.interval([1.0]) == "1.0"
