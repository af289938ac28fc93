"""What the gateway calls once the model has answered: rows and answers in, verdicts out.

A row's evidence is gathered in steps, each only if the step before let the row pass:

1. before it is forwarded: E1, the evidence of the input's merged score;
2. with the answer: E2, of the sum of E1 and the evidence of every agreement detector;
3. asked again, where that is configured: E3, of the sum with the evidence of the second opinions,
   for rows whose E2 is above ``suspicion``.

The calibrated score is J = max(E1 - handicap, E2, E3). One threshold on J, made from rows that
fitted nothing, keeps the budget over all steps together; a step that is left out only lowers J, so
the budget holds without it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import numpy as np

from detectors.agreement.base import AgreementDetector, Answers, Need, SecondOpinion
from detectors.agreement.panel import Panel
from detectors.arrays import Floats, real
from detectors.base import Rows
from detectors.calibration import DECISION_SLACK, Calibration, Tail
from detectors.scorer import ScoreFault, Verdicts

_SMALLEST: Final = float(np.finfo(np.float64).tiny)
_NOT_FINITE: Final = "a score of a row and its answer is not finite"


class AnswerScorer:
    """Agreement detectors, their tails and the calibration over all steps. Immutable; any thread.

    Attributes:
        names: the agreement detectors, in order.
        classes: the names of the model's classes, in the order of the labels' indices; None for a
            regression model.
        entry: the input's merged score as evidence, E1.
        handicap: nats that E1 must have more than the threshold to refuse a row unanswered.
    """

    def __init__(
        self,
        detectors: Sequence[AgreementDetector],
        tails: Sequence[Tail],
        *,
        entry: Tail,
        total: Tail,
        calibration: Calibration,
        classes: Sequence[str] | None,
        handicap: float = 0.0,
        opinions: Sequence[SecondOpinion] = (),
        opinion_tails: Sequence[Tail] = (),
        final: Tail | None = None,
        suspicion: float = np.inf,
    ) -> None:
        """Prepares to serve.

        Args:
            detectors: at least one.
            tails: one for each.
            total: of the sum of step 2, giving E2.
            calibration: of J.
            opinions: asked in step 3; none: there is no step 3.
            opinion_tails: one for each.
            final: of the sum of step 3, giving E3; needed with opinions.
            suspicion: E2 (nats) from which on a second opinion is worth its cost.

        Raises:
            ValueError: if the parts do not fit each other.
        """
        if not detectors or len(detectors) != len(tails):
            raise ValueError("an answer scorer needs detectors, and a tail for each")
        if len(opinions) != len(opinion_tails) or bool(opinions) != (final is not None):
            raise ValueError("second opinions need a tail each, and one for their sum")
        every: list[AgreementDetector | SecondOpinion] = [*detectors, *opinions]
        self.names: Final = tuple(detector.name for detector in detectors)
        if len({one.name for one in every}) != len(every):
            raise ValueError("a kind of detector occurs twice")
        self.features: Final = detectors[0].features
        if any(one.features != self.features for one in every):
            raise ValueError("the detectors differ in their number of features")
        self.outputs: Final = detectors[0].outputs
        if any(detector.outputs != self.outputs for detector in detectors):
            raise ValueError("the detectors differ in their number of classes or values")
        if classes is not None and len(classes) != self.outputs:
            raise ValueError(f"{len(classes)} classes for detectors of {self.outputs}")
        self.detectors: Final = tuple(detectors)
        self.tails: Final = tuple(tails)
        self.entry: Final = entry
        self.total: Final = total
        self.calibration: Final = calibration
        self.classes: Final = None if classes is None else tuple(classes)
        self.handicap: Final = real(handicap, "handicap", high=1e6)
        self.opinions: Final = tuple(opinions)
        self.opinion_tails: Final = tuple(opinion_tails)
        self.final: Final = final
        if not suspicion >= 0:
            raise ValueError(f"suspicion must be 0 or above, got {suspicion!r}")
        self.suspicion: Final = float(suspicion)
        self.needs: Final[frozenset[Need]] = frozenset(one.needs for one in every)
        self._flag_above: Final = calibration.flag_above
        self._panel: Final = Panel(self.detectors)
        self._curves: Final = tuple(_Curve(tail) for tail in (entry, total, *tails))

    @property
    def threshold(self) -> float:
        """J strictly above this is flagged."""
        return self._flag_above

    @property
    def input_threshold(self) -> float:
        """The input's merged score strictly above this is flagged before anything is forwarded."""
        score = _inverse(self.entry, self._flag_above + self.handicap)
        return score + DECISION_SLACK * max(1.0, abs(score))

    def with_budget(self, alpha: float, delta: float) -> AnswerScorer:
        """The same under another budget and confidence (1 - delta).

        Raises:
            BudgetError: if the calibration rows are too few; says how many it takes.
        """
        return AnswerScorer(
            self.detectors,
            self.tails,
            entry=self.entry,
            total=self.total,
            calibration=Calibration.of(self.calibration.scores, alpha, delta),
            classes=self.classes,
            handicap=self.handicap,
            opinions=self.opinions,
            opinion_tails=self.opinion_tails,
            final=self.final,
            suspicion=self.suspicion,
        )

    def score(self, rows: Rows, answers: Answers, merged: Floats) -> Verdicts:
        """Steps 1 and 2: what is known of n rows once they are answered.

        Args:
            rows: (n, d) float32.
            answers: of the n rows.
            merged: (n,) the input's merged scores, as :class:`detectors.scorer.Scorer` found them.

        Returns:
            ``merged`` is J so far, in nats; ``scores`` and ``detector_p_values`` are the agreement
            detectors'.

        Raises:
            ScoreFault: if a score of any row is not finite.
            ValueError: if rows and answers do not fit the detectors, or each other.
        """
        scores = self._panel.scores(rows, answers)
        if merged.shape != (len(rows),):
            raise ValueError(f"{merged.shape} merged scores of {len(rows)} rows")
        if len(rows) == 1:
            return self._score_one(scores, float(merged[0]))
        entry = self.entry(merged)
        if not bool(np.isfinite(scores).all() & np.isfinite(entry).all()):
            raise ScoreFault(_NOT_FINITE)
        evidence = np.stack([tail(scores[:, k]) for k, tail in enumerate(self.tails)], axis=1)
        joint = np.maximum(entry - self.handicap, self.total(entry + evidence.sum(axis=1)))
        return self._verdicts(self.names, joint, scores, evidence)

    def _score_one(self, scores: Floats, merged: float) -> Verdicts:
        """As for many rows, without the cost of arrays of one element."""
        values = scores[0].tolist()
        if not math.isfinite(merged) or not all(map(math.isfinite, values)):
            raise ScoreFault(_NOT_FINITE)
        entry_of, total_of, *curves = self._curves
        entry = entry_of(merged)
        evidence = [curve(value) for curve, value in zip(curves, values, strict=True)]
        joint = max(entry - self.handicap, total_of(entry + sum(evidence)))
        return self._verdicts(self.names, np.array([joint]), scores, np.array([evidence]))

    def suspicious(self, verdicts: Verdicts) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """(n,): the rows that are not flagged, but of which a second opinion is worth its cost."""
        found: np.ndarray[tuple[int], np.dtype[np.bool_]] = ~verdicts.flagged & (
            verdicts.merged > self.suspicion
        )
        return found

    def reconsider(
        self, rows: Rows, answers: Answers, merged: Floats, again: Sequence[Answers]
    ) -> Verdicts:
        """Step 3: the same rows, with the model's answers to each second opinion's views.

        Args:
            rows, answers, merged: as for :meth:`score`.
            again: for each opinion the answers to its views of the rows.

        Raises:
            ScoreFault, ValueError: as :meth:`score`.
        """
        before = self.score(rows, answers, merged)
        if self.final is None or len(again) != len(self.opinions):
            raise ValueError("not the second opinions of this scorer")
        scores = np.empty((len(rows), len(self.opinions)))
        for k, (opinion, said) in enumerate(zip(self.opinions, again, strict=True)):
            scores[:, k] = opinion.score(answers, said)
        if not bool(np.isfinite(scores).all()):
            raise ScoreFault("a second opinion's score is not finite")
        evidence = np.stack(
            [tail(scores[:, k]) for k, tail in enumerate(self.opinion_tails)], axis=1
        )
        first = sum(tail(before.scores[:, k]) for k, tail in enumerate(self.tails))
        asked = self.final(self.entry(merged) + first + evidence.sum(axis=1))
        heard = before.merged > self.suspicion
        joint = np.where(heard, np.maximum(before.merged, asked), before.merged)
        return self._verdicts(
            (*self.names, *(opinion.name for opinion in self.opinions)),
            joint,
            np.hstack([before.scores, scores]),
            np.hstack([-np.log(before.detector_p_values), evidence]),
        )

    def _verdicts(
        self, names: tuple[str, ...], joint: Floats, scores: Floats, evidence: Floats
    ) -> Verdicts:
        return Verdicts(
            names,
            joint,
            self.calibration.p_values(joint),
            joint > self._flag_above,
            scores,
            np.maximum(np.exp(-evidence), _SMALLEST),
        )


