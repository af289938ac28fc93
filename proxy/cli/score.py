"""``bartizan score``: what the gateway would decide about rows, offline."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from detectors.calibration import BudgetError
from detectors.scorer import ScoreFault, Verdicts
from detectors.training.readers import DataError, read_table
from proxy.cli.fit import share
from proxy.cli.inspect import TRUST, load

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_SHOWN = 20


@click.command()
@click.argument("bundle", type=_FILE)
@click.argument("data", type=_FILE)
@click.option("--trust", type=_FILE, multiple=True, help=TRUST)
@click.option(
    "--false-positive-budget",
    "budget",
    type=float,
    callback=share,
    help="Another budget than the one that the bundle was fitted for.",
)
@click.option(
    "--confidence",
    type=float,
    callback=share,
    help="Another confidence.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def score(
    *,
    bundle: Path,
    data: Path,
    trust: tuple[Path, ...],
    budget: float | None,
    confidence: float | None,
    as_json: bool,
) -> None:
    """Score the rows of DATA with BUNDLE, as the gateway would.

    Exit status 1 if any row is flagged, as for any other finding.
    """
    loaded = load(bundle, trust)
    scorer = loaded.scorer
    try:
        if budget is not None or confidence is not None:
            fitted = scorer.calibration
            delta = fitted.delta if confidence is None else 1 - confidence
            scorer = scorer.with_budget(budget or fitted.alpha, delta)
        table = read_table(data)
        verdicts = scorer.score(table.rows)
    except (DataError, BudgetError, ScoreFault, ValueError) as error:
        raise click.ClickException(str(error)) from error
    flagged = int(verdicts.flagged.sum())
    result: dict[str, Any] = {
        "bundle": str(bundle),
        "digest": loaded.digest,
        "signature": loaded.signature,
        "false_positive_budget": scorer.calibration.alpha,
        "confidence": 1 - scorer.calibration.delta,
        "threshold": scorer.threshold,
        "rows": len(table.rows),
        "flagged": flagged,
        "verdicts": [_row(verdicts, index) for index in range(len(table.rows))],
    }
    if as_json:
        click.echo(json.dumps(result))
    else:
        _print(result, scorer.names)
    sys.exit(1 if flagged else 0)


def _row(verdicts: Verdicts, index: int) -> dict[str, Any]:
    values = verdicts.detector_p_values[index].tolist()
    return {
        "score": float(verdicts.merged[index]),
        "p_value": float(verdicts.p_values[index]),
        "flagged": bool(verdicts.flagged[index]),
        "detectors": dict(zip(verdicts.names, values, strict=True)),
    }


def _print(result: dict[str, Any], names: tuple[str, ...]) -> None:
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.table import Table  # noqa: PLC0415

    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    budget = f"budget {100 * result['false_positive_budget']:.6g} %"
    console.print(
        f"{result['flagged']} of {result['rows']} rows flagged "
        f"(score above {result['threshold']:.6g}; {budget})"
    )
    worst = sorted(enumerate(result["verdicts"]), key=lambda item: -item[1]["score"])[:_SHOWN]
    grid = Table(title=f"The {len(worst)} highest scores", title_justify="left")
    for heading in ("row", "score", "p-value", "flagged", *names):
        grid.add_column(heading, justify="right")
    for index, verdict in worst:
        grid.add_row(
            str(index),
            f"{verdict['score']:.4g}",
            f"{verdict['p_value']:.3g}",
            "yes" if verdict["flagged"] else "no",
            *(f"{verdict['detectors'][name]:.3g}" for name in names),
        )
    console.print(grid)
