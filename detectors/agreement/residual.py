"""The witness of a regression model."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from detectors.agreement.base import Answers, Need
from detectors.agreement.space import CHUNK_ELEMENTS, Space
from detectors.agreement.witness import only_finite
from detectors.arrays import Floats, Singles, check_rows, frozen, real, whole
from detectors.base import Rows, Scores

OUTPUT_CAP = 4096


@dataclass(frozen=True, eq=False, slots=True)
class ResidualAgreement:
    """log of the largest |answer - witness| / unit over the outputs, floored at a unit.

    The witness is a ridge regression on Gaussian kernels and the components themselves.

    Attributes:
        space: the view of the rows.
        centres: (k, r) float32.
        weights: (k, m) float32, of the kernels.
        slopes: (r, m) float32, of the components.
        biases: (m,) float64.
        units: (m,) float64, positive: the usual residual of each output.
        gamma: above 0.
    """

    name = "residual_agreement"

    space: Space
    centres: Singles
    weights: Singles
    slopes: Singles
    biases: Floats
    units: Floats
    gamma: float
    _lengths: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        centres = frozen(self.centres, np.float32, (None, self.space.rank))
        biases = frozen(self.biases, np.float64, (None,))
        whole(biases.size, "outputs", 1, OUTPUT_CAP)
        whole(len(centres), "centres", 1, 1 << 20)
        weights = frozen(self.weights, np.float32, (len(centres), biases.size))
        slopes = frozen(self.slopes, np.float32, (self.space.rank, biases.size))
        units = frozen(self.units, np.float64, (biases.size,))
        if not bool((units > 0).all()):
            raise ValueError("units must be positive")
        lengths = np.einsum("ij,ij->i", centres, centres, dtype=np.float64)
        for name, array in (
            ("centres", centres),
            ("weights", weights),
            ("slopes", slopes),
            ("biases", biases),
            ("units", units),
            ("_lengths", frozen(lengths, np.float64, lengths.shape)),
        ):
            object.__setattr__(self, name, array)
        object.__setattr__(self, "gamma", real(self.gamma, "gamma", low=1e-30, high=1e30))

    @property
    def features(self) -> int:
        """d: the number of features of a row."""
        return self.space.features

    @property
    def outputs(self) -> int:
        """m: the values of an answer."""
        return self.biases.size

    @property
    def needs(self) -> Need:
        """The values of a regression model."""
        return "values"

    def predict(self, rows: Rows) -> Floats:
        """(n, d) float32 to (n, m): what the witness would answer."""
        return self._predict(self.space.apply(rows))

    def score(self, rows: Rows, answers: Answers) -> Scores:
        """(n, d) float32 and n answers to (n,) float64, high = the witness disagrees.

        Raises:
            ValueError: if rows or answers do not fit.
        """
        check_rows(rows, self.features)
        self.check(answers, len(rows))
        return only_finite(self.measure(self.space.apply(rows), answers), rows)

    def check(self, answers: Answers, count: int) -> None:
        """Raises ValueError unless the answers fit the detector and are ``count``."""
        values = answers.values
        if values is None:
            raise ValueError("the answers have no values")
        if values.shape != (count, self.outputs) or values.dtype != np.float64:
            raise ValueError(
                f"expected values of shape ({count}, {self.outputs}), got {values.shape}"
            )

    def measure(self, seen: Floats, answers: Answers) -> Scores:
        """As :meth:`score`, of finite rows as the space shows them and answers that fit."""
        assert answers.values is not None
        with np.errstate(all="ignore"):
            gap = np.abs(answers.values - self._predict(seen)) / self.units
            found: Scores = np.log1p(np.minimum(gap.max(axis=1), np.finfo(np.float64).max))
            found += 0.0 * answers.values.sum(axis=1)  # what a minimum may have lost
        return found

    def _predict(self, seen: Floats) -> Floats:
        found = np.empty((len(seen), self.outputs))
        chunk = max(1, CHUNK_ELEMENTS // len(self.centres))
        with np.errstate(all="ignore"):
            for start in range(0, len(seen), chunk):
                part = seen[start : start + chunk]
                squared = self._lengths - 2.0 * (part @ self.centres.T)
                squared += np.einsum("ij,ij->i", part, part)[:, None]
                kernels = np.exp(-self.gamma * np.maximum(squared, 0.0))
                found[start : start + chunk] = kernels @ self.weights + part @ self.slopes
            found += self.biases
        return found
