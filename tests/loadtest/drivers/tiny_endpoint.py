"""A small model as an endpoint that drivers ask, in this process: counted, held to a budget, and
with whatever defence a test gives it."""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from loadtest.drivers.base import Means, Spent
from loadtest.mlp import Mlp
from loadtest.targets.base import Reply, Said


def tiny_model(features=6, classes=3, seed=0):
    """Linear, with a class for each of a few directions."""
    random = np.random.default_rng(seed)
    weights = random.standard_normal((features, classes)) * 6
    bias = -weights.sum(axis=0) / 2
    return Mlp([weights.astype(np.float32)], [bias.astype(np.float32)])


def tiny_means(model, *, budget=300, tries=1, accounts=1, seed=3, **given):
    random = np.random.default_rng(seed)
    own = random.uniform(0.1, 0.9, (300, model.features)).astype(np.float32)
    test = random.uniform(0.1, 0.9, (200, model.features)).astype(np.float32)
    settings = {
        "own": own,
        "labels": model.probabilities(own).argmax(axis=1),
        "low": np.zeros(model.features, np.float32),
        "high": np.ones(model.features, np.float32),
        "test": test,
        "accounts": tuple(f"account-{number}" for number in range(accounts)),
        "budget": budget,
        "tries": tries,
        "seed": seed,
    }
    return Means(**(settings | given))


class Model:
    """The model alone: what judges."""

    name = "direct"

    def __init__(self, model):
        self.model = model
        self.features, self.classes = model.features, model.classes
        self.asked = 0

    def ask(self, row, client):
        assert row.dtype == np.float32
        assert row.shape == (self.features,)
        assert np.isfinite(row).all()
        self.asked += 1
        scores = self.model.probabilities(row[None])[0].astype(np.float64)
        return Reply(Said.ANSWERED, 200, scores, int(scores.argmax()))


REFUSED = Reply(Said.REFUSED, 403)
LIMITED = Reply(Said.LIMITED, 429, retry_after=7.0)
FAILED = Reply(Said.FAILED, 0)


def undefended(reply, number, client):
    return reply


def refusing(reply, number, client):
    return REFUSED


def labels_only(reply, number, client):
    return Reply(Said.ANSWERED, 200, np.eye(reply.scores.size)[reply.label], reply.label)


def rounded(reply, number, client):
    return Reply(Said.ANSWERED, 200, np.round(reply.scores, 1), reply.label)


def limited_after(most):
    def answer(reply, number, client):
        return reply if number <= most else LIMITED

    return answer


def values(reply, number, client):
    return Reply(Said.ANSWERED, 200, np.array([2.5]), -1)


@dataclass
class Endpoint:
    """What a driver asks."""

    model: Model
    budget: int
    answer: object = undefended
    name: str = "firewall"
    queries: int = 0
    total: int = 0
    tries: int = 1
    own: int = 0
    clients: list = field(default_factory=list)

    def __post_init__(self):
        self.features, self.classes = self.model.features, self.model.classes
        self._sha = hashlib.sha256()

    def ask(self, row, client, *, own=True):
        if self.queries >= self.budget:
            raise Spent
        self.queries += 1
        self.total += 1
        self.own += own
        self.clients.append(client)
        self._sha.update(row.tobytes() + client.encode() + bytes([own]))
        return self.answer(self.model.ask(row, client), self.queries, client)

    def next_try(self):
        self.tries += 1
        self.queries = 0

    @property
    def digest(self):
        """Of everything that was asked, as whom."""
        return self._sha.hexdigest()


def attack(driver, means, answer=undefended, *, model, judged=True):
    """The outcome, and what was asked."""
    endpoint = Endpoint(Model(model), means.budget, answer)
    outcome = driver.run(endpoint, Model(model) if judged else None, means)
    return outcome, endpoint
