"""The contracts of agreement detectors: an input and the model's answer in, a score out.

An input that was changed a little looks like an honest one. What does not fit is the pair: the
answer is not the one that inputs like this get. So these detectors hold witnesses, fitted from
honest labelled rows, and score how much they disagree with what the model said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats
from detectors.base import Rows, Scores

Labels: TypeAlias = npt.NDArray[np.int64]
"""(n,) int64: for each row the index of a class in the bundle's order."""

Need: TypeAlias = Literal["labels", "probabilities", "values"]
"""What a detector takes of an answer: the label is known wherever the probabilities are."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What the model said of n rows. A classifier's has labels, a regression model's has values.

    Attributes:
        labels: (n,) int64, each from 0 to C - 1; None for a regression model.
        probabilities: (n, C) float64, each row summing to 1, or None if only labels are known.
        values: (n, m) float64; None for a classifier.
    """

    labels: Labels | None = None
    probabilities: Floats | None = None
    values: Floats | None = None

    @classmethod
    def of_probabilities(cls, probabilities: npt.ArrayLike) -> Self:
        """Of (n, C) probabilities: the label is the most probable class, the first of equals.

        Raises:
            ValueError: if a value is not finite or negative, or a row sums to 0.
        """
        given = np.asarray(probabilities, np.float64)
        if given.ndim != 2 or given.shape[1] < 2:
            raise ValueError(f"probabilities of shape {given.shape}: expected (n, classes)")
        sums = given.sum(axis=1, keepdims=True)
        if not bool(np.isfinite(given).all()) or bool((given < 0).any()) or bool((sums <= 0).any()):
            raise ValueError("probabilities must be finite and not negative, and sum to above 0")
        return cls(given.argmax(axis=1).astype(np.int64), given / sums)

    @classmethod
    def of_logits(cls, logits: npt.ArrayLike) -> Self:
        """Of (n, C) logits, through the softmax.

        Raises:
            ValueError: if a value is not finite.
        """
        given = np.asarray(logits, np.float64)
        if given.ndim != 2 or not bool(np.isfinite(given).all()):
            raise ValueError("logits must be finite and of shape (n, classes)")
        return cls.of_probabilities(np.exp(given - given.max(axis=1, keepdims=True)))

    @classmethod
    def of_labels(cls, labels: npt.ArrayLike) -> Self:
        """Of (n,) indices of classes.

        Raises:
            ValueError: if they are not whole numbers from 0 on.
        """
        given = np.asarray(labels)
        if given.ndim != 1 or given.dtype.kind not in "iu" or bool((given < 0).any()):
            raise ValueError("labels must be whole numbers from 0 on, one a row")
        return cls(given.astype(np.int64))

    @classmethod
    def of_values(cls, values: npt.ArrayLike) -> Self:
        """Of (n,) or (n, m) values of a regression model.

        Raises:
            ValueError: if one is not finite.
        """
        given = np.asarray(values, np.float64)
        given = given[:, None] if given.ndim == 1 else given
        if given.ndim != 2 or not given.shape[1] or not bool(np.isfinite(given).all()):
            raise ValueError("values must be finite, one or more a row")
        return cls(values=given)

    def __len__(self) -> int:
        known = self.labels if self.labels is not None else self.values
        return 0 if known is None else len(known)

    def __getitem__(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_] | slice) -> Self:
        """The answers of some of the rows."""
        return type(self)(
            None if self.labels is None else self.labels[rows],
            None if self.probabilities is None else self.probabilities[rows],
            None if self.values is None else self.values[rows],
        )

    def has(self, need: Need) -> bool:
        """Whether a detector with this need can be asked."""
        return getattr(self, need) is not None


class AgreementDetector(Protocol):
    """Scores rows against their answers. Immutable once loaded.

    Attributes:
        name: the registered name.
        features: d, of a row.
        outputs: C, the classes, or m, the values, of an answer.
        needs: what it takes of an answer.
    """

    name: str

    @property
    def features(self) -> int: ...

    @property
    def outputs(self) -> int: ...

    @property
    def needs(self) -> Need: ...

    def score(self, rows: Rows, answers: Answers) -> Scores:
        """(n, d) float32 and n answers to (n,) float64, high = suspicious.

        A row's score does not depend on the other rows of the call. A row or an answer that is not
        finite gets a score that is not, and spoils no other row's.

        Raises:
            ValueError: if the rows have the wrong number of features, the answers are not as many,
                lack what the detector needs, or name a class that it does not know.
        """


class SecondOpinion(Protocol):
    """Asks the model again, about changed copies of the row. Immutable once loaded.

    Attributes:
        name: the registered name.
        features: d, of a row.
        needs: what it takes of an answer, and of the answers to the copies.
        copies: v, the copies of each row that the model is asked about.
    """

    name: str

    @property
    def features(self) -> int: ...

    @property
    def needs(self) -> Need: ...

    @property
    def copies(self) -> int: ...

    def views(self, rows: Rows) -> Rows:
        """(n, d) to (n * v, d) float32: the v copies of the first row, then of the second, ...

        The same row always gives the same copies: what is random in them is fixed in the bundle.
        """

    def score(self, answers: Answers, again: Answers) -> Scores:
        """The n answers and the n * v answers to the views, to (n,) float64, high = suspicious."""
