"""Fits, merges, calibrates: honest rows to a scorer, and to a bundle."""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from detectors.agreement.base import Answers
from detectors.agreement.scorer import AnswerScorer
from detectors.arrays import Floats, Singles
from detectors.bundle import load_bundle
from detectors.bundle_agreement import FittedAgreement
from detectors.bundle_writer import FittedPatterns, save_bundle
from detectors.calibration import Calibration
from detectors.examples import Examples
from detectors.manifest import RowsEntry, TrainingEntry
from detectors.scorer import Engine, Scorer, detector_scores, merged_scores
from detectors.training import estimators
from detectors.training.agreement import Ask
from detectors.training.answered import AgreementPlan, Portion, fit_answered
from detectors.training.libraries import Libraries
from detectors.training.patterns import fit_patterns
from detectors.training.readers import DataError, Table
from detectors.training.splits import distinct, of_any
from detectors.training.supervision import Supervision
from detectors.training.tails import fit_tail
from detectors.training.trainers import Settings
from detectors.training.usage import Promise, use_rows

if TYPE_CHECKING:
    from detectors.embedding import Embedding

DEFAULT_DETECTORS: Final = ("mahalanobis", "isolation_forest", "gmm", "one_class_svm")
"""The best mean rate of outliers found at 1 % false alarms, for their cost, on the development
sets (docs/detection.md)."""

