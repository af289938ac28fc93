"""From scores to p-values, and from a budget of false alarms to a threshold. Needs numpy only.

Two disjoint parts of the honest rows are used. Part A fixes each detector's :class:`Tail` and with
them the merged score. Part B, seen by nothing before, calibrates that merged score: whatever the
dependence between the detectors, the statement about the merged score is then exact.

Everything here assumes that live honest rows are exchangeable with the calibration rows. Under
drift it fails: the live alert rate is to be watched against the budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats, frozen, real

DECISION_SLACK: Final = 1e-6
"""A row is flagged above threshold + slack * max(1, |threshold|).

The threshold is the score of a calibration row. That row, replayed, must not be flagged because
one summation order rounds up where another rounds down; the slack is far above any difference
between the numpy and the native path, and far below what a merged score means.
"""

TIE: Final = 1e-9
"""Merged scores this close count as equal in a p-value, which rounding then does not move."""


class BudgetError(ValueError):
    """The calibration rows are too few to promise the budget.

    Attributes:
        have: the number of calibration rows.
        need: the number that it would take.
    """

    def __init__(self, have: int, need: int, alpha: float, delta: float) -> None:
        super().__init__(
            f"a false-positive budget of {alpha:g} with confidence {1 - delta:g} takes "
            f"{need} calibration rows; there are {have}"
        )
        self.have = have
        self.need = need


def empirical_p_values(calibration: npt.NDArray[Any], scores: npt.NDArray[Any]) -> Floats:
    """p = (1 + #{s_i >= s}) / (n + 1), with ``calibration`` sorted, rising.

    For an exchangeable row P(p <= a) <= a, averaged over calibration draws (Bates et al. 2023,
    arXiv 2104.08279).
    """
    below = np.searchsorted(calibration, scores, side="left")
    values = (1.0 + (calibration.size - below)) / (calibration.size + 1.0)
    return np.asarray(values, dtype=np.float64)


def rows_needed(alpha: float, delta: float) -> int:
    """The fewest calibration rows that can promise (alpha, delta): (1 - alpha)^n <= delta."""
    _check_budget(alpha, delta)
    need = math.ceil(math.log(delta) / math.log1p(-alpha))
    return need if binomial_tail(need, alpha, 0) <= delta else need + 1


def rows_for_rank(rank: int, alpha: float, delta: float) -> int:
    """The fewest calibration rows at which :func:`threshold_rank` is ``rank``, from 1."""
    many = max(rows_needed(alpha, delta), rank)
    few = many - 1
    while binomial_tail(many, alpha, rank - 1) > delta:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        if binomial_tail(middle, alpha, rank - 1) <= delta:
            many = middle
        else:
            few = middle
    return many


def binomial_tail(n: int, alpha: float, most: int) -> float:
    """P(Bin(n, alpha) <= most)."""
    log_term = n * math.log1p(-alpha)
    odds = math.log(alpha) - math.log1p(-alpha)
    total = math.exp(log_term)
    for count in range(1, most + 1):
        log_term += math.log(n - count + 1) - math.log(count) + odds
        total += math.exp(log_term)
    return total


def threshold_rank(n: int, alpha: float, delta: float) -> int:
    """The largest l with P(Bin(n, alpha) <= l - 1) <= delta.

    Flagging what scores strictly above the l-th largest of n calibration scores has a
    false-positive rate of at most alpha with probability at least 1 - delta over the draw of the
    calibration rows: the rate exceeds alpha only if fewer than l of them fall into the upper tail
    of mass alpha (Vovk 2012, "Conditional validity of inductive conformal predictors").

    Raises:
        BudgetError: if no l does it; says how many rows it takes.
        ValueError: if alpha or delta is outside (0, 1).
    """
    _check_budget(alpha, delta)
    log_term = n * math.log1p(-alpha)
    odds = math.log(alpha) - math.log1p(-alpha)
    total, rank = math.exp(log_term), 0
    while total <= delta and rank < n:
        rank += 1
        log_term += math.log(n - rank + 1) - math.log(rank) + odds
        total += math.exp(log_term)
    if rank == 0:
        raise BudgetError(n, rows_needed(alpha, delta), alpha, delta)
    return rank


def _check_budget(alpha: float, delta: float) -> None:
    if not 0 < alpha < 1 or not 0 < delta < 1:
        raise ValueError("budget and confidence must lie strictly between 0 and 1")


@dataclass(frozen=True, eq=False, slots=True)
class Tail:
    """A detector's score as evidence, -log p, estimated on split A and then frozen.

    Up to the last knot it interpolates the empirical p-values; above it a generalised Pareto tail
    goes on, so that scores beyond everything in A keep their order and none is tied at a cap:
    evidence = last + log(1 + shape (s - u) / scale) / shape. It never falls as the score rises.

    Attributes:
        knots: (m,) scores, strictly rising; the last is u.
        evidence: (m,) -log p at each knot, rising.
        shape: above 0: the heavier A's tail, the larger, and the less an extreme score says.
        scale: above 0, in the score's unit.
    """

    knots: Floats
    evidence: Floats
    shape: float
    scale: float

    def __post_init__(self) -> None:
        knots = frozen(self.knots, np.float64, (None,))
        if not knots.size or not bool((np.diff(knots) > 0).all()):
            raise ValueError("the knots of a tail must rise")
        evidence = frozen(self.evidence, np.float64, (knots.size,))
        if evidence[0] < 0 or not bool((np.diff(evidence) >= 0).all()):
            raise ValueError("the evidence of a tail must rise from 0 or above")
        object.__setattr__(self, "knots", knots)
        object.__setattr__(self, "evidence", evidence)
        object.__setattr__(self, "shape", real(self.shape, "shape", low=1e-3, high=10.0))
        object.__setattr__(self, "scale", real(self.scale, "scale", low=1e-300))

    def __call__(self, scores: Floats) -> Floats:
        """(n,) finite scores to (n,) evidence, finite and not negative."""
        inside = np.interp(scores, self.knots, self.evidence)
        with np.errstate(over="ignore"):
            excess = np.maximum(scores - self.knots[-1], 0.0) / self.scale
        beyond: Floats = inside + np.log1p(self.shape * excess) / self.shape
        return beyond


def merge(evidence: Sequence[Floats]) -> Floats:
    """log of the mean of 1/p over detectors: the merged score, (n,).

    In the tail it is the Cauchy combination (Liu and Xie 2020), which is the mean of 1/(pi p)
    there; unlike it, a p-value near 1 from one detector cannot outweigh the others. It is a score
    only: its own p-value comes from split B.
    """
    stacked = np.stack(evidence)
    top = stacked.max(axis=0)
    merged: Floats = top + np.log(np.exp(stacked - top).sum(axis=0) / len(stacked))
    return merged


@dataclass(frozen=True, eq=False, slots=True)
class Calibration:
    """Split B's merged scores, and what is promised from them.

    Attributes:
        scores: (n,) merged scores of split B, rising.
        alpha: the false-positive budget.
        delta: the risk that the budget does not hold: 1 - confidence.
        rank: l: the threshold is the l-th largest score.
        threshold: flag what is strictly above, beyond :data:`DECISION_SLACK`.
    """

    scores: Floats
    alpha: float
    delta: float
    rank: int
    threshold: float

    @classmethod
    def of(cls, scores: Floats, alpha: float, delta: float) -> Calibration:
        """Calibrates on merged scores in any order.

        Raises:
            BudgetError: if they are too few for the budget.
            ValueError: if a score is not finite, or alpha or delta is outside (0, 1).
        """
        ordered = frozen(np.sort(scores), np.float64, (None,))
        rank = threshold_rank(ordered.size, alpha, delta)
        return cls(ordered, alpha, delta, rank, float(ordered[-rank]))

    @property
    def flag_above(self) -> float:
        """The threshold with its slack: a row is flagged if its merged score is above this."""
        return self.threshold + DECISION_SLACK * max(1.0, abs(self.threshold))

    def p_values(self, merged: Floats) -> Floats:
        """Conformal p-values of merged scores."""
        return empirical_p_values(self.scores, merged - TIE)
