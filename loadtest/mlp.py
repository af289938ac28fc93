"""A small multilayer perceptron in plain numpy: the model that the demonstration protects.

Weights live in an npz without pickles: ``w0, b0, w1, b1, …`` with ``w`` of shape (inputs, outputs).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Mlp:
    """ReLU between the layers, softmax at the end.

    Raises:
        ValueError: if the layers do not fit each other, or a weight is not finite.
    """

    def __init__(self, weights: Sequence[Floats], biases: Sequence[Floats]) -> None:
        if not weights or len(weights) != len(biases):
            raise ValueError("as many weight matrices as bias vectors are needed, at least one")
        for w, b in zip(weights, biases, strict=True):
            if w.ndim != 2 or b.shape != w.shape[1:]:
                raise ValueError(f"layer shapes do not fit: {w.shape} and {b.shape}")
            if not (np.isfinite(w).all() and np.isfinite(b).all()):
                raise ValueError("weights must be finite")
        for left, right in pairwise(weights):
            if left.shape[1] != right.shape[0]:
                raise ValueError(f"layers do not chain: {left.shape} and {right.shape}")
        self.weights = [np.ascontiguousarray(w, np.float32) for w in weights]
        self.biases = [np.ascontiguousarray(b, np.float32) for b in biases]

    @property
    def features(self) -> int:
        """Width of the input."""
        return int(self.weights[0].shape[0])

    @property
    def classes(self) -> int:
        """Width of the output."""
        return int(self.weights[-1].shape[1])

    @classmethod
    def load(cls, path: Path) -> Mlp:
        """Reads an npz.

        Raises:
            OSError, ValueError: if it cannot be read or is not such a file.
        """
        with np.load(path, allow_pickle=False) as arrays:
            layers = len(arrays.files) // 2
            try:
                weights = [arrays[f"w{i}"] for i in range(layers)]
                biases = [arrays[f"b{i}"] for i in range(layers)]
            except KeyError as missing:
                raise ValueError(f"{path} lacks {missing}") from None
        return cls(weights, biases)

    def save(self, path: Path) -> None:
        """Writes an npz."""
        arrays = {f"w{i}": w for i, w in enumerate(self.weights)}
        arrays |= {f"b{i}": b for i, b in enumerate(self.biases)}
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def probabilities(self, rows: Floats) -> Floats:
        """(n, d) to (n, classes)."""
        hidden = self._forward(rows)[-1]
        shifted = np.exp(hidden - hidden.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float32)

    def loss_gradient(self, rows: Floats, labels: npt.NDArray[np.int64]) -> Floats:
        """(n, d): the gradient of each row's cross-entropy loss with respect to the row."""
        outputs = self._forward(rows)
        gradient = self.probabilities(rows)
        gradient[np.arange(len(rows)), labels] -= 1.0
        for layer in range(len(self.weights) - 1, 0, -1):
            gradient = (gradient @ self.weights[layer].T) * (outputs[layer - 1] > 0)
        return np.asarray(gradient @ self.weights[0].T, np.float32)

    def _forward(self, rows: Floats) -> list[Floats]:
        """Every layer's output: rectified, but for the last."""
        outputs = []
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            rows = rows @ w + b
            if i < len(self.weights) - 1:
                rows = np.maximum(rows, 0)
            outputs.append(rows)
        return outputs


def fgsm(
    model: Mlp, rows: Floats, labels: npt.NDArray[np.int64], epsilon: float, high: float = 1.0
) -> Floats:
    """Fast gradient sign method (Goodfellow et al., arXiv 1412.6572), clipped to [0, high]."""
    step = np.float32(epsilon) * np.sign(model.loss_gradient(rows, labels))
    return np.asarray(np.clip(rows + step, 0, high), np.float32)
