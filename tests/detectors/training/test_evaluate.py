"""A short version of the evidence: budgets are kept on held-out rows, and outliers are found."""

from pathlib import Path

import numpy as np
import pytest

from detectors.training import evaluate
from detectors.training.evaluate import (
    BEGIN,
    MERGED,
    LabelledSet,
    pool_size,
    replace_section,
    run_split,
    summarise,
    tpr_at,
    wilson,
)

DATA = Path(__file__).parents[4] / "shared" / "data"


def made():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(1500, 5)).astype(np.float32)
    outliers = (rng.normal(size=(100, 5)) * 5).astype(np.float32)
    return LabelledSet("made", normal, np.ones(1500, dtype=np.int64), outliers)


@pytest.mark.parametrize("name", ["thyroid", "satellite", None])
def test_the_budget_is_kept(name):
    if name is None:
        data = made()
    elif (DATA / f"{name}.npz").exists():
        data = evaluate.read_set(DATA / f"{name}.npz")
    else:
        pytest.skip(f"the {name} set is not beside the repository")
    outcomes = [run_split(data, 0.05, seed, efficacy=seed == 0) for seed in range(6)]
    result = summarise(data.name, 0.05, outcomes)
    assert result.clearly_over <= 2  # P(more than 2 of 6) is 0.2 % even at a true 5 %
    assert 0 < result.rate < 0.05
    assert result.found > 0.2
    assert set(outcomes[0].auc) == {MERGED, *evaluate.KINDS}
    assert outcomes[0].auc[MERGED] > 0.7


def test_a_set_too_small_is_refused():
    assert pool_size(548, 0.01) is None
    assert pool_size(549, 0.01) == 449
    small = made()
    with pytest.raises(ValueError, match="too few"):
        run_split(LabelledSet("x", small.normal[:300], small.repeats, small.outliers), 0.01, 0)


def test_tpr():
    normal = np.arange(100.0)
    assert tpr_at(normal, np.array([98.0, 98.5, 99.0, 200.0]), 0.01) == 0.75
    assert tpr_at(normal, np.array([98.0, 98.5, 99.0, 200.0]), 0.0) == 0.25


def test_wilson():
    low, high = wilson(5, 100)
    assert (low, high) == pytest.approx((0.0215, 0.1118), abs=1e-4)
    assert wilson(0, 10)[0] == 0.0


def test_only_the_section_is_replaced(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("# Title\n\nwords\n")
    replace_section(path, "first")
    replace_section(path, r"second \1")
    page = path.read_text()
    assert page.startswith("# Title\n\nwords\n\n" + BEGIN)
    assert "first" not in page
    assert r"second \1" in page
