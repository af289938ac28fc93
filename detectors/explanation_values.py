"""What an explanation says: numbers only, for whoever renders them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats

Method: TypeAlias = Literal["exact", "path", "sampled"]
"""How contributions were found: by the score's own form, along the paths of trees, or as Shapley
values over sampled orders of the features."""


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """Which features made one score.

    Attributes:
        score: what is explained.
        baseline: the score without what the features add.
        contributions: (d,) float64: they sum to ``score - baseline``.
        method: how they were found.
    """

    score: float
    baseline: float
    contributions: Floats
    method: Method

    def is_complete(self, tolerance: float) -> bool:
        """Whether all is finite and the contributions sum to the score, to ``tolerance`` of the
        sum of their sizes."""
        size = abs(self.score) + abs(self.baseline) + float(np.abs(self.contributions).sum())
        missing = self.score - self.baseline - float(self.contributions.sum())
        return abs(missing) <= tolerance * size < np.inf


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """One detector about one row.

    Attributes:
        name: the detector's.
        score: its score.
        p_value: the estimate that goes into the merge.
        evidence: -log of it, in nats.
        attribution: which features made the score; None if that could not be found.
        nats: (d,) float64: the same contributions as evidence. They sum to what the evidence is
            above that of the baseline.
    """

    name: str
    score: float
    p_value: float
    evidence: float
    attribution: Attribution | None
    nats: Floats


@dataclass(frozen=True, slots=True, eq=False)
class InputExplanation:
    """Why the input of a row has the merged score that it has.

    Attributes:
        merged: the merged score.
        threshold: above it a row is flagged.
        p_value: conformal, of the merged score.
        flagged: whether it is.
        baseline: the merged score without what the features add.
        contributions: (d,) float64: they sum to ``merged - baseline``.
        findings: the detectors', in the scorer's order.
    """

    merged: float
    threshold: float
    p_value: float
    flagged: bool
    baseline: float
    contributions: Floats
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Witness:
    """What one detector would have answered: how much it doubts each answer that there is.

    Attributes:
        name: the detector's.
        doubts: (C,) float64: its score, were the model's answer that class.
    """

    name: str
    doubts: Floats

    @property
    def answer(self) -> int:
        """The class that it doubts least."""
        return int(self.doubts.argmin())


@dataclass(frozen=True, slots=True, eq=False)
class AnswerExplanation:
    """Why a row and its answer do not go together, or do.

    Attributes:
        joint: J, the score over input and answer, in nats.
        threshold: above it a row is flagged.
        p_value: conformal, of J.
        flagged: whether it is.
        entry: the evidence (nats) of the input alone, which J counts in.
        baseline: the sum of the detectors' evidence without what the features add.
        contributions: (d,) float64, nats: they sum to the detectors' evidence less ``baseline``.
        findings: the agreement detectors', in the scorer's order.
        witnesses: those detectors that judge each class by itself.
        expected: what a regression model's witnesses expected, by name: (m,) float64 each.
    """

    joint: float
    threshold: float
    p_value: float
    flagged: bool
    entry: float
    baseline: float
    contributions: Floats
    findings: tuple[Finding, ...]
    witnesses: tuple[Witness, ...]
    expected: dict[str, Floats]


@dataclass(frozen=True, slots=True, eq=False)
class Neighbour:
    """An honest row near one that is explained.

    Attributes:
        index: its place among the examples.
        distance: root mean squared difference over features, each in units of its spread.
        values: (d,) float32.
        label: the index of its class, None if labels were not kept.
    """

    index: int
    distance: float
    values: npt.NDArray[np.float32]
    label: int | None
