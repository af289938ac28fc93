"""The input's scorer as a bundle holds it: entries of the manifest, and arrays.

Detectors share one projection, ``projection/…``; one that was fitted in a space of its own brings
it along as ``<kind>/projection/…``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detectors.calibration import BudgetError, Calibration, Tail, threshold_rank
from detectors.manifest import CalibrationEntry, DetectorEntry, TailEntry
from detectors.outlier import REGISTRY, OutlierDetector
from detectors.outlier.projection import ProjectedDetector, Projection
from detectors.scorer import Engine, Scorer
from detectors.shelf import Shelf

_PARTS: Final = ("mean", "scale", "basis")  # of a projection

Arrays = dict[str, npt.NDArray[Any]]


def dismantle(
    scorer: Scorer, fitted_with: Mapping[str, Mapping[str, int | float | str]]
) -> tuple[list[DetectorEntry], Arrays]:
    """A scorer as entries and arrays.

    Args:
        scorer: what to write.
        fitted_with: each kind's settings, for the reader.
    """
    entries: list[DetectorEntry] = []
    arrays: Arrays = {}
    shared: Projection | None = None
    for detector, tail in zip(scorer.detectors, scorer.tails, strict=True):
        parameters: dict[str, int | float | str] = {}
        for name in _names(type(detector)):
            value = getattr(detector, name)
            if isinstance(value, np.ndarray):
                arrays[f"{detector.name}/{name}"] = value
            elif isinstance(value, Projection):
                shared = shared or value
                where = "projection" if value is shared else f"{detector.name}/projection"
                arrays |= {f"{where}/{part}": getattr(value, part) for part in _PARTS}
            else:
                parameters[name] = value
        entries.append(
            DetectorEntry(
                kind=detector.name,
                parameters=parameters,
                tail=tail_entry(tail, f"tail/{detector.name}", arrays),
                fitted_with=dict(fitted_with.get(detector.name, {})),
            )
        )
    arrays["calibration/scores"] = scorer.calibration.scores
    return entries, arrays


def assemble(
    entries: Sequence[DetectorEntry],
    shelf: Shelf,
    calibration: Calibration,
    *,
    flag_above: float | None,
    engine: Engine,
) -> Scorer:
    """The scorer of entries and arrays.

    Args:
        entries: of the manifest.
        shelf: holds the arrays.
        calibration: of the merged score.
        flag_above: as for :class:`Scorer`.
        engine: as for :class:`Scorer`.

    Raises:
        ValueError: if they do not make a scorer.
        KeyError: if an array is missing.
    """
    detectors: list[OutlierDetector] = []
    tails: list[Tail] = []
    shared: Projection | None = None
    for entry in entries:
        kind = REGISTRY.get(entry.kind)
        if kind is None:
            raise ValueError(f"{entry.kind!r} is not a detector that this program knows")
        own = shelf.under(f"{entry.kind}/")
        given: dict[str, Any] = {**entry.parameters, **own}
        if issubclass(kind, ProjectedDetector):
            if any(name.startswith("projection/") for name in own):
                given["projection"] = Projection(
                    **{part: given.pop(f"projection/{part}") for part in _PARTS}
                )
            else:
                if shared is None:
                    shared = Projection(**{part: shelf[f"projection/{part}"] for part in _PARTS})
                given["projection"] = shared
        wanted = set(_names(kind))
        if set(given) != wanted or set(own) & set(entry.parameters):
            raise ValueError(f"{entry.kind}: expected {sorted(wanted)}, got {sorted(given)}")
        detectors.append(kind(**given))
        tails.append(read_tail(entry.tail, f"tail/{entry.kind}", shelf))
    return Scorer(detectors, tails, calibration, flag_above=flag_above, engine=engine)


def tail_entry(tail: Tail, where: str, arrays: Arrays) -> TailEntry:
    """A tail's scalars; its arrays are added under ``where``."""
    arrays |= {f"{where}/knots": tail.knots, f"{where}/evidence": tail.evidence}
    return TailEntry(shape=tail.shape, scale=tail.scale)


def read_tail(entry: TailEntry, where: str, shelf: Shelf) -> Tail:
    """The tail whose arrays are under ``where``.

    Raises:
        ValueError: if they do not make a tail.
        KeyError: if an array is missing.
    """
    return Tail(shelf[f"{where}/knots"], shelf[f"{where}/evidence"], entry.shape, entry.scale)


def calibration_entry(calibration: Calibration) -> CalibrationEntry:
    """The promise, for the manifest."""
    return CalibrationEntry(
        rows=calibration.scores.size,
        alpha=calibration.alpha,
        delta=calibration.delta,
        rank=calibration.rank,
        threshold=calibration.threshold,
    )


def read_calibration(entry: CalibrationEntry, scores: npt.NDArray[Any]) -> Calibration:
    """The calibration of these scores, if they support what the entry promises.

    Raises:
        ValueError: if they do not.
    """
    if scores.dtype != np.float64 or scores.ndim != 1 or scores.size != entry.rows:
        raise ValueError("the calibration scores are not as many as the manifest says")
    try:
        rank = threshold_rank(scores.size, entry.alpha, entry.delta)
    except BudgetError as error:
        raise ValueError(f"the manifest promises too much: {error}") from error
    calibration = Calibration.of(scores, entry.alpha, entry.delta)
    if (
        rank != entry.rank
        or calibration.threshold != entry.threshold
        or not np.array_equal(calibration.scores, scores)
    ):
        raise ValueError("threshold and calibration scores do not belong together")
    return calibration


def _names(kind: type[OutlierDetector]) -> list[str]:
    return [field.name for field in fields(kind) if field.init]
