"""Fits agreement detectors on honest labelled rows, and calibrates them with the input's score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from detectors.agreement import OPINIONS, REGISTRY
from detectors.agreement.base import AgreementDetector, Answers, Labels, SecondOpinion
from detectors.agreement.scorer import AnswerScorer
from detectors.arrays import Floats, Singles
from detectors.base import Rows
from detectors.calibration import Calibration
from detectors.training.agreement_lesson import Lesson
from detectors.training.agreement_witnesses import (
    FITTERS,
    OPINION_FITTERS,
    fit_residual_agreement,
)
from detectors.training.tails import fit_tail

DEFAULT_AGREEMENT: Final[dict[tuple[bool, bool], tuple[str, ...]]] = {
    (True, True): ("knn_agreement", "noisy_gradient_agreement", "class_density"),
    (True, False): ("gradient_agreement", "noisy_gradient_agreement"),
    (False, True): ("knn_agreement", "kernel_agreement", "class_density"),
    (False, False): ("knn_agreement", "kernel_agreement"),
}
"""The kinds that measured best on the development sets (docs/detection.md), by whether the rows are
images and whether the space of the components is complete. Where it is not, the density of a class
misses what a perturbation leaves outside of it."""
HANDICAP: Final = 2.0
"""Nats that the input must show beyond the threshold to be refused unanswered. At less, honest
outliers that get the right answer use up the budget; such a row counts with its answer anyway."""
SUSPICION: Final = 3.0
"""Nats from which on the model is asked again: about one honest row in twenty."""

Ask: TypeAlias = Callable[[Rows], Answers]


class Part(NamedTuple):
    """Honest rows that fitted nothing, what the model answered, and the input's merged scores."""

    rows: Singles
    answers: Answers
    merged: Floats


def fit_agreement(
    rows: Singles,
    labels: Labels,
    *,
    classes: int,
    kinds: Sequence[str] | None = None,
    row_shape: tuple[int, ...] | None = None,
    seed: int = 0,
) -> list[AgreementDetector]:
    """Fits the kinds for a classifier, in the order of the registry; deterministic under ``seed``.

    Args:
        rows: (n, d) float32; the model may have been trained on them.
        labels: (n,) int64 true classes of the rows.
        classes: C, of the model's answers.
        kinds: registered names; None: those that measured best for such rows.
        row_shape: of an image (height, width), with channels first or last; None or (d,): none.

    Raises:
        ValueError: if a kind is unknown, or the rows are too few to learn from.
    """
    lesson = Lesson(rows, labels, classes, row_shape, seed)
    if kinds is None:
        kinds = default_kinds(lesson)
    unknown = [kind for kind in kinds if kind not in FITTERS]
    if unknown:
        raise ValueError(
            f"unknown agreement detector {unknown[0]!r}: expected {', '.join(FITTERS)}"
        )
    fitted = {kind: FITTERS[kind](lesson) for kind in REGISTRY if kind in kinds}
    missing = [kind for kind, detector in fitted.items() if detector is None]
    if missing:
        raise ValueError(f"{missing[0]} cannot be fitted: the rows are not of an image's shape")
    return [detector for detector in fitted.values() if detector is not None]


def default_kinds(lesson: Lesson) -> tuple[str, ...]:
    """What measured best on development sets for rows like these."""
    return DEFAULT_AGREEMENT[lesson.gradients is not None, lesson.complete]


def fit_residual(rows: Singles, targets: Floats, *, seed: int = 0) -> list[AgreementDetector]:
    """Fits the witness of a regression model on (n, d) rows and (n,) or (n, m) true values."""
    return [fit_residual_agreement(rows, targets, seed)]


def fit_opinions(
    rows: Singles,
    kinds: Sequence[str],
    *,
    row_shape: tuple[int, ...] | None = None,
    seed: int = 0,
) -> list[SecondOpinion]:
    """Fits second opinions on (n, d) training rows, in the order of the registry.

    Raises:
        ValueError: if a kind is unknown.
    """
    unknown = [kind for kind in kinds if kind not in OPINION_FITTERS]
    if unknown:
        known = ", ".join(OPINION_FITTERS)
        raise ValueError(f"unknown second opinion {unknown[0]!r}: expected some of {known}")
    return [OPINION_FITTERS[kind](rows, row_shape, seed) for kind in OPINIONS if kind in kinds]


def fit_answer_scorer(
    detectors: Sequence[AgreementDetector],
    *,
    a: tuple[Singles, Answers, Floats],
    b: tuple[Singles, Answers, Floats],
    alpha: float,
    delta: float,
    classes: Sequence[str] | None = None,
    handicap: float = HANDICAP,
    opinions: Sequence[SecondOpinion] = (),
    ask: Ask | None = None,
    suspicion: float = SUSPICION,
) -> AnswerScorer:
    """Fixes the tails on split A and the threshold on split B. See :class:`Part` for both.

    Args:
        detectors: those whose needs the answers meet are used.
        classes: names, in the order of the labels; None for a regression model.
        ask: the model, to fit second opinions with.

    Raises:
        BudgetError: if B is too small for the budget; says how many rows it takes.
        ValueError: if no detector can be used, or a score is not finite.
    """
    part_a, part_b = Part(*a), Part(*b)
    used = [one for one in detectors if part_a.answers.has(one.needs)]
    asked = [one for one in opinions if part_a.answers.has(one.needs)]
    if not used:
        raise ValueError("none of the agreement detectors can use these answers")
    if asked and ask is None:
        raise ValueError("second opinions are fitted by asking the model")
    entry = fit_tail(part_a.merged)
    scores = np.stack([one.score(part_a.rows, part_a.answers) for one in used], axis=1)
    _check_finite(scores)
    tails = [fit_tail(scores[:, k]) for k in range(len(used))]
    told = [tail(scores[:, k]) for k, tail in enumerate(tails)]
    sums = np.sum([entry(part_a.merged), *told], axis=0)
    total = fit_tail(sums)
    opinion_tails, final = [], None
    if asked and ask is not None:
        again = _ask(asked, part_a.rows, ask)
        for one, answers in zip(asked, again, strict=True):
            found = one.score(part_a.answers, answers)
            _check_finite(found)
            opinion_tails.append(fit_tail(found))
            sums = sums + opinion_tails[-1](found)
        final = fit_tail(sums)
    placeholder = Calibration.of(np.zeros(len(part_b.merged)), alpha, delta)

    def made(calibration: Calibration) -> AnswerScorer:
        return AnswerScorer(
            used,
            tails,
            entry=entry,
            total=total,
            calibration=calibration,
            classes=classes,
            handicap=handicap,
            opinions=asked,
            opinion_tails=opinion_tails,
            final=final,
            suspicion=suspicion if asked else np.inf,
        )

    scorer = made(placeholder)
    if asked and ask is not None:
        verdicts = scorer.reconsider(*part_b, _ask(asked, part_b.rows, ask))
    else:
        verdicts = scorer.score(*part_b)
    return made(Calibration.of(verdicts.merged, alpha, delta))


def _ask(opinions: Sequence[SecondOpinion], rows: Singles, ask: Ask) -> list[Answers]:
    return [ask(opinion.views(rows)) for opinion in opinions]


def _check_finite(scores: Floats) -> None:
    if not bool(np.isfinite(scores).all()):
        raise ValueError("an agreement detector's score of an honest row is not finite")
