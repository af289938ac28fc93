"""The checks that every agreement detector and every second opinion passes, whoever fitted it.

Each takes a :class:`Subject` (or :class:`OpinionSubject`) and raises
:class:`detectors.checks.CheckError` with what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

import numpy as np

from detectors.agreement import OPINIONS, REGISTRY
from detectors.agreement.base import AgreementDetector, Answers, SecondOpinion
from detectors.agreement.packing import pack, unpack
from detectors.arrays import Floats, Singles
from detectors.checks import CheckError

TOLERANCE: Final = 1e-9
"""A row alone and in a batch: matrix products round differently, and nothing else may differ."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A detector, and rows and answers to try it on.

    Attributes:
        detector: under test.
        rows: (n, d) float32 honest rows, at least 20.
        agreeing: the right answers to them.
        disagreeing: wrong ones.
    """

    detector: AgreementDetector
    rows: Singles
    agreeing: Answers
    disagreeing: Answers


@dataclass(frozen=True, slots=True)
class OpinionSubject:
    """A second opinion, rows to try it on, and answers to the rows and their views.

    Attributes:
        opinion: under test.
        rows: (n, d) float32 honest rows, at least 20.
        answers: to the rows.
        standing: to the views: as the rows were answered.
        fallen: to the views: another answer each.
    """

    opinion: SecondOpinion
    rows: Singles
    answers: Answers
    standing: Answers
    fallen: Answers


def registered(subject: Subject) -> None:
    """The name is the registered one, and the sizes fit the rows and answers."""
    detector = subject.detector
    _require(REGISTRY.get(detector.name) is type(detector), "the name is not the registered one")
    _require(detector.features == subject.rows.shape[1], "not the number of features")
    _require(subject.agreeing.has(detector.needs), "the answers lack what it needs")


def polarity(subject: Subject) -> None:
    """High is suspicious: wrong answers score above nearly all right ones."""
    right = _score(subject, subject.agreeing)
    wrong = _score(subject, subject.disagreeing)
    _require(
        bool(np.median(wrong) > np.quantile(right, 0.9)), "wrong answers do not score above right"
    )


def output(subject: Subject) -> None:
    """One finite float64 a row."""
    scores = _score(subject, subject.agreeing)
    _require(scores.dtype == np.float64, f"scores are {scores.dtype}")
    _require(scores.shape == (len(subject.rows),), f"scores are of shape {scores.shape}")
    _require(bool(np.isfinite(scores).all()), "an honest row's score is not finite")


def empty(subject: Subject) -> None:
    """No rows, no scores, no error."""
    scores = subject.detector.score(subject.rows[:0], subject.agreeing[:0])
    _require(scores.shape == (0,) and scores.dtype == np.float64, "no rows are not handled")


def rows_are_independent(subject: Subject) -> None:
    """A row scores the same alone, in a batch and in another order."""
    score, rows, answers = subject.detector.score, subject.rows, subject.agreeing
    batch = score(rows, answers)
    places = [slice(k, k + 1) for k in range(len(rows))]
    alone = np.concatenate([score(rows[place], answers[place]) for place in places])
    order = np.arange(len(rows))[::-1]
    turned = score(np.ascontiguousarray(rows[order]), answers[order])[order]
    _require(_close(batch, alone) and _close(batch, turned), "a row's score depends on others")


def repeatable(subject: Subject) -> None:
    """Scoring teaches nothing: replaying wrong answers leaves all scores as they were."""
    before = _score(subject, subject.agreeing)
    for _ in range(20):
        _score(subject, subject.disagreeing)
    _require(np.array_equal(before, _score(subject, subject.agreeing)), "scores have moved")


def immutable(subject: Subject) -> None:
    """No attribute can be set and no array written to."""
    _check_immutable(subject.detector)


def input_is_left_alone(subject: Subject) -> None:
    """Scoring writes neither to the rows nor to the answers."""
    rows, answers = subject.rows.copy(), _copied(subject.agreeing)
    subject.detector.score(rows, answers)
    same = np.array_equal(rows, subject.rows)
    for name in ("labels", "probabilities", "values"):
        before, after = getattr(subject.agreeing, name), getattr(answers, name)
        same = same and (before is None or np.array_equal(before, after))
    _require(same, "the rows or the answers were changed")


def shape_error(subject: Subject) -> None:
    """Rows of another shape or dtype are a ValueError."""
    rows = subject.rows
    wrong: list[Any] = [
        np.hstack([rows, rows[:, :1]]),
        rows[:, :-1],
        rows[0],
        rows[None],
        rows.astype(np.float64),
        rows.astype(np.int32),
    ]
    for attempt in wrong:
        _refused(subject.detector, attempt, subject.agreeing, f"{attempt.dtype} {attempt.shape}")


def answer_error(subject: Subject) -> None:
    """Answers that are not as many, lack what is needed or name other classes are refused."""
    detector, rows, good = subject.detector, subject.rows, subject.agreeing
    attempts = {"too few answers": good[: len(rows) - 1], "no answers": Answers()}
    if detector.needs == "values":
        assert good.values is not None
        attempts["values of another width"] = Answers(values=np.hstack([good.values] * 2))
        attempts["values of another dtype"] = Answers(values=good.values.astype(np.float32))
    else:
        assert good.labels is not None
        attempts["an unknown class"] = Answers(good.labels + detector.outputs, good.probabilities)
        attempts["a negative class"] = Answers(good.labels - detector.outputs, good.probabilities)
        floats: Any = good.labels.astype(float)
        attempts["labels of floats"] = Answers(floats, good.probabilities)
    if detector.needs == "probabilities":
        assert good.probabilities is not None
        attempts["labels alone"] = Answers(good.labels)
        wide = np.hstack([good.probabilities, good.probabilities[:, :1]])
        attempts["another number of classes"] = Answers(good.labels, wide)
    for name, attempt in attempts.items():
        _refused(detector, rows, attempt, name)


def strided(subject: Subject) -> None:
    """Rows that are not contiguous score as their contiguous copy does."""
    rows = subject.rows
    wide = np.zeros((len(rows), 2 * rows.shape[1]), dtype=np.float32)
    wide[:, ::2] = rows
    scores = _score(subject, subject.agreeing)
    for view in (wide[:, ::2], np.asfortranarray(rows)):
        found = subject.detector.score(view, subject.agreeing)
        _require(_close(found, scores), "strided rows score otherwise")


def not_finite(subject: Subject) -> None:
    """A row or an answer with NaN or infinity gets no finite score, and spoils no other row's."""
    expected = np.delete(_score(subject, subject.agreeing), 3)
    for value in (np.nan, np.inf, -np.inf):
        for column in {0, subject.rows.shape[1] - 1}:
            rows = subject.rows.copy()
            rows[3, column] = value
            scores = subject.detector.score(rows, subject.agreeing)
            _require(not np.isfinite(scores[3]), f"a row with {value} has a finite score")
            _require(_close(np.delete(scores, 3), expected), f"{value} changes others' scores")
        if subject.detector.needs == "labels":
            continue
        answers = _copied(subject.agreeing)
        told = getattr(answers, subject.detector.needs)
        for column in {0, told.shape[1] - 1}:
            told[3, column] = value
            scores = subject.detector.score(subject.rows, answers)
            _require(not np.isfinite(scores[3]), f"an answer with {value} has a finite score")
            _require(_close(np.delete(scores, 3), expected), f"{value} changes others' scores")


