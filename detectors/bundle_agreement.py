"""What needs the model's answer, as a bundle holds it: an entry of the manifest, and arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, TypeVar

from detectors.agreement.base import AgreementDetector, SecondOpinion
from detectors.agreement.packing import pack, unpack
from detectors.agreement.scorer import AnswerScorer
from detectors.bundle_scorer import (
    Arrays,
    calibration_entry,
    read_calibration,
    read_tail,
    tail_entry,
)
from detectors.calibration import Calibration, Tail
from detectors.manifest import AgreementEntry, WitnessEntry, WitnessTraining
from detectors.shelf import Shelf

_OWN: Final = "agreement/"
_TAIL: Final = "agreement_tail"
_STEP: Final = "agreement_step"
_SCORES: Final = "agreement_calibration/scores"

Part = TypeVar("Part", AgreementDetector, SecondOpinion)


@dataclass(frozen=True, slots=True)
class FittedAgreement:
    """Agreement, ready to be written.

    Attributes:
        scorer: what was fitted.
        training: how.
    """

    scorer: AnswerScorer
    training: WitnessTraining


def dismantle(fitted: FittedAgreement) -> tuple[AgreementEntry, Arrays]:
    """An answer scorer as an entry and arrays.

    Raises:
        ValueError: if it cannot be packed.
    """
    scorer = fitted.scorer
    parameters, own = pack(scorer.detectors, scorer.opinions)
    arrays: Arrays = {f"{_OWN}{name}": array for name, array in own.items()}
    arrays[_SCORES] = scorer.calibration.scores

    def witness(kind: str, tail: Tail) -> WitnessEntry:
        return WitnessEntry(kind=kind, tail=tail_entry(tail, f"{_TAIL}/{kind}", arrays))

    detectors, opinions = scorer.detectors, scorer.opinions
    entry = AgreementEntry(
        kind="values" if scorer.classes is None else "classes",
        classes=None if scorer.classes is None else list(scorer.classes),
        parameters={kind: dict(scalars) for kind, scalars in parameters.items()},
        detectors=[
            witness(one.name, tail) for one, tail in zip(detectors, scorer.tails, strict=True)
        ],
        opinions=[
            witness(one.name, tail)
            for one, tail in zip(opinions, scorer.opinion_tails, strict=True)
        ],
        entry=tail_entry(scorer.entry, f"{_STEP}/entry", arrays),
        total=tail_entry(scorer.total, f"{_STEP}/total", arrays),
        final=None if scorer.final is None else tail_entry(scorer.final, f"{_STEP}/final", arrays),
        handicap=scorer.handicap,
        suspicion=scorer.suspicion if math.isfinite(scorer.suspicion) else None,
        calibration=calibration_entry(scorer.calibration),
        training=fitted.training,
    )
    return entry, arrays


def assemble(
    entry: AgreementEntry, shelf: Shelf, features: int, input_: Calibration
) -> AnswerScorer:
    """The answer scorer of an entry and arrays.

    Args:
        entry: of the manifest.
        shelf: holds the arrays.
        features: of the rows that are scored.
        input_: the calibration of the input's scorer, whose budget must be the same.

    Raises:
        ValueError: if they do not make an answer scorer.
        KeyError: if an array is missing.
    """
    parameters = {
        kind: {name: _number(kind, name, value) for name, value in scalars.items()}
        for kind, scalars in entry.parameters.items()
    }
    detectors, opinions = unpack(parameters, shelf.under(_OWN))
    calibration = read_calibration(entry.calibration, shelf[_SCORES])
    if (calibration.alpha, calibration.delta) != (input_.alpha, input_.delta):
        raise ValueError("input and agreement promise different budgets")

    def tails(entries: list[WitnessEntry]) -> list[Tail]:
        return [read_tail(one.tail, f"{_TAIL}/{one.kind}", shelf) for one in entries]

    scorer = AnswerScorer(
        _in_order(detectors, entry.detectors),
        tails(entry.detectors),
        entry=read_tail(entry.entry, f"{_STEP}/entry", shelf),
        total=read_tail(entry.total, f"{_STEP}/total", shelf),
        calibration=calibration,
        classes=entry.classes,
        handicap=entry.handicap,
        opinions=_in_order(opinions, entry.opinions),
        opinion_tails=tails(entry.opinions),
        final=None if entry.final is None else read_tail(entry.final, f"{_STEP}/final", shelf),
        suspicion=math.inf if entry.suspicion is None else entry.suspicion,
    )
    if scorer.features != features:
        raise ValueError("agreement is for another number of features than the input's scorer")
    return scorer


def _in_order(parts: list[Part], entries: list[WitnessEntry]) -> list[Part]:
    """The parts in the order of the entries, which name each once."""
    named = {part.name: part for part in parts}
    if sorted(named) != sorted(entry.kind for entry in entries):
        raise ValueError(
            f"the manifest names {sorted(entry.kind for entry in entries)}, "
            f"and the arrays make {sorted(named)}"
        )
    return [named[entry.kind] for entry in entries]


def _number(kind: str, name: str, value: float | str) -> int | float:
    if isinstance(value, str):
        raise ValueError(f"{kind}: {name} must be a number")  # noqa: TRY004 - one error type
    return value
