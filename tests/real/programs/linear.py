"""The model that every real server serves: four features, three classes, the same everywhere."""

import numpy as np

WEIGHTS = np.array(
    [[0.5, -0.25, 1.0], [-1.0, 0.75, 0.125], [0.25, 1.5, -0.5], [1.25, -0.125, -1.0]]
)


def probabilities(rows):
    """(n, 4) numbers to (n, 3) float64, which sum to one."""
    scores = np.asarray(rows, dtype=np.float64) @ WEIGHTS
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
