"""Detectors that look at the input together with the model's answer; numpy only."""

from __future__ import annotations

from typing import Final, TypeAlias

from detectors.agreement.confidence import Confidence
from detectors.agreement.density import ClassDensity
from detectors.agreement.kernel import (
    GradientAgreement,
    KernelAgreement,
    NoisyGradientAgreement,
)
from detectors.agreement.nearest import NearestAgreement
from detectors.agreement.opinions import FeatureSqueezing, NoiseConsistency
from detectors.agreement.reconstruction import Reconstruction
from detectors.agreement.residual import ResidualAgreement

Registered: TypeAlias = (
    NearestAgreement
    | KernelAgreement
    | GradientAgreement
    | NoisyGradientAgreement
    | ClassDensity
    | Confidence
    | ResidualAgreement
)
RegisteredOpinion: TypeAlias = FeatureSqueezing | NoiseConsistency | Reconstruction

REGISTRY: Final[dict[str, type[Registered]]] = {
    detector.name: detector
    for detector in (
        NearestAgreement,
        KernelAgreement,
        GradientAgreement,
        NoisyGradientAgreement,
        ClassDensity,
        Confidence,
        ResidualAgreement,
    )
}
"""Every agreement detector by its registered name."""

OPINIONS: Final[dict[str, type[RegisteredOpinion]]] = {
    opinion.name: opinion for opinion in (FeatureSqueezing, NoiseConsistency, Reconstruction)
}
"""Every second opinion by its registered name."""

__all__ = [
    "OPINIONS",
    "REGISTRY",
    "ClassDensity",
    "Confidence",
    "FeatureSqueezing",
    "GradientAgreement",
    "KernelAgreement",
    "NearestAgreement",
    "NoiseConsistency",
    "NoisyGradientAgreement",
    "Reconstruction",
    "Registered",
    "RegisteredOpinion",
    "ResidualAgreement",
]
