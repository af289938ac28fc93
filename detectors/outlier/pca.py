"""Squared reconstruction error of a principal component analysis."""

from __future__ import annotations

from dataclasses import dataclass

from detectors.outlier.projection import QuadraticForm


@dataclass(frozen=True, eq=False, slots=True)
class PrincipalComponents(QuadraticForm):
    """|z - P'P z|^2, with P the leading components of the standardised training rows.

    In principal components it is the sum of squares over all that P leaves out, so the weight of a
    kept component is 0 and of every other 1.

    Equal to the squared distance to ``PCA.inverse_transform(PCA.transform(Z))`` to 1e-9, relative
    to the row's squared length |z|^2.
    """

    name = "pca"