_LIBRARIES: Final = ("numpy", "scikit-learn", "scipy")


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a fit makes, ready to be written.

    Attributes:
        scorer: of the input.
        training: how its rows were used.
        patterns: if they were asked for.
        agreement: if the model's answers were there.
        embedding: that makes the rows which are scored.
        examples: rows to keep, if they were asked for.
        row_shape: of one row on the wire.
        fitted_with: each detector's settings, for the reader.
    """

    scorer: Scorer
    training: TrainingEntry
    patterns: FittedPatterns | None = None
    agreement: FittedAgreement | None = None
    embedding: Embedding | None = None
    examples: Examples | None = None
    row_shape: tuple[int, ...] | None = None
    fitted_with: Mapping[str, Mapping[str, int | float | str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """A bundle on disk.

    Attributes:
        fitted: what is in it.
        digest: of its manifest.
        microseconds: the median time to embed and score one row, one at a time, on this machine.
        answer_microseconds: the same of a row with its answer; None without agreement.
    """

    fitted: Fitted
    digest: str
    microseconds: float
    answer_microseconds: float | None = None


def fit(
    rows: Singles,
    *,
    kinds: Sequence[str] = DEFAULT_DETECTORS,
    settings: Settings | None = None,
    libraries: Libraries = Libraries(),  # noqa: B008 - a value
    alpha: float = 0.001,
    delta: float = 0.05,
    seed: int = 0,
    labels: npt.NDArray[np.str_] | None = None,
    answers: Answers | None = None,
    classes: Sequence[str] | None = None,
    targets: npt.NDArray[np.float64] | None = None,
    seen: npt.NDArray[np.bool_] | None = None,
    clients: npt.NDArray[np.int64] | None = None,
    row_shape: tuple[int, ...] | None = None,
    agreement: Sequence[str] | None = None,
    opinions: Sequence[str] = (),
    ask: Ask | None = None,
    embedding: Embedding | None = None,
    keep_examples: int = 0,
    client_alarm_budget: float | None = None,
    engine: Engine = "auto",
) -> Fitted:
    """Fits all that a bundle holds on honest rows; deterministic under ``seed``.

    Three disjoint parts of the distinct rows are used: one fits the detectors and the witnesses,
    split A fixes what their scores mean, and split B sets the threshold and fits nothing.

    With the model's answers, or a way to ask for them, agreement detectors are fitted too, and the
    budget is kept over input and answer together.

    Patterns learn the honest space from the rows that the estimators were fitted on, and are
    calibrated on streams of the rows that set the threshold, which fitted nothing. To share them
    takes nothing from the threshold's promise, which holds for any use of them after it.

    Args:
        rows: (n, d) float32, finite.
        kinds: registered names of detectors, or of a library's estimators.
        settings: of estimators, by name.
        libraries: what fits detectors and second opinions.
        alpha: the false-positive budget, a share of honest rows.
        delta: the risk that it does not hold: 1 - confidence.
        seed: of the split and the estimators.
        labels: (n,) classes that the model tells apart, if known.
        answers: (n,) of the model; None: unknown, or to be asked for.
        classes: in the order of the answers' columns; None: the labels', as sorted.
        targets: (n,) or (n, m) true values, if the model is a regression.
        seen: (n,) rows that the model was trained on, or that are for fitting only for another
            reason: they calibrate nothing. None: none.
        clients: (n,) a number for each row's client: where there are enough of them, the rows that
            calibrate are those of other clients than the rows that fit.
        row_shape: of one row, such as (28, 28); None: it has none.
        agreement: registered agreement detectors; None: a measured default; (): none.
        opinions: registered second opinions, which ask the model again.
        ask: the model: (m, d) rows to their m answers.
        embedding: maps rows to those that are scored.
        keep_examples: honest rows to keep in the bundle, at most.
        client_alarm_budget: the share of honest client-days that may alarm; None: no patterns.
        engine: as for :class:`Scorer`.

    Raises:
        TooFewRowsError: if the budget cannot be kept; says how many rows it takes.
        PatternRowsError: if the patterns' budget cannot be kept; says how many rows it takes.
        DataError: if the rows cannot be learnt from, or do not fit labels and answers.
        ValueError: if a kind is unknown, or a budget or delta is outside (0, 1).
    """
    if rows.shape[1] > estimators.FEATURE_CAP:
        raise DataError(f"{rows.shape[1]} features: at most {estimators.FEATURE_CAP} are supported")
    answered = agreement != () and (answers is not None or ask is not None)
    if opinions and (ask is None or not answered or embedding is not None):
        raise DataError(
            "second opinions are fitted by asking the model about rows as they are scored: they "
            "need agreement and a model to ask, and go without an embedding"
        )
    for name, given in (("labels", labels), ("answers", answers), ("seen", seen)):
        if given is not None and len(given) != len(rows):
            raise DataError(f"{len(given)} {name} for {len(rows)} rows")
    kept = distinct(rows)
    usage = use_rows(
        Promise(alpha, delta, client_alarm_budget),
        len(kept),
        seed,
        seen=None if seen is None else of_any(rows, seen),
        clients=None if clients is None else clients[kept],
    )
    parts = usage.parts
    places = [kept[part] for part in parts[:3]]
    raw = [rows[place] for place in places]
    spaced = raw if embedding is None else [_embed(embedding, part) for part in raw]
    constant = estimators.constant_features(raw[0])
    if bool(constant.all()):
        raise DataError("every feature is constant: there is nothing to learn")
    trained = libraries.detectors(spaced[0], kinds, seed, settings or {})
    detectors = [one.detector for one in trained]
    scores = detector_scores(detectors, spaced[1])
    _check_finite(scores)
    tails = [fit_tail(scores[:, k]) for k in range(len(detectors))]
    merged = [merged_scores(detectors, tails, part) for part in spaced[1:]]
    _check_finite(np.concatenate(merged))
    calibration = Calibration.of(merged[1], alpha, delta)
    fitted_agreement = flag_above = None
    if answered:
        every = np.concatenate(places)
        truth = Supervision.of(
            answers[every] if answers is not None else _asked(ask, rows[every]),
            labels=None if labels is None else labels[every],
            classes=classes,
            targets=None if targets is None else targets[every],
        ).parts([len(place) for place in places])
        fitted_agreement = fit_answered(
            AgreementPlan(
                agreement,
                opinions,
                ask,
                None if embedding else row_shape,
                libraries,
                settings or {},
            ),
            Portion(spaced[0], truth[0], merged[0][:0]),
            Portion(spaced[1], truth[1], merged[0]),
            Portion(spaced[2], truth[2], merged[1]),
            alpha=alpha,
            delta=delta,
            seed=seed,
            seen=usage.seen,
            clients=usage.clients,
        )
        flag_above = fitted_agreement.scorer.input_threshold
    used = RowsEntry(
        read=len(rows),
        duplicates=len(rows) - len(kept),
        train=len(parts.train),
        merge=len(parts.merge),
        threshold=len(parts.threshold),
        unused=len(parts.unused),
    )
    patterns = None
    if client_alarm_budget is not None:
        own = [None if labels is None else labels[place] for place in places]
        model = fit_patterns(
            raw[0],
            raw[2],
            space_labels=own[0],
            stream_labels=own[2],
            stream_p=_left_out(calibration, merged[1]),
            seed=_secret_seed(rows[kept], seed),
            budget=client_alarm_budget,
        )
        patterns = FittedPatterns(model, client_alarm_budget, len(raw[0]), len(raw[2]))
    return Fitted(
        Scorer(detectors, tails, calibration, flag_above=flag_above, engine=engine),
        TrainingEntry(
            seed=seed,
            rows=used,
            constant_features=[int(index) for index in np.flatnonzero(constant)],
            classes=_balance(labels),
        ),
        patterns,
        fitted_agreement,
        embedding,
        _examples(raw[0], None if labels is None else labels[places[0]], keep_examples, seed),
        row_shape,
        {one.detector.name: one.fitted_with for one in trained},
    )


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
    libraries = _LIBRARIES if fitted.embedding is None else (*_LIBRARIES, "onnxruntime")
    digest = save_bundle(
        path,
        fitted.scorer,
        fitted.training,
        patterns=fitted.patterns,
        agreement=fitted.agreement,
        embedding=fitted.embedding,
        examples=fitted.examples,
        created=created,
        created_by=f"bartizan {importlib.metadata.version('bartizan')}",
        libraries={name: importlib.metadata.version(name) for name in libraries},
        feature_names=table.names,
        row_shape=fitted.row_shape or table.row_shape,
        fitted_with=fitted.fitted_with,
        signing_key=signing_key,
    )
    load_bundle(path)
    rows = table.rows[:300]
    seen = rows if fitted.embedding is None else fitted.embedding.embed(rows)
    return Written(
        fitted,
        digest,
        microseconds_per_row(fitted.scorer, rows, fitted.embedding),
        None
        if fitted.agreement is None
        else microseconds_per_answer(fitted.agreement.scorer, seen),
    )


def _asked(ask: Ask | None, rows: Singles) -> Answers:
    assert ask is not None  # the caller looked
    said = ask(rows)
    if len(said) != len(rows):
        raise DataError(f"the model gave {len(said)} answers to {len(rows)} rows")
    return said


def _embed(embedding: Embedding, rows: Singles) -> Singles:
    embedded = embedding.embed(rows)
    if not bool(np.isfinite(embedded).all()):
        raise DataError("the embedding of an honest row is not finite")
    return embedded


def _examples(
    rows: Singles, labels: npt.NDArray[np.str_] | None, count: int, seed: int
) -> Examples | None:
    """A random part of the rows, if any are to be kept."""
    if not count:
        return None
    kept = np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])
    if labels is None:
        return Examples(rows[kept])
    names, places = np.unique(labels[kept], return_inverse=True)
    return Examples(rows[kept], places.astype(np.int64), tuple(str(name) for name in names))


def microseconds_per_row(
    scorer: Scorer, rows: Singles, embedding: Embedding | None = None, repeats: int = 300
) -> float:
    """The median time of :meth:`Scorer.score_row`, and of the embedding before it, in
    microseconds."""
    times = []
    for index in range(repeats):
        row = rows[index % len(rows)][None]
        start = time.perf_counter_ns()
        scorer.score_row(row if embedding is None else embedding.embed(row))
        times.append(time.perf_counter_ns() - start)
    return float(np.median(times)) / 1000.0


def microseconds_per_answer(scorer: AnswerScorer, rows: Singles, repeats: int = 100) -> float:
    """The median time of :meth:`AnswerScorer.score` of one row, in microseconds."""
    if scorer.classes is None:
        answer = Answers.of_values(np.zeros((1, scorer.outputs)))
    else:
        answer = Answers.of_logits(np.arange(scorer.outputs)[None])
    merged = np.zeros(1)
    times = []
    for index in range(repeats):
        row = rows[index % len(rows)][None]
        start = time.perf_counter_ns()
        scorer.score(row, answer, merged)
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
