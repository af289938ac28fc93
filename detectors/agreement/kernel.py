"""The witness that is a ridge regression on Gaussian kernels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from detectors.agreement.gradients import Gradients
from detectors.agreement.space import CHUNK_ELEMENTS
from detectors.agreement.witness import Witness
from detectors.arrays import Floats, Singles, frozen, real


@dataclass(frozen=True, eq=False, slots=True)
class KernelAgreement(Witness):
    """Logits a_c + sum_i b_ic exp(-gamma |y - v_i|^2): a least-squares classifier.

    Nyström's approximation with m centres (Williams and Seeger 2001); Rifkin and Klautau (2004) on
    regularised least squares for classification.

    Attributes:
        centres: (m, r) float32.
        weights: (m, C) float32.
        biases: (C,) float64.
        gamma: above 0.
    """

    name = "kernel_agreement"

    centres: Singles
    weights: Singles
    biases: Floats
    gamma: float
    _points: Floats = field(init=False, repr=False)
    _lengths: Floats = field(init=False, repr=False)
    _wide: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        Witness.__post_init__(self)
        centres = frozen(self.centres, np.float32, (None, self.space.rank))
        weights = frozen(self.weights, np.float32, (len(centres), self.classes))
        if not len(centres):
            raise ValueError("a kernel witness needs centres")
        gamma = real(self.gamma, "gamma", low=1e-30, high=1e30)
        object.__setattr__(self, "centres", centres)
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "biases", frozen(self.biases, np.float64, (self.classes,)))
        object.__setattr__(self, "gamma", gamma)
        wide = centres.astype(np.float64)
        # exp(-gamma |y - v|^2) = exp(2 gamma y'v - gamma |v|^2 - gamma |y|^2)
        points = np.ascontiguousarray(wide.T * (2.0 * gamma))
        lengths = -gamma * np.einsum("ij,ij->i", wide, wide)
        object.__setattr__(self, "_points", frozen(points, np.float64, points.shape))
        object.__setattr__(self, "_lengths", frozen(lengths, np.float64, lengths.shape))
        object.__setattr__(
            self, "_wide", frozen(weights.astype(np.float64), np.float64, weights.shape)
        )

    def logits(self, seen: Floats) -> Floats:
        """(n, r) to (n, C)."""
        found = np.empty((len(seen), self.classes))
        chunk = max(1, CHUNK_ELEMENTS // self._lengths.size)
        for start in range(0, len(seen), chunk):
            part = seen[start : start + chunk]
            powers = part @ self._points
            powers += self._lengths
            powers -= (self.gamma * np.einsum("ij,ij->i", part, part))[:, None]
            np.minimum(powers, 0.0, out=powers)
            np.exp(powers, out=powers)
            found[start : start + chunk] = powers @ self._wide
        found += self.biases
        return found


@dataclass(frozen=True, eq=False, slots=True)
class GradientAgreement(KernelAgreement):
    """The same, on how an image's edges run: the view that is hardest to fool with the model."""

    name = "gradient_agreement"

    space: Gradients


@dataclass(frozen=True, eq=False, slots=True)
class NoisyGradientAgreement(KernelAgreement):
    """The same again, fitted on noisy copies as well: surer of images that were disturbed."""

    name = "noisy_gradient_agreement"

    space: Gradients
