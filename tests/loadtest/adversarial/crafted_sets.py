"""A small crafted set, made without torch: three classes, a linear model, moved rows."""

import numpy as np

from loadtest.adversarial.crafted import Attack, Crafted
from loadtest.adversarial.networks import Layer, Network

CENTRES = np.array([[3, 0, 0, 0], [0, 3, 0, 0], [0, 0, 3, 0]], np.float32)


def network(features=4, classes=3):
    """Its logits are the first features."""
    weight = np.eye(features, classes, dtype=np.float32)
    layer = Layer("dense", weight, np.zeros(classes, np.float32))
    return Network([layer], (features,), np.zeros(features, np.float32), np.ones(1, np.float32))


def crafted(rows=900, bases=20, seed=0):
    """Rows around three centres; one attack moves its bases to another class, one moves none."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    x = (CENTRES[labels] + rng.normal(0, 0.4, (rows, 4))).astype(np.float32)
    model = network()
    p = model.probabilities(x)
    train = rows // 3
    rest_x, rest_y, rest_p = x[train:], labels[train:], p[train:]
    attacked = np.flatnonzero(rest_p.argmax(axis=1) == rest_y)[-bases:].astype(np.int64)
    moved = (rest_x[attacked] - 2 * CENTRES[rest_y[attacked]]).astype(np.float32)
    moved += CENTRES[(rest_y[attacked] + 1) % 3]
    none = np.empty((0, 4), np.float32)
    return Crafted(
        row_shape=(4,),
        regression=False,
        train_x=x[:train],
        train_y=labels[:train],
        train_p=p[:train],
        rest_x=rest_x,
        rest_y=rest_y,
        rest_p=rest_p,
        bases=attacked,
        attacks={
            "pgd-0.5": Attack(moved, model.probabilities(moved), attacked, bases),
            "fgsm-0.1": Attack(none, np.empty((0, 3)), attacked[:0], bases),
        },
        network=model,
        surrogate=network(),
    )