def extremes(subject: Subject) -> None:
    """Huge and tiny values give a finite score, and huge ones do not pass for agreement."""
    features = subject.rows.shape[1]
    most = np.finfo(np.float32).max
    values = np.array([1e30, -1e30, most, -most, 1e-45, 0.0], dtype=np.float32)
    rows = np.repeat(values[:, None], features, axis=1)
    scores = subject.detector.score(rows, subject.agreeing[: len(rows)])
    _require(bool(np.isfinite(scores).all()), f"scores of extreme rows: {scores}")


def many_rows(subject: Subject) -> None:
    """A batch larger than a chunk scores as its parts do."""
    copies = -(-3000 // len(subject.rows))
    order = np.tile(np.arange(len(subject.rows)), copies)
    scores = subject.detector.score(subject.rows[order], subject.agreeing[order])
    expected = _score(subject, subject.agreeing)[order]
    _require(_close(scores, expected), "a large batch scores otherwise")


def packs(subject: Subject) -> None:
    """What is packed and unpacked scores the same, to the last bit."""
    again, none = unpack(*pack([subject.detector]))
    _require(len(again) == 1 and not none, "not one detector comes back")
    expected = _score(subject, subject.agreeing)
    found = again[0].score(subject.rows, subject.agreeing)
    _require(np.array_equal(found, expected), "an unpacked detector scores otherwise")


def opinion_is_registered(subject: OpinionSubject) -> None:
    """The name is the registered one, and the sizes fit the rows and answers."""
    opinion = subject.opinion
    _require(OPINIONS.get(opinion.name) is type(opinion), "the name is not the registered one")
    _require(opinion.features == subject.rows.shape[1], "not the number of features")
    _require(subject.answers.has(opinion.needs), "the answers lack what it needs")


def opinion_views(subject: OpinionSubject) -> None:
    """The copies are float32, finite, in the rows' order, and always the same."""
    opinion, rows = subject.opinion, subject.rows
    kept = rows.copy()
    views = opinion.views(rows)
    _require(views.dtype == np.float32, f"views are {views.dtype}")
    _require(views.shape == (len(rows) * opinion.copies, rows.shape[1]), "views of another shape")
    _require(bool(np.isfinite(views).all()), "a view is not finite")
    _require(np.array_equal(rows, kept), "the rows were changed")
    _require(np.array_equal(views, opinion.views(rows)), "views differ from call to call")
    alone = np.concatenate([opinion.views(rows[k : k + 1]) for k in range(len(rows))])
    _require(bool(np.allclose(views, alone, rtol=1e-6, atol=1e-6)), "views depend on other rows")
    _require(opinion.views(rows[:0]).shape == (0, rows.shape[1]), "no rows are not handled")
    wrong: list[Any] = [rows[:, :-1], rows[0], rows.astype(np.float64)]
    for attempt in wrong:
        try:
            opinion.views(attempt)
        except ValueError:
            continue
        raise CheckError(f"rows of {attempt.dtype} {attempt.shape} were accepted")


def opinion_polarity(subject: OpinionSubject) -> None:
    """High is suspicious: answers that fall score above all that stand."""
    stood = subject.opinion.score(subject.answers, subject.standing)
    fell = subject.opinion.score(subject.answers, subject.fallen)
    _require(stood.dtype == np.float64 and stood.shape == (len(subject.rows),), "the wrong shape")
    _require(bool(np.isfinite(stood).all() & np.isfinite(fell).all()), "a score is not finite")
    _require(bool(fell.min() > stood.max()), "fallen answers do not score above standing ones")


def opinion_not_finite(subject: OpinionSubject) -> None:
    """A view's answer that is not finite gives a score that is not, for that row alone."""
    expected = subject.opinion.score(subject.answers, subject.standing)
    for value in (np.nan, np.inf):
        again = _copied(subject.standing)
        assert again.probabilities is not None
        again.probabilities[3 * subject.opinion.copies, 0] = value
        scores = subject.opinion.score(subject.answers, again)
        _require(not np.isfinite(scores[3]), f"an answer with {value} has a finite score")
        _require(_close(np.delete(scores, 3), np.delete(expected, 3)), "others' scores change")


def opinion_answer_error(subject: OpinionSubject) -> None:
    """Answers that do not fit each other are a ValueError."""
    whole = subject.standing
    for attempt in (Answers(), whole[: len(whole) - 1], Answers(whole.labels)):
        try:
            subject.opinion.score(subject.answers, attempt)
        except ValueError:
            continue
        raise CheckError("answers that do not fit were accepted")


def opinion_is_immutable(subject: OpinionSubject) -> None:
    """No attribute can be set and no array written to."""
    _check_immutable(subject.opinion)


def opinion_packs(subject: OpinionSubject) -> None:
    """What is packed and unpacked makes the same views, to the last bit."""
    none, again = unpack(*pack([], [subject.opinion]))
    _require(len(again) == 1 and not none, "not one opinion comes back")
    same = np.array_equal(again[0].views(subject.rows), subject.opinion.views(subject.rows))
    _require(same, "an unpacked opinion makes other views")


def _score(subject: Subject, answers: Answers) -> Floats:
    return subject.detector.score(subject.rows, answers)


def _copied(answers: Answers) -> Answers:
    return answers[np.arange(len(answers))]  # a list of places copies, where a slice does not


def _refused(detector: AgreementDetector, rows: Any, answers: Answers, what: str) -> None:
    try:
        detector.score(rows, answers)
    except ValueError:
        return
    raise CheckError(f"accepted: {what}")


def _check_immutable(part: Any) -> None:
    for field in fields(part):
        value: Any = getattr(part, field.name)
        try:
            setattr(part, field.name, value)
        except AttributeError:
            pass
        else:
            raise CheckError(f"{field.name} can be set")
        if is_dataclass(value):
            _check_immutable(value)
        elif isinstance(value, np.ndarray):
            try:
                value.setflags(write=True)
            except ValueError:
                continue
            raise CheckError(f"{field.name} can be written to")


def _close(one: Floats, other: Floats) -> bool:
    return bool(np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise CheckError(message)


CHECKS: Final[dict[str, Callable[[Subject], None]]] = {
    check.__name__: check
    for check in (
        registered,
        polarity,
        output,
        empty,
        rows_are_independent,
        repeatable,
        immutable,
        input_is_left_alone,
        shape_error,
        answer_error,
        strided,
        not_finite,
        extremes,
        many_rows,
        packs,
    )
}

OPINION_CHECKS: Final[dict[str, Callable[[OpinionSubject], None]]] = {
    check.__name__: check
    for check in (
        opinion_is_registered,
        opinion_views,
        opinion_polarity,
        opinion_not_finite,
        opinion_answer_error,
        opinion_is_immutable,
        opinion_packs,
    )
}
