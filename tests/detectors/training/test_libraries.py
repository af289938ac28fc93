"""Detectors by name from several libraries: apart, in order, with the settings of each."""

from pathlib import Path

import numpy as np
import pytest

from detectors.training import alibi, trainers
from detectors.training.agreement import fit_opinions
from detectors.training.libraries import Libraries
from detectors.training.trainers import Trained

ROWS = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
THERE = Libraries.of(Path("python-with-alibi"), licence_held=True)
FOREST = "sklearn.ensemble.IsolationForest"


@pytest.fixture
def exported(monkeypatch):
    """What alibi-detect's environment was asked to fit; it answers with detectors of ours."""
    asked = []

    def fake(names, rows, settings, environment, *, seed):
        asked.append((list(names), len(rows), dict(settings), environment, seed))
        made = trainers.fit_detectors(rows, ["pca", "knn"][: len(names)], seed)
        return [alibi.AlibiTrained(one.detector, {"by": "alibi"}) for one in made]

    monkeypatch.setattr(alibi, "fit_alibi", fake)
    return asked


def test_in_the_order_of_the_names(exported):
    names = ["alibi_detect.PCA", "mahalanobis", "alibi_detect.KNN", FOREST]
    settings = {FOREST: {"n_estimators": 7}, "alibi_detect.PCA": {"n_components": 2}}
    trained = THERE.detectors(ROWS, names, 3, settings)
    assert all(isinstance(one, Trained) for one in trained)
    found = [one.detector.name for one in trained]
    assert found == ["pca", "mahalanobis", "knn", "isolation_forest"]
    assert trained[3].fitted_with["n_estimators"] == 7
    assert trained[0].fitted_with == {"by": "alibi"}
    (asked,) = exported
    assert asked[0] == ["alibi_detect.PCA", "alibi_detect.KNN"]
    assert asked[2]["alibi_detect.PCA"] == {"n_components": 2}
    assert (asked[3].python, asked[3].licence_held, asked[4]) == (
        Path("python-with-alibi"), True, 3,
    )  # fmt: skip


def test_without_their_names_nobody_is_asked(exported):
    assert [one.detector.name for one in Libraries().detectors(ROWS, ["gmm"], 0, {})] == ["gmm"]
    assert exported == []


def test_settings_of_a_second_opinion_are_no_detectors(exported):
    settings = {alibi.OPINION: {"epochs": 1}}
    THERE.check(["gmm"], [alibi.OPINION], settings)
    assert len(THERE.detectors(ROWS, ["gmm"], 0, settings)) == 1


def test_the_reconstruction_goes_last(monkeypatch):
    given = {}

    def fake(rows, answers, classes, settings, environment, *, seed):
        given.update(classes=classes, settings=settings)
        return fit_opinions(rows, ["feature_squeezing"], seed=seed)[0]

    monkeypatch.setattr(alibi, "fit_alibi_opinion", fake)

    class Truth:
        classes = ("a", "b")
        answers = None

    found = THERE.opinions(
        [alibi.OPINION, "noise_consistency"],
        ROWS,
        Truth,
        row_shape=None,
        settings={alibi.OPINION: {"epochs": 1}},
        seed=0,
    )
    assert [one.name for one in found] == ["noise_consistency", "feature_squeezing"]
    assert given == {"classes": 2, "settings": {"epochs": 1}}


REFUSED = [
    (Libraries(), ["alibi_detect.PCA"], (), {}, "--alibi-python"),
    (Libraries(), ["gmm"], [alibi.OPINION], {}, "--alibi-python"),
    (THERE, ["alibi_detect.Oracle"], (), {}, "'alibi_detect.Oracle': expected some of"),
    (THERE, ["alibi_detect.PCA"] * 2, (), {}, "each once"),
    (THERE, [], (), {}, "at least one"),
    (THERE, ["gmm", "gmm"], (), {}, "twice"),
    (THERE, ["alibi_detect.PCA"], (), {FOREST: {}}, "not fitted"),
    (THERE, ["gmm"], (), {"alibi_detect.PCA": {}}, "not fitted"),
    (THERE, ["gmm"], (), {alibi.OPINION: {}}, "not fitted"),
    (Libraries(), [FOREST], (), {FOREST: {"trees": 3}}, "no 'trees'"),
]


def test_every_refusal_is_listed():
    assert len(REFUSED) == 10


@pytest.mark.parametrize(("libraries", "names", "opinions", "settings", "word"), REFUSED)
def test_refused(libraries, names, opinions, settings, word):
    with pytest.raises(ValueError, match=word):
        libraries.check(names, opinions, settings)
