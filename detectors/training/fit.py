"""Fits, merges, calibrates: honest rows to a scorer, and to a bundle."""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats, Singles
from detectors.bundle import FittedPatterns, load_bundle, save_bundle
from detectors.calibration import Calibration
from detectors.manifest import RowsEntry, TrainingEntry
from detectors.outlier import REGISTRY
from detectors.scorer import Engine, Scorer, detector_scores, merged_scores
from detectors.training import estimators
from detectors.training.patterns import PatternRowsError, fit_patterns, rows_needed
from detectors.training.readers import DataError, Table
from detectors.training.splits import MIN_MERGE, MIN_TRAIN, distinct, split
from detectors.training.tails import fit_tail

DEFAULT_DETECTORS: Final = ("mahalanobis", "isolation_forest", "gmm", "one_class_svm")
"""The best mean rate of outliers found at 1 % false alarms, for their cost, on the development
sets (docs/detection.md)."""

_LIBRARIES: Final = ("numpy", "scikit-learn", "scipy")


@dataclass(frozen=True, slots=True)
class Fitted:
    """A scorer, how its rows were used, and patterns if they were asked for."""

    scorer: Scorer
    training: TrainingEntry
    patterns: FittedPatterns | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A bundle on disk.

    Attributes:
        fitted: what is in it.
        digest: of its manifest.
        microseconds: the median time to score one row, one at a time, on this machine.
    """

    fitted: Fitted
    digest: str
    microseconds: float


def fit(
    rows: Singles,
    *,
    kinds: Sequence[str] = DEFAULT_DETECTORS,
    alpha: float = 0.001,
    delta: float = 0.05,
    seed: int = 0,
    labels: npt.NDArray[np.str_] | None = None,
    client_alarm_budget: float | None = None,
    engine: Engine = "auto",
) -> Fitted:
    """Fits a scorer, and patterns if asked to, on honest rows; deterministic under ``seed``.

    Patterns learn the honest space from the rows that the estimators were fitted on, and are
    calibrated on streams of the rows that set the threshold, which fitted nothing. To share them
    takes nothing from the threshold's promise, which holds for any use of them after it.

    Args:
        rows: (n, d) float32, finite.
        kinds: registered names of detectors.
        alpha: the false-positive budget, a share of honest rows.
        delta: the risk that it does not hold: 1 - confidence.
        seed: of the split and the estimators.
        labels: (n,) classes that the model tells apart, if known.
        client_alarm_budget: the share of honest client-days that may alarm; None: no patterns.
        engine: as for :class:`Scorer`.

    Raises:
        TooFewRowsError: if the budget cannot be kept; says how many rows it takes.
        PatternRowsError: if the patterns' budget cannot be kept; says how many rows it takes.
        DataError: if the rows cannot be learnt from.
        ValueError: if a kind is unknown, or a budget or delta is outside (0, 1).
    """
    unknown = [kind for kind in kinds if kind not in REGISTRY]
    if unknown or not kinds or len(set(kinds)) != len(kinds):
        raise ValueError(
            f"unknown detector {unknown[0]!r}: expected some of {', '.join(REGISTRY)}"
            if unknown
            else "name at least one detector, and each once"
        )
    if rows.shape[1] > estimators.FEATURE_CAP:
        raise DataError(f"{rows.shape[1]} features: at most {estimators.FEATURE_CAP} are supported")
    kept = distinct(rows)
    least = 0
    if client_alarm_budget is not None:
        least = rows_needed(client_alarm_budget)
        left = len(kept) - MIN_TRAIN - MIN_MERGE
        if left < least:
            raise PatternRowsError(max(left, 0), least, client_alarm_budget)
    parts = split(len(kept), alpha, delta, seed, least=least)
    train, part_a, part_b = (rows[kept[part]] for part in parts[:3])
    constant = estimators.constant_features(train)
    if bool(constant.all()):
        raise DataError("every feature is constant: there is nothing to learn")
    detectors = estimators.fit_detectors(train, kinds, seed)
    scores = detector_scores(detectors, part_a)
    _check_finite(scores)
    tails = [fit_tail(scores[:, k]) for k in range(len(detectors))]
    merged = merged_scores(detectors, tails, part_b)
    _check_finite(merged)
    scorer = Scorer(detectors, tails, Calibration.of(merged, alpha, delta), engine=engine)
    used = RowsEntry(
        read=len(rows),
        duplicates=len(rows) - len(kept),
        train=len(parts.train),
        merge=len(parts.merge),
        threshold=len(parts.threshold),
        unused=len(parts.unused),
    )
    indices = [int(index) for index in np.flatnonzero(constant)]
    training = TrainingEntry(
        seed=seed, rows=used, constant_features=indices, classes=_balance(labels)
    )
    patterns = None
    if client_alarm_budget is not None:
        own = [None if labels is None else labels[kept[part]] for part in parts]
        model = fit_patterns(
            train,
            part_b,
            space_labels=own[0],
            stream_labels=own[2],
            stream_p=_left_out(scorer.calibration, merged),
            seed=_secret_seed(rows[kept], seed),
            budget=client_alarm_budget,
        )
        patterns = FittedPatterns(model, client_alarm_budget, len(train), len(part_b))
    return Fitted(scorer, training, patterns)


def write(
    fitted: Fitted,
    path: Path,
    table: Table,
    *,
    created: str,
    signing_key: bytes | None = None,
) -> Written:
    """Writes the bundle, reads it back as the gateway would, and times it.

    Raises:
        SigningError: if the key cannot be used.
        OSError: if the file cannot be written.
    """
    digest = save_bundle(
        path,
        fitted.scorer,
        fitted.training,
        patterns=fitted.patterns,
        created=created,
        created_by=f"bartizan {importlib.metadata.version('bartizan')}",
        libraries={name: importlib.metadata.version(name) for name in _LIBRARIES},
        feature_names=table.names,
        fitted_with={kind: estimators.SETTINGS[kind] for kind in fitted.scorer.names},
        signing_key=signing_key,
    )
    load_bundle(path)
    return Written(fitted, digest, microseconds_per_row(fitted.scorer, table.rows))


def microseconds_per_row(scorer: Scorer, rows: Singles, repeats: int = 300) -> float:
    """The median time of :meth:`Scorer.score_row`, in microseconds."""
    times = []
    for index in range(repeats):
        row = rows[index % len(rows)][None]
        start = time.perf_counter_ns()
        scorer.score_row(row)
        times.append(time.perf_counter_ns() - start)
    return float(np.median(times)) / 1000.0


def _balance(labels: npt.NDArray[np.str_] | None) -> dict[str, int] | None:
    """Rows for each class."""
    if labels is None:
        return None
    names, counts = np.unique(labels, return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _left_out(calibration: Calibration, merged: Floats) -> Floats:
    """(n,) p-values of the calibration rows themselves, each against the others.

    Against all, itself included, they would be larger than those of new rows.
    """
    count = merged.size
    p_values: Floats = (calibration.p_values(merged) * (count + 1) - 1) / count
    return p_values


def _secret_seed(rows: Singles, seed: int) -> int:
    """What the secret projections are drawn from: the same for the same rows and seed, and out of
    reach of whoever lacks a single row."""
    digest = hashlib.sha256(f"{seed} {rows.shape}".encode() + rows.tobytes()).digest()
    return int.from_bytes(digest[:16], "little")


def _check_finite(scores: Floats) -> None:
    if not bool(np.isfinite(scores).all()):
        raise DataError("a detector's score is not finite: the values are too large or too small")
