"""Mean squared error of an autoencoder's reconstruction, plain and variational."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from detectors.arrays import Floats, Indices, Singles, check_rows, frozen
from detectors.base import Rows
from detectors.dense import DenseLayers
from detectors.outlier.projection import CHUNK_ELEMENTS, RawDetector

_LOG_VARIANCE_CAP = 100.0
"""Where exp(log variance) is cut off: in float32 it would be infinite from 88 on."""


@dataclass(frozen=True, eq=False, slots=True)
class Autoencoder(RawDetector):
    """mean_i (z_i - g(z)_i)^2, with z = (x - mean) / scale and g a few dense layers.

    The layers' weights are float32, as they were trained; the sums are float64.

    Attributes:
        mean: (d,) float64.
        scale: (d,) float64, positive.
        widths, activations, weights, biases: of g: see :class:`DenseLayers`.
    """

    name = "autoencoder"

    mean: Floats
    scale: Floats
    widths: Indices
    activations: Indices
    weights: Singles
    biases: Singles
    _layers: DenseLayers = field(init=False, repr=False)

    def __post_init__(self) -> None:
        layers = DenseLayers(self.widths, self.activations, self.weights, self.biases)
        _freeze_scaling(self, layers.takes)
        if layers.gives != layers.takes:
            raise ValueError(f"an autoencoder from {layers.takes} to {layers.gives} features")
        for name in ("widths", "activations", "weights", "biases"):
            object.__setattr__(self, name, getattr(layers, name))
        object.__setattr__(self, "_layers", layers)

    @property
    def features(self) -> int:
        """d: the number of features of a row."""
        return self.mean.size

    def score(self, rows: Rows) -> Floats:
        """(n, d) float32 to (n,) float64, high = suspicious; not finite where a row is not.

        Raises:
            ValueError: if ``rows`` is not (n, d) float32.
        """
        scores: Floats = self.parts(rows).sum(axis=1)
        return scores

    def parts(self, rows: Rows) -> Floats:
        """(n, d): each feature's share of the score.

        Raises:
            ValueError: as :meth:`score`.
        """
        check_rows(rows, self.features)
        parts = np.empty(rows.shape)
        chunk = max(1, CHUNK_ELEMENTS // int(self.widths.max()))
        with np.errstate(all="ignore"):
            for start in range(0, len(rows), chunk):
                standard = (rows[start : start + chunk] - self.mean) / self.scale
                gap = standard - self._layers(standard)
                parts[start : start + chunk] = gap * gap / self.features
        return parts


@dataclass(frozen=True, eq=False, slots=True)
class VariationalAutoencoder(RawDetector):
    """The mean over draws e of mean_i (z_i - g(m + exp(v / 2) e)_i)^2.

    Kingma and Welling (2014): an encoder gives a mean m and a log variance v of the code, and g is
    the decoder. The draws are fixed when it is fitted: the same row always has the same score.

    Attributes:
        mean: (d,) float64.
        scale: (d,) float64, positive.
        encoder_widths, encoder_activations, encoder_weights, encoder_biases: from z to m and v,
            one behind the other: see :class:`DenseLayers`.
        decoder_widths, decoder_activations, decoder_weights, decoder_biases: from a code to z.
        draws: (s, code) float32.
    """

    name = "variational_autoencoder"

    mean: Floats
    scale: Floats
    encoder_widths: Indices
    encoder_activations: Indices
    encoder_weights: Singles
    encoder_biases: Singles
    decoder_widths: Indices
    decoder_activations: Indices
    decoder_weights: Singles
    decoder_biases: Singles
    draws: Singles
    _encoder: DenseLayers = field(init=False, repr=False)
    _decoder: DenseLayers = field(init=False, repr=False)

    def __post_init__(self) -> None:
        halves = []
        for half in ("encoder", "decoder"):
            names = [f"{half}_{part}" for part in ("widths", "activations", "weights", "biases")]
            layers = DenseLayers(*(getattr(self, name) for name in names))
            for name in names:
                object.__setattr__(self, name, getattr(layers, name.removeprefix(f"{half}_")))
            object.__setattr__(self, f"_{half}", layers)
            halves.append(layers)
        encoder, decoder = halves
        _freeze_scaling(self, encoder.takes)
        draws = frozen(self.draws, np.float32, (None, decoder.takes))
        if not 1 <= len(draws) <= 1000:
            raise ValueError(f"from 1 to 1000 draws, got {len(draws)}")
        if encoder.gives != 2 * decoder.takes or decoder.gives != encoder.takes:
            raise ValueError("the encoder and the decoder do not fit each other")
        object.__setattr__(self, "draws", draws)

    @property
    def features(self) -> int:
        """d: the number of features of a row."""
        return self.mean.size

    def score(self, rows: Rows) -> Floats:
        """(n, d) float32 to (n,) float64, high = suspicious; not finite where a row is not.

        Raises:
            ValueError: if ``rows`` is not (n, d) float32.
        """
        scores: Floats = self.parts(rows).sum(axis=1)
        return scores

    def parts(self, rows: Rows) -> Floats:
        """(n, d): each feature's share of the score.

        Raises:
            ValueError: as :meth:`score`.
        """
        check_rows(rows, self.features)
        parts = np.empty(rows.shape)
        widest = max(int(self.encoder_widths.max()), int(self.decoder_widths.max()))
        chunk = max(1, CHUNK_ELEMENTS // (widest * len(self.draws)))
        with np.errstate(all="ignore"):
            for start in range(0, len(rows), chunk):
                standard = (rows[start : start + chunk] - self.mean) / self.scale
                code = self._encoder(standard)
                middle, log_variance = np.split(code, 2, axis=1)
                spread = np.exp(0.5 * np.clip(log_variance, -_LOG_VARIANCE_CAP, _LOG_VARIANCE_CAP))
                codes = middle[:, None] + spread[:, None] * self.draws
                again = self._decoder(codes.reshape(-1, codes.shape[2]))
                gap = standard[:, None] - again.reshape(*codes.shape[:2], self.features)
                np.square(gap, out=gap)
                parts[start : start + chunk] = gap.mean(axis=1) / self.features
        return parts


def _freeze_scaling(detector: Autoencoder | VariationalAutoencoder, features: int) -> None:
    scale = frozen(detector.scale, np.float64, (features,))
    if not bool((scale > 0).all()):
        raise ValueError("every scale must be positive")
    object.__setattr__(detector, "mean", frozen(detector.mean, np.float64, (features,)))
    object.__setattr__(detector, "scale", scale)
