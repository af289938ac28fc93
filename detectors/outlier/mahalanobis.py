"""Squared Mahalanobis distance under a Ledoit-Wolf covariance."""

from __future__ import annotations

from dataclasses import dataclass

from detectors.outlier.projection import QuadraticForm


@dataclass(frozen=True, eq=False, slots=True)
class Mahalanobis(QuadraticForm):
    """z' C^-1 z, with C the shrunk covariance of the standardised training rows.

    Ledoit and Wolf (2004) shrink the covariance towards a multiple of the identity, which leaves
    its eigenvectors alone: in principal components the distance is a weighted sum of squares, each
    weight one over a shrunk eigenvalue. Components that the basis leaves out share one eigenvalue.

    Equal to ``LedoitWolf().fit(Z).mahalanobis(Z)`` to 1e-9, relative, for a complete basis.
    """

    name = "mahalanobis"
