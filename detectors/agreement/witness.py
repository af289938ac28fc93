"""Witnesses: models of their own, fitted from honest labelled rows, that answer as well."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from detectors.agreement.base import Answers, Labels, Need
from detectors.agreement.space import Space
from detectors.arrays import Floats, check_rows, real, whole
from detectors.base import Rows, Scores

FLOOR = -25.0
"""Log-probability below which a witness's certainty says no more."""
CLASS_CAP = 4096
_FEW = 32


@dataclass(frozen=True, eq=False, slots=True)
class Witness:
    """A classifier; its score is how much more it believes another class than the answer's.

    score = max over c other than the answer's label of log w_c, minus log w of that label, where w
    is the softmax of ``scale`` times :meth:`logits`. Subclasses add the name, the arrays and
    ``logits``.

    Attributes:
        space: the view of the rows.
        classes: C.
        scale: of the logits: the inverse temperature, fitted on rows that the witness never saw.
    """

    name = ""

    space: Space
    classes: int
    scale: float

    def __post_init__(self) -> None:
        whole(self.classes, "classes", 2, CLASS_CAP)
        object.__setattr__(self, "scale", real(self.scale, "scale", low=1e-6, high=1e6))

    @property
    def features(self) -> int:
        """d: the number of features of a row."""
        return self.space.features

    @property
    def outputs(self) -> int:
        """C: the classes of an answer."""
        return self.classes

    @property
    def needs(self) -> Need:
        """Labels are enough."""
        return "labels"

    def logits(self, seen: Floats) -> Floats:
        """Rows as the space shows them, (n, r), to (n, C)."""
        raise NotImplementedError

    def opinion(self, rows: Rows) -> Floats:
        """(n, d) float32 to (n, C): what the witness would answer, in log-probabilities."""
        check_rows(rows, self.features)
        with np.errstate(all="ignore"):
            found = self.scale * self.logits(self.space.apply(rows))
        return log_softmax(found)

    def score(self, rows: Rows, answers: Answers) -> Scores:
        """(n, d) float32 and n answers to (n,) float64, high = the witness disagrees.

        Raises:
            ValueError: if rows or answers do not fit.
        """
        check_rows(rows, self.features)
        self.check(answers, len(rows))
        return only_finite(self.measure(self.space.apply(rows), answers), rows)

    def check(self, answers: Answers, count: int) -> None:
        """Raises ValueError unless the answers fit the witness and are ``count``."""
        check_labels(answers, count, self.classes)

    def measure(self, seen: Floats, answers: Answers) -> Scores:
        """As :meth:`score`, of finite rows as the space shows them and answers that fit."""
        assert answers.labels is not None
        with np.errstate(all="ignore"):
            return disagreement(self.scale * self.logits(seen), answers.labels)


def only_finite(scores: Scores, rows: Rows) -> Scores:
    """The scores, which may be written to, with NaN for each row that is not finite.

    A minimum or a sort may have lost on the way what is not finite.
    """
    if not bool(np.isfinite(rows).all()):
        scores[~np.isfinite(rows).all(axis=1)] = np.nan
    return scores


def log_softmax(logits: Floats) -> Floats:
    """(n, C) logits to log-probabilities of at least :data:`FLOOR`, about."""
    shifted: Floats = logits - logits.max(axis=1, keepdims=True)
    np.maximum(shifted, FLOOR, out=shifted)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def disagreement(logits: Floats, labels: Labels) -> Scores:
    """(n,): the best other class's log-probability minus that of the label.

    The logits are written to. What normalises the probabilities cancels out.
    """
    if len(labels) == 1 and logits.shape[1] <= _FEW:
        return np.array([_disagreement(logits[0].tolist(), int(labels[0]))])
    logits -= logits.max(axis=1, keepdims=True)
    np.maximum(logits, FLOOR, out=logits)
    places = np.arange(len(labels))
    said = logits[places, labels]
    logits[places, labels] = -np.inf
    found: Scores = logits.max(axis=1)
    found -= said
    return found


def _disagreement(logits: list[float], label: int) -> float:
    """The same of one row and few classes: cheaper without arrays."""
    if math.isnan(sum(logits)):
        return math.nan
    best = max(logits)
    said = max(logits[label] - best, FLOOR)
    logits[label] = -math.inf
    return max(max(logits) - best, FLOOR) - said


def check_labels(answers: Answers, count: int, classes: int) -> Labels:
    """The labels of ``count`` answers.

    Raises:
        ValueError: if they are missing, not as many, or name a class that there is not.
    """
    labels = answers.labels
    if labels is None:
        raise ValueError("the answers have no labels")
    if labels.shape != (count,) or labels.dtype != np.int64:
        raise ValueError(f"expected {count} labels of int64, got {labels.shape} {labels.dtype}")
    if count and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise ValueError(f"a label is not one of the {classes} classes")
    return labels


def check_probabilities(answers: Answers, count: int, classes: int) -> Floats:
    """The (count, classes) probabilities of the answers, whose labels fit too.

    Raises:
        ValueError: if they are missing or of another shape.
    """
    check_labels(answers, count, classes)
    found = answers.probabilities
    if found is None:
        raise ValueError("the answers have no probabilities")
    if found.shape != (count, classes) or found.dtype != np.float64:
        raise ValueError(f"expected probabilities of shape ({count}, {classes}), got {found.shape}")
    return found
