"""One set, one seed, one fold: fitted as the product fits, and what it then flags.

The honest rows that the victim has not seen and that were not attacked are cut into folds. A fold
is tested, all others calibrate: over the folds each honest row is tested once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from detectors.agreement import REGISTRY
from detectors.agreement.base import AgreementDetector, Answers, SecondOpinion
from detectors.agreement.scorer import AnswerScorer
from detectors.arrays import Floats
from detectors.base import Rows
from detectors.calibration import BudgetError, threshold_rank
from detectors.scorer import Scorer
from detectors.training.agreement import fit_agreement, fit_opinions
from detectors.training.fit import Fitted, fit
from detectors.training.splits import distinct
from detectors.training.usage import Promise, use_rows
from loadtest.adversarial.crafted import Attack, Crafted
from loadtest.adversarial.datasets import WRONG, Singles, friedman

FOLDS: Final = 4
BUDGETS: Final = (0.01, 0.001)
DELTA: Final = 0.05
PAC: Final = "pac"
MARGINAL: Final = "marginal"
INPUT: Final = "input merged"
ANSWERED: Final = "after response"
ASKED: Final[dict[str, tuple[str, ...]]] = {
    "asked again: squeezing": ("feature_squeezing",),
    "asked again: squeezing, noise": ("feature_squeezing", "noise_consistency"),
}
"""Second opinions, asked wherever there is suspicion."""

Bools = npt.NDArray[np.bool_]
Row = dict[str, Any]


class Batch(NamedTuple):
    """Rows and what the victim said of them."""

    rows: Singles
    answers: Answers


def rank(count: int, budget: float, guarantee: str) -> int | None:
    """Which of ``count`` calibration scores, from the largest, is the threshold; None: too few.

    ``pac`` is what the product promises: the budget holds with 95 % confidence. ``marginal`` holds
    it on average over calibrations: rank floor(budget (count + 1)).
    """
    if guarantee == MARGINAL:
        return math.floor(budget * (count + 1) + 1e-9) or None
    try:
        return threshold_rank(count, budget, DELTA)
    except BudgetError:
        return None


@dataclass(frozen=True, slots=True)
class Fold:
    """What is fitted and what is tested.

    Attributes:
        fit: the rows that fit and calibrate, those that the victim was trained on first.
        truths: their labels or values.
        seen: (n,) whether the victim was trained on them.
        held: honest rows that did nothing.
        mistakes: (h,) whether the victim is wrong about them.
    """

    fit: Batch
    truths: npt.NDArray[Any]
    seen: Bools
    held: Batch
    mistakes: Bools


def fold_of(made: Crafted, seed: int, number: int) -> Fold:
    """Cuts the honest rows that were not attacked."""
    honest = np.setdiff1d(np.arange(len(made.rest_x)), made.bases)
    order = np.random.default_rng((seed, 79)).permutation(honest)
    held = np.sort(order[number::FOLDS])
    used = np.sort(np.setdiff1d(order, held))
    rows = np.concatenate([made.train_x, made.rest_x[used]])
    told = np.concatenate([made.train_p, made.rest_p[used]])
    return Fold(
        fit=Batch(rows, answers(made, told)),
        truths=np.concatenate([made.train_y, made.rest_y[used]]),
        seen=np.arange(len(rows)) < len(made.train_x),
        held=Batch(made.rest_x[held], answers(made, made.rest_p[held])),
        mistakes=_mistakes(made, held),
    )


def answers(made: Crafted, told: Floats) -> Answers:
    """The victim's probabilities or values, as the gateway would read them."""
    return Answers.of_values(told) if made.regression else Answers.of_probabilities(told)


def _mistakes(made: Crafted, which: npt.NDArray[np.int64]) -> Bools:
    if not made.regression:
        wrong: Bools = made.rest_p[which].argmax(axis=1) != made.rest_y[which]
        return wrong
    error = np.abs(made.rest_p[:, 0] - friedman(made.rest_x))
    beyond: Bools = error[which] > WRONG * np.sqrt((error**2).mean())
    return beyond


