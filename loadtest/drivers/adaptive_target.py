"""What the searches of ``adaptive_search`` are set upon when they attack a real endpoint, and how
their success is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field

from loadtest.drivers import judging
from loadtest.drivers.accounts import Client
from loadtest.drivers.adaptive_search import (
    WARM_UP,
    Manner,
    Search,
    Target,
    near,
    run,
)
from loadtest.drivers.base import Asked, Means, Outcome, Spent, Try
from loadtest.drivers.knobs import Knobs
from loadtest.targets.base import Oracle, Rows

NEAREST: Final = 500
"""Rows of the attacker's by which it is told what counts as near."""


class SearchKnobs(Knobs):
    """What a scenario may say of a search for an adversarial example."""

    warm_up: Annotated[int, Field(ge=0)] = WARM_UP
    """Honest queries that an account begins with."""
    step: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.15
    """How far each feature of a row that counts as near may lie from the base's, as a share of its
    box."""
    near: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 0.9
    """What else counts as near, in the L2 norm: this share of half the median distance from an own
    row to the nearest of another class."""


class WayKnobs(SearchKnobs):
    """What it may say of one that is led by labels or by scores."""

    way: Literal["decisions", "scores"] = "decisions"
    """From labels alone, in HopSkipJump's way, or from scores, in Square's."""


Begin = Callable[[Client, Target, np.random.Generator], Manner]


def attack(
    oracle: Asked,
    judge: Oracle | None,
    means: Means,
    *,
    knobs: SearchKnobs,
    way: str,
    begin: Begin,
) -> Outcome:
    """Searches from as many bases as there are tries.

    Args:
        begin: how one try asks: of a client, what it is set upon and its own randomness; it may
            send its warm-up, and raise ``Spent``.

    Raises:
        ValueError: if the means do not do.
    """
    if means.labels is None or not len(means.own) or len(means.labels) != len(means.own):
        raise ValueError("the search needs own rows, and a label of each")
    targets = _targets(means, judge, knobs)
    tries, distances = [], []
    clients: list[Client] = []
    for number in range(means.tries):
        if number:
            oracle.next_try()
        target = next(targets, None)
        if target is None:
            raise ValueError(
                f"{means.tries} tries need as many own rows that the model gets right: "
                f"there are {number}"
            )
        random = means.random(number, *way.encode())
        client = Client(oracle, means.accounts, knobs.wait)
        clients.append(client)
        try:
            manner = begin(client, target, random)
            if judge is None:
                target = _as_told(target, client, means)
            found = run(Search(target, manner, random), way)
        except Spent:  # in the warm-up
            found = None
        reached = found is not None and (judge is None or _fools(judge, found, target, means))
        tries.append(Try(reached, client.own))
        if reached and found is not None:
            step = target.to_box(found) - target.to_box(target.base)
            distances.append(float(np.linalg.norm(step)))
    details: dict[str, Any] = {
        "way": way,
        "accounts": len(means.accounts),
        "unanswered": sum(client.unanswered for client in clients),
        "waited_seconds": sum(client.waited for client in clients),
    }
    if distances:
        details["median_distance"] = float(np.median(distances))
    return Outcome(tries, details=details)


def _targets(means: Means, judge: Oracle | None, knobs: SearchKnobs) -> Iterator[Target]:
    """One of each class in turn, of rows that the model gets right."""
    low, high = means.low, means.high
    high = np.where(high > low, high, low + 1).astype(np.float32)
    own = np.clip(means.own, low, high).astype(np.float32)
    labels = np.asarray(means.labels)
    box = (own[:NEAREST] - low) / (high - low)
    close = knobs.near * near(box, labels[:NEAREST])
    turn = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        turn[labels == label] = np.arange((labels == label).sum())
    for index in np.argsort(turn, kind="stable"):
        label = int(labels[index])
        if judge is None or judging.ask(judge, own[index], means).label == label:
            yield Target(
                own[index], label, own[labels != label], low, high, close, knobs.step, _shape(means)
            )


def _as_told(target: Target, client: Client, means: Means) -> Target:
    """With no judge, the base's label is the one that the oracle gives it."""
    label = client.ask(target.base).label
    if label < 0:
        return target
    return replace(target, label=label, others=means.own[np.asarray(means.labels) != label])


def _fools(judge: Oracle, row: Rows, target: Target, means: Means) -> bool:
    label = judging.ask(judge, row, means).label
    return label >= 0 and label != target.label


def _shape(means: Means) -> tuple[int, int]:
    """A picture's; of a table, or of pictures with channels, the squarest."""
    features = means.low.size
    if means.image and means.image[0] * means.image[1] == features:
        return means.image
    height = max(h for h in range(1, int(features**0.5) + 1) if features % h == 0)
    return height, features // height