class _Curve:
    """A tail for one score at a time: equal to it to 1e-12."""

    __slots__ = ("_evidence", "_knots", "_scale", "_shape")

    def __init__(self, tail: Tail) -> None:
        self._knots: list[float] = tail.knots.tolist()
        self._evidence: list[float] = tail.evidence.tolist()
        self._shape = tail.shape
        self._scale = tail.scale

    def __call__(self, score: float) -> float:
        knots, evidence = self._knots, self._evidence
        place = bisect_right(knots, score)
        if place == len(knots):
            excess = (score - knots[-1]) / self._scale
            return evidence[-1] + math.log1p(self._shape * excess) / self._shape
        if place == 0:
            return evidence[0]
        share = (score - knots[place - 1]) / (knots[place] - knots[place - 1])
        return evidence[place - 1] + share * (evidence[place] - evidence[place - 1])


def _inverse(tail: Tail, evidence: float) -> float:
    """The largest score whose evidence is at most this; the lowest knot if all have more."""
    if evidence < tail.evidence[-1]:
        index = int(np.searchsorted(tail.evidence, evidence, side="right"))
        if index == 0:
            return float(tail.knots[0])
        low, high = float(tail.evidence[index - 1]), float(tail.evidence[index])
        share = (evidence - low) / (high - low)
        return float(tail.knots[index - 1] + share * (tail.knots[index] - tail.knots[index - 1]))
    with np.errstate(over="ignore"):
        beyond = np.expm1(tail.shape * (evidence - float(tail.evidence[-1]))) / tail.shape
    return float(min(tail.knots[-1] + tail.scale * beyond, np.finfo(np.float64).max))
