"""A small classifier, a small regression model and honest rows: what agreement is fitted on."""

import numpy as np

from detectors.agreement.base import Answers

CENTRES = np.random.default_rng(9).normal(size=(3, 6)) * 3


def draw(count, seed=0):
    """(count, 6) float32 rows of three clusters, and which each is of."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    return (CENTRES[labels] + rng.normal(size=(count, 6))).astype(np.float32), labels


def classify(rows):
    """What the classifier answers: right, but for rows between the clusters."""
    return Answers.of_logits(-np.square(rows[:, None] - CENTRES).sum(axis=-1))


def regress(rows):
    """What the regression model answers: two values a row."""
    return Answers.of_values(rows[:, :2].astype(np.float64) * 2.0 + 1.0)
