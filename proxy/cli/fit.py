"""``bartizan fit``: honest rows to a calibrated bundle."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from detectors.bundle import FittedPatterns
    from detectors.training.fit import Written
    from detectors.training.readers import Table

_FILE = click.Path(path_type=Path, dir_okay=False)
CLIENT_ALARM_BUDGET: Final = 0.001


def share(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    """An option that must lie strictly between 0 and 1 (a range lets NaN through)."""
    if value is not None and not 0 < value < 1:
        raise click.BadParameter("must lie strictly between 0 and 1")
    return value


@click.command()
@click.option("--data", type=_FILE, required=True, help="Honest rows: .npy, .npz, .csv, .parquet.")
@click.option(
    "--labels", type=_FILE, help="One class label a row: the classes that the model tells apart."
)
@click.option("--out", type=_FILE, required=True, help="The bundle to write.")
@click.option(
    "--false-positive-budget",
    "budget",
    type=float,
    callback=share,
    default=0.001,
    show_default=True,
    help="Share of honest rows that may be flagged.",
)
@click.option(
    "--confidence",
    type=float,
    callback=share,
    default=0.95,
    show_default=True,
    help="Confidence with which the budget holds.",
)
@click.option(
    "--client-alarm-budget",
    type=float,
    callback=share,
    help="Share of honest client-days that may raise an alarm.  [default: 0.001]",
)
@click.option("--no-patterns", is_flag=True, help="Do not learn what honest clients look like.")
@click.option("--detectors", "kinds", help="Comma-separated; a measured default otherwise.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--sign", "key", type=_FILE, help="Ed25519 private key, PEM, to sign with.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def fit(
    *,
    data: Path,
    labels: Path | None,
    out: Path,
    budget: float,
    confidence: float,
    client_alarm_budget: float | None,
    no_patterns: bool,
    kinds: str | None,
    seed: int,
    key: Path | None,
    as_json: bool,
) -> None:
    """Fit, merge and calibrate detectors on honest rows, and write them as one bundle.

    The rows are split three ways: to fit, to merge and to set the threshold. Duplicates are dropped
    first. Labels are the classes that the model tells apart, never marks of outliers: every row
    counts as honest.

    From the same rows it learns the patterns of honest clients over time, against which theft and
    probing stand out; --no-patterns leaves them out.
    """
    try:
        from detectors.training.fit import DEFAULT_DETECTORS, write  # noqa: PLC0415 - an extra
        from detectors.training.fit import fit as fit_rows  # noqa: PLC0415
        from detectors.training.patterns import PatternRowsError  # noqa: PLC0415
        from detectors.training.readers import read_labels, read_table  # noqa: PLC0415
        from detectors.training.splits import MIN_MERGE, MIN_TRAIN  # noqa: PLC0415
    except ImportError as error:
        raise click.ClickException(
            f"fit needs the train extra, pip install 'bartizan[train]' ({error})"
        ) from error
    chosen = tuple(k.strip() for k in kinds.split(",")) if kinds else DEFAULT_DETECTORS
    from detectors.outlier import REGISTRY  # noqa: PLC0415

    for kind in chosen:
        if kind not in REGISTRY or chosen.count(kind) > 1:
            raise click.BadParameter(
                f"{kind!r}: expected some of {', '.join(REGISTRY)}, each once",
                param_hint="--detectors",
            )
    if no_patterns and client_alarm_budget is not None:
        raise click.UsageError("--client-alarm-budget is for patterns: leave out --no-patterns")
    if not out.parent.is_dir():
        raise click.BadParameter(f"{out.parent} is not a directory", param_hint="--out")
    try:
        signing_key = key.read_bytes() if key else None
        table = read_table(data)
        fitted = fit_rows(
            table.rows,
            kinds=chosen,
            alpha=budget,
            delta=1 - confidence,
            seed=seed,
            labels=read_labels(labels, len(table.rows)) if labels else None,
            client_alarm_budget=None if no_patterns else client_alarm_budget or CLIENT_ALARM_BUDGET,
        )
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        written = write(fitted, out, table, created=created, signing_key=signing_key)
    except PatternRowsError as error:
        raise click.ClickException(
            f"{error}, beside {MIN_TRAIN + MIN_MERGE} to fit and to merge; more rows or a larger "
            "budget would do, and --no-patterns goes on without"
        ) from error
    except (ValueError, OSError) as error:  # every typed error of a fit is a ValueError
        raise click.ClickException(str(error)) from error
    result = _result(written, table, out, signed=signing_key is not None)
    if as_json:
        click.echo(json.dumps(result))
    else:
        _print(result)


def _result(written: Written, table: Table, out: Path, *, signed: bool) -> dict[str, Any]:
    scorer, training = written.fitted.scorer, written.fitted.training
    calibration = scorer.calibration
    return {
        "bundle": str(out),
        "digest": written.digest,
        "signed": signed,
        "features": scorer.features,
        "row_shape": list(table.row_shape),
        "detectors": list(scorer.names),
        "rows": training.rows.model_dump(),
        "constant_features": training.constant_features,
        "classes": training.classes,
        "false_positive_budget": calibration.alpha,
        "confidence": 1 - calibration.delta,
        "rank": calibration.rank,
        "threshold": scorer.threshold,
        "guarantee": guarantee(calibration.alpha, calibration.delta),
        "microseconds_per_row": round(written.microseconds, 1),
        "engine": scorer.engine,
        "patterns": written.fitted.patterns and patterns_told(written.fitted.patterns),
    }


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


def patterns_lines(told: dict[str, Any]) -> list[tuple[str, str]]:
    """The same in words: headings and lines."""
    rows = told["rows"]
    return [
        ("patterns", ", ".join(told["statistics"])),
        (
            "  learnt from",
            f"{rows['space']} rows: {told['regimes']} regimes, {told['cells']} cells",
        ),
        ("  calibrated on", f"streams of {rows['streams']} other rows"),
        (
            "  budget",
            f"{100 * told['client_alarm_budget']:.6g} % of honest client-days may alarm",
        ),
        ("  memory", f"{told['client_bytes'] / 1024:.1f} KiB a client"),
    ]


def guarantee(alpha: float, delta: float) -> str:
    """What the threshold promises, in plain words."""
    return (
        f"With confidence {1 - delta:.6g}, at most {100 * alpha:.6g} % of honest rows are flagged, "
        "as long as they are like the calibration rows."
    )


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.table import Table as Grid  # noqa: PLC0415

    rows = result["rows"]
    grid = Grid(show_header=False, box=None, pad_edge=False)
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    grid.add_row("bundle", f"{result['bundle']}{' (signed)' if result['signed'] else ''}")
    grid.add_row("digest", result["digest"])
    grid.add_row("detectors", ", ".join(result["detectors"]))
    shape = result["row_shape"]
    flattened = f", flattened from {' by '.join(map(str, shape))}" if len(shape) > 1 else ""
    grid.add_row("features", f"{result['features']}{flattened}")
    grid.add_row("rows read", f"{rows['read']}, of which {rows['duplicates']} duplicates dropped")
    grid.add_row("  to fit", str(rows["train"]))
    grid.add_row("  to merge", str(rows["merge"]))
    grid.add_row("  for the threshold", str(rows["threshold"]))
    if rows["unused"]:
        grid.add_row("  not needed", str(rows["unused"]))
    if result["constant_features"]:
        grid.add_row(
            "constant features",
            f"{len(result['constant_features'])}, kept: a row that departs from one is suspicious",
        )
    if result["classes"]:
        balance = ", ".join(f"{name}: {count}" for name, count in result["classes"].items())
        grid.add_row("classes", balance)
    grid.add_row("threshold", f"{result['threshold']:.6g} (rank {result['rank']})")
    grid.add_row("guarantee", result["guarantee"])
    cost = f"about {result['microseconds_per_row']} µs here ({result['engine']})"
    grid.add_row("cost of a row", cost)
    for heading, line in patterns_lines(result["patterns"]) if result["patterns"] else ():
        grid.add_row(heading, line)
    Console(file=sys.stdout, highlight=False, soft_wrap=True).print(grid)
