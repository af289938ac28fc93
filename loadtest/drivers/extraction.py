"""Theft of a model: a surrogate learns from what it answers, and is worth what it agrees with it.

Six drivers, which differ in where their queries come from. All learn from scores where there are
scores (but Copycat, which by its nature wants labels), and are judged on rows that they never had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from pydantic import Field

from loadtest.attacks.datasets import Labels
from loadtest.attacks.distillation import BATCH, STEPS, distil
from loadtest.drivers import judging
from loadtest.drivers.accounts import Client
from loadtest.drivers.base import Asked, Means, Outcome, Spent, Try
from loadtest.drivers.extraction_policy import knockoff, other_rows
from loadtest.drivers.extraction_sources import Generated, natural
from loadtest.drivers.extraction_strategies import (
    Strategy,
    Taken,
    active,
    blends,
    harvest,
    jacobian,
    k_centre,
    matched_noise,
    matrix,
    uniform,
)
from loadtest.drivers.knobs import Fraction, Knobs, read
from loadtest.evidence.results import Estimate
from loadtest.mlp import Mlp
from loadtest.targets.base import Oracle, Rows, Scores

CURVE: Final = (100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000)
"""Queries after which a surrogate is trained, to tell what it is worth by then."""
EPOCHS: Final = 100
"""How often a surrogate sees each answer; of few answers oftener, of very many less often."""
MOST_STEPS: Final = 20_000
HELD: Final = 0.2
"""With no judge, the share of the budget that goes into honest rows to judge by."""


class ExtractionKnobs(Knobs):
    """What a scenario may say of a theft."""

    fidelity: Fraction = 0.8
    """The agreement with the model that counts as success."""
    padding: Annotated[float, Field(ge=0, le=0.99, allow_inf_nan=False)] = 0.0
    """The share of the attack's queries that are honest ones, to hide it."""


class OutKnobs(ExtractionKnobs):
    """What a scenario may say of a theft by rows out of the distribution."""

    source: Literal["auto", "pictures", "noise", "blends"] = "auto"
    """``pictures`` are generated; ``noise`` has the means and deviations of the attacker's rows;
    ``blends`` are weighted means of two of them; ``auto``: pictures for images, noise for
    tables."""


class ActiveKnobs(ExtractionKnobs):
    """What a scenario may say of a theft by active learning."""

    choice: Literal["uncertainty", "k-centre"] = "uncertainty"
    """Which of its rows it asks next."""


@dataclass(slots=True)
class _Loot:
    """What one try brought.

    Attributes:
        taken: rows and scores.
        at: the number of the attack's own query that each came from, from 1.
        queries: the attack's own, all of them.
        proof, truth: with no judge, honest rows and what the oracle said of them.
    """

    taken: Taken = field(default_factory=Taken)
    at: list[int] = field(default_factory=list)
    queries: int = 0
    proof: list[Rows] = field(default_factory=list)
    truth: list[int] = field(default_factory=list)


