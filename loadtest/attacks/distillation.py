"""A surrogate that learns from whole answers, not only from their best class."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from loadtest.attacks.datasets import Singles
from loadtest.mlp import Mlp

HIDDEN: Final = 64
BATCH: Final = 50
STEPS: Final = 1500
RATE: Final = 3e-3
DECAY: Final = 1e-3

Reals = npt.NDArray[np.float64]


def distil(
    rows: Singles, targets: npt.NDArray[np.floating[Any]], seed: int, steps: int = STEPS
) -> Mlp:
    """A network of one hidden layer that minimises the cross-entropy to the answers (Hinton et al.,
    arXiv 1503.02531), with Adam (Kingma and Ba, ICLR 2015).

    Args:
        rows: (n, d) what was asked.
        targets: (n, classes) what came back: not negative, and not all of them 0.
        seed: of the first weights and of the batches.
        steps: of training.
    """
    random = np.random.default_rng(seed)
    mean = rows.mean(axis=0, dtype=np.float64)
    # As the victim's own: a feature that hardly varies must not become the loudest one.
    deviation = rows.std(axis=0, dtype=np.float64)
    deviation = np.maximum(deviation, 0.1 * deviation.mean() + 1e-12)
    if rows.min() >= 0 and rows.max() <= 1:
        deviation = np.full_like(deviation, np.sqrt(np.mean(deviation**2)))
    inputs = ((rows - mean) / deviation).astype(np.float32)
    wanted = (targets / targets.sum(axis=1, keepdims=True)).astype(np.float32)
    sizes = (rows.shape[1], HIDDEN, targets.shape[1])
    values = [
        (random.standard_normal((sizes[0], sizes[1])) * np.sqrt(2 / sizes[0])).astype(np.float32),
        np.zeros(sizes[1], np.float32),
        (random.standard_normal((sizes[1], sizes[2])) * np.sqrt(2 / sizes[1])).astype(np.float32),
        np.zeros(sizes[2], np.float32),
    ]
    first, second = [np.zeros_like(v) for v in values], [np.zeros_like(v) for v in values]
    for step in range(1, steps + 1):
        chosen = random.integers(len(inputs), size=BATCH)
        gradients = _gradients(values, inputs[chosen], wanted[chosen])
        rate = RATE * (1 - step / steps) + 1e-5
        for i, gradient in enumerate(gradients):
            first[i] += 0.1 * (gradient - first[i])
            second[i] += 0.001 * (gradient**2 - second[i])
            scale = np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8
            values[i] -= rate * (first[i] / (1 - 0.9**step) / scale + DECAY * values[i])
    weights = (values[0] / deviation[:, None]).astype(np.float32)
    bias = (values[1] - mean @ weights).astype(np.float32)
    return Mlp([weights, values[2]], [bias, values[3]])


def _gradients(values: list[Any], inputs: Any, wanted: Any) -> list[Any]:
    w0, b0, w1, b1 = values
    hidden = np.maximum(inputs @ w0 + b0, 0)
    scores = hidden @ w1 + b1
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    error = (powers / powers.sum(axis=1, keepdims=True) - wanted) / len(inputs)
    back = (error @ w1.T) * (hidden > 0)
    return [inputs.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
