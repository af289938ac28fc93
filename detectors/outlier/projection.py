"""The space that a detector works in: standardised principal components, or the rows as they come.

The detectors that are fitted together share one projection, each taking as many leading components
as it needs, so that a row is projected once. An estimator that was fitted elsewhere brings its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from detectors.arrays import Floats, Singles, check_rows, frozen
from detectors.base import Rows

CHUNK_ELEMENTS = 1 << 20
"""Temporaries of a batch stay below about this many float64 values (8 MiB)."""


class Projected(NamedTuple):
    """Rows in the space of a projection.

    Attributes:
        components: (n, rank) coordinates along the basis.
        norms: (n,) squared length of the standardised rows, including what the basis leaves out.
    """

    components: Floats
    norms: Floats


@dataclass(frozen=True, eq=False, slots=True)
class Projection:
    """z = (x - mean) / scale, then y = basis z.

    Attributes:
        mean: (d,) float64.
        scale: (d,) float64, positive.
        basis: (rank, d) float64, orthonormal rows, by falling variance. With no rows at all it
            stands for the identity: nothing is turned, y is z.
        complete: whether the basis leaves nothing out (rank equals d).
    """

    mean: Floats
    scale: Floats
    basis: Floats
    complete: bool = field(init=False)

    def __post_init__(self) -> None:
        mean = frozen(self.mean, np.float64, (None,))
        basis = frozen(self.basis, np.float64, (None, mean.size))
        if not mean.size or len(basis) > mean.size:
            raise ValueError(f"a basis of {len(basis)} components for {mean.size} features")
        scale = frozen(self.scale, np.float64, (mean.size,))
        if not bool((scale > 0).all()):
            raise ValueError("every scale must be positive")
        if float(np.abs(basis).max(initial=0.0)) > 1 + 1e-6:
            raise ValueError("the basis is not orthonormal")
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "basis", basis)
        object.__setattr__(self, "complete", len(basis) in {0, mean.size})

    @classmethod
    def identity(cls, features: int) -> Projection:
        """Rows of ``features`` values as they come."""
        return cls(np.zeros(features), np.ones(features), np.zeros((0, features)))

    @property
    def features(self) -> int:
        """d: the number of features of a row."""
        return self.mean.size

    @property
    def rank(self) -> int:
        """The number of components."""
        return len(self.basis) or self.mean.size

    @property
    def turns(self) -> bool:
        """Whether there is a basis, and not the identity."""
        return len(self.basis) > 0

    def apply(self, rows: Rows | Singles) -> Projected:
        """(n, d) float32 to the projected rows. Values that are not finite stay so.

        Raises:
            ValueError: if ``rows`` is not (n, d) float32.
        """
        check_rows(rows, self.features)
        # What is not finite turns to NaN and is a fault for the caller: no warning is needed.
        with np.errstate(all="ignore"):
            standard = (rows - self.mean) / self.scale
            norms = np.einsum("ij,ij->i", standard, standard)
            return Projected(standard @ self.basis.T if len(self.basis) else standard, norms)


@dataclass(frozen=True, eq=False, slots=True)
class RawDetector:
    """A detector that reads rows as they come. Subclasses add name, arrays and ``score``."""

    name: ClassVar[str] = ""

    if TYPE_CHECKING:  # at run time a dataclass would take it for the default of a field

        @property
        def features(self) -> int:
            """d: the number of features of a row."""

    def score(self, rows: Rows) -> Floats:
        """(n, d) float32 to (n,) float64, high = suspicious; not finite for a row that is not.

        Raises:
            ValueError: if ``rows`` is not (n, d) float32.
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False, slots=True)
class ProjectedDetector:
    """A detector that measures projected rows. Subclasses add name, arrays and ``measure``."""

    name: ClassVar[str] = ""

    projection: Projection

    @property
    def features(self) -> int:
        """d: the number of features of a row."""
        return self.projection.features

    def measure(self, projected: Projected) -> Floats:
        """Projected rows to (n,) scores, high = suspicious."""
        raise NotImplementedError

    def score(self, rows: Rows) -> Floats:
        """(n, d) float32 to (n,) float64, high = suspicious.

        Raises:
            ValueError: if ``rows`` is not (n, d) float32.
        """
        return self.measure(self.projection.apply(rows))


@dataclass(frozen=True, eq=False, slots=True)
class QuadraticForm(ProjectedDetector):
    """sum_i weights_i y_i^2 + rest (|z|^2 - sum_i y_i^2): a weighted distance from the mean.

    Attributes:
        weights: (r,) float64, not negative, r at most the projection's rank.
        rest: the weight of what the r components leave out, not negative.
    """

    weights: Floats
    rest: float

    def __post_init__(self) -> None:
        weights = frozen(self.weights, np.float64, (None,))
        if not 1 <= weights.size <= self.projection.rank:
            raise ValueError(f"{weights.size} weights for {self.projection.rank} components")
        if not bool((weights >= 0).all()) or not np.isfinite(self.rest) or self.rest < 0:
            raise ValueError("weights must be finite and not negative")
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "rest", float(self.rest))

    def measure(self, projected: Projected) -> Floats:
        """Projected rows to (n,) scores, high = suspicious."""
        with np.errstate(all="ignore"):
            squares = np.square(projected.components[:, : self.weights.size])
            scores: Floats = squares @ self.weights
            if self.rest:
                left = projected.norms - squares.sum(axis=1)
                # Rounding may leave a hair below zero; NaN passes through maximum and stays NaN.
                scores += self.rest * np.maximum(left, 0.0)
        return scores
