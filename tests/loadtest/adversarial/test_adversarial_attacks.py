"""What the attacks reach on models whose answer is known; in the environment that has torch."""

import json
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from crafted_sets import crafted

from loadtest.adversarial import evaluate, measure
from loadtest.adversarial.crafted import Attack, Crafted
from loadtest.adversarial.networks import Layer, Network

REPOSITORY = Path(__file__).resolve().parents[3]
PYTHON = REPOSITORY / ".venv-torch" / "bin" / "python"


def _digits():
    """Images under a linear model: every detector that looks at images takes part."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    x, y = load_digits(return_X_y=True)
    x, y = (x / 16).astype(np.float32)[:1000], y.astype(np.int64)[:1000]
    model = LogisticRegression(max_iter=300).fit(x[:400], y[:400])
    layer = Layer("dense", model.coef_.T.astype(np.float32), model.intercept_.astype(np.float32))
    net = Network([layer], (64,), np.zeros(64, np.float32), np.ones(1, np.float32))
    p = net.probabilities(x)
    right = np.flatnonzero(p[400:].argmax(axis=1) == y[400:])[-20:].astype(np.int64)
    attacks = {"none": Attack(x[:0], p[:0], right[:0], 20)}
    rest = (x[400:], y[400:], p[400:])
    return Crafted((8, 8), False, x[:400], y[:400], p[:400], *rest, right, attacks, net, net)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    if not PYTHON.exists():
        pytest.skip("torch is not installed: make .venv-torch/.installed")
    folder = tmp_path_factory.mktemp("tiny")
    for name, made in (("table", crafted(rows=1200)), ("image", _digits())):
        made.save(folder / f"{name}.npz")
        fitted = measure.fitted(made, measure.fold_of(made, 0, 0), seed=0)
        evaluate._save(fitted, folder / f"{name}.bundle")
    script = Path(__file__).with_name("tiny_attacks.py")
    done = subprocess.run(
        [PYTHON, script, folder],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


BOUNDED = {"fgsm": 2.0, "fgsm small": 0.5, "pgd": 2.0, "pgd tight": 2.0, "pgd basis": 2.0}


def test_bounded_attacks_stay_within_their_bound_and_the_box(told):
    for name, epsilon in BOUNDED.items():
        found = told["linear"][name]
        assert max(found["largest"]) <= epsilon * (1 + 1e-5), name
        assert found["highest"] <= (3.1 if name == "pgd tight" else 4.0) + 1e-5, name
    assert max(told["linear"]["push"]["largest"]) <= 0.5 * (1 + 1e-5)


def test_they_fool_where_the_bound_allows_it(told):
    for name in ("fgsm", "pgd", "pgd tight", "pgd basis"):
        assert max(told["linear"][name]["margin"]) < 0, name
    # 0.5 each way is not enough to cross a gap of 3.
    assert min(told["linear"]["fgsm small"]["margin"]) > 0


def test_within_components_nothing_else_changes(told):
    change = np.array(told["linear"]["pgd basis"]["change"])
    assert np.abs(change[:, 2:]).max() < 1e-6
    assert np.abs(change[:, :2]).max() > 1


def test_minimal_norm_is_minimal(told):
    linear = told["linear"]
    for name, margin, slack in (("deepfool", 0, 0.03), ("cw", 0, 0.05), ("cw margin", 2, 0.05)):
        shortest = (3 + margin) / math.sqrt(2)
        assert max(linear[name]["margin"]) < -margin + 1e-3, name
        for length in linear[name]["length"]:
            assert shortest * 0.999 <= length <= shortest * (1 + slack), name


def test_push_finds_the_largest_error(told):
    # |x_0 - 2 x_2| rises most by +0.5 and -0.5.
    for change in told["linear"]["push"]["change"]:
        assert change[0] == pytest.approx(0.5, abs=1e-3)
        assert change[2] == pytest.approx(-0.5, abs=1e-3)


def test_a_network_is_the_same_without_torch(told):
    assert len(told["trained"]) == 4
    assert max(told["trained"].values()) < 1e-5


def test_the_attacker_who_knows_the_defence(told):
    assert set(told["evaded"]) == {"image", "table"}
    for name, rows in told["evaded"].items():
        assert len(rows) == (6 if name == "image" else 8)
        for row in rows:
            assert 0 <= row["passed"] <= row["fooled"] <= row["tried"] == 6
    # A linear model on images is fooled within 0.3, and its copy is the model.
    assert any(row["fooled"] == 6 for row in told["evaded"]["image"])
