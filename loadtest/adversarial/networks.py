"""A trained network as plain arrays, with its forward pass in numpy: asked again without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import numpy as np
import numpy.typing as npt

from loadtest.adversarial.datasets import Singles

Floats = npt.NDArray[np.float64]
LayerKind = Literal["conv", "dense", "relu", "pool", "flatten"]

KINDS: Final = ("conv", "dense", "relu", "pool", "flatten")
BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class Layer:
    """One step.

    Attributes:
        kind: ``conv`` keeps the image's size (zero padding, odd kernels); ``pool`` takes the
            largest of each 2 x 2.
        weight: (outputs, inputs, k, k) of a conv, (inputs, outputs) of a dense layer, else None.
        bias: (outputs,), else None.
    """

    kind: LayerKind
    weight: Singles | None = None
    bias: Singles | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """A stack of layers over (row - mean) / deviation.

    Attributes:
        layers: the last one's outputs are logits, or the values of a regression model.
        row_shape: (h, w), which the first layer sees as one channel, or (d,).
        mean, deviation: (d,) or scalars.
    """

    layers: Sequence[Layer]
    row_shape: tuple[int, ...]
    mean: Singles
    deviation: Singles

    def outputs(self, rows: Singles) -> Singles:
        """(n, d) rows in the world's units to (n, outputs)."""
        parts = [self._batch(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, self._width()), np.float32)

    def probabilities(self, rows: Singles) -> Floats:
        """(n, d) to (n, C): the softmax of the outputs."""
        logits = self.outputs(rows).astype(np.float64)
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        found: Floats = raised / raised.sum(axis=1, keepdims=True)
        return found

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What :meth:`of_arrays` reads."""
        found: dict[str, npt.NDArray[Any]] = {
            "kinds": np.array([layer.kind for layer in self.layers]),
            "row_shape": np.array(self.row_shape, np.int64),
            "mean": self.mean,
            "deviation": self.deviation,
        }
        for k, layer in enumerate(self.layers):
            if layer.weight is not None and layer.bias is not None:
                found |= {f"weight{k}": layer.weight, f"bias{k}": layer.bias}
        return found

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Network:
        """The network of :meth:`arrays`.

        Raises:
            KeyError, ValueError: if they are not those.
        """
        layers = []
        for k, kind in enumerate(arrays["kinds"].tolist()):
            if kind not in KINDS:
                raise ValueError(f"unknown layer {kind!r}")
            weighted = kind in {"conv", "dense"}
            layers.append(
                Layer(
                    cast(LayerKind, kind),
                    arrays[f"weight{k}"] if weighted else None,
                    arrays[f"bias{k}"] if weighted else None,
                )
            )
        shape = tuple(int(side) for side in arrays["row_shape"])
        return cls(layers, shape, arrays["mean"], arrays["deviation"])

    def _width(self) -> int:
        return next(len(one.bias) for one in reversed(self.layers) if one.bias is not None)

    def _batch(self, rows: Singles) -> Singles:
        x = (rows - self.mean) / self.deviation
        if len(self.row_shape) == 2:
            x = x.reshape(len(rows), 1, *self.row_shape)
        for layer in self.layers:
            if layer.weight is not None and layer.bias is not None:
                if layer.kind == "conv":
                    x = _convolve(x, layer.weight, layer.bias)
                else:
                    x = x @ layer.weight + layer.bias
            elif layer.kind == "relu":
                x = np.maximum(x, 0)
            elif layer.kind == "pool":
                rows_of_two = np.maximum(x[:, :, ::2], x[:, :, 1::2])
                x = np.maximum(rows_of_two[..., ::2], rows_of_two[..., 1::2])
            else:
                x = x.reshape(len(x), -1)
        return np.asarray(x, np.float32)


def _convolve(x: Singles, weight: Singles, bias: Singles) -> Singles:
    pad = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(2, 3))
    n, _, h, w = x.shape
    columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * w, -1)
    out = columns @ weight.reshape(len(weight), -1).T + bias
    found: Singles = np.ascontiguousarray(out.reshape(n, h, w, -1).transpose(0, 3, 1, 2))
    return found
