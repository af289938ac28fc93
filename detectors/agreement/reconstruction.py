"""Asking the model again about what an autoencoder makes of the row."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from detectors.agreement.base import Answers, Need
from detectors.arrays import Floats, Indices, Singles, check_rows, frozen, real
from detectors.base import Rows, Scores
from detectors.dense import DenseLayers

_LEAST = 1e-7  # probabilities are cut off here, as where the autoencoder was trained


@dataclass(frozen=True, eq=False, slots=True)
class Reconstruction:
    """KL(p(x) || p(x')), with x' the reconstruction of x and p the model's probabilities.

    Vacanti and Van Looveren (2020), "Adversarial detection and correction by matching prediction
    distributions": the autoencoder is trained so that the model answers alike about a row and its
    reconstruction. A small perturbation that turns the answer is not reconstructed.

    x' = mean + scale * g((x - mean) / scale), within the bounds of the rows it was fitted on.

    Attributes:
        mean: (d,) float64.
        scale: (d,) float64, positive.
        low, high: (d,) float64: the bounds.
        widths, activations, weights, biases: of g: see :class:`DenseLayers`.
        temperature: positive; below 1 it sharpens p(x).
    """

    name = "reconstruction"

    mean: Floats
    scale: Floats
    low: Floats
    high: Floats
    widths: Indices
    activations: Indices
    weights: Singles
    biases: Singles
    temperature: float
    _layers: DenseLayers = field(init=False, repr=False)

    def __post_init__(self) -> None:
        layers = DenseLayers(self.widths, self.activations, self.weights, self.biases)
        if layers.gives != layers.takes:
            raise ValueError(f"an autoencoder from {layers.takes} to {layers.gives} features")
        for name in ("mean", "scale", "low", "high"):
            array = frozen(getattr(self, name), np.float64, (layers.takes,))
            object.__setattr__(self, name, array)
        if not bool((self.scale > 0).all()) or not bool((self.low <= self.high).all()):
            raise ValueError("a scale is not positive, or the bounds are the wrong way round")
        if real(self.temperature, "temperature") <= 0:
            raise ValueError("the temperature must be positive")
        for name in ("widths", "activations", "weights", "biases"):
            object.__setattr__(self, name, getattr(layers, name))
        object.__setattr__(self, "temperature", float(self.temperature))
        object.__setattr__(self, "_layers", layers)

    @property
    def features(self) -> int:
        """d: of a row."""
        return self.mean.size

    @property
    def needs(self) -> Need:
        """The probabilities, of both answers."""
        return "probabilities"

    @property
    def copies(self) -> int:
        """One: the reconstruction."""
        return 1

    def views(self, rows: Rows) -> Rows:
        """(n, d) to (n, d) float32: the reconstructions; NaN where a row is not finite.

        Raises:
            ValueError: if ``rows`` is not (n, d) float32.
        """
        check_rows(rows, self.features)
        with np.errstate(all="ignore"):
            again = self._layers((rows - self.mean) / self.scale)
            views = np.clip(self.mean + self.scale * again, self.low, self.high)
        views[~np.isfinite(rows).all(axis=1)] = np.nan
        reconstructed: Singles = views.astype(np.float32)
        return reconstructed

    def score(self, answers: Answers, again: Answers) -> Scores:
        """The n answers and the n answers to the reconstructions, to (n,) float64.

        Raises:
            ValueError: if there are no probabilities, or not of as many rows and classes.
        """
        first, second = answers.probabilities, again.probabilities
        if first is None or second is None or first.shape != second.shape:
            raise ValueError("the answers and those to the reconstructions do not fit")
        with np.errstate(all="ignore"):
            if self.temperature != 1.0:
                first = first ** (1.0 / self.temperature)
                first = first / first.sum(axis=1, keepdims=True)
            p, q = np.clip(first, _LEAST, 1.0), np.clip(second, _LEAST, 1.0)
            # An infinity is cut off like any number, and must not pass for one.
            poison = (first + second).sum(axis=1) * 0.0
            scores: Floats = (p * np.log(p / q)).sum(axis=1) + poison
        return scores
