"""Golden vectors: made-up rows and answers, and what was found about them at the fit.

What reads a bundle must find the same, or it is not the program, or not the model, that was
calibrated. No row of the data is given away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from detectors.agreement.base import Answers
from detectors.agreement.scorer import AnswerScorer
from detectors.arrays import Floats, Singles
from detectors.outlier.projection import ProjectedDetector
from detectors.patterns.base import Family
from detectors.patterns.model import PatternModel
from detectors.patterns.tracker import PatternTracker
from detectors.scorer import Engine, Scorer

if TYPE_CHECKING:
    from detectors.embedding import Embedding

Arrays = Mapping[str, npt.NDArray[Any]]

_CAP: Final = 64
"""Rows, at most: what is made of them on loading (copies, for second opinions) is bounded."""
_RELATIVE: Final = 1e-7
_ABSOLUTE: Final = 1e-7
_WITNESS: Final = 1e-5
"""A kernel's sum loses more digits to another order of summation than a distance does."""
_NETWORK: Final = 1e-4
"""A network in single precision, on another processor."""
_NATS: Final = 1e-4
"""Far above any rounding, far below what evidence means."""


def golden_scores(scorer: Scorer) -> dict[str, npt.NDArray[Any]]:
    """The golden vectors of a scorer."""
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
    if rows.ndim != 2 or not 0 < len(rows) <= _CAP:
        return False
    found = scorer.score(rows)
    return _same(found.scores, scores, _ABSOLUTE) and _same(found.merged, merged, _ABSOLUTE)


def golden_answers(
    scorer: AnswerScorer, rows: Singles, merged: Floats
) -> dict[str, npt.NDArray[Any]]:
    """The golden vectors of an answer scorer.

    Args:
        scorer: that finds them.
        rows: ``golden/rows``.
        merged: ``golden/merged``.
    """
    rng = np.random.default_rng(17)
    answers = _answers(rng, scorer, len(rows))
    found = scorer.score(rows, answers, merged)
    arrays: dict[str, npt.NDArray[Any]] = {
        "golden/answers": _raw(answers),
        "golden/agreement": np.ascontiguousarray(found.scores),
        "golden/joint": np.ascontiguousarray(found.merged),
    }
    if scorer.opinions:
        again = [_answers(rng, scorer, len(rows) * one.copies) for one in scorer.opinions]
        for opinion, said in zip(scorer.opinions, again, strict=True):
            arrays[f"golden_views/{opinion.name}"] = opinion.views(rows)
            arrays[f"golden_again/{opinion.name}"] = _raw(said)
        found = scorer.reconsider(rows, answers, merged, again)
        arrays["golden/opinions"] = np.ascontiguousarray(found.scores)
        arrays["golden/reconsidered"] = np.ascontiguousarray(found.merged)
    return arrays


def answers_hold(scorer: AnswerScorer, arrays: Arrays) -> bool:
    """Whether the answer scorer finds what it found when it was fitted.

    Raises:
        ScoreFault, ValueError: if rows and answers cannot be scored.
        KeyError: if there are no golden vectors.
    """
    rows, merged = arrays["golden/rows"], arrays["golden/merged"]
    answers = _read_answers(scorer, arrays["golden/answers"])
    found = scorer.score(rows, answers, merged)
    held = _same(found.scores, arrays["golden/agreement"], _ABSOLUTE, _WITNESS) and _same(
        found.merged, arrays["golden/joint"], _NATS
    )
    if not scorer.opinions:
        return held
    again = []
    for opinion in scorer.opinions:
        views = arrays[f"golden_views/{opinion.name}"]
        held &= _same(opinion.views(rows), views, _ABSOLUTE)
        again.append(_read_answers(scorer, arrays[f"golden_again/{opinion.name}"]))
    found = scorer.reconsider(rows, answers, merged, again)
    return (
        held
        and _same(found.scores, arrays["golden/opinions"], _ABSOLUTE, _WITNESS)
        and _same(found.merged, arrays["golden/reconsidered"], _NATS)
    )


def _answers(rng: np.random.Generator, scorer: AnswerScorer, count: int) -> Answers:
    """Sure and unsure answers, each class in turn the best; or values around 0."""
    if scorer.classes is None:
        return Answers.of_values(rng.normal(size=(count, scorer.outputs)) * 3.0)
    logits = rng.normal(size=(count, scorer.outputs))
    places = np.arange(count)
    logits[places, places % scorer.outputs] += 1.0 + places % 7
    return Answers.of_logits(logits)


def _raw(answers: Answers) -> Floats:
    raw = answers.values if answers.probabilities is None else answers.probabilities
    assert raw is not None  # made above
    return raw


def _read_answers(scorer: AnswerScorer, raw: npt.NDArray[Any]) -> Answers:
    if raw.dtype != np.float64:
        raise ValueError("golden answers are float64")
    return Answers.of_values(raw) if scorer.classes is None else Answers.of_probabilities(raw)


def golden_embedding(embedding: Embedding) -> dict[str, npt.NDArray[Any]]:
    """The golden vectors of an embedding: (16, d) raw rows, and what became of them."""
    rng = np.random.default_rng(18)
    raw = (rng.normal(size=(16, embedding.features)) + 0.5).astype(np.float32)
    return {"golden/raw": raw, "golden/embedded": np.ascontiguousarray(embedding.embed(raw))}


def embedding_holds(embedding: Embedding, arrays: Arrays) -> bool:
    """Whether the embedding makes of the rows what it made when the bundle was written.

    Raises:
        ValueError: if the rows cannot be embedded.
        KeyError: if there are no golden vectors.
    """
    raw, embedded = arrays["golden/raw"], arrays["golden/embedded"]
    if raw.ndim != 2 or not 0 < len(raw) <= _CAP or not bool(np.isfinite(embedded).all()):
        return False
    scale = float(np.abs(embedded).max(initial=0.0)) * _NETWORK
    return _same(embedding.embed(raw), embedded, scale, _NETWORK)


def golden_stream(rows: Singles, model: PatternModel) -> dict[str, npt.NDArray[Any]]:
    """The golden vectors of patterns.

    Args:
        rows: (16, d) on the wire: the golden rows of the scorer, or of the embedding.
        model: what sees them.
    """
    stream = _stream(rows)
    return {"golden/stream": stream, "golden/evidence": _evidence(model, stream, "numpy")}


def patterns_hold(model: PatternModel, arrays: Arrays, engine: Engine) -> bool:
    """Whether the patterns see in the stream what they saw when they were fitted.

    Raises:
        ScoreFault, ValueError: if the rows cannot be observed.
        KeyError: if there are no golden vectors.
    """
    stream, evidence = arrays["golden/stream"], arrays["golden/evidence"]
    if stream.ndim != 2 or not 0 < len(stream) <= _CAP:
        return False
    return _same(_evidence(model, stream, engine), evidence, _NATS)


def _same(
    found: npt.NDArray[Any],
    golden: npt.NDArray[Any],
    absolute: float,
    relative: float = _RELATIVE,
) -> bool:
    return found.shape == golden.shape and bool(
        np.allclose(found, golden, rtol=relative, atol=absolute)
    )


def _rows(scorer: Scorer) -> Singles:
    """(16, d): typical to far out."""
    centre: npt.NDArray[Any] = np.zeros(scorer.features)
    spread: npt.NDArray[Any] = np.ones(scorer.features)
    for detector in scorer.detectors:
        if isinstance(detector, ProjectedDetector):
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
