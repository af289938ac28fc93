"""Small scorers to explain, fitted in a moment."""

import numpy as np

from detectors.calibration import Calibration
from detectors.scorer import Scorer, detector_scores, merged_scores
from detectors.training.estimators import fit_detectors
from detectors.training.tails import fit_tail


def scorer_of(rows, kinds, *, alpha=0.05):
    """A scorer of these kinds, fitted on a half of the rows and calibrated on the other."""
    half = len(rows) // 2
    train, rest = np.ascontiguousarray(rows[:half]), np.ascontiguousarray(rows[half:])
    detectors = fit_detectors(train, kinds, 0)
    scores = detector_scores(detectors, rest)
    tails = [fit_tail(scores[:, k]) for k in range(len(detectors))]
    calibration = Calibration.of(merged_scores(detectors, tails, rest), alpha, 0.05)
    return Scorer(detectors, tails, calibration, engine="numpy")
