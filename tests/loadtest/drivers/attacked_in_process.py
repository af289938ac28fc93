"""Endpoints without sockets, to attack: a small model, and what stands before it."""

import numpy as np

from loadtest.drivers.base import Means
from loadtest.targets.base import Reply, Said

FEATURES, CLASSES = 6, 3
CENTRES = np.random.default_rng(3).uniform(0.2, 0.8, (CLASSES, FEATURES))


def probabilities(row):
    """Of the nearest of three centres, the likelier."""
    distances = ((np.asarray(row, np.float64) - CENTRES) ** 2).sum(axis=1)
    powers = np.exp(-20 * (distances - distances.min()))
    return powers / powers.sum()


class Model:
    """One side.

    Attributes:
        answer: (row, client, number of the question) to a reply, or None for the model's own.
        asked: rows and clients.
    """

    features = FEATURES

    def __init__(self, name, answer=None):
        self.name = name
        self.classes = 0
        self.answer = answer
        self.asked = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, row, client):
        self.asked.append((np.array(row), client))
        number = len(self.asked)
        reply = self.answer(row, client, number) if self.answer else None
        if reply is not None:
            return reply
        scores = probabilities(row)
        self.classes = CLASSES
        return Reply(Said.ANSWERED, 200, scores, int(scores.argmax()), f"{self.name}-{number}")


class Pair:
    """A model, and the same behind something that may refuse."""

    sides = ("direct", "firewall")

    def __init__(self, answer=None):
        self.firewall = Model("firewall", answer)
        self.direct = Model("direct")

    def oracle(self, side):
        return getattr(self, side)


def refused(_row, _client, number):
    return Reply(Said.REFUSED, 403, request_id=f"firewall-{number}")


def means(**keys):
    """Rows around the centres, with their labels."""
    random = np.random.default_rng(4)
    labels = random.integers(CLASSES, size=150)
    rows = np.clip(CENTRES[labels] + random.normal(0, 0.05, (150, FEATURES)), 0, 1)
    values = {
        "own": rows[:120].astype(np.float32),
        "labels": labels[:120],
        "test": rows[120:].astype(np.float32),
        "low": np.zeros(FEATURES, np.float32),
        "high": np.ones(FEATURES, np.float32),
        "accounts": ("a", "b", "c"),
        "budget": 3000,
        "tries": 2,
        "seed": 1,
    }
    return Means(**(values | keys))
