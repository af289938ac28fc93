"""Estimators that were fitted elsewhere, merged, calibrated and written like any other."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture

from detectors.bundle import load_bundle
from detectors.training.compile import CompileError
from detectors.training.compiled import Compiled
from detectors.training.fit import fit, write
from detectors.training.readers import Table
from detectors.training.trainers import SettingsError

ROWS = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
FOREST = IsolationForest(n_estimators=20, random_state=0).fit(ROWS[:200])
MIXTURE = GaussianMixture(2, random_state=0).fit(ROWS[:200].astype(np.float64))


def test_an_estimator_fitted_elsewhere_in_a_bundle(tmp_path):
    libraries = Compiled(estimators={"forest": FOREST, "mixture": MIXTURE})
    seen = np.arange(len(ROWS)) < 200
    kinds = ("mixture", "mahalanobis", "forest")
    fitted = fit(ROWS, kinds=kinds, libraries=libraries, seen=seen, alpha=0.05, engine="numpy")
    assert fitted.scorer.names == ("gmm", "mahalanobis", "isolation_forest")
    path = tmp_path / "elsewhere.bundle"
    write(fitted, path, Table(ROWS, None, (4,)), created="2026-01-01T00:00:00+00:00")
    bundle = load_bundle(path, engine="numpy")
    found = bundle.scorer.score(ROWS).scores
    np.testing.assert_allclose(found[:, 2], -FOREST.score_samples(ROWS), rtol=1e-12)
    wide = ROWS.astype(np.float64)
    np.testing.assert_allclose(found[:, 0], -MIXTURE.score_samples(wide), rtol=1e-9)
    told = bundle.manifest.detectors[0].fitted_with
    assert told["estimator"] == "sklearn.mixture.GaussianMixture"
    assert told["fitted"] == "elsewhere"


@pytest.mark.parametrize(
    ("estimators", "kinds", "settings", "message"),
    [
        ({"pca": FOREST}, ("pca",), {}, "'pca' is the name of a detector that is fitted here"),
        ({"pyod.KNN": FOREST}, ("pyod.KNN",), {}, "is the name of a detector"),
        ({"mine": FOREST}, ("mine",), {"mine": {"n_estimators": 3}}, "takes no settings"),
        ({"mine": FOREST}, ("other",), {}, "unknown detector 'other'"),
        ({"mine": FOREST}, (), {}, "at least one"),
        ({"mine": KMeans()}, ("mine",), {}, "KMeans cannot be compiled"),
        ({"mine": GaussianMixture()}, ("mine",), {}, "GaussianMixture is not fitted"),
        ({"mine": IsolationForest().fit(ROWS[:, :3])}, ("mine",), {}, "fitted on 3 features"),
        ({"mine": FOREST}, ("mine", "isolation_forest"), {}, "a kind of detector occurs twice"),
    ],
)
def test_what_cannot_be_taken_is_refused(estimators, kinds, settings, message):
    libraries = Compiled(estimators=estimators)
    with pytest.raises((SettingsError, CompileError, ValueError), match=message):
        fit(ROWS, kinds=kinds, settings=settings, libraries=libraries, alpha=0.05, engine="numpy")
