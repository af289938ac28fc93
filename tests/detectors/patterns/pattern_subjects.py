"""Honest rows, a model of them, and attacks on it: small enough to be fitted in a test."""

from functools import cache

import numpy as np

from detectors.patterns.tracker import PatternTracker
from detectors.training.patterns import fit_patterns

FEATURES = 12


@cache
def honest(seed=0, count=1600):
    """Five clusters with some correlation, as float32 rows."""
    shape = np.random.default_rng(99)
    centres = shape.normal(size=(5, FEATURES)) * 3
    mixing = shape.normal(size=(FEATURES, FEATURES)) / np.sqrt(FEATURES)
    random = np.random.default_rng(seed)
    kinds = random.integers(5, size=count)
    rows = centres[kinds] + random.normal(size=(count, FEATURES)) @ mixing
    return np.ascontiguousarray(rows, dtype=np.float32), kinds


@cache
def model():
    rows, kinds = honest()
    return fit_patterns(
        rows[:800],
        rows[800:],
        space_labels=kinds[:800],
        stream_labels=kinds[800:],
        seed=5,
        budget=0.001,
    )


def tracker(**settings):
    settings.setdefault("engine", "numpy")
    settings.setdefault("clients", 16)
    return PatternTracker(model(), **settings)


def probes(count, seed=0, step=0.01):
    """A walk with small steps from an honest row, as a search for a decision boundary takes."""
    random = np.random.default_rng(seed)
    base = honest(1)[0][seed % 100]
    steps = random.normal(size=(count, FEATURES)) * step
    return np.ascontiguousarray(base + np.cumsum(steps, axis=0), dtype=np.float32)


def send(tracker, client, rows, *, subnet="", now=0.0, pace=0.1):
    """Sends rows one by one: the number of the first query that alarmed and its alarms, or None."""
    for index, row in enumerate(rows):
        alarms = tracker.observe(client, subnet, row[None], None, now + index * pace)
        if alarms:
            return index + 1, alarms
    return None
