"""``bartizan score``: what the gateway would decide about rows, offline."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from detectors.agreement.base import Answers
from detectors.bundle import Bundle
from detectors.scorer import ScoreFault, Verdicts
from detectors.training.readers import Table, read_table
from proxy.cli.answers import AskedModel, Reading
from proxy.cli.column_data import read_columns, read_encoded
from proxy.cli.fit import answer_options, share
from proxy.cli.inspect import TRUST, load
from proxy.cli.model_server import ModelServer
from proxy.protocols.base import Rows
from proxy.protocols.columns import check_features
from proxy.reading import Kind

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
@click.option(
    "--columns",
    type=_FILE,
    help="The columns as in the endpoint's contract, YAML: categories are encoded alike.",
)
@answer_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def score(
    *,
    bundle: Path,
    data: Path,
    trust: tuple[Path, ...],
    budget: float | None,
    confidence: float | None,
    columns: Path | None,
    answers: Path | None,
    model: str | None,
    output: str | None,
    answer_kind: Kind,
    classes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Score the rows of DATA with BUNDLE, as the gateway would.

    With the model's answers, a bundle that was fitted with such tells also what would be decided
    once the model has answered; with --model it asks for second opinions too, where the bundle has
    them. Without, only what would be decided before.

    Exit status 1 if any row is flagged, as for any other finding.
    """
    loaded = load(bundle, trust)
    try:
        if budget is not None or confidence is not None:
            fitted = loaded.scorer.calibration
            delta = fitted.delta if confidence is None else 1 - confidence
            loaded = loaded.with_budget(budget or fitted.alpha, delta)
        table = _table(data, columns, loaded, asked=model is not None)
        rows = table.rows if loaded.embedding is None else loaded.embedding.embed(table.rows)
        verdicts = loaded.scorer.score(rows)
        answered: _Answered | None = None
        if answers is not None or model is not None:
            reading = _reading(loaded, classes, output, answer_kind)
            asked = None if model is None else _asked(model, table, loaded, reading)
            answered = _Answered.of(
                loaded, table, rows, verdicts, reading=reading, path=answers, model=asked
            )
    except (ScoreFault, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    flagged = verdicts.flagged if answered is None else verdicts.flagged | answered.verdicts.flagged
    result: dict[str, Any] = {
        "bundle": str(bundle),
        "digest": loaded.digest,
        "signature": loaded.signature,
        "false_positive_budget": loaded.scorer.calibration.alpha,
        "confidence": 1 - loaded.scorer.calibration.delta,
        "threshold": loaded.scorer.threshold,
        "rows": len(table.rows),
        "flagged": int(flagged.sum()),
        "verdicts": [
            {**_row(verdicts, index), "flagged": bool(flagged[index])}
            for index in range(len(table.rows))
        ],
    }
    if answered is not None:
        answered.tell(result)
    if as_json:
        click.echo(json.dumps(result))
    else:
        _print(result, loaded, answered)
    sys.exit(1 if result["flagged"] else 0)


class _Answered:
    """What is found once the model has answered."""

    def __init__(self, threshold: float, labels: list[str], verdicts: Verdicts, asked: int) -> None:
        self.threshold = threshold
        self.labels = labels
        self.verdicts = verdicts
        self.asked = asked

    @classmethod
    def of(
        cls,
        loaded: Bundle,
        table: Table,
        rows: Rows,
        before: Verdicts,
        *,
        reading: Reading,
        path: Path | None,
        model: AskedModel | None,
    ) -> _Answered:
        """Scores the rows as embedded, with answers from a file or from the model.

        Raises:
            ValueError: if the answers cannot be had, or are not what the bundle needs.
            ScoreFault: if a score is not finite.
        """
        agreement = loaded.agreement
        assert agreement is not None  # _reading looked
        said = reading.file(path, len(rows)) if path is not None else None
        if said is None:
            assert model is not None  # one of them is given
            said = model(table.rows)
        missing = [need for need in agreement.needs if not said.has(need)]
        if missing:
            raise ValueError(f"the bundle needs {missing[0]} of each answer")
        verdicts = agreement.score(rows, said, before.merged)
        asked = np.zeros(0, np.int64)
        if model is not None and agreement.opinions:
            asked = np.flatnonzero(agreement.suspicious(verdicts) & ~before.flagged)
        if asked.size and model is not None:
            again = [model(one.views(table.rows[asked])) for one in agreement.opinions]
            heard = agreement.reconsider(rows[asked], said[asked], before.merged[asked], again)
            merged, p_values = verdicts.merged.copy(), verdicts.p_values.copy()
            merged[asked], p_values[asked] = heard.merged, heard.p_values
            verdicts = replace(
                verdicts, merged=merged, p_values=p_values, flagged=merged > agreement.threshold
            )
        return cls(agreement.threshold, _labels(said, agreement.classes), verdicts, asked.size)

    def tell(self, result: dict[str, Any]) -> None:
        """Adds what was found to the result."""
        result["answer_threshold"] = self.threshold
        result["asked_again"] = self.asked
        for index, row in enumerate(result["verdicts"]):
            row["answer"] = {"label": self.labels[index], **_row(self.verdicts, index)}


def _labels(answers: Answers, classes: tuple[str, ...] | None) -> list[str]:
    """What the model said, in words."""
    if answers.labels is not None and classes is not None:
        return [classes[label] for label in answers.labels.tolist()]
    assert answers.values is not None
    return [", ".join(f"{value:.6g}" for value in row) for row in answers.values.tolist()]


def _table(data: Path, columns: Path | None, loaded: Bundle, *, asked: bool) -> Table:
    """The rows to score, encoded where columns are declared.

    Raises:
        ValueError: if they cannot be read, or are not those of the bundle.
    """
    if columns is None:
        return read_table(data)
    if asked:
        raise ValueError("--model is asked for tensors, not for --columns: give its --answers")
    contract = read_columns(columns)
    if loaded.manifest.feature_names:
        check_features(contract, loaded.manifest.feature_names)
    return read_encoded(data, contract)


def _reading(loaded: Bundle, classes: tuple[str, ...], output: str | None, kind: Kind) -> Reading:
    """How the bundle's answers are read.

    Raises:
        ValueError: if it was fitted without agreement.
    """
    agreement = loaded.agreement
    if agreement is None:
        raise ValueError("the bundle was fitted without the model's answers: they say nothing")
    return Reading(
        agreement.classes,
        order=classes,
        regression=agreement.classes is None,
        outputs=agreement.outputs,
        output=output,
        kind=kind,
    )


def _asked(url: str, table: Table, loaded: Bundle, reading: Reading) -> AskedModel:
    shape = loaded.row_shape
    server = ModelServer(url, table.rows.shape[1], row_shape=shape if len(shape) > 1 else None)
    return AskedModel(server, reading)


def _row(verdicts: Verdicts, index: int) -> dict[str, Any]:
    values = verdicts.detector_p_values[index].tolist()
    return {
        "score": float(verdicts.merged[index]),
        "p_value": float(verdicts.p_values[index]),
        "flagged": bool(verdicts.flagged[index]),
        "detectors": dict(zip(verdicts.names, values, strict=True)),
    }


def _print(result: dict[str, Any], loaded: Bundle, answered: _Answered | None) -> None:
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.table import Table as Grid  # noqa: PLC0415

    # What a bundle says of itself is text, not markup.
    console = Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)
    limits = f"score above {result['threshold']:.6g}"
    if answered is not None:
        limits += f", or {answered.threshold:.6g} with the answer"
    console.print(
        f"{result['flagged']} of {result['rows']} rows flagged "
        f"({limits}; budget {100 * result['false_positive_budget']:.6g} %)"
    )
    if answered is None and loaded.agreement is not None:
        console.print("Before the model answers: --answers or --model tells what comes after.")
    if answered is not None and answered.asked:
        console.print(f"The model was asked again about {answered.asked} rows.")

    def worst_first(item: tuple[int, dict[str, Any]]) -> tuple[bool, float]:
        verdict = item[1]
        return not verdict["flagged"], -verdict.get("answer", verdict)["score"]

    worst = sorted(enumerate(result["verdicts"]), key=worst_first)[:_SHOWN]
    grid = Grid(title=f"The {len(worst)} highest scores", title_justify="left")
    names = loaded.scorer.names
    after = ("flagged", "answer", "with it", "p-value", "against it")
    headings = ("score", "p-value", "flagged", *names) if answered is None else ("p-value", *after)
    for heading in ("row", *headings):
        grid.add_column(heading, justify="right", no_wrap=answered is not None)
    for index, verdict in worst:
        flagged = "yes" if verdict["flagged"] else "no"
        if answered is None:
            own = [f"{verdict['detectors'][name]:.3g}" for name in names]
            grid.add_row(str(index), *_cells(verdict), flagged, *own)
        else:
            answer = verdict["answer"]
            every = {**verdict["detectors"], **answer["detectors"]}
            least = min(every, key=lambda name: every[name])
            cells = [flagged, answer["label"], *_cells(answer), least]
            grid.add_row(str(index), _cells(verdict)[1], *cells)
    console.print(grid)


def _cells(verdict: dict[str, Any]) -> list[str]:
    return [f"{verdict['score']:.4g}", f"{verdict['p_value']:.3g}"]
