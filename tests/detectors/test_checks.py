"""Every detector passes every common check."""

import numpy as np
import pytest
from outlier_kinds import MAKERS, every_kind

from detectors.checks import CHECKS, CheckError, Subject
from detectors.outlier import REGISTRY
from detectors.training.estimators import KINDS

FEATURES = (1, 7, 40)
# The autoencoders have tests of their own.
TRIED = (*KINDS, *MAKERS)
CASES = [(k, c, d) for k in TRIED for c in CHECKS for d in FEATURES]


@pytest.fixture(scope="module")
def subjects():
    made = {}
    for features in FEATURES:
        rng = np.random.default_rng(features)
        mix = rng.normal(size=(features, features)) / np.sqrt(features)
        draw = (rng.normal(size=(400, features)) @ mix + 3).astype(np.float32)
        far = (rng.normal(size=(40, features)) * 20 + 50).astype(np.float32)
        for detector in every_kind(draw[:300]):
            made[detector.name, features] = Subject(detector, draw[300:], far)
    return made


def test_every_detector_meets_every_check():
    assert set(TRIED) | {name for name in REGISTRY if "autoencoder" in name} == set(REGISTRY)
    assert len(CASES) == 17 * 13 * 3


@pytest.mark.parametrize(("kind", "check", "features"), CASES)
def test_check(subjects, kind, check, features):
    CHECKS[check](subjects[kind, features])


class Broken:
    """Wraps a detector and breaks one promise at a time."""

    name = "mahalanobis"

    def __init__(self, inner, how):
        self.inner, self.how = inner, how

    def score(self, rows):
        return self.how(self.inner.score, rows)


def _nan_passes(score, rows):
    return score(np.nan_to_num(rows))


@pytest.mark.parametrize(
    ("check", "how"),
    [
        ("polarity", lambda score, rows: -score(rows)),
        ("output", lambda score, rows: score(rows).astype(np.float32)),
        ("rows_are_independent", lambda score, rows: score(rows) - score(rows).mean()),
        ("shape_error", lambda score, rows: np.zeros(len(rows))),
        ("not_finite", _nan_passes),
        ("extremes", lambda score, rows: score(rows) * np.float64(1e250)),
        ("input_is_left_alone", lambda score, rows: score(np.multiply(rows, 2, out=rows))),
        ("registered", None),
    ],
)
def test_a_check_sees_what_it_is_for(subjects, check, how):
    whole = subjects["mahalanobis", 7]
    broken = Subject(Broken(whole.detector, how), whole.honest.copy(), whole.outliers)
    with np.errstate(all="ignore"), pytest.raises(CheckError):
        CHECKS[check](broken)