def fitted(made: Crafted, fold: Fold, *, seed: int, opinions: tuple[str, ...] = ()) -> Fitted:
    """As ``bartizan fit`` does with labels, the model's answers and the rows that it has seen."""
    classes = fold.fit.answers.probabilities
    return fit(
        fold.fit.rows,
        alpha=BUDGETS[0],
        delta=DELTA,
        seed=seed,
        labels=None if classes is None else fold.truths.astype(str),
        answers=fold.fit.answers,
        classes=None if classes is None else [str(k) for k in range(classes.shape[1])],
        targets=fold.truths if classes is None else None,
        seen=fold.seen,
        row_shape=made.row_shape,
        opinions=opinions,
        ask=lambda rows: answers(made, made.ask(rows)),
    )


def measure(made: Crafted, seed: int, number: int) -> Row:
    """Fits once without and once with second opinions, and tells what each score flags.

    Returns:
        ``attacks``: name to [successes, tried]; ``rows``: how many fitted, merged, calibrated and
        were tested; ``mistakes``: tested rows that the victim is wrong about; ``scores``: name to
        threshold's name to what was flagged; ``single``, of fold 0 alone: the same of every
        detector by itself.
    """
    fold = fold_of(made, seed, number)
    plain = fitted(made, fold, seed=number)
    usage = use_rows(
        Promise(BUDGETS[0], DELTA, None), len(fold.fit.rows), number, seen=fold.seen, clients=None
    ).parts
    if len(distinct(fold.fit.rows)) != len(fold.fit.rows):
        raise ValueError("the rows of a set must be distinct")
    calibration = Batch(fold.fit.rows[usage.threshold], fold.fit.answers[usage.threshold])
    batches = {
        name: Batch(attack.rows, answers(made, attack.answers))
        for name, attack in made.attacks.items()
        if len(attack.rows)
    }
    scores = _scores_of(plain)
    known = _agreement(plain).calibration.scores
    if not np.allclose(np.sort(scores[ANSWERED](calibration)), known):
        raise ValueError("these are not the rows that calibrated")
    found = {
        name: _flagged(score, calibration, fold, batches, made.attacks)
        for name, score in scores.items()
    }
    told: Row = {
        "accuracy": None if made.regression else made.accuracy,
        "attacks": {name: [len(one.rows), one.tried] for name, one in made.attacks.items()},
        "rows": [*map(len, usage[:3]), len(fold.held.rows)],
        "mistakes": int(fold.mistakes.sum()),
        "scores": found,
    }
    if number == 0:
        told["single"] = {
            name: _flagged(score, calibration, fold, batches, made.attacks)
            for name, score in _single(made, plain, fold, usage.train, number).items()
        }
    for name, kinds in {} if made.regression else ASKED.items():
        found[name] = _second_opinion(made, fold, number, kinds, calibration, batches)
    return told


Score = Callable[[Batch], Floats]


def _scores_of(one: Fitted) -> dict[str, Score]:
    """Both merges."""
    scorer, after = one.scorer, _agreement(one)
    return {
        INPUT: lambda batch: scorer.score(batch.rows).merged,
        ANSWERED: lambda batch: _joint(scorer, after, batch).merged,
    }


def _agreement(one: Fitted) -> AnswerScorer:
    if one.agreement is None:
        raise ValueError("no agreement was fitted")
    return one.agreement.scorer


