"""How far a row lies from the examples of the class that the model says it is of."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from detectors.agreement.base import Answers, Need
from detectors.agreement.space import Space
from detectors.agreement.witness import CLASS_CAP, check_labels, only_finite
from detectors.arrays import Floats, Singles, check_rows, frozen, whole
from detectors.base import Rows, Scores


@dataclass(frozen=True, eq=False, slots=True)
class ClassDensity:
    """log(1 + (y - m_c)' P_c (y - m_c)) - offset_c, with c the answer's class.

    The Mahalanobis distance to the predicted class (Lee et al. 2018, arXiv 1807.03888), with a
    covariance for each class that is shrunk towards the one that they share.

    Attributes:
        space: the view of the rows.
        factors: (C, r, r) float32, lower triangular: P = F' F.
        means: (C, r) float32.
        offsets: (C,) float64: what is usual for the class.
    """

    name = "class_density"

    space: Space
    factors: Singles
    means: Singles
    offsets: Floats
    _wide: Floats = field(init=False, repr=False)
    _shift: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rank = self.space.rank
        factors = frozen(self.factors, np.float32, (None, rank, rank))
        whole(len(factors), "classes", 2, CLASS_CAP)
        means = frozen(self.means, np.float32, (len(factors), rank))
        object.__setattr__(self, "factors", factors)
        object.__setattr__(self, "means", means)
        object.__setattr__(self, "offsets", frozen(self.offsets, np.float64, (len(factors),)))
        wide = np.ascontiguousarray(factors, dtype=np.float64)
        object.__setattr__(self, "_wide", frozen(wide, np.float64, wide.shape))
        shift = np.einsum("crs,cs->cr", wide, means.astype(np.float64))
        object.__setattr__(self, "_shift", frozen(shift, np.float64, shift.shape))

    @property
    def features(self) -> int:
        """d: the number of features of a row."""
        return self.space.features

    @property
    def outputs(self) -> int:
        """C: the classes of an answer."""
        return len(self.factors)

    @property
    def needs(self) -> Need:
        """Labels are enough."""
        return "labels"

    def score(self, rows: Rows, answers: Answers) -> Scores:
        """(n, d) float32 and n answers to (n,) float64, high = far from the answer's class.

        Raises:
            ValueError: if rows or answers do not fit.
        """
        check_rows(rows, self.features)
        self.check(answers, len(rows))
        return only_finite(self.measure(self.space.apply(rows), answers), rows)

    def check(self, answers: Answers, count: int) -> None:
        """Raises ValueError unless the answers fit the detector and are ``count``."""
        check_labels(answers, count, self.outputs)

    def measure(self, seen: Floats, answers: Answers) -> Scores:
        """As :meth:`score`, of finite rows as the space shows them and answers that fit."""
        labels = answers.labels
        assert labels is not None
        found = np.empty(len(seen))
        with np.errstate(all="ignore"):
            for label in np.unique(labels).tolist() if len(labels) > 1 else labels.tolist():
                chosen = slice(None) if len(labels) == 1 else labels == label
                gap = seen[chosen] @ self._wide[label].T - self._shift[label]
                squared = np.einsum("ij,ij->i", gap, gap)
                found[chosen] = np.log1p(squared) - self.offsets[label]
        return found
