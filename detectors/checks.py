"""The checks that every outlier detector passes, whoever fitted it.

Each takes a :class:`Subject` and raises :class:`CheckError` with what is wrong. ``CHECKS`` lists
them all: a new detector is one more line in a parametrised test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from detectors.arrays import Floats, Singles
from detectors.outlier import REGISTRY, OutlierDetector

ROW_TOLERANCE: Final = 1e-9
"""A row alone and in a batch: matrix products round differently, and nothing else may differ."""


ONE_SIDED: Final = frozenset({"half_space"})
"""Kinds that see one direction only: a huge value on the other side passes for normal."""


class CheckError(AssertionError):
    """A detector breaks the contract."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A detector and rows to try it on.

    Attributes:
        detector: under test.
        honest: (n, d) float32 rows like those that it was fitted on, at least 20.
        outliers: (m, d) float32 rows that are plainly not.
    """

    detector: OutlierDetector
    honest: Singles
    outliers: Singles


def polarity(subject: Subject) -> None:
    """High is suspicious: plain outliers score above nearly all honest rows."""
    honest = subject.detector.score(subject.honest)
    outliers = subject.detector.score(subject.outliers)
    _require(
        bool(np.median(outliers) > np.quantile(honest, 0.9)), "outliers do not score above honest"
    )


def registered(subject: Subject) -> None:
    """The name is the registered one."""
    detector = subject.detector
    _require(REGISTRY.get(detector.name) is type(detector), "the name is not the registered one")


def output(subject: Subject) -> None:
    """One finite float64 a row."""
    scores = subject.detector.score(subject.honest)
    _require(scores.dtype == np.float64, f"scores are {scores.dtype}")
    _require(scores.shape == (len(subject.honest),), f"scores are of shape {scores.shape}")
    _require(bool(np.isfinite(scores).all()), "an honest row's score is not finite")


def empty(subject: Subject) -> None:
    """No rows, no scores, no error."""
    scores = subject.detector.score(subject.honest[:0])
    _require(scores.shape == (0,) and scores.dtype == np.float64, "no rows are not handled")


def rows_are_independent(subject: Subject) -> None:
    """A row scores the same alone, in a batch and in another order."""
    batch = subject.detector.score(subject.honest)
    alone = np.concatenate([subject.detector.score(row[None]) for row in subject.honest])
    turned = subject.detector.score(np.ascontiguousarray(subject.honest[::-1]))[::-1]
    for other in (alone, turned):
        close = np.allclose(batch, other, rtol=ROW_TOLERANCE, atol=ROW_TOLERANCE)
        _require(close, "a row's score depends on the other rows")


def repeatable(subject: Subject) -> None:
    """Scoring teaches nothing: replaying an outlier leaves all scores as they were."""
    before = subject.detector.score(subject.honest)
    for _ in range(50):
        subject.detector.score(subject.outliers)
    _require(np.array_equal(before, subject.detector.score(subject.honest)), "scores have moved")


def immutable(subject: Subject) -> None:
    """No attribute can be set and no array written to."""
    for field in fields(subject.detector):
        value: Any = getattr(subject.detector, field.name)
        try:
            setattr(subject.detector, field.name, value)
        except AttributeError:
            pass
        else:
            raise CheckError(f"{field.name} can be set")
        if isinstance(value, np.ndarray):
            try:
                value.setflags(write=True)
            except ValueError:
                continue
            raise CheckError(f"{field.name} can be written to")


def input_is_left_alone(subject: Subject) -> None:
    """Scoring does not write to the rows."""
    rows = subject.honest.copy()
    subject.detector.score(rows)
    _require(np.array_equal(rows, subject.honest), "the rows were changed")


def shape_error(subject: Subject) -> None:
    """Another number of features, dimensions or another dtype is a ValueError."""
    rows = subject.honest
    wrong: list[Any] = [
        np.hstack([rows, rows[:, :1]]),
        rows[:, :-1],
        rows[0],
        rows[None],
        rows.astype(np.float64),
        rows.astype(np.int32),
    ]
    for attempt in wrong:
        try:
            subject.detector.score(attempt)
        except ValueError:
            continue
        raise CheckError(f"rows of {attempt.dtype} {attempt.shape} were accepted")


def strided(subject: Subject) -> None:
    """Rows that are not contiguous score as their contiguous copy does."""
    rows = subject.honest
    wide = np.zeros((len(rows), 2 * rows.shape[1]), dtype=np.float32)
    wide[:, ::2] = rows
    scores = subject.detector.score(rows)
    for view in (wide[:, ::2], np.asfortranarray(rows)):
        found = subject.detector.score(view)
        close = np.allclose(found, scores, rtol=ROW_TOLERANCE, atol=ROW_TOLERANCE)
        _require(close, "strided rows score otherwise")


def not_finite(subject: Subject) -> None:
    """A row with NaN or infinity gets no finite score, and spoils no other row."""
    expected = subject.detector.score(subject.honest)
    for value in (np.nan, np.inf, -np.inf):
        for column in {0, subject.honest.shape[1] - 1}:
            rows = subject.honest.copy()
            rows[3, column] = value
            scores = subject.detector.score(rows)
            _require(not np.isfinite(scores[3]), f"a row with {value} has a finite score")
            others = np.delete(scores, 3)
            close = np.allclose(others, np.delete(expected, 3), rtol=ROW_TOLERANCE, atol=1e-9)
            _require(close, f"a row with {value} changes the scores of others")


def extremes(subject: Subject) -> None:
    """Huge and tiny values give a finite score, and huge ones are suspicious."""
    features = subject.honest.shape[1]
    most = np.finfo(np.float32).max
    values = np.array([1e30, -1e30, most, -most, 1e-45, 0.0], dtype=np.float32)
    rows = np.repeat(values[:, None], features, axis=1)
    scores: Floats = subject.detector.score(rows)
    _require(bool(np.isfinite(scores).all()), f"scores of extreme rows: {scores}")
    honest = subject.detector.score(subject.honest)
    if subject.detector.name in ONE_SIDED:
        _require(bool((scores[:2] >= np.median(honest)).any()), "neither side is suspicious")
        return
    _require(bool((scores[:4] >= np.median(honest)).all()), "a huge value passes for normal")


def many_rows(subject: Subject) -> None:
    """A batch larger than a chunk scores as its parts do."""
    copies = -(-5000 // len(subject.honest))
    rows = np.tile(subject.honest, (copies, 1))
    scores = subject.detector.score(rows)
    expected = np.tile(subject.detector.score(subject.honest), copies)
    _require(
        np.allclose(scores, expected, rtol=ROW_TOLERANCE, atol=ROW_TOLERANCE),
        "a large batch scores otherwise",
    )


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
        strided,
        not_finite,
        extremes,
        many_rows,
    )
}
