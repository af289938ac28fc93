"""alibi-detect's detectors, fitted by alibi-detect itself, score here as they do there.

Skipped where its environment is not installed: make .venv-alibi/.installed
"""

import numpy as np
import pytest
from recorder import FEATURES, MODEL
from without_libraries import blocking_folder

from detectors.agreement.base import Answers
from detectors.checks import CHECKS, Subject
from detectors.training import alibi
from detectors.training.fit import fit, write
from detectors.training.libraries import Libraries
from detectors.training.readers import Table
from loadtest.payloads import infer_request, infer_target
from loadtest.wire import Session

TOLERANCES = {
    "IForest": 1e-9,
    "Mahalanobis": 1e-6,  # the library is told that one row more weighs 1e-12
    "PCA": 1e-9,
    "KNN": 1e-9,
    "LOF": 1e-6,  # 1e-10 is added to a distance here
    "GMM": 1e-9,
    "OutlierAE": 1e-5,  # float32 there
    "OutlierVAE": 1e-5,
}
SETTINGS = {
    "alibi_detect.IForest": {"n_estimators": 20, "max_features": 0.5},
    "alibi_detect.Mahalanobis": {"n_components": 4},
    "alibi_detect.PCA": {"n_components": 5},
    "alibi_detect.KNN": {"k": 3, "max_rows": 300},
    "alibi_detect.LOF": {"k": 10, "max_rows": 300},
    "alibi_detect.GMM": {"n_components": 3},
    "alibi_detect.OutlierAE": {"epochs": 2, "hidden": [16, 8], "activation": "tanh"},
    "alibi_detect.OutlierVAE": {"epochs": 2, "samples": 4, "code": 3},
}


def draw(count, seed):
    generator = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(2, 3, FEATURES))
    rows = generator.normal(size=(count, 3))
    picked = mix[generator.integers(0, 2, count)]
    rows = (
        np.einsum("ni,nid->nd", rows, picked) + 5 + 0.3 * generator.normal(size=(count, FEATURES))
    )
    return rows.astype(np.float32)


HONEST, FAR = draw(300, 1), draw(40, 2) * 4 - 30
PROBES = np.vstack([HONEST, FAR])


@pytest.fixture(scope="module")
def python(environment):
    return environment("alibi") / "bin" / "python"


@pytest.fixture(scope="module")
def fitted(python):
    """(a scorer of all, the library's own scores of the probes)."""
    seen = {}
    export, probes = alibi.Alibi.export, alibi.made_up_probes

    def watched(self, names, *given, **more):
        found = export(self, names, *given, **more)
        for name, arrays, scalars in zip(names, found.arrays, found.scalars, strict=True):
            seen[name] = arrays["scores"] - scalars.get("offset", 0.0)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alibi.Alibi, "export", watched)
        patch.setattr(alibi, "made_up_probes", lambda rows, seed: PROBES)
        made = fit(
            draw(1500, 0),
            kinds=alibi.NAMES,
            alpha=0.05,
            settings=SETTINGS,
            libraries=Libraries.of(python),
            engine="numpy",
        )
    assert alibi.made_up_probes is probes
    return made, seen


@pytest.mark.parametrize("name", TOLERANCES)
def test_the_scores_are_the_librarys_own(fitted, name):
    made, seen = fitted
    detector = made.scorer.detectors[list(TOLERANCES).index(name)]
    expected = seen[name]
    assert expected.shape == (len(PROBES),) and np.ptp(expected) > 0
    tolerance = TOLERANCES[name]
    np.testing.assert_allclose(detector.score(PROBES), expected, rtol=tolerance, atol=1e-9)


def test_every_trainer_is_compared(fitted):
    assert len(fitted[1]) == len(TOLERANCES) == len(alibi.NAMES) == 8
    assert len(set(fitted[0].scorer.names)) == 8


@pytest.mark.parametrize("check", CHECKS)
def test_what_is_compiled_passes_every_check(fitted, check):
    """``repeatable`` among them: scoring an outlier again and again teaches nothing."""
    for detector in fitted[0].scorer.detectors:
        CHECKS[check](Subject(detector, HONEST[:60], FAR))


def test_served_where_nothing_of_it_is_installed(fitted, tmp_path, monkeypatch, gateway, recorder):
    made, _ = fitted
    bundle = tmp_path / "alibi.bundle"
    rows = draw(1500, 0)
    write(made, bundle, Table(rows, None, (FEATURES,)), created="2026-01-01T00:00:00+00:00")
    monkeypatch.setenv("PYTHONPATH", blocking_folder(tmp_path))
    guard = gateway([recorder.endpoint(mode="enforce", bundle=str(bundle))])
    query = np.vstack([HONEST[:20], FAR[:10]])
    flagged = made.scorer.score(query).flagged
    with Session(guard.address) as session:
        statuses = [
            session.exchange(infer_request(row[None], "localhost", infer_target(MODEL))).status
            for row in query
        ]
    assert statuses == [403 if one else 200 for one in flagged]
    assert statuses[20:] == [403] * 10 and statuses[:20].count(200) >= 15
    assert guard.stop() == 0


def test_the_second_opinion_of_an_adversarial_autoencoder(python):
    """Its views and scores are compared with the library's inside the fit; it says more of rows
    whose answer the reconstruction turns."""
    rows = draw(300, 3)
    side = (rows[:, 0] > np.median(rows[:, 0])).astype(np.int64)
    opinion = alibi.fit_alibi_opinion(
        rows,
        Answers.of_labels(side),
        2,
        {"epochs": 2, "model_epochs": 3},
        alibi.Alibi(python),
        seed=0,
    )
    views = opinion.views(HONEST)
    assert views.shape == HONEST.shape and np.isfinite(views).all()
    again = (views[:, 0] > np.median(rows[:, 0])).astype(np.int64)
    before = (HONEST[:, 0] > np.median(rows[:, 0])).astype(np.int64)
    scores = opinion.score(
        Answers.of_probabilities(np.eye(2)[before] * 0.8 + 0.1),
        Answers.of_probabilities(np.eye(2)[again] * 0.8 + 0.1),
    )
    turned = before != again
    assert turned.any() and not turned.all()
    assert scores[turned].min() > scores[~turned].max()
