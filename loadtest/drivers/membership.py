"""Whether the model betrays which rows it was trained on.

From scores: by a threshold on the confidence of the answer (S. Yeom et al., "Privacy Risk in
Machine Learning", CSF 2018; with the model's own label in place of the true one, as the third
adversary of A. Salem et al., "ML-Leaks", NDSS 2019). From labels alone: by how many slightly
changed copies of a row keep its label (C. A. Choquette-Choo et al., "Label-Only Membership
Inference Attacks", ICML 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from loadtest.drivers import judging
from loadtest.drivers.accounts import Client
from loadtest.drivers.base import Asked, Means, Outcome, Spent, Try
from loadtest.drivers.knobs import Fraction, Knobs, read
from loadtest.evidence.results import Estimate
from loadtest.targets.base import Oracle, Rows, Scores

FALSE_POSITIVES = 0.05
PROBE = 10
"""Answers by which it is told whether there are scores."""


class MembershipKnobs(Knobs):
    """What a scenario may say of membership inference."""

    variant: Literal["auto", "scores", "labels"] = "auto"
    """What it infers from; ``auto``: from scores, if any of the first answers has some."""
    copies: Annotated[int, Field(ge=1, le=1000)] = 10
    """Changed copies of each row, where only labels count."""
    noise: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.1
    """Their standard deviation, as a share of the box."""
    true_positives: Fraction = 0.1
    """The share of members found, at 5 % false positives, that counts as success: a coin finds
    5 %."""


class Membership:
    """See ``Driver``."""

    name = "membership"
    family = "membership"
    atlas: tuple[str, ...] = ("AML.T0024.000", "AML.T0040")
    goal = "members told from other rows"
    words = (
        "tells rows of the training data from others by the answer's confidence (Yeom et al., CSF "
        "2018), or by labels of changed copies (Choquette-Choo et al., ICML 2021)"
    )
    needs = frozenset({"classes", "members"})

    def run(self, oracle: Asked, judge: Oracle | None, means: Means) -> Outcome:
        """See ``Driver``. The truth is in the data: the judge is not asked."""
        knobs = read(MembershipKnobs, means.knobs)
        if means.members is None or not len(means.members) or not len(means.test):
            raise ValueError("membership needs rows that the model was trained on, and others")
        tries, areas, found, sizes = [], [], [], []
        variants: list[str] = []
        unanswered = 0
        for number in range(means.tries):
            if number:
                oracle.next_try()
            client = Client(oracle, means.accounts, knobs.wait)
            inference = _ask(client, means, knobs, number)
            members, others = inference.found
            area = judging.area(members, others)
            hits = true_positives(members, others)
            areas.append(area)
            found.append(hits)
            sizes.append(min(len(members), len(others)))
            variants.append(inference.variant or "nothing")
            unanswered += client.unanswered
            reached = area.low > 0.5 and hits >= knobs.true_positives
            tries.append(Try(reached, client.own))
        return Outcome(
            tries,
            "area under the ROC curve",
            _together(areas),
            0.5,
            {
                "true_positives_at_5_percent": float(np.mean(found)) if found else None,
                "inferred_from": sorted(set(variants)),
                "rows_of_each_kind": sizes,
                "unanswered": unanswered,
            },
        )


def _together(areas: Sequence[Estimate]) -> Estimate | None:
    """Tries share rows: together they are told with the interval of one, not a narrower one."""
    if not areas:
        return None
    ends = np.array([(area.value, area.low, area.high) for area in areas]).mean(axis=0)
    return Estimate(*map(float, ends))


def true_positives(members: Sequence[float], others: Sequence[float]) -> float:
    """The share of members above the lowest threshold that at most 5 % of the others exceed; 0 of
    none."""
    if not members or not others:
        return 0.0
    allowed = int(FALSE_POSITIVES * len(others))
    threshold = np.sort(np.asarray(others))[::-1][allowed]
    return float((np.asarray(members) > threshold).mean())


@dataclass(slots=True)
class _Inference:
    """What one try infers from.

    Attributes:
        variant: ``scores`` or ``labels``, or "" as long as it is not known.
        found: for members and for others, larger for likelier members.
    """

    client: Client
    means: Means
    knobs: MembershipKnobs
    random: np.random.Generator
    variant: str
    found: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    _kept: list[tuple[int, Rows, Scores]] = field(default_factory=list)

    def ask(self, kind: int, row: Rows) -> None:
        """Asks about a member (kind 0) or another row (1)."""
        scores = self.client.scores(row)
        if scores is None:
            return
        self._kept.append((kind, row, scores))
        if not self.variant and self.client.answered >= PROBE:
            self.settle()
        while self.variant and self._kept:
            self._infer(*self._kept.pop(0))

    def settle(self) -> None:
        """From what came so far, tells which variant it is to be."""
        self.variant = self.variant or ("scores" if self.client.whole else "labels")

    def finish(self) -> None:
        """Infers from what is left, without asking."""
        if self.client.answered:
            self.settle()
        for kind, _, scores in self._kept if self.variant == "scores" else ():
            self.found[kind].append(float(scores.max()))

    def _infer(self, kind: int, row: Rows, scores: Scores) -> None:
        if self.variant == "scores":
            self.found[kind].append(float(scores.max()))
            return
        low, high = self.means.low, self.means.high
        same, answered = 0, 0
        for _ in range(self.knobs.copies):
            noise = self.knobs.noise * (high - low) * self.random.standard_normal(row.size)
            answer = self.client.scores(np.clip(row + noise, low, high).astype(np.float32))
            if answer is not None:
                answered += 1
                same += int(answer.argmax() == scores.argmax())
        if answered:
            self.found[kind].append(same / answered)


def _ask(client: Client, means: Means, knobs: MembershipKnobs, number: int) -> _Inference:
    """Members and others in turn, as many of each."""
    members = means.members if means.members is not None else means.own[:0]
    random = means.random(number, 3)
    variant = "" if knobs.variant == "auto" else knobs.variant
    inference = _Inference(client, means, knobs, random, variant)
    pairs = zip(random.permutation(len(members)), random.permutation(len(means.test)), strict=False)
    try:
        for member, other in pairs:
            inference.ask(0, members[member])
            inference.ask(1, means.test[other])
    except Spent:
        pass  # what it has by now is judged
    inference.finish()
    return inference
