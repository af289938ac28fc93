"""What is fitted, what is tested, and what is counted."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from crafted_sets import crafted

from detectors.calibration import threshold_rank
from loadtest.adversarial import crude, evaluate, measure
from loadtest.adversarial.measure import ANSWERED, ASKED, FOLDS, INPUT, MARGINAL, PAC
from loadtest.adversarial.work import set_of


@pytest.mark.parametrize(
    ("count", "budget", "guarantee", "expected"),
    [
        (99, 0.01, MARGINAL, 1),
        (98, 0.01, MARGINAL, None),
        (999, 0.001, MARGINAL, 1),
        (998, 0.001, MARGINAL, None),
        (299, 0.01, PAC, 1),
        (298, 0.01, PAC, None),
        (2994, 0.001, PAC, None),
        (10_000, 0.001, PAC, threshold_rank(10_000, 0.001, 0.05)),
    ],
)
def test_the_rank_of_the_threshold(count, budget, guarantee, expected):
    assert measure.rank(count, budget, guarantee) == expected


def test_folds_test_each_honest_row_once_and_no_base():
    made = crafted()
    honest = np.setdiff1d(np.arange(len(made.rest_x)), made.bases)
    folds = [measure.fold_of(made, 0, number) for number in range(FOLDS)]
    held = [row.tobytes() for fold in folds for row in fold.held.rows]
    assert len(held) == len(set(held)) == len(honest)
    assert set(held) == {row.tobytes() for row in made.rest_x[honest]}
    bases = {row.tobytes() for row in made.rest_x[made.bases]}
    for fold in folds:
        fitted = {row.tobytes() for row in fold.fit.rows}
        assert not fitted & {row.tobytes() for row in fold.held.rows}
        assert not fitted & bases
        assert fold.seen.sum() == len(made.train_x)
        assert np.array_equal(fold.fit.rows[fold.seen], made.train_x)
        assert np.array_equal(fold.fit.answers.labels, made.ask(fold.fit.rows).argmax(axis=1))


@pytest.fixture(scope="module")
def told():
    return measure.measure(crafted(rows=1200), 0, 0)


def test_what_is_counted(told):
    assert told["attacks"] == {"pgd-0.5": [20, 20], "fgsm-0.1": [0, 20]}
    assert set(told["scores"]) == {INPUT, ANSWERED, *ASKED}
    assert {"gmm", "knn_agreement", "confidence", "feature_squeezing"} < set(told["single"])
    thresholds = 0
    for score in (*told["scores"].values(), *told["single"].values()):
        for name, found in score.items():
            if name == "asked":
                continue
            thresholds += 1
            flagged, tested, mistaken = found["honest"]
            assert mistaken <= flagged <= tested == told["rows"][3]
            assert 0 <= found["found"]["pgd-0.5"] <= 20
            assert found["found"]["fgsm-0.1"] == 0
    # 1 % both ways for every score; the rows support no 0.1 %.
    assert thresholds == 2 * (4 + len(told["single"]))


def test_rows_that_moved_to_another_class_are_found(told):
    for guarantee in (MARGINAL, PAC):
        found = told["scores"][ANSWERED][f"{guarantee} 0.01"]
        assert found["found"]["pgd-0.5"] >= 18
        assert found["honest"][0] <= 0.05 * found["honest"][1]


def test_an_evaluation_goes_on_where_it_stopped(tmp_path, monkeypatch):
    crafted().save(set_of(tmp_path, "segment", 1))
    measured = []

    def measure_once(made, seed, fold):
        measured.append((seed, fold))
        return {"attacks": {"pgd-0.5": [2, 4]}, "rows": [1, 2, 3, 4], "accuracy": 1.0, "scores": {}}

    monkeypatch.setattr(evaluate, "measure", measure_once)
    monkeypatch.setattr(evaluate, "_bundles", lambda *_: None)
    common = ["--work", str(tmp_path), "--set", "segment", "--json", str(tmp_path / "out.json")]
    for seeds in (["--seed", "1"], ["--seed", "1", "--seed", "2"]):
        result = CliRunner().invoke(evaluate.main, [*common, *seeds])
        assert result.exit_code == 0, result.output
    assert measured == [(1, fold) for fold in range(FOLDS)]
    assert "Skipped: segment, seed 2: report-segment-2.npz was not crafted." in result.output
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [(row["seed"], row["fold"]) for row in results] == measured


def test_bundles_for_the_attack_that_knows_the_defence(tmp_path):
    from detectors.bundle import load_bundle

    made = crafted(rows=1200)
    evaluate._bundles(made, "segment", 1, tmp_path)
    served, own = sorted(tmp_path.iterdir())[::-1]
    assert (served.name, own.name) == ("segment-1.bundle", "segment-1-attackers.bundle")
    assert load_bundle(served).digest != load_bundle(own).digest
    bundle = load_bundle(served)
    assert bundle.agreement is not None
    found = crude.measure(made, bundle, 1)
    assert [row["change"] for row in found] == list(crude.CRUDE)
    assert all(0 <= row["before"] <= row["after"] <= row["tried"] == 20 for row in found)
    # Far outside of everything: nothing of it reaches the model.
    assert found[2]["before"] == 20
