"""Fully connected layers as flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats, Indices, Singles, frozen

ACTIVATIONS: Final = ("linear", "relu", "tanh", "sigmoid")
"""By the numbers that stand for them in arrays."""
_LAYER_CAP: Final = 16
_WIDTH_CAP: Final = 1 << 16


class DenseLayers:
    """activation(x W + b), layer after layer. Immutable.

    Attributes:
        widths: (layers + 1,) int32: what goes in, and what each layer gives.
        activations: (layers,) int32, indices of :data:`ACTIVATIONS`.
        weights: (sum of in * out,) float32: each layer's (in, out) matrix in C order.
        biases: (sum of out,) float32.
    """

    __slots__ = ("_layers", "activations", "biases", "weights", "widths")

    def __init__(
        self, widths: Indices, activations: Indices, weights: Singles, biases: Singles
    ) -> None:
        """Raises ValueError if the arrays do not make up layers, or are not finite."""
        self.widths: Indices = frozen(widths, np.int32, (None,))
        if not 2 <= self.widths.size <= _LAYER_CAP + 1:
            raise ValueError(f"from 1 to {_LAYER_CAP} dense layers, got {self.widths.size - 1}")
        if int(self.widths.min()) < 1 or int(self.widths.max()) > _WIDTH_CAP:
            raise ValueError(f"a dense layer's width must be from 1 to {_WIDTH_CAP}")
        self.activations: Indices = frozen(activations, np.int32, (self.widths.size - 1,))
        if int(self.activations.min()) < 0 or int(self.activations.max()) >= len(ACTIVATIONS):
            raise ValueError(f"activations must be indices of {', '.join(ACTIVATIONS)}")
        pairs = [(int(a), int(b)) for a, b in zip(self.widths, self.widths[1:], strict=False)]
        self.weights: Singles = frozen(weights, np.float32, (sum(a * b for a, b in pairs),))
        self.biases: Singles = frozen(biases, np.float32, (sum(b for _, b in pairs),))
        matrices = np.split(
            self.weights.astype(np.float64), np.cumsum([a * b for a, b in pairs])[:-1]
        )
        shifts = np.split(self.biases.astype(np.float64), np.cumsum(self.widths[1:])[:-1])
        self._layers = tuple(
            (matrix.reshape(pair), shift, ACTIVATIONS[int(activation)])
            for matrix, shift, pair, activation in zip(
                matrices, shifts, pairs, self.activations, strict=True
            )
        )

    @classmethod
    def of(cls, layers: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any], str]]) -> Self:
        """Of (weights (in, out), bias (out,), activation) for each layer.

        Raises:
            ValueError: if the layers do not follow each other, or an activation is not known.
        """
        if not layers:
            raise ValueError("no dense layers")
        for weights, bias, activation in layers:
            if activation not in ACTIVATIONS:
                raise ValueError(f"activation {activation!r}: one of {', '.join(ACTIVATIONS)}")
            if weights.ndim != 2 or bias.shape != weights.shape[1:]:
                raise ValueError(f"a dense layer of shapes {weights.shape} and {bias.shape}")
        widths = [layers[0][0].shape[0], *(weights.shape[1] for weights, _, _ in layers)]
        if any(
            weights.shape[0] != width
            for (weights, _, _), width in zip(layers, widths, strict=False)
        ):
            raise ValueError("the dense layers do not follow each other")
        return cls(
            np.array(widths, np.int32),
            np.array([ACTIVATIONS.index(activation) for _, _, activation in layers], np.int32),
            np.concatenate([weights.astype(np.float32).ravel() for weights, _, _ in layers]),
            np.concatenate([bias.astype(np.float32) for _, bias, _ in layers]),
        )

    @property
    def takes(self) -> int:
        """The width of what goes in."""
        return int(self.widths[0])

    @property
    def gives(self) -> int:
        """The width of what comes out."""
        return int(self.widths[-1])

    def __call__(self, rows: Floats) -> Floats:
        """(n, takes) to (n, gives), in float64; what is not finite stays so or turns to NaN."""
        with np.errstate(all="ignore"):
            for weights, bias, activation in self._layers:
                rows = rows @ weights
                rows += bias
                if activation == "relu":
                    np.maximum(rows, 0.0, out=rows)  # keeps NaN
                elif activation == "tanh":
                    np.tanh(rows, out=rows)
                elif activation == "sigmoid":
                    rows = 1.0 / (1.0 + np.exp(-rows))
        return rows
