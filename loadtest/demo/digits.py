"""The demonstration's data and model: scikit-learn's handwritten digits, and a small network.

The 1797 images of 8 by 8 pixels are shuffled and cut into three parts that share no image: one
trains the model, one fits the firewall's bundle, one plays the clients. Pixels are scaled to 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from loadtest.mlp import Floats, Mlp

MODEL_ROWS = 450
TEST_ROWS = 350


@dataclass(frozen=True, slots=True)
class Digits:
    """(n, 64) float32 images in 0..1, with labels where they are needed."""

    model: Floats
    model_labels: npt.NDArray[np.int64]
    fit: Floats
    fit_labels: npt.NDArray[np.int64]
    test: Floats
    test_labels: npt.NDArray[np.int64]


def load(seed: int = 0) -> Digits:
    """The three parts."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(images))
    images = (images[order] / 16).astype(np.float32)
    labels = labels[order].astype(np.int64)
    fit_end = len(images) - TEST_ROWS
    return Digits(
        images[:MODEL_ROWS],
        labels[:MODEL_ROWS],
        images[MODEL_ROWS:fit_end],
        labels[MODEL_ROWS:fit_end],
        images[fit_end:],
        labels[fit_end:],
    )


def train(images: Floats, labels: npt.NDArray[np.int64], seed: int = 0) -> Mlp:
    """A network of one hidden layer of 64 units, as plain arrays."""
    classifier = MLPClassifier((64,), alpha=1e-3, max_iter=1000, random_state=seed)
    classifier.fit(images, labels)
    return Mlp(
        [np.asarray(w, np.float32) for w in classifier.coefs_],
        [np.asarray(b, np.float32) for b in classifier.intercepts_],
    )