def _single(
    made: Crafted, one: Fitted, fold: Fold, train: npt.NDArray[np.int64], seed: int
) -> dict[str, Score]:
    """Every detector that suits the rows, whether it is among the defaults or not."""
    scorer = one.scorer
    found = {name: _column(scorer, k) for k, name in enumerate(scorer.names)}
    if made.regression:
        agreement = list(_agreement(one).detectors)
    else:
        image = len(made.row_shape) == 2
        kinds = [
            name
            for name in REGISTRY
            if name != "residual_agreement" and (image or "gradient" not in name)
        ]
        agreement = fit_agreement(
            fold.fit.rows[train],
            fold.truths[train],
            classes=made.rest_p.shape[1],
            kinds=kinds,
            row_shape=made.row_shape,
            seed=seed,
        )
        for opinion in fit_opinions(
            fold.fit.rows[train],
            sorted({kind for kinds in ASKED.values() for kind in kinds}),
            row_shape=made.row_shape,
            seed=seed,
        ):
            found[opinion.name] = _asked(made, opinion)
    return found | {each.name: _by_itself(each) for each in agreement}


def _column(scorer: Scorer, k: int) -> Score:
    return lambda batch: scorer.score(batch.rows).scores[:, k]


def _by_itself(detector: AgreementDetector) -> Score:
    return lambda batch: detector.score(batch.rows, batch.answers)


def _asked(made: Crafted, opinion: SecondOpinion) -> Score:
    return lambda batch: opinion.score(
        batch.answers, answers(made, made.ask(opinion.views(batch.rows)))
    )


def _joint(scorer: Scorer, after: AnswerScorer, batch: Batch) -> Any:
    return after.score(batch.rows, batch.answers, scorer.score(batch.rows).merged)


def _second_opinion(  # noqa: PLR0917 - a step of measure, split off for length
    made: Crafted,
    fold: Fold,
    seed: int,
    kinds: tuple[str, ...],
    calibration: Batch,
    batches: Mapping[str, Batch],
) -> Row:
    """What is flagged with second opinions, and ``asked``: the shares of honest and of changed rows
    about which the model was asked again."""
    both = fitted(made, fold, seed=seed, opinions=kinds)
    scorer, after = both.scorer, _agreement(both)

    def ask(rows: Rows) -> Answers:
        return answers(made, made.ask(rows))

    def score(batch: Batch) -> Floats:
        merged = scorer.score(batch.rows).merged
        before = after.score(batch.rows, batch.answers, merged)
        joint = before.merged.copy()
        heard = np.flatnonzero(joint > after.suspicion)
        if heard.size:  # the others' score does not change
            rows = batch.rows[heard]
            again = [ask(opinion.views(rows)) for opinion in after.opinions]
            joint[heard] = after.reconsider(rows, batch.answers[heard], merged[heard], again).merged
        return joint

    def suspicious(batch: Batch) -> float:
        return float(after.suspicious(_joint(scorer, after, batch)).mean())

    return {
        **_flagged(score, calibration, fold, batches, made.attacks),
        "asked": {
            "honest": suspicious(fold.held),
            "changed": float(np.mean([suspicious(batch) for batch in batches.values()])),
        },
    }


def _flagged(
    score: Score,
    calibration: Batch,
    fold: Fold,
    batches: Mapping[str, Batch],
    attacks: Mapping[str, Attack],
) -> Row:
    """For each guarantee and budget that the rows support: honest rows flagged, those of them that
    are the victim's own mistakes, and changed rows flagged of each attack."""
    ordered = np.sort(score(calibration))[::-1]
    honest = score(fold.held)
    changed = {name: score(batch) for name, batch in batches.items()}
    found: Row = {}
    for guarantee in (MARGINAL, PAC):
        for budget in BUDGETS:
            place = rank(len(ordered), budget, guarantee)
            if place is None:
                continue
            # Strictly above, with the slack of the product's own decision.
            limit = float(ordered[place - 1])
            limit += 1e-6 * max(1.0, abs(limit))
            alarms = honest > limit
            found[f"{guarantee} {budget:g}"] = {
                "rank": place,
                "honest": [int(alarms.sum()), len(honest), int((alarms & fold.mistakes).sum())],
                "found": {
                    name: int((changed[name] > limit).sum()) if name in changed else 0
                    for name in attacks
                },
            }
    return found
