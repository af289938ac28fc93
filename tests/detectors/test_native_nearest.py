"""The native search for the nearest neighbours is exact, whatever single precision makes of it."""

import numpy as np
import pytest

from detectors.calibration import Calibration, Tail
from detectors.outlier import NearestNeighbours
from detectors.outlier.projection import Projection
from detectors.scorer import Scorer

pytest.importorskip("numba", reason="the fast extra is not installed")

SPREADS = [1e-30, 1e-6, 1.0, 1e6, 1e19, 1e25]
CASES = [
    (count, rank, neighbours, spread)
    for count, rank, neighbours in [(1, 1, 1), (63, 3, 5), (64, 4, 64), (65, 5, 1), (700, 33, 5)]
    for spread in SPREADS
]


def native(reference, neighbours):
    rank = reference.shape[1]
    projection = Projection(np.zeros(rank), np.ones(rank), np.eye(rank))
    reference = reference[np.argsort(reference[:, 0], kind="stable")]
    tail = Tail(np.array([0.0, 1.0]), np.array([0.0, 1.0]), 0.5, 1.0)
    calibration = Calibration.of(np.arange(400.0), 0.05, 0.05)
    detector = NearestNeighbours(projection, reference, neighbours)
    return Scorer([detector], [tail], calibration, engine="native")


def kth(reference, rows, neighbours):
    gaps = rows.astype(np.float64)[:, None] - reference
    return np.sort(np.sqrt(np.square(gaps).sum(axis=2)), axis=1)[:, neighbours - 1]


@pytest.mark.parametrize(("count", "rank", "neighbours", "spread"), CASES)
def test_equals_every_distance_sorted(count, rank, neighbours, spread):
    rng = np.random.default_rng((count, rank))
    reference = spread * rng.normal(size=(count, rank))
    near = reference[rng.integers(0, count, 30)] * rng.choice([1, 1 + 1e-7, 1.01], size=(30, 1))
    far = rng.normal(size=(30, rank)) * rng.choice([0, 1, 1e3, 1e20, 1e37], size=(30, 1))
    rows = np.clip(np.vstack([near, far]), -3e38, 3e38).astype(np.float32)
    found = native(reference, neighbours).score(rows).scores[:, 0]
    np.testing.assert_allclose(found, kth(reference, rows, neighbours), rtol=1e-12)


@pytest.mark.parametrize("offset", [1e3, 1e6, 1e9])
def test_rows_that_single_precision_cannot_tell_apart(offset):
    rng = np.random.default_rng(7)
    reference = offset + np.round(rng.normal(size=(500, 8)), 3)
    rows = (offset + rng.normal(size=(60, 8))).astype(np.float32)
    found = native(reference, 5).score(rows).scores[:, 0]
    np.testing.assert_allclose(found, kth(reference, rows, 5), rtol=1e-12)


def test_ties_and_repeats():
    reference = np.repeat(np.arange(40.0)[:, None], 5, axis=0)
    found = native(reference, 6).score(np.arange(40, dtype=np.float32)[:, None]).scores[:, 0]
    np.testing.assert_array_equal(found, np.ones(40))


def test_cases_ran():
    assert len(CASES) == 30
