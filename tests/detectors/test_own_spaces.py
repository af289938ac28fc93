"""Detectors in spaces of their own: scored, saved and loaded, and left to numpy."""

import dataclasses

import numpy as np
import pytest
from outlier_kinds import MAKERS, every_kind

from detectors.bundle import load_bundle
from detectors.calibration import Calibration
from detectors.outlier import ProjectedDetector
from detectors.outlier.projection import Projection
from detectors.scorer import Scorer, detector_scores, merged_scores
from detectors.training.fit import Fitted, write
from detectors.training.fit import fit as fit_rows
from detectors.training.readers import Table
from detectors.training.tails import fit_tail

ROWS = np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32) + 3
DETECTORS = every_kind(ROWS[:200])


def scorer_of(detectors, **keywords):
    scores = detector_scores(detectors, ROWS[200:300])
    tails = [fit_tail(scores[:, k]) for k in range(len(detectors))]
    merged = merged_scores(detectors, tails, ROWS[300:])
    return Scorer(detectors, tails, Calibration.of(merged, 0.05, 0.05), **keywords)


def test_each_scores_together_as_it_does_alone():
    assert len(DETECTORS) == 6 + len(MAKERS) == 17
    spaces = {id(d.projection) for d in DETECTORS if isinstance(d, ProjectedDetector)}
    assert len(spaces) > 3
    together = detector_scores(DETECTORS, ROWS)
    for k, detector in enumerate(DETECTORS):
        np.testing.assert_array_equal(together[:, k], detector.score(ROWS))
    shuffled = [DETECTORS[k] for k in (8, 0, 3, 9, 1, 12, 2)]
    again = detector_scores(shuffled, ROWS)
    np.testing.assert_array_equal(again[:, 1], together[:, 0])
    np.testing.assert_array_equal(again[:, 6], together[:, 2])


def test_numpy_serves_what_the_kernels_cannot():
    native = pytest.importorskip("detectors.native", reason="the fast extra is not installed")
    assert scorer_of(DETECTORS[:6]).engine == "native"
    for detector in DETECTORS[6:]:
        assert scorer_of([detector, DETECTORS[1]]).engine == "numpy", detector.name
        with pytest.raises(native.Unpackable):
            scorer_of([detector, DETECTORS[1]], engine="native")


def test_a_projection_that_is_equal_but_another_is_left_to_numpy():
    pytest.importorskip("detectors.native", reason="the fast extra is not installed")
    first, other = DETECTORS[0], DETECTORS[2]
    shared = other.projection
    copy = Projection(shared.mean * 2, shared.scale, shared.basis)
    moved = type(other)(copy, other.weights, other.rest)
    scorer = scorer_of([first, moved])
    assert scorer.engine == "numpy"
    np.testing.assert_array_equal(scorer.score(ROWS).scores[:, 1], moved.score(ROWS))


def test_all_kinds_in_one_bundle_come_back_as_they_went(tmp_path):
    fitted = fit_rows(ROWS, kinds=("mahalanobis",), alpha=0.05, engine="numpy")
    scorer = scorer_of(DETECTORS, engine="numpy")
    names = [detector.name for detector in DETECTORS]
    whole = Fitted(scorer, fitted.training, fitted_with={name: {} for name in names})
    path = tmp_path / "all.bundle"
    write(whole, path, Table(ROWS, None, (5,)), created="2026-01-01T00:00:00+00:00")
    loaded = load_bundle(path, engine="numpy").scorer
    assert list(loaded.names) == names
    query = np.vstack([ROWS, ROWS * 7, np.full((1, 5), 1e20, np.float32)])
    found, expected = loaded.score(query), scorer.score(query)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.flagged, expected.flagged)


def test_the_identity_is_rows_as_they_come():
    space = Projection.identity(5)
    assert (space.features, space.rank, space.complete, space.turns) == (5, 5, True, False)
    projected = space.apply(ROWS)
    np.testing.assert_array_equal(projected.components, ROWS.astype(np.float64))
    np.testing.assert_allclose(projected.norms, np.square(ROWS.astype(np.float64)).sum(axis=1))


@pytest.mark.parametrize("kind", ["hbos", "ecod", "copod", "half_space"])
def test_parts_add_up(kind):
    detector = MAKERS[kind](ROWS[:200].astype(np.float64))
    parts = detector.parts(ROWS)
    assert parts.shape == ROWS.shape
    np.testing.assert_allclose(parts.sum(axis=1), detector.score(ROWS), rtol=1e-12)


MALFORMED = [
    ("knn_mean", {"neighbours": 0}, "neighbours"),
    ("knn_mean", {"neighbours": 1000}, "neighbours"),
    ("knn_median", {"reference": "reversed"}, "not sorted"),
    ("lof", {"radius": "negative"}, "negative"),
    ("lof", {"density": "negative"}, "negative"),
    ("lof", {"density": "short"}, "shape"),
    ("lof", {"reference": "nan"}, "not finite"),
    ("lof", {"neighbours": 10**6}, "neighbours"),
    ("diagonal_gmm", {"roots": "negative"}, "not positive"),
    ("diagonal_gmm", {"offsets": "nan"}, "not finite"),
    ("component_distance", {"weights": "negative"}, "positive"),
    ("component_distance", {"projection": Projection.identity(5)}, "weights for"),
    ("cblof", {"large": "zero"}, "no cluster is large"),
    ("cblof", {"weights": "negative"}, "not positive"),
    ("half_space", {"normal": "zero"}, "no direction"),
    ("half_space", {"normal": "nan"}, "not finite"),
    ("hbos", {"cuts": "backwards"}, "must rise"),
    ("hbos", {"levels": "short"}, "shape"),
    ("loda", {"cuts": "backwards"}, "must rise"),
    ("loda", {"directions": "short"}, "shape"),
    ("loda", {"directions": "nan"}, "not finite"),
    ("ecod", {"values": "backwards"}, "not sorted"),
    ("copod", {"values": "nan"}, "not finite"),
    ("copod", {"values": "huge"}, "not finite"),
]


CHANGES = {
    "negative": lambda value: -value - 1,
    "reversed": lambda value: np.ascontiguousarray(value[::-1]),
    "backwards": lambda value: np.ascontiguousarray(value[:, ::-1]),
    "short": lambda value: np.ascontiguousarray(value[:-1]),
    "zero": np.zeros_like,
    "nan": lambda value: np.where(np.arange(value.size).reshape(value.shape) == 1, np.nan, value),
    "huge": lambda value: np.sign(value) * 1.7e308,
}


@pytest.mark.parametrize(("kind", "changes", "message"), MALFORMED)
def test_malformed_parts_are_refused(kind, changes, message):
    made = MAKERS[kind](ROWS[:200].astype(np.float64))
    changed = {
        name: CHANGES[how](getattr(made, name)) if isinstance(how, str) else how
        for name, how in changes.items()
    }
    with pytest.raises(ValueError, match=message), np.errstate(all="ignore"):
        dataclasses.replace(made, **changed)
