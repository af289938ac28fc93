"""Why a row was flagged: which features made its scores, and by how much.

For the operator alone, after the fact: it takes milliseconds to seconds, and belongs in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from detectors.agreement.base import AgreementDetector, Answers
from detectors.agreement.panel import Panel
from detectors.agreement.scorer import AnswerScorer
from detectors.arrays import Floats
from detectors.base import Rows
from detectors.calibration import Tail, merge
from detectors.explanation_exact import attribute
from detectors.explanation_sampling import EVALUATIONS, Groups, sampled
from detectors.explanation_values import (
    AnswerExplanation,
    Attribution,
    Finding,
    InputExplanation,
    Neighbour,
    Witness,
)
from detectors.outlier.projection import Projection
from detectors.scorer import Scorer, detector_scores

Embed = Callable[[Rows], Rows]

_NODES, _SHARES = np.polynomial.legendre.leggauss(64)
_CLASSES: Final = 1024
"""More classes than this are not each put to the witnesses."""


def explain_input(
    scorer: Scorer,
    row: Rows,
    *,
    references: Rows | None = None,
    embed: Embed | None = None,
    groups: Groups | None = None,
    evaluations: int = EVALUATIONS,
    pause: Callable[[], object] | None = None,
) -> InputExplanation:
    """Why the scorer finds of a row what it finds.

    Args:
        row: (1, d) float32, as the model sees it.
        references: (m, d) honest rows, to compare with where a score has no form of its own; None:
            the :func:`middle` of the rows, or zeros.
        embed: what turns rows into those that the detectors score, if anything does.
        groups, evaluations, pause: as for :func:`detectors.explanation_sampling.sampled`.

    Raises:
        ScoreFault: if a score of the row is not finite.
        ValueError: if the row does not fit the scorer.
    """
    seen = row if embed is None else embed(row)
    verdicts = scorer.score(seen)
    scores = verdicts.scores[0]
    found: list[Attribution | None] = [None] * len(scorer.detectors)
    if embed is None:
        found = [
            attribute(detector, row, float(score))
            for detector, score in zip(scorer.detectors, scores, strict=True)
        ]
    left = [k for k, attribution in enumerate(found) if attribution is None]
    if left:
        asked = [scorer.detectors[k] for k in left]

        def ask(rows: Rows) -> Floats:
            return detector_scores(asked, rows if embed is None else embed(rows))

        if references is None:
            references = middle(scorer) if embed is None else None
        drawn = sampled(
            ask,
            row,
            np.zeros_like(row) if references is None else references,
            groups=groups,
            evaluations=evaluations,
            pause=pause,
        )
        for k, attribution in zip(left, drawn, strict=True):
            found[k] = attribution
    findings = _findings(scorer.names, scores, verdicts.detector_p_values[0], found, scorer.tails)
    evidence = np.array([finding.evidence for finding in findings])
    added = np.array([finding.nats.sum() for finding in findings])
    merged = float(verdicts.merged[0])
    weights = _merge_weights(evidence - added, evidence)
    contributions = weights @ np.stack([finding.nats for finding in findings])
    return InputExplanation(
        merged,
        scorer.threshold,
        float(verdicts.p_values[0]),
        bool(verdicts.flagged[0]),
        merged - float(contributions.sum()),
        contributions,
        findings,
    )


def explain_answer(
    scorer: AnswerScorer,
    row: Rows,
    answer: Answers,
    merged: float,
    *,
    references: Rows,
    embed: Embed | None = None,
    groups: Groups | None = None,
    evaluations: int = EVALUATIONS,
    pause: Callable[[], object] | None = None,
) -> AnswerExplanation:
    """Why the agreement detectors find of a row and its answer what they find.

    Args:
        row: (1, d) float32, as the model sees it.
        answer: the model's, of that row.
        merged: the input's merged score.
        references: (m, d) honest rows to compare with: those of the answer's class say most.
        embed, groups, evaluations, pause: as for :func:`explain_input`.

    Raises:
        ScoreFault: if a score is not finite.
        ValueError: if row and answer do not fit the scorer.
    """
    view: Embed = embed or (lambda rows: rows)
    seen = view(row)
    verdicts = scorer.score(seen, answer, np.array([merged]))

    panel = Panel(scorer.detectors)

    def ask(rows: Rows) -> Floats:
        return panel.scores(view(rows), answer[np.zeros(len(rows), np.int64)])

    found = sampled(ask, row, references, groups=groups, evaluations=evaluations, pause=pause)
    findings = _findings(
        scorer.names, verdicts.scores[0], verdicts.detector_p_values[0], found, scorer.tails
    )
    contributions = np.sum([finding.nats for finding in findings], axis=0)
    evidence = sum(finding.evidence for finding in findings)
    return AnswerExplanation(
        float(verdicts.merged[0]),
        scorer.threshold,
        float(verdicts.p_values[0]),
        bool(verdicts.flagged[0]),
        float(scorer.entry(np.array([merged]))[0]),
        evidence - float(contributions.sum()),
        contributions,
        findings,
        tuple(witnesses(scorer.detectors, seen)),
        expectations(scorer.detectors, seen),
    )


def witnesses(detectors: Sequence[AgreementDetector], row: Rows) -> list[Witness]:
    """What each detector would have answered, of those that judge a label: asked about each class.

    A detector that doubts all classes alike is none.

    Args:
        row: (1, d), as the detectors see it.
    """
    heard = []
    for detector in detectors:
        if detector.needs == "labels" and 2 <= detector.outputs <= _CLASSES:
            every = Answers.of_labels(np.arange(detector.outputs))
            doubts = detector.score(np.repeat(row, detector.outputs, axis=0), every)
            if float(np.ptp(doubts)) > 0 and bool(np.isfinite(doubts).all()):
                heard.append(Witness(detector.name, doubts))
    return heard


def expectations(detectors: Sequence[AgreementDetector], row: Rows) -> dict[str, Floats]:
    """What each detector expected of a regression model, of those that can tell."""
    return {
        detector.name: np.asarray(detector.predict(row), np.float64)[0]
        for detector in detectors
        if detector.needs == "values" and hasattr(detector, "predict")
    }


def middle(scorer: Scorer) -> Rows | None:
    """(1, d): the mean of the rows that fitted a detector; None if no detector keeps it."""
    for detector in scorer.detectors:
        projection: Projection | None = getattr(detector, "projection", None)
        if projection is None:
            continue
        mean = projection.mean
        if not projection.turns:  # it says nothing of the rows, but a reference does
            reference: Floats | None = getattr(detector, "reference", None)
            if reference is None or reference.shape[1] != mean.size:
                continue
            mean = mean + projection.scale * reference.mean(axis=0)
        return np.asarray(mean, np.float32)[None]
    return None


def nearest(
    examples: Rows,
    row: Rows,
    *,
    labels: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None,
    most: int = 3,
) -> list[Neighbour]:
    """The honest rows nearest to a row, the nearest first.

    Features are compared in units of their spread over the examples.

    Args:
        examples: (m, d) float32.
        row: (1, d) float32.
        labels: (m,) of the examples.
    """
    spread = examples.std(axis=0, dtype=np.float64)
    spread[spread == 0] = spread[spread > 0].mean() if bool((spread > 0).any()) else 1.0
    with np.errstate(over="ignore"):
        gaps = np.square((examples - row.astype(np.float64)) / spread).mean(axis=1)
    return [
        Neighbour(
            int(index),
            float(np.sqrt(gaps[index])),
            examples[index],
            None if labels is None else int(labels[index]),
        )
        for index in np.argsort(gaps, kind="stable")[:most]
    ]


def _findings(
    names: Sequence[str],
    scores: Floats,
    p_values: Floats,
    found: Sequence[Attribution | None],
    tails: Sequence[Tail],
) -> tuple[Finding, ...]:
    features = next((len(one.contributions) for one in found if one is not None), 0)
    findings = []
    for name, score, p_value, attribution, tail in zip(
        names, scores.tolist(), p_values.tolist(), found, tails, strict=True
    ):
        evidence = float(tail(np.array([score]))[0])
        nats = np.zeros(features)
        if attribution is not None:
            nats = attribution.contributions * _slope(tail, attribution.baseline, score)
        findings.append(Finding(name, score, p_value, evidence, attribution, nats))
    return tuple(findings)


def _slope(tail: Tail, start: float, end: float) -> float:
    """Evidence for each unit of score, on the way from one score to another."""
    if start == end:
        return 0.0
    before, after = tail(np.array([start, end])).tolist()
    return float((after - before) / (end - start))


def _merge_weights(start: Floats, end: Floats) -> Floats:
    """(k,): what a nat of each detector's evidence adds to the merged score, so that
    ``weights @ (end - start)`` is what all of it adds.

    The slope of the merge, averaged along the straight way from one to the other (Aumann and
    Shapley 1974).
    """
    way = 0.5 * (_NODES + 1.0)
    points = start + way[:, None] * (end - start)
    slopes = np.exp(points - points.max(axis=1, keepdims=True))
    slopes /= slopes.sum(axis=1, keepdims=True)
    weights: Floats = 0.5 * _SHARES @ slopes
    merged = merge([np.array(pair) for pair in zip(start, end, strict=True)])
    total = float(weights @ (end - start))
    if total:  # the quadrature's own error, a hair
        weights = weights * (float(merged[1] - merged[0]) / total)
    return weights
