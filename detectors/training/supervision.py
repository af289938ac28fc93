"""What the data and the model say of each row: classes with one order, or values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Self

import numpy as np
import numpy.typing as npt

from detectors.agreement.base import Answers, Labels
from detectors.arrays import Floats
from detectors.sample import class_order
from detectors.training.readers import DataError

_ORDER: Final = "say which classes the answers tell apart, in the order of their columns"

_LARGEST_VALUE: Final = 1e100
"""Of values: their squares, and sums of those, are finite."""


@dataclass(frozen=True, slots=True, eq=False)
class Supervision:
    """Truth and answers of n rows, in one order of classes.

    Attributes:
        answers: what the model said.
        classes: names, in the order of the answers' indices; None for values.
        labels: (n,) true classes, or where there are none the model's own; None for values.
        targets: (n, m) true values, or where there are none the model's own; None for classes.
        given: whether labels or targets came with the data.
    """

    answers: Answers
    classes: tuple[str, ...] | None
    labels: Labels | None
    targets: Floats | None
    given: bool

    @classmethod
    def of(
        cls,
        answers: Answers,
        *,
        labels: npt.NDArray[np.str_] | None = None,
        classes: Sequence[str] | None = None,
        targets: npt.NDArray[np.float64] | None = None,
    ) -> Self:
        """Brings labels and answers into one order.

        Args:
            answers: of n rows.
            labels: (n,) names of true classes; None: unknown.
            classes: names in the order of the answers' columns or indices; None: the labels', as
                sorted, numbers by value; without labels 0, 1, and so on.
            targets: (n,) or (n, m) true values, for a regression model; None: unknown.

        Raises:
            DataError: if they do not fit each other.
        """
        count = len(answers)
        if answers.labels is None:
            if labels is not None:
                raise DataError("labels are classes, and the answers are values")
            return cls(answers, None, None, _targets(answers, targets), targets is not None)
        if targets is not None:
            raise DataError("targets are values, and the answers are classes")
        if labels is not None and len(labels) != count:
            raise DataError(f"{len(labels)} labels for {count} answers")
        order = _classes(answers, labels, classes)
        if labels is None:
            return cls(answers, order, answers.labels, None, False)
        place = {name: index for index, name in enumerate(order)}
        strangers = sorted({str(name) for name in np.unique(labels)} - set(place), key=class_order)
        if strangers:
            raise DataError(f"label {strangers[0]!r} is none of the classes {_some(order)}")
        found = np.array([place[str(label)] for label in labels], dtype=np.int64)
        return cls(answers, order, found, None, True)

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> Self:
        """Of some of the rows."""
        return replace(
            self,
            answers=self.answers[rows],
            labels=None if self.labels is None else self.labels[rows],
            targets=None if self.targets is None else self.targets[rows],
        )

    def parts(self, sizes: Sequence[int]) -> list[Self]:
        """Of the first rows, of those that follow, and so on."""
        ends = np.cumsum(sizes).tolist()
        return [self[np.arange(end - size, end)] for size, end in zip(sizes, ends, strict=True)]

    @property
    def source(self) -> Literal["given", "answers"]:
        """What the witnesses learn: what came with the data, or the model's own answers."""
        return "given" if self.given else "answers"

    def accuracy(self, said: Labels | Floats) -> float:
        """The share of rows that are told as they should be; of values, the share of the variance
        that is told (R squared)."""
        if self.labels is not None:
            return float(np.mean(said == self.labels))
        assert self.targets is not None
        spread = float(np.square(self.targets - self.targets.mean(axis=0)).sum())
        error = float(np.square(said - self.targets).sum())
        return 1.0 - error / spread if spread > 0 else float(error == 0)

    def model_accuracy(self) -> float | None:
        """That of the model; None if there is nothing but its own answers to compare with."""
        if not self.given:
            return None
        said = self.answers.values if self.answers.labels is None else self.answers.labels
        assert said is not None
        return self.accuracy(said)


def _targets(answers: Answers, targets: npt.NDArray[np.float64] | None) -> Floats:
    if answers.values is None:
        raise DataError("the answers hold neither classes nor values")
    if not bool((np.abs(answers.values) < _LARGEST_VALUE).all()):
        raise DataError(f"an answer is beyond {_LARGEST_VALUE:g}")
    if targets is None:
        return answers.values
    wide = np.asarray(targets, np.float64).reshape(len(targets), -1)
    if wide.shape != answers.values.shape:
        raise DataError(f"targets of shape {wide.shape} for answers of {answers.values.shape}")
    if not bool((np.abs(wide) < _LARGEST_VALUE).all()):
        raise DataError(f"a target is not finite, or beyond {_LARGEST_VALUE:g}")
    return wide


def _classes(
    answers: Answers, labels: npt.NDArray[np.str_] | None, classes: Sequence[str] | None
) -> tuple[str, ...]:
    assert answers.labels is not None
    width = None if answers.probabilities is None else answers.probabilities.shape[1]
    least = int(answers.labels.max(initial=0)) + 1
    if classes is not None:
        order = tuple(classes)
        what = f"{len(order)} classes are named"
    elif labels is not None:
        order = tuple(sorted({str(name) for name in np.unique(labels)}, key=class_order))
        what = f"the labels name {len(order)} classes"
    else:
        order = tuple(str(index) for index in range(width or max(least, 2)))
        what = ""
    if len(set(order)) != len(order) or "" in order:
        raise DataError("a class is named twice, or by nothing")
    if width is not None and len(order) != width:
        raise DataError(f"{what}, the answers have {width} columns: {_ORDER}")
    if len(order) < max(least, 2):
        raise DataError(f"{what}, the answers tell {max(least, 2)}: {_ORDER}")
    return order


def _some(names: tuple[str, ...], most: int = 12) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
