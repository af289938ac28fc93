"""A bundle of every trainer is scored by a process that can import neither library."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from library_cases import draw, kept_estimators, told_apart
from without_libraries import BLOCKED, blocking_folder

from detectors.training.fit import fit, write
from detectors.training.readers import Table
from detectors.training.trainers import TRAINERS

SCORE = """
import json, sys
from pathlib import Path
import numpy as np
from detectors.bundle import load_bundle
found = {}
for path in sorted(Path(sys.argv[1]).glob("*.bundle")):
    rows = np.load(sys.argv[2])
    scorer = load_bundle(path).scorer
    found[path.stem] = {
        "scores": scorer.score(rows).scores[:, 0].tolist(),
        "flagged": [scorer.score_row(row[None])[2] for row in rows],
    }
for name in sys.argv[3].split(","):
    assert name not in sys.modules, name
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(name + " can be imported")
print(json.dumps(found))
"""


@pytest.mark.filterwarnings("ignore")  # the libraries' own
@pytest.mark.parametrize(("library", "count"), [("sklearn", 13), ("pyod", 13)])
def test_served_where_the_library_is_not(library, count, tmp_path):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    names = [name for name, trainer in TRAINERS.items() if trainer.library == library]
    assert len(names) == count
    rows, query = draw(5)
    rows = np.vstack([rows, draw(5)[0] + 1e-3])
    estimators = {}
    for name in names:
        with kept_estimators() as kept:
            fitted = fit(rows, kinds=[name], alpha=0.05, engine="numpy")
        estimators[name] = kept[0]
        write(fitted, tmp_path / f"{name}.bundle", Table(rows, None, (5,)), created="2026-01-01")
    np.save(tmp_path / "query.npy", query)
    command = [sys.executable, "-c", SCORE, str(tmp_path), str(tmp_path / "query.npy")]
    done = subprocess.run(
        [*command, ",".join(BLOCKED)],
        env={**os.environ, "PYTHONPATH": blocking_folder(tmp_path), "BARTIZAN_ENGINE": "numpy"},
        check=True,
        stdout=subprocess.PIPE,
    )
    found = json.loads(done.stdout)
    assert len(found) == count
    for name, (trainer, estimator) in estimators.items():
        scores = np.array(found[name]["scores"])
        clear = told_apart(query) if "LOF" in name or "Local" in name else slice(None)
        np.testing.assert_allclose(
            trainer.as_library(estimator, scores)[clear],
            trainer.scores(estimator, query)[clear],
            rtol=1e-6,
            atol=1e-6,
            err_msg=name,
        )
        assert any(found[name]["flagged"]), name
