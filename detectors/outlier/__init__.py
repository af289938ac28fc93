"""Detectors that look at the input only, compiled to flat, immutable numpy arrays."""

from __future__ import annotations

from typing import Final, TypeAlias

from detectors.outlier.autoencoder import Autoencoder, VariationalAutoencoder
from detectors.outlier.cluster_distance import ClusterDistance
from detectors.outlier.component_distance import ComponentDistance
from detectors.outlier.empirical_tails import Copod, Ecod
from detectors.outlier.gmm import DiagonalMixture, GaussianMixture
from detectors.outlier.half_space import HalfSpace
from detectors.outlier.histograms import Histograms, ProjectedHistograms
from detectors.outlier.isolation_forest import IsolationForest
from detectors.outlier.knn import MeanNeighbours, MedianNeighbours, NearestNeighbours
from detectors.outlier.lof import LocalOutlierFactor
from detectors.outlier.mahalanobis import Mahalanobis
from detectors.outlier.one_class_svm import OneClassSVM
from detectors.outlier.pca import PrincipalComponents
from detectors.outlier.projection import ProjectedDetector, RawDetector

OutlierDetector: TypeAlias = ProjectedDetector | RawDetector

REGISTRY: Final[dict[str, type[OutlierDetector]]] = {
    detector.name: detector
    for detector in (
        Mahalanobis,
        IsolationForest,
        PrincipalComponents,
        NearestNeighbours,
        GaussianMixture,
        OneClassSVM,
        MeanNeighbours,
        MedianNeighbours,
        DiagonalMixture,
        LocalOutlierFactor,
        ComponentDistance,
        ClusterDistance,
        HalfSpace,
        Histograms,
        ProjectedHistograms,
        Ecod,
        Copod,
        Autoencoder,
        VariationalAutoencoder,
    )
}
"""Every outlier detector by its registered name: what a bundle may hold."""

__all__ = [
    "REGISTRY",
    "Autoencoder",
    "ClusterDistance",
    "ComponentDistance",
    "Copod",
    "DiagonalMixture",
    "Ecod",
    "GaussianMixture",
    "HalfSpace",
    "Histograms",
    "IsolationForest",
    "LocalOutlierFactor",
    "Mahalanobis",
    "MeanNeighbours",
    "MedianNeighbours",
    "NearestNeighbours",
    "OneClassSVM",
    "OutlierDetector",
    "PrincipalComponents",
    "ProjectedDetector",
    "ProjectedHistograms",
    "RawDetector",
    "VariationalAutoencoder",
]
