"""Adversarial examples made on a stolen copy, and carried over to the model.

A substitute is fitted to the model's answers about rows of the attacker's own, which are augmented
along the substitute's own gradients (Papernot et al., AsiaCCS 2017, arXiv 1602.02697). On it, rows
are crafted by the fast gradient sign method (Goodfellow et al., ICLR 2015, arXiv 1412.6572) and by
projected gradient descent (Madry et al., ICLR 2018, arXiv 1706.06083); they are sent, and those
count that are answered and fool the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from pydantic import Field

from loadtest.attacks.datasets import Labels
from loadtest.attacks.distillation import distil
from loadtest.drivers import judging, knobs
from loadtest.drivers.accounts import Client
from loadtest.drivers.base import Asked, Means, Outcome, Spent, Try
from loadtest.drivers.evasion_goal import Box, bases, box_of
from loadtest.mlp import Floats, Mlp
from loadtest.targets.base import Oracle, Rows, Scores

_LEAST: Final = 10
"""Answers without which there is no substitute."""
_ROUNDS: Final = 3
"""Of augmentation, at most."""


class TransferKnobs(knobs.Knobs):
    """What a scenario may say of this driver."""

    epsilon: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The greatest change of a feature, as a share of its box."""
    rows: Annotated[int, Field(ge=1, le=1000)] = 20
    """Rows of each try that are changed; two variants of each are sent."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    """Of projected gradient descent."""


@dataclass(frozen=True)
class Transfer:
    """See the module; and ``Driver``."""

    name: ClassVar[str] = "transfer"
    family: ClassVar[str] = "transfer"
    atlas: ClassVar[tuple[str, ...]] = ("AML.T0005.001", "AML.T0043.002", "AML.T0015")
    goal: ClassVar[str] = "a row crafted on a stolen copy, answered, that fools the model"
    words: ClassVar[str] = (
        "a substitute is stolen, FGSM and PGD on it are carried over (Papernot et al., AsiaCCS "
        "2017, arXiv 1602.02697)"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"classes"})

    def run(self, oracle: Asked, judge: Oracle | None, means: Means) -> Outcome:
        """Steals and carries over once a try; see ``Driver.run``.

        Raises:
            ValueError: if the endpoint is no classifier, the knobs do not do, or the budget is too
                small for the rows that are to be sent.
        """
        given = knobs.read(TransferKnobs, means.knobs)
        if means.budget <= 2 * given.rows + _LEAST:
            raise ValueError(f"a budget of {means.budget} leaves no queries for the substitute")
        box = box_of(means)
        tries: list[Try] = []
        fooled = sent = by_noise = judged = stolen = 0
        for number in range(means.tries):
            if number:
                oracle.next_try()
            random = means.random(61, number)
            crafting = bases(means, judge, given.rows, turn=number)
            client = Client(oracle, means.accounts[:1], given.wait)
            way = _Crafting(box, given.epsilon, given.steps, random)
            reached_at = 0
            try:
                substitute = _steal(client, box, means, random, 2 * len(crafting))
                stolen += substitute is not None
                for base in crafting:
                    if substitute is None:
                        break
                    sent += 1
                    label = _label(client, judge, means, base)
                    rows = way.variants(substitute, base, label)
                    hit = [_fools(client, judge, means, row, label) for row in rows]
                    fooled += any(hit)
                    if any(hit):
                        reached_at = reached_at or oracle.queries
            except Spent:
                pass
            tries.append(Try(reached_at > 0, reached_at or oracle.queries))
            if judge is not None:
                judged += len(crafting)
                by_noise += sum(_differs(judge, means, way.noisy(base), base) for base in crafting)
        details: dict[str, Any] = {"epsilon": given.epsilon, "sent": sent, "substitutes": stolen}
        return Outcome(
            tries,
            measure="rows that fool the model",
            value=judging.share(fooled, sent) if sent else None,
            baseline=by_noise / judged if judged else None,
            details=details,
        )


def _steal(
    client: Client, box: Box, means: Means, random: np.random.Generator, kept: int
) -> Mlp | None:
    """A substitute in units of the box, of all queries but those kept for what is crafted; None
    where too little was answered to learn from."""
    budget = means.budget - kept - client.answered - client.unanswered
    order = random.permutation(len(means.own))[: budget // 2 or 1]
    asked = box.inside(means.own[order])
    rows: list[Rows] = []
    scores: list[Scores] = []
    substitute: Mlp | None = None
    for _ in range(_ROUNDS):
        for row in asked[: max(0, budget)]:
            reply = client.ask(box.outside(row))
            budget -= 1
            if reply.scores is not None:
                rows.append(row)
                scores.append(reply.scores)
        targets = np.array(scores)
        if len(rows) < _LEAST or len(np.unique(targets.argmax(axis=1))) < 2:
            return substitute
        known = np.array(rows, np.float32)
        substitute = distil(known, np.maximum(targets, 0) + 1e-9, int(random.integers(2**31)))
        if budget <= 0:
            break
        chosen = known[random.permutation(len(known))[:budget]]
        labels: Labels = substitute.probabilities(chosen).argmax(axis=1)
        # Where the substitute changes most, the model tells most.
        side = random.choice(np.array([-1, 1], np.float32), size=(len(chosen), 1))
        steps = np.float32(0.1) * side * np.sign(substitute.loss_gradient(chosen, labels))
        asked = np.clip(chosen + steps, 0, 1)
    return substitute


@dataclass(frozen=True)
class _Crafting:
    """How rows are changed."""

    box: Box
    epsilon: float
    steps: int
    random: np.random.Generator

    def variants(self, substitute: Mlp, base: Rows, label: int) -> list[Rows]:
        """The base changed by either method, in the model's units."""
        start = self.box.inside(base)[None]
        labels: Labels = np.array([label], np.int64)
        epsilon = self.epsilon

        def stepped(row: Floats, size: float) -> Floats:
            moved = row + size * np.sign(substitute.loss_gradient(row, labels))
            near = np.clip(moved, start - epsilon, start + epsilon)
            return np.asarray(np.clip(near, 0, 1), np.float32)

        once = stepped(start, epsilon)
        begun = start + self.random.uniform(-epsilon, epsilon, start.shape)
        row = np.asarray(np.clip(begun, 0, 1), np.float32)
        for _ in range(self.steps):
            row = stepped(row, 2.5 * epsilon / self.steps)
        return [self.box.outside(once[0]), self.box.outside(row[0])]

    def noisy(self, base: Rows) -> Rows:
        """The base changed as much, without an aim."""
        signs = self.random.choice(np.array([-1, 1], np.float32), size=base.shape)
        moved = self.box.inside(base) + np.float32(self.epsilon) * signs
        return self.box.outside(np.clip(moved, 0, 1))


def _label(client: Client, judge: Oracle | None, means: Means, base: Rows) -> int:
    """How the model decides the base: by the judge, or else by an answer."""
    if judge is not None:
        return judging.ask(judge, base, means).label
    return client.ask(base).label


def _fools(client: Client, judge: Oracle | None, means: Means, row: Rows, label: int) -> bool:
    """Whether a row is answered, and decided otherwise."""
    reply = client.ask(row)
    if reply.scores is None or label < 0:
        return False
    said = reply.label if judge is None else judging.ask(judge, row, means).label
    return said >= 0 and said != label


def _differs(judge: Oracle, means: Means, row: Rows, base: Rows) -> bool:
    """Whether the model decides two rows otherwise."""
    said = judging.ask(judge, row, means).label
    return said >= 0 and said != judging.ask(judge, base, means).label