class Extraction:
    """What all thefts share; see ``Driver``."""

    name: str
    words: str
    family = "extraction"
    atlas: tuple[str, ...] = ("AML.T0024.002", "AML.T0005.001", "AML.T0040")
    goal = "a copy that decides as the model does"
    needs = frozenset({"classes"})
    kind: ClassVar[type[ExtractionKnobs]] = ExtractionKnobs
    scores: ClassVar[bool] = True
    """Whether it learns from scores where it gets them."""

    def strategy(self, means: Means, knobs: Any, random: np.random.Generator) -> Strategy:
        """Where its queries come from."""
        raise NotImplementedError

    def run(self, oracle: Asked, judge: Oracle | None, means: Means) -> Outcome:
        """See ``Driver``."""
        knobs = read(self.kind, means.knobs)
        if not len(means.own):
            raise ValueError("a thief needs honest rows of its own")
        if judge is not None and not len(means.test):
            raise ValueError("fidelity is judged on test rows: there are none")
        truth = None if judge is None else judging.labels(judge, means.test, means)
        tries, agreed, curves, clients, answers = [], [], [], [], 0
        baseline, total = 0.0, 0
        for number in range(means.tries):
            if number:
                oracle.next_try()
            client = Client(oracle, means.accounts, knobs.wait)
            loot = self._steal(client, means, knobs, number, hold=judge is None)
            clients.append(client)
            answers += len(loot.at)
            if truth is None:
                rows, wanted = np.array(loot.proof), np.array(loot.truth, np.int64)
            else:
                rows, wanted = means.test[truth >= 0], truth[truth >= 0]
            total = wanted.size
            baseline = float(np.bincount(wanted).max() / total) if total else 0.0
            curve = self._curve(loot, rows, wanted, means.seed + number)
            curves.append(curve)
            final = curve[max(curve)]
            agreed.append(final)
            good = [
                queries
                for queries, count in curve.items()
                if total and _reached(judging.share(count, total), knobs.fidelity, baseline)
            ]
            tries.append(Try(bool(good) and good[-1] == max(curve), min(good, default=max(curve))))
        return Outcome(
            tries,
            "fidelity",
            judging.share(float(np.mean(agreed)), total) if tries and total else None,
            baseline if total else None,
            {
                "fidelity_over_queries": _means(curves, total),
                "answered": answers,
                "answers": _form(clients),
                "waited_seconds": sum(client.waited for client in clients),
                **self.details(means, knobs),
            },
        )

    def details(self, means: Means, knobs: Any) -> dict[str, Any]:
        """What else its report is to show."""
        return {}

    def _steal(self, client: Client, means: Means, knobs: Any, number: int, *, hold: bool) -> _Loot:
        random = means.random(number, *self.name.encode())
        loot = _Loot()
        padded = 0

        def ask(row: Rows) -> Scores | None:
            nonlocal padded
            while random.random() < knobs.padding:
                client.ask(means.own[padded % len(means.own)], own=False)
                padded += 1
            scores = client.scores(row)
            loot.queries += 1
            if scores is not None:
                loot.at.append(loot.queries)
            return scores

        try:
            if hold:
                for row in means.test[: int(HELD * means.budget)]:
                    reply = client.ask(row, own=False)
                    if reply.label >= 0:
                        loot.proof.append(row)
                        loot.truth.append(reply.label)
            harvest(self.strategy(means, knobs, random), ask, loot.taken)
        except Spent:
            pass  # what it has by now is judged
        return loot

    def _curve(self, loot: _Loot, rows: Rows, truth: Labels, seed: int) -> dict[int, int]:
        """How many decisions agree, by queries."""
        found = {}
        for queries in [*(point for point in CURVE if point < loot.queries), loot.queries]:
            count = sum(at <= queries for at in loot.at)
            found[queries] = 0
            if truth.size:
                model = surrogate(
                    loot.taken.rows[:count],
                    loot.taken.scores[:count],
                    seed,
                    scores=self.scores,
                )
                # Without one, the commonest class is all that is left to say.
                found[queries] = int(
                    np.bincount(truth).max()
                    if model is None
                    else (model.probabilities(rows).argmax(axis=1) == truth).sum()
                )
        return found


