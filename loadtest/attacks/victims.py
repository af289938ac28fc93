"""The models that are attacked: small networks, as plain arrays, behind a counter of queries."""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from loadtest.attacks.datasets import Labels, Part, Singles, Split
from loadtest.drivers.adaptive_search import near
from loadtest.mlp import Floats, Mlp

HIDDEN: Final = 64


def train(part: Part, seed: int, epochs: int = 300) -> Mlp:
    """A network of one hidden layer on standardised rows, which takes the rows as they are.

    Standardisation is folded into the first layer.

    Args:
        part: labels are whole numbers from 0, each of them used.
        seed: of the first weights and the order of rows.
        epochs: at most; it stops when it no longer learns.
    """
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from sklearn.neural_network import MLPClassifier  # noqa: PLC0415 - an extra, and slow

    rows, labels = part
    mean = rows.mean(axis=0, dtype=np.float64)
    # A common floor: a pixel that is nearly always dark must not become the loudest one.
    deviation = rows.std(axis=0, dtype=np.float64)
    deviation = np.maximum(deviation, 0.1 * deviation.mean())
    if rows.min() >= 0 and rows.max() <= 1:
        deviation = np.full_like(deviation, np.sqrt(np.mean(deviation**2)))
    classifier = MLPClassifier((HIDDEN,), alpha=1e-3, max_iter=epochs, tol=1e-3, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few epochs are what was asked for
        classifier.fit((rows - mean) / deviation, labels)
    weights = [np.asarray(w, np.float64) for w in classifier.coefs_]
    biases = [np.asarray(b, np.float64) for b in classifier.intercepts_]
    weights[0] = weights[0] / deviation[:, None]
    biases[0] = biases[0] - mean @ weights[0]
    if weights[-1].shape[1] == 1:
        # scikit-learn gives two classes one logistic output: as a softmax it is (0, z).
        weights[-1] = np.hstack([np.zeros_like(weights[-1]), weights[-1]])
        biases[-1] = np.append(0.0, biases[-1])
    return Mlp(
        [np.asarray(w, np.float32) for w in weights], [np.asarray(b, np.float32) for b in biases]
    )


class Victim:
    """A model with the world's side of its interface.

    Attributes:
        split: the data that it lives on.
        model: what it is; only gradients taken by its owner, never by an attack, read it.
        near: the L2 distance, in units of the box, below which a row of another class counts as an
            adversarial example: half the median distance from a row to its nearest neighbour of
            another class.
    """

    def __init__(self, split: Split, model: Mlp | None = None) -> None:
        self.split = split
        self.model = model or train(split.model, split.seed)
        self.near = near(self.to_box(split.model.rows[:1000]), split.model.labels[:1000])

    def ask(self, rows: Singles) -> Floats:
        """(n, d) rows in the model's units to (n, classes) probabilities."""
        return self.model.probabilities(rows)

    def label(self, rows: Singles) -> Labels:
        """The model's decisions."""
        found: Labels = self.ask(rows).argmax(axis=1)
        return found

    def to_box(self, rows: Singles) -> Singles:
        """Rows in the attacker's units: 0 to 1 over the box."""
        return (rows - self.split.low) / (self.split.high - self.split.low)

    def from_box(self, rows: npt.NDArray[np.floating[Any]]) -> Singles:
        """Rows in the model's units."""
        low, high = self.split.low, self.split.high
        return np.ascontiguousarray(low + rows.astype(np.float32) * (high - low), np.float32)

    def accuracy(self) -> float:
        """On the honest part."""
        return float((self.label(self.split.honest.rows) == self.split.honest.labels).mean())

    def bases(self, count: int, seed: int) -> Singles:
        """(count, d) rows inside the box that the model gets right, as evenly over its classes as
        there are."""
        rows, labels = self.split.bases
        rows = np.clip(rows, self.split.low, self.split.high)
        right = np.flatnonzero(self.label(rows) == labels)
        right = np.random.default_rng((seed, 43)).permutation(right)
        # The k-th of its class comes k-th.
        turn = np.zeros(right.size, np.int64)
        for label in range(self.split.classes):
            mine = labels[right] == label
            turn[mine] = np.arange(mine.sum())
        return rows[right[np.argsort(turn, kind="stable")][:count]]
