"""Fits what needs the model's answer, once the input's detectors stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from detectors.agreement.base import AgreementDetector
from detectors.arrays import Floats, Singles
from detectors.bundle_agreement import FittedAgreement
from detectors.calibration import BudgetError
from detectors.manifest import WitnessTraining
from detectors.training.agreement import (
    Ask,
    fit_agreement,
    fit_answer_scorer,
    fit_residual,
)
from detectors.training.libraries import Libraries
from detectors.training.readers import DataError
from detectors.training.supervision import Supervision
from detectors.training.trainers import Settings


class Portion(NamedTuple):
    """Some of the rows.

    Attributes:
        rows: (n, e) that are scored.
        truth: what the data and the model say of them.
        merged: (n,) the input's merged scores; empty for the rows that fit.
    """

    rows: Singles
    truth: Supervision
    merged: Floats


@dataclass(frozen=True, slots=True)
class AgreementPlan:
    """What is to be fitted.

    Attributes:
        kinds: registered agreement detectors; None: those that measured best.
        opinions: registered second opinions.
        ask: the model, for second opinions.
        row_shape: of one row, if it has a shape.
        libraries: what fits second opinions.
        settings: by name.
    """

    kinds: Sequence[str] | None
    opinions: Sequence[str]
    ask: Ask | None
    row_shape: tuple[int, ...] | None
    libraries: Libraries
    settings: Settings


def fit_answered(
    plan: AgreementPlan,
    train: Portion,
    a: Portion,
    b: Portion,
    *,
    alpha: float,
    delta: float,
    seed: int,
    seen: int,
    clients: int,
) -> FittedAgreement:
    """Witnesses from ``train``, tails from split A, the threshold over all steps from split B.

    Args:
        plan: what is to be fitted.
        train: the rows that fit.
        a: those that merge.
        b: those that calibrate.
        alpha: the false-positive budget.
        delta: the risk that it does not hold.
        seed: of everything random.
        seen: rows that were for fitting only, for the record.
        clients: clients whose rows fitted and calibrate nothing, for the record.

    Raises:
        BudgetError: if B is too small for the budget.
        DataError: if the witnesses cannot be fitted.
    """
    truth = train.truth
    try:
        detectors = _witnesses(plan, train, seed)
        opinions = plan.libraries.opinions(
            plan.opinions,
            train.rows,
            truth,
            row_shape=plan.row_shape,
            settings=plan.settings,
            seed=seed,
        )
        scorer = fit_answer_scorer(
            detectors,
            a=(a.rows, a.truth.answers, a.merged),
            b=(b.rows, b.truth.answers, b.merged),
            alpha=alpha,
            delta=delta,
            classes=truth.classes,
            opinions=opinions,
            ask=plan.ask,
        )
    except (DataError, BudgetError):
        raise
    except ValueError as error:
        raise DataError(f"agreement: {error}") from error
    made = {one.name for one in scorer.detectors} | {one.name for one in scorer.opinions}
    left_out = [kind for kind in (plan.kinds or ()) if kind not in made]
    left_out += [one.name for one in opinions if one.name not in made]
    if left_out:
        raise DataError(
            f"{left_out[0]} cannot be fitted here: each kind is for classes or for values, and "
            "some need rows of an image's shape, or answers with the probabilities of all classes"
        )
    model = [portion.truth.model_accuracy() for portion in (a, b)]
    known = None if model[0] is None or model[1] is None else (model[0], model[1])
    size_a, size_b = len(a.rows), len(b.rows)
    training = WitnessTraining(
        labels=truth.source,
        seen=seen,
        clients=clients,
        fitted_on=len(train.rows),
        accuracy={
            one.name: told for one in scorer.detectors if (told := _told(one, a)) is not None
        },
        model_accuracy=known and (known[0] * size_a + known[1] * size_b) / (size_a + size_b),
        mistakes=1.0 - known[1] if known and truth.labels is not None else None,
    )
    return FittedAgreement(scorer, training)


def _witnesses(plan: AgreementPlan, train: Portion, seed: int) -> list[AgreementDetector]:
    truth = train.truth
    if truth.targets is not None:
        return fit_residual(train.rows, truth.targets, seed=seed)
    assert truth.labels is not None
    assert truth.classes is not None
    return fit_agreement(
        train.rows,
        truth.labels,
        classes=len(truth.classes),
        kinds=plan.kinds,
        row_shape=plan.row_shape,
        seed=seed,
    )


def _told(detector: AgreementDetector, portion: Portion) -> float | None:
    """How well a detector that could answer itself would do; None if it is none."""
    opinion = getattr(detector, "opinion", None)
    predict = getattr(detector, "predict", None)
    if opinion is not None:
        return portion.truth.accuracy(np.argmax(opinion(portion.rows), axis=1))
    return None if predict is None else portion.truth.accuracy(predict(portion.rows))
