"""An explanation for people to read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from proxy.cli.client_tables import printable

_LEAST_WIDTH: Final = 100  # columns that tables take, whatever the terminal has
_FEW: Final = 3  # features in a detector's line

_Entry = dict[str, Any]


def print_explanation(told: _Entry) -> None:
    """Prints what the admin listener, or the audit log, says of one exchange."""
    _print_decision(told)
    if told.get("input"):
        _print_input(told["input"])
    if told.get("answer"):
        _print_answer(told["answer"])
    if told.get("examples"):
        _print_examples(told["examples"])
    for note in told.get("notes") or ():
        click.echo(f"\nNote: {printable(note)}")
    if told.get("exclusion"):
        click.echo(
            f"\nIf this client is honest, below endpoint {printable(told.get('endpoint'))} in the "
            "configuration:\n"
            "(a pseudonym stays the same over restarts only if client.secret is set)\n"
        )
        for line in str(told["exclusion"]).splitlines():
            click.echo(f"    {printable(line)}")


def _print_decision(told: _Entry) -> None:
    done, decided = told.get("enforced"), told.get("action")
    words = f"{done}" if done == decided else f"{done} (by itself: {decided})"
    click.echo(f"{printable(told.get('id'))}: {printable(words)}")
    rows, flagged = told.get("rows"), told.get("flagged_rows")
    for key, value in (
        ("time", told.get("time")),
        ("endpoint", told.get("endpoint")),
        ("client", told.get("client")),
        ("status", told.get("status") or "the client left before"),
        ("rows", f"{rows}, of which {flagged} passed a threshold"),
    ):
        click.echo(f"  {key}: {printable(value)}")
    for reason in told.get("reasons") or ():
        click.echo(f"\n{printable(reason.get('rule'))}: {printable(reason.get('meaning'))}")
        if reason.get("detail"):
            click.echo(f"  {printable(reason['detail'])}")
        if reason.get("atlas"):
            click.echo(f"  MITRE ATLAS: {printable(', '.join(reason['atlas']))}")


def _print_input(told: _Entry) -> None:
    click.echo(f"\nThe input, row {told['row']}: {_verdict(told)}")
    _print_features(told, "score")
    _print_detectors(told["detectors"])


def _print_answer(told: _Entry) -> None:
    if told.get("label") is not None:
        sure = told.get("confidence")
        said = f"{told['label']}" + ("" if sure is None else f" ({100 * sure:.1f} %)")
    else:
        said = ", ".join(_number(value) for value in told.get("values") or ())
    click.echo(
        f"\nThe model answered {printable(said)} to row {told['row']}. Input and answer together: "
        f"{_verdict(told)}; the input alone counts {_number(told['input_evidence'])}"
    )
    for witness in told["witnesses"]:
        others = ", ".join(f"{name} {_signed(nats)}" for name, nats in witness["doubts"].items())
        click.echo(
            f"  {printable(witness['name'])} would have answered {printable(witness['answer'])}, "
            f"and doubts the model's by {_number(witness['doubt'])} (least doubted: "
            f"{printable(others)})"
        )
    for name, values in told["expected"].items():
        expected = ", ".join(_number(value) for value in values)
        click.echo(f"  {printable(name)} expected {expected}")
    for name, p_value in told["second_opinions"].items():
        click.echo(f"  asked again, {printable(name)}: p-value {_number(p_value)}")
    if told["second_opinions"]:
        click.echo(f"  before it was asked again: score {_number(told['without_second_opinions'])}")
    _print_features(told, "evidence of these detectors")
    _print_detectors(told["detectors"])


def _print_features(told: _Entry, what: str) -> None:
    """The features that made it, in a sum that adds up."""
    total = told["baseline"] + told["others"] + sum(one["nats"] for one in told["features"])
    lines = [
        (_place(one), _number(one["value"]), _number(one["usual"]), _signed(one["nats"]))
        for one in told["features"]
    ]
    lines += [
        ("all others", "", "", _signed(told["others"])),
        ("without them", "", "", _signed(told["baseline"])),
        (what, "", "", _signed(total)),
    ]
    _print_table(("feature", "value", "usual", "nats"), lines)


def _print_detectors(findings: list[_Entry]) -> None:
    _print_table(
        ("detector", "score", "p-value", "nats", "mostly", "found"),
        [
            (
                finding["name"],
                _number(finding["score"]),
                _number(finding["p_value"]),
                _number(finding["evidence"]),
                ", ".join(
                    f"{_place(one)} {_signed(one['nats'])}" for one in finding["features"][:_FEW]
                ),
                finding["method"] or "not explained",
            )
            for finding in findings
        ],
    )


def _print_examples(examples: list[_Entry]) -> None:
    click.echo("\nThe honest examples nearest to it, at the features above")
    _print_table(
        ("feature", *(f"example {one['index']}" for one in examples)),
        [
            ("class", *(printable(one["label"]) for one in examples)),
            ("distance", *(_number(one["distance"]) for one in examples)),
            *(
                (_place(places[0]), *(_number(place["value"]) for place in places))
                for places in zip(*(one["values"] for one in examples), strict=True)
            ),
        ],
    )


def _print_table(headings: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        is_text = heading in {"feature", "detector", "mostly", "found"}
        grid.add_column(heading, justify="left" if is_text else "right", overflow="fold")
    for line in lines:
        grid.add_row(*(Text(printable(cell)) for cell in line))
    console = Console(file=sys.stdout, highlight=False)
    if console.width < _LEAST_WIDTH:
        console = Console(file=sys.stdout, highlight=False, width=_LEAST_WIDTH)
    click.echo()
    console.print(grid)


def _verdict(told: _Entry) -> str:
    sign = "above" if told["flagged"] else "not above"
    return (
        f"score {_number(told['score'])}, {sign} the threshold {_number(told['threshold'])}; "
        f"p-value {_number(told['p_value'])}"
    )


def _place(feature: _Entry) -> str:
    """``name``, or ``(row, column)`` of an image, or the number of the feature."""
    if feature.get("name") is not None:
        return printable(feature["name"])
    position = feature.get("position")
    if position is not None:
        return f"({', '.join(str(place) for place in position)})"
    return f"#{feature['index']}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4g}"
