"""How sure of its answer the model is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detectors.agreement.base import Answers, Need
from detectors.agreement.witness import CLASS_CAP, check_probabilities, only_finite
from detectors.arrays import check_rows, whole
from detectors.base import Rows, Scores

CERTAIN = 30.0
"""Log-odds from which on a model counts as certain: what the wire's decimals keep apart."""


@dataclass(frozen=True, eq=False, slots=True)
class Confidence:
    """log p_2 - log p_1: minus the margin between the two best classes, in log-odds.

    The smallest change that fools a model leaves it at the boundary, where honest rows are rare.
    The baseline of Hendrycks and Gimpel (2017, arXiv 1610.02136) uses p_1 alone.

    Attributes:
        width: d, of a row, which it does not look at.
        classes: C.
    """

    name = "confidence"

    width: int
    classes: int

    def __post_init__(self) -> None:
        whole(self.width, "width", 1, 1 << 24)
        whole(self.classes, "classes", 2, CLASS_CAP)

    @property
    def features(self) -> int:
        """d: the number of features of a row."""
        return self.width

    @property
    def outputs(self) -> int:
        """C: the classes of an answer."""
        return self.classes

    @property
    def needs(self) -> Need:
        """Scores of all classes."""
        return "probabilities"

    def score(self, rows: Rows, answers: Answers) -> Scores:
        """(n, d) float32 and n answers to (n,) float64 from -30 to 0, high = undecided.

        Raises:
            ValueError: if rows or answers do not fit.
        """
        check_rows(rows, self.width)
        probabilities = check_probabilities(answers, len(rows), self.classes)
        with np.errstate(all="ignore"):
            poison = 0.0 * probabilities.sum(axis=1)  # which a sort and a maximum lose
            best = np.partition(probabilities, self.classes - 2, axis=1)[:, -2:]
            logs = np.log(np.maximum(best, np.finfo(np.float64).tiny))
            found: Scores = np.maximum(logs[:, 0] - logs[:, 1], -CERTAIN) + poison
        return only_finite(found, rows)
