"""Detectors that look at the input only, compiled to flat, immutable numpy arrays."""

from __future__ import annotations

from typing import Final, TypeAlias

from detectors.outlier.gmm import GaussianMixture
from detectors.outlier.isolation_forest import IsolationForest
from detectors.outlier.knn import NearestNeighbours
from detectors.outlier.mahalanobis import Mahalanobis
from detectors.outlier.one_class_svm import OneClassSVM
from detectors.outlier.pca import PrincipalComponents
from detectors.outlier.projection import ProjectedDetector

OutlierDetector: TypeAlias = ProjectedDetector | IsolationForest

REGISTRY: Final[dict[str, type[OutlierDetector]]] = {
    detector.name: detector
    for detector in (
        Mahalanobis,
        IsolationForest,
        PrincipalComponents,
        NearestNeighbours,
        GaussianMixture,
        OneClassSVM,
    )
}
"""Every outlier detector by its registered name."""

__all__ = [
    "REGISTRY",
    "GaussianMixture",
    "IsolationForest",
    "Mahalanobis",
    "NearestNeighbours",
    "OneClassSVM",
    "OutlierDetector",
    "PrincipalComponents",
]
