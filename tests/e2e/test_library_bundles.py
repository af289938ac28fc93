"""Served by a gateway that can import none of the libraries that the bundle was fitted with."""

import importlib.util

import numpy as np
import pytest
from traffic import ask
from without_libraries import blocking_folder

from detectors.training.fit import fit, write
from detectors.training.readers import Table
from loadtest.payloads import infer_request, infer_target

SKLEARN = (
    "sklearn.ensemble.IsolationForest",
    "sklearn.neighbors.LocalOutlierFactor",
    "sklearn.mixture.GaussianMixture",
    "sklearn.covariance.LedoitWolf",
    "sklearn.svm.OneClassSVM",
)
PYOD = ("pyod.KNN", "pyod.PCA", "pyod.ECOD", "pyod.HBOS", "pyod.LODA", "pyod.CBLOF")
TARGET = infer_target("digits")


@pytest.mark.filterwarnings("ignore")  # the libraries' own
@pytest.mark.parametrize(("library", "kinds"), [("sklearn", SKLEARN), ("pyod", PYOD)])
def test_a_bundle_of_library_estimators(
    library, kinds, tmp_path, monkeypatch, recorder, gateway, images
):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    rows = images.astype(np.float32)
    fitted = fit(rows[:500], kinds=kinds, alpha=0.05, engine="numpy")
    assert len(fitted.scorer.names) == len(kinds)
    bundle = tmp_path / "library.bundle"
    write(fitted, bundle, Table(rows, None, (64,)), created="2026-01-01T00:00:00+00:00")
    monkeypatch.setenv("PYTHONPATH", blocking_folder(tmp_path))
    guard = gateway([recorder.endpoint(mode="enforce", bundle=str(bundle))])
    noise = np.random.default_rng(0).uniform(-30, 50, (6, 64)).astype(np.float32)
    query = np.vstack([rows[500:520], noise])
    expected = fitted.scorer.score(query)
    statuses = [
        ask(guard.address, infer_request(row[None], "localhost", TARGET)).status for row in query
    ]
    assert statuses == [403 if flagged else 200 for flagged in expected.flagged]
    assert statuses[-6:] == [403] * 6
    assert statuses[:20].count(200) >= 15
    assert guard.stop() == 0
    records = [record for record in guard.records() if record["method"] == "POST"]
    assert len(records) == len(query)
