"""Golden vectors: made-up rows and what was found about them when the bundle was fitted.

What reads a bundle must find the same, or it is not the program, or not the model, that was
calibrated. No row of the data is given away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats, Singles
from detectors.outlier import IsolationForest
from detectors.patterns.base import Family
from detectors.patterns.model import PatternModel
from detectors.patterns.tracker import PatternTracker
from detectors.scorer import Engine, Scorer

Arrays = Mapping[str, npt.NDArray[Any]]

GOLDEN_SCORES: Final = frozenset({"golden/rows", "golden/scores", "golden/merged"})
GOLDEN_PATTERNS: Final = frozenset({"golden/stream", "golden/evidence"})
_RELATIVE: Final = 1e-7
_ABSOLUTE: Final = 1e-7
_NATS: Final = 1e-4
"""Far above any rounding, far below what evidence means."""


def golden_scores(scorer: Scorer) -> dict[str, npt.NDArray[Any]]:
    """The golden vectors of a scorer, by the names in :data:`GOLDEN_SCORES`."""
    rows = _rows(scorer)
    found = scorer.score(rows)
    return {
        "golden/rows": rows,
        "golden/scores": np.ascontiguousarray(found.scores),
        "golden/merged": np.ascontiguousarray(found.merged),
    }


def scores_hold(scorer: Scorer, arrays: Arrays) -> bool:
    """Whether the scorer finds what it found when it was fitted.

    Raises:
        ScoreFault, ValueError: if the rows cannot be scored.
        KeyError: if there are no golden vectors.
    """
    rows, scores, merged = (arrays[f"golden/{name}"] for name in ("rows", "scores", "merged"))
    if rows.ndim != 2 or not len(rows):
        return False
    found = scorer.score(rows)
    return _same(found.scores, scores, _ABSOLUTE) and _same(found.merged, merged, _ABSOLUTE)


def golden_stream(scorer: Scorer, model: PatternModel) -> dict[str, npt.NDArray[Any]]:
    """The golden vectors of patterns, by the names in :data:`GOLDEN_PATTERNS`."""
    stream = _stream(_rows(scorer))
    return {"golden/stream": stream, "golden/evidence": _evidence(model, stream, "numpy")}


def patterns_hold(model: PatternModel, arrays: Arrays, engine: Engine) -> bool:
    """Whether the patterns see in the stream what they saw when they were fitted.

    Raises:
        ScoreFault, ValueError: if the rows cannot be observed.
        KeyError: if there are no golden vectors.
    """
    stream, evidence = arrays["golden/stream"], arrays["golden/evidence"]
    if stream.ndim != 2 or not len(stream):
        return False
    return _same(_evidence(model, stream, engine), evidence, _NATS)


def _same(found: Floats, golden: npt.NDArray[Any], absolute: float) -> bool:
    return found.shape == golden.shape and bool(
        np.allclose(found, golden, rtol=_RELATIVE, atol=absolute)
    )


def _rows(scorer: Scorer) -> Singles:
    """(16, d): typical to far out."""
    centre: npt.NDArray[Any] = np.zeros(scorer.features)
    spread: npt.NDArray[Any] = np.ones(scorer.features)
    for detector in scorer.detectors:
        if not isinstance(detector, IsolationForest):
            centre, spread = detector.projection.mean, detector.projection.scale
    noise = np.random.default_rng(16).normal(size=(16, scorer.features))
    reach = np.repeat([0.5, 1.0, 4.0, 1000.0], 4)[:, None]
    limit = float(np.finfo(np.float32).max)
    rows: Singles = np.clip(centre + reach * spread * noise, -limit, limit).astype(np.float32)
    return rows


def _stream(rows: Singles) -> Singles:
    """(24, d): apart; along a line; a few coordinates changed; the same again."""
    start, end = rows[0].astype(np.float64), rows[1].astype(np.float64)
    line = [start + (end - start) * step for step in 0.01 * np.arange(1, 9)]
    sparse = np.repeat(rows[2:3].astype(np.float64), 4, axis=0)
    for index, row in enumerate(sparse):
        row[index % row.size] = end[index % row.size]
    limit = float(np.finfo(np.float32).max)
    wide = np.vstack([rows[:10], line, sparse, rows[:2]])
    stream: Singles = np.clip(wide, -limit, limit).astype(np.float32)
    return stream


def _evidence(model: PatternModel, stream: Singles, engine: Engine) -> Floats:
    """(n, families) nats of a client after each row of the stream."""
    tracker = PatternTracker(model, clients=4, budget=0.001, coverage_limit=0.5, engine=engine)
    evidence = np.empty((len(stream), len(Family)))
    for index in range(len(stream)):
        p_value = np.array([1.0 / (1 + index)])
        tracker.observe("golden", "", stream[index : index + 1], p_value, float(index))
        standing = tracker.standing("golden")
        nats = {} if standing is None else standing.evidence
        evidence[index] = [nats.get(family.value, np.nan) for family in Family]
    return evidence