def surrogate(
    rows: Sequence[Rows], answers: Sequence[Scores], seed: int, *, scores: bool
) -> Mlp | None:
    """A copy that learnt from answers; None from none.

    Args:
        scores: whether from all of an answer, or from its best class alone.
    """
    if not rows:
        return None
    targets = matrix(answers)
    best = np.eye(targets.shape[1])[targets.argmax(axis=1)]
    # Nothing but what a distribution is made of: an answer that is none still has a best class.
    sound = (
        np.isfinite(targets).all(axis=1) & (targets >= 0).all(axis=1) & (targets.sum(axis=1) > 0)
    )
    steps = min(MOST_STEPS, max(STEPS, EPOCHS * len(rows) // BATCH))
    return distil(np.array(rows), np.where(sound[:, None] & scores, targets, best), seed, steps)


def _reached(value: Estimate, wanted: float, baseline: float) -> bool:
    """Agreement enough, and more than by always saying the commonest class."""
    return value.value >= wanted and value.low > baseline


def _means(curves: Sequence[dict[int, int]], total: int) -> list[list[float]]:
    """[queries, fidelity] in their order, each a mean over the tries that came so far."""
    points: dict[int, list[int]] = {}
    for curve in curves:
        for queries, count in curve.items():
            points.setdefault(queries, []).append(count)
    return [[key, float(np.mean(points[key]) / max(1, total))] for key in sorted(points)]


def _form(clients: Sequence[Client]) -> str:
    if not any(client.answered for client in clients):
        return "none"
    return "scores" if any(client.whole for client in clients) else "labels"


class Random(Extraction):
    """Uniform over the box."""

    name = "extraction-random"
    words = "copies the model from rows uniform over the box (Tramèr et al., USENIX Security 2016)"

    def strategy(self, means: Means, knobs: Any, random: np.random.Generator) -> Strategy:
        """See ``Extraction``."""
        return uniform(means, random)


class OutOfDistribution(Extraction):
    """Generated pictures, matched noise or blends."""

    name = "extraction-ood"
    words = (
        "copies the model from rows out of its distribution: generated pictures, matched noise or "
        "blends (Truong et al., CVPR 2021; Baradad et al., NeurIPS 2021)"
    )
    kind = OutKnobs

    def strategy(self, means: Means, knobs: Any, random: np.random.Generator) -> Strategy:
        """See ``Extraction``."""
        source = _source(means, knobs)
        if source == "pictures":
            return other_rows(Generated(means), random)
        return blends(means, random) if source == "blends" else matched_noise(means, random)

    def details(self, means: Means, knobs: Any) -> dict[str, Any]:
        """See ``Extraction``."""
        return {"source": _source(means, knobs)}


def _source(means: Means, knobs: Any) -> str:
    if knobs.source == "auto":
        return "pictures" if means.image else "noise"
    return str(knobs.source)


class Jacobian(Extraction):
    """Jacobian-based augmentation."""

    name = "extraction-jacobian"
    words = (
        "copies the model from a few honest rows and steps along the copy's gradient "
        "(Papernot et al., AsiaCCS 2017)"
    )

    def strategy(self, means: Means, knobs: Any, random: np.random.Generator) -> Strategy:
        """See ``Extraction``."""
        return jacobian(means, random)


class Knockoff(Extraction):
    """Another distribution's rows, of the kinds that pay."""

    name = "extraction-knockoff"
    words = (
        "copies the model from another distribution's rows, of the kinds that it learns most from "
        "(Knockoff Nets, Orekondy et al., CVPR 2019)"
    )

    def strategy(self, means: Means, knobs: Any, random: np.random.Generator) -> Strategy:
        """See ``Extraction``."""
        return knockoff(natural(means), random)

    def details(self, means: Means, knobs: Any) -> dict[str, Any]:
        """See ``Extraction``."""
        return {"source": natural(means).name}


class Copycat(Extraction):
    """Labels of another distribution's rows."""

    name = "extraction-copycat"
    words = (
        "copies the model from nothing but its labels of another distribution's rows "
        "(Copycat CNN, Correia-Silva et al., IJCNN 2018)"
    )
    scores = False

    def strategy(self, means: Means, knobs: Any, random: np.random.Generator) -> Strategy:
        """See ``Extraction``."""
        return other_rows(natural(means), random)

    def details(self, means: Means, knobs: Any) -> dict[str, Any]:
        """See ``Extraction``."""
        return {"source": natural(means).name}


class Active(Extraction):
    """Active learning on the thief's own rows."""

    name = "extraction-active"
    words = (
        "copies the model from honest rows, those first of which the copy knows least "
        "(ActiveThief, Pal et al., AAAI 2020)"
    )
    kind = ActiveKnobs

    def strategy(self, means: Means, knobs: Any, random: np.random.Generator) -> Strategy:
        """See ``Extraction``."""
        return k_centre(means, random) if knobs.choice == "k-centre" else active(means, random)

    def details(self, means: Means, knobs: Any) -> dict[str, Any]:
        """See ``Extraction``."""
        return {"own_rows": len(means.own)}
