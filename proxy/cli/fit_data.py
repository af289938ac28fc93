"""What ``bartizan fit`` learns from: rows, what they are, and what the model says of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from detectors.agreement.base import Answers
from detectors.base import Rows
from detectors.sample import Sample, class_order
from detectors.training.readers import (
    DataError,
    Table,
    read_labels,
    read_mask,
    read_table,
    read_targets,
)
from proxy.cli.answers import AskedModel, Reading
from proxy.cli.column_data import read_columns, read_encoded
from proxy.cli.model_server import ModelServer
from proxy.protocols.columns import feature_names
from proxy.reading import Kind


@dataclass(frozen=True, slots=True)
class Sources:
    """The options that name them.

    Attributes:
        data, capture: where the rows are: one of them.
        columns: declares the columns of ``data``, to encode them, or of ``capture``, to name them.
        labels, seen, answers: files beside ``data``.
        model: the model's URL.
        output: its output tensor; None: the one that fits.
        answer_kind: what it, or the file of answers, holds.
        classes: in the order of its columns; empty: the labels', as sorted.
        regression: whether the model answers with values.
        row_shape: of one row; empty: as the file has it.
    """

    data: Path | None
    capture: Path | None
    columns: Path | None
    labels: Path | None
    seen: Path | None
    answers: Path | None
    model: str | None
    output: str | None
    answer_kind: Kind
    classes: tuple[str, ...]
    regression: bool
    row_shape: tuple[int, ...]

    def check(self) -> None:
        """Raises click.UsageError if they contradict each other."""
        if (self.data is None) == (self.capture is None):
            raise click.UsageError("name the rows: either --data or --from-capture")
        if self.capture is not None:
            for name in ("labels", "seen", "answers", "classes"):
                if getattr(self, name):
                    raise click.UsageError(f"--{name} goes with --data: a capture has its own")
        answered = self.answers is not None or self.model is not None
        if self.columns is not None and self.model is not None:
            raise click.UsageError(
                "--model is asked for tensors, not for --columns: give its --answers"
            )
        if self.seen is not None and not answered:
            raise click.UsageError("--seen says whose answers not to trust: name --answers")
        if self.output is not None and not answered:
            raise click.UsageError("--output goes with --answers or --model")


@dataclass(frozen=True, slots=True)
class Material:
    """All that was read: arguments of ``detectors.training.fit.fit``.

    Attributes:
        notes: what the user should know of it.
    """

    table: Table
    row_shape: tuple[int, ...] | None
    labels: npt.NDArray[np.str_] | None = None
    targets: npt.NDArray[np.float64] | None = None
    answers: Answers | None = None
    classes: tuple[str, ...] | None = None
    seen: npt.NDArray[np.bool_] | None = None
    clients: npt.NDArray[np.int64] | None = None
    ask: Callable[[Rows], Answers] | None = None
    notes: list[str] = field(default_factory=list)


def gather(sources: Sources, *, answered: bool) -> Material:
    """Reads the files, and asks the model about the rows if it has to.

    Args:
        sources: where everything is.
        answered: whether answers are wanted.

    Raises:
        ValueError: if anything cannot be read, or does not fit the rest; says what and where.
        OSError: if a file cannot be read.
    """
    if sources.capture is not None:
        return _captured(sources, sources.capture)
    assert sources.data is not None  # checked
    if sources.columns is None:
        table = read_table(sources.data)
    else:
        table = read_encoded(sources.data, read_columns(sources.columns))
    count = len(table.rows)
    labels = targets = None
    if sources.labels is not None and sources.regression:
        targets = read_targets(sources.labels, count)
    elif sources.labels is not None:
        labels = read_labels(sources.labels, count)
    row_shape = _row_shape(sources, table)
    classes = sources.classes or None
    if classes is None and labels is not None:
        classes = tuple(sorted({str(name) for name in np.unique(labels)}, key=class_order))
    if not answered or (sources.answers is None and sources.model is None):
        return Material(table, row_shape, labels, targets)
    reading = Reading(
        classes,
        regression=sources.regression,
        outputs=None if targets is None else targets.shape[1],
        output=sources.output,
        kind=sources.answer_kind,
    )
    model = None
    if sources.model is not None:
        shape = row_shape or (table.row_shape if len(table.row_shape) > 1 else None)
        model = AskedModel(
            ModelServer(sources.model, table.rows.shape[1], row_shape=shape), reading
        )
    if sources.answers is not None:
        answers = reading.file(sources.answers, count)
    else:
        assert model is not None
        answers = model(table.rows)
    seen = None if sources.seen is None else read_mask(sources.seen, count)
    notes = []
    if seen is None:
        notes.append(
            "every row counts as new to the model: if it was trained on some, say which with "
            "--seen, as its answers to those are too good to calibrate with"
        )
    if labels is None and targets is None:
        notes.append(
            "without --labels the witnesses learn from the model's own answers, mistakes and all"
        )
    return Material(
        table, row_shape, labels, targets, answers, reading.classes, seen, None, model, notes
    )


def _captured(sources: Sources, path: Path) -> Material:
    """The rows and answers of live traffic, all of them new to the model."""
    try:
        sample = Sample.decode(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    if not len(sample):
        raise DataError(f"{path}: there are no rows")
    regression = sample.kind == "values"
    shape = sample.row_shape if len(sample.row_shape) > 1 else None
    table = Table(np.ascontiguousarray(sample.rows), _names(sources, sample), sample.row_shape)
    if sources.row_shape:
        shape = _row_shape(sources, table)
    reading = Reading(
        sample.classes or None,
        regression=regression,
        outputs=sample.answers.shape[1] if regression else None,
        output=sources.output,
        kind=sources.answer_kind,
    )
    model = None
    if sources.model is not None:
        server = ModelServer(sources.model, table.rows.shape[1], row_shape=shape)
        model = AskedModel(server, reading)
    known = bool((sample.clients >= 0).all())
    return Material(
        table,
        shape,
        answers=sample.read(),
        classes=None if regression else sample.classes,
        seen=None if sample.uniform.all() else ~sample.uniform,
        clients=sample.clients.astype(np.int64) if known else None,
        ask=model,
        notes=["the witnesses learn from the model's own answers, mistakes and all"],
    )


def _names(sources: Sources, sample: Sample) -> tuple[str, ...] | None:
    """What captured features are called, where columns are declared."""
    if sources.columns is None:
        return None
    names, width = feature_names(read_columns(sources.columns)), sample.rows.shape[1]
    if len(names) != width:
        raise DataError(
            f"{sources.columns}: the columns make up {len(names)} features, captured were {width}"
        )
    return names


def _row_shape(sources: Sources, table: Table) -> tuple[int, ...] | None:
    """The shape of a row, if it has more than one length."""
    if not sources.row_shape:
        return table.row_shape if len(table.row_shape) > 1 else None
    if math.prod(sources.row_shape) != table.rows.shape[1]:
        shape = " by ".join(map(str, sources.row_shape))
        raise DataError(f"--row-shape {shape} is not that of {table.rows.shape[1]} features")
    return sources.row_shape
