"""What a fit made, in figures and in words; ``bartizan inspect`` tells the same of a bundle."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from detectors.agreement.scorer import AnswerScorer
from detectors.bundle_writer import FittedPatterns
from detectors.calibration import rows_for_rank
from detectors.manifest import WitnessTraining

if TYPE_CHECKING:
    from pathlib import Path

    from detectors.training.fit import Written
    from detectors.training.readers import Table

Lines = Iterator[tuple[str, str]]
SOUND_RANK: Final = 5
"""From here on single calibration rows hardly move the threshold."""
_LOW = 0.5
"""Below this share of right answers the order of the classes is probably another."""


def result_of(written: Written, table: Table, out: Path, *, signed: bool) -> dict[str, Any]:
    """All there is to say of a fit, as JSON has it."""
    fitted = written.fitted
    scorer, training, agreement = fitted.scorer, fitted.training, fitted.agreement
    calibration = scorer.calibration
    embedding = fitted.embedding
    return {
        "bundle": str(out),
        "digest": written.digest,
        "signed": signed,
        "features": table.rows.shape[1],
        "row_shape": list(fitted.row_shape or table.row_shape),
        "detectors": list(scorer.names),
        "rows": training.rows.model_dump(),
        "constant_features": training.constant_features,
        "classes": training.classes,
        "false_positive_budget": calibration.alpha,
        "confidence": 1 - calibration.delta,
        "rank": calibration.rank,
        "threshold": scorer.threshold,
        "guarantee": guarantee(
            calibration.alpha, calibration.delta, answered=agreement is not None
        ),
        "microseconds_per_row": round(written.microseconds, 1),
        "engine": scorer.engine,
        "patterns": fitted.patterns and patterns_told(fitted.patterns),
        "agreement": agreement
        and {
            **agreement_told(agreement.scorer, agreement.training),
            "microseconds_per_answer": round(written.answer_microseconds or 0.0, 1),
        },
        "embedding": embedding and {"outputs": embedding.outputs},
        "examples": len(fitted.examples.rows) if fitted.examples else 0,
    }


def guarantee(alpha: float, delta: float, *, answered: bool) -> str:
    """What the threshold promises, in plain words."""
    both = ", before or after they are answered" if answered else ""
    return (
        f"With confidence {1 - delta:.6g}, at most {100 * alpha:.6g} % of honest rows are "
        f"flagged{both}, as long as they are like the calibration rows."
    )


def few_rows(rank: int, calibrated: int, alpha: float, delta: float) -> list[str]:
    """What is to be said of a threshold that hangs on single rows: a note, or none.

    Args:
        rank: of the threshold among ``calibrated`` scores.
    """
    if rank >= SOUND_RANK:
        return []
    from detectors.training.splits import rows_to_calibrate  # noqa: PLC0415 - inspect starts fast

    place = ("", "second ", "third ", "fourth ")[rank - 1]
    threshold = rows_for_rank(SOUND_RANK, alpha, delta)
    return [
        f"few rows for this budget: the threshold is the {place}largest of {calibrated} "
        f"calibration scores (rank {rank}), and a few odd rows among them can put it above most "
        f"attacks; rank {SOUND_RANK} takes {threshold} calibration rows, about "
        f"{rows_to_calibrate(threshold)} distinct rows in all; more rows, a larger budget or a "
        "lower confidence would do"
    ]


def agreement_told(scorer: AnswerScorer, training: WitnessTraining) -> dict[str, Any]:
    """What there is to say of agreement."""
    return {
        "kind": "values" if scorer.classes is None else "classes",
        "classes": scorer.classes and list(scorer.classes),
        "detectors": list(scorer.names),
        "second_opinions": [one.name for one in scorer.opinions],
        "threshold": scorer.threshold,
        "input_threshold": scorer.input_threshold,
        "rank": scorer.calibration.rank,
        **training.model_dump(),
    }


def agreement_lines(told: dict[str, Any]) -> Lines:
    """The same in words: headings and lines."""
    values = told["kind"] == "values"
    measure = " of the variance" if values else ""
    yield "agreement", ", ".join(told["detectors"])
    source = {
        "given": "the values that came with them" if values else "the labels that came with them",
        "answers": "the model's own answers",
    }[told["labels"]]
    yield "  learnt from", f"{told['fitted_on']} rows and {source}"
    if told["seen"]:
        clients = f", those of {told['clients']} clients among them" if told["clients"] else ""
        yield "  not calibrated on", f"{told['seen']} rows that were for fitting only{clients}"
    if told["accuracy"]:
        found = (f"{name} {100 * share:.1f} %" for name, share in told["accuracy"].items())
        yield "  find by themselves", ", ".join(found) + measure
    if told["model_accuracy"] is not None:
        right = f"{100 * told['model_accuracy']:.1f} %{measure or ' right'} on rows new to it"
        if told["mistakes"] is not None:
            right += f"; {100 * told['mistakes']:.3g} % of the calibration rows are its mistakes"
        yield "  the model", right
        if told["model_accuracy"] < _LOW and not values:
            yield "", "few for a model: is the order of the classes right (--classes)?"
    if told["second_opinions"]:
        yield "  second opinions", ", ".join(told["second_opinions"])
    yield (
        "  threshold",
        f"{told['threshold']:.6g} nats with the answer (rank {told['rank']}); "
        f"{told['input_threshold']:.6g} of the input alone",
    )
    if "microseconds_per_answer" in told:
        yield "  cost of an answer", f"about {told['microseconds_per_answer']} µs here"


def patterns_told(patterns: FittedPatterns) -> dict[str, Any]:
    """What there is to say of patterns."""
    from detectors.patterns.model import OUTLIER, STATISTICS  # noqa: PLC0415 - as rich below
    from detectors.patterns.tracker import PatternTracker  # noqa: PLC0415

    model = patterns.model
    unused = () if model.has_outlier else (STATISTICS[OUTLIER],)
    sizes = PatternTracker(model, clients=1, engine="numpy").sizes()
    return {
        "client_alarm_budget": patterns.budget,
        "statistics": [name for name in STATISTICS if name not in unused],
        "rows": {"space": patterns.space, "streams": patterns.streams},
        "signal": model.signal,
        "regimes": model.classes,
        "cells": len(model.mass),
        "client_bytes": sizes["client_bytes"],
    }


def patterns_lines(told: dict[str, Any]) -> Lines:
    """The same in words: headings and lines."""
    rows = told["rows"]
    yield "patterns", ", ".join(told["statistics"])
    yield (
        "  learnt from",
        f"{rows['space']} rows: {told['regimes']} regimes, {told['cells']} cells",
    )
    yield "  calibrated on", f"streams of {rows['streams']} other rows"
    yield (
        "  budget",
        f"{100 * told['client_alarm_budget']:.6g} % of honest client-days may alarm",
    )
    yield "  memory", f"{told['client_bytes'] / 1024:.1f} KiB a client"


def print_result(result: dict[str, Any]) -> None:
    """The whole result as a table of headings and lines, and what else the user should know."""
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.table import Table as Grid  # noqa: PLC0415

    grid = Grid(show_header=False, box=None, pad_edge=False)
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for heading, line in _lines(result):
        grid.add_row(heading, line)
    # What the data says of itself is text, not markup.
    console = Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)
    console.print(grid)
    for note in result["notes"]:
        console.print(f"note: {note}")


def _lines(result: dict[str, Any]) -> Lines:
    rows = result["rows"]
    yield "bundle", f"{result['bundle']}{' (signed)' if result['signed'] else ''}"
    yield "digest", result["digest"]
    yield "detectors", ", ".join(result["detectors"])
    shape = result["row_shape"]
    flattened = f", flattened from {' by '.join(map(str, shape))}" if len(shape) > 1 else ""
    yield "features", f"{result['features']}{flattened}"
    if result["embedding"]:
        yield "  embedded in", f"{result['embedding']['outputs']}, in which rows are scored"
    yield "rows read", f"{rows['read']}, of which {rows['duplicates']} duplicates dropped"
    yield "  to fit", str(rows["train"])
    yield "  to merge", str(rows["merge"])
    yield "  for the threshold", str(rows["threshold"])
    if rows["unused"]:
        yield "  not needed", str(rows["unused"])
    if result["examples"]:
        yield "  kept as examples", str(result["examples"])
    if result["constant_features"]:
        yield (
            "constant features",
            f"{len(result['constant_features'])}, kept: a row that departs from one is suspicious",
        )
    if result["classes"]:
        yield "classes", ", ".join(f"{name}: {n}" for name, n in result["classes"].items())
    yield "threshold", f"{result['threshold']:.6g} (rank {result['rank']})"
    yield "guarantee", result["guarantee"]
    yield "cost of a row", f"about {result['microseconds_per_row']} µs here ({result['engine']})"
    if result["agreement"]:
        yield from agreement_lines(result["agreement"])
    if result["patterns"]:
        yield from patterns_lines(result["patterns"])
