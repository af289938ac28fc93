"""A small bundle with everything: outliers, answers, second opinions and patterns."""

import json

import numpy as np
import pytest
from small_models import classify, draw

SEEN = 400


@pytest.fixture(scope="session")
def fitted_bundles(tmp_path_factory):
    """Paths of two bundles of the same model, fitted on other rows."""
    from detectors.training.fit import fit, write
    from detectors.training.readers import Table

    folder = tmp_path_factory.mktemp("rehearsed")
    paths = []
    for seed, kinds in ((1, ["mahalanobis"]), (2, ["mahalanobis", "knn"])):
        rows, labels = draw(1000, seed)
        fitted = fit(
            rows,
            kinds=kinds,
            alpha=0.02,
            labels=labels.astype(str),
            answers=classify(rows),
            seen=np.arange(len(rows)) < SEEN,
            opinions=("noise_consistency",),
            ask=classify,
            client_alarm_budget=0.05,
        )
        paths.append(folder / f"{seed}.bundle")
        write(fitted, paths[-1], Table(rows, None, (6,)), created="2026-01-01T00:00:00+00:00")
    return paths


@pytest.fixture
def configuration(tmp_path, fitted_bundles):
    """Writes a configuration of one endpoint."""

    def write(name="bartizan.yaml", audit=None, **keys):
        endpoint = {
            "name": "m",
            "match": "/v2/models/m",
            "upstream": "http://127.0.0.1:9",
            "contract": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 6]}]},
            "bundle": str(fitted_bundles[0]),
            "on_pattern": ["shape", "throttle", "block"],
            "second_opinion": {"when": "suspicious", "share": 1.0},
            **keys,
        }
        settings = {
            "audit": {"path": str(tmp_path / "audit.jsonl"), "replay": True, **(audit or {})},
            "endpoints": [endpoint],
        }
        path = tmp_path / name
        path.write_text(json.dumps(settings))
        return path

    return write
