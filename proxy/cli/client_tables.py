"""What is known of clients, for people to read."""

from __future__ import annotations

import sys
from typing import Any, Final

import click

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
"""Units of durations, in seconds."""

_FIGURES: Final = ("queries", "coverage", "banned", "seen")
_LEAST_WIDTH: Final = 120  # columns that the table takes, whatever the terminal has

_Entry = dict[str, Any]


def print_list(answer: _Entry) -> None:
    """Prints a table of clients."""
    entries = _entries(answer)
    if not entries:
        click.echo("no client is known")
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    told = ["client", "label", "endpoint", "level"]
    if not any(entry.get("label") for entry in entries):
        told.remove("label")
    grid = Table()
    for heading in (*told, "evidence (nats)", *_FIGURES):
        # Who copies a client's name needs all of it, on one line.
        grid.add_column(heading, no_wrap=heading == "client", overflow="fold")
    for entry in entries:
        evidence = [printable(f"{name} {nats}") for name, nats, _ in _evidence(entry)]
        row = (*(printable(entry.get(key)) for key in told), "\n".join(evidence))
        grid.add_row(*map(Text, (*row, *_figures(entry))))
    console = Console(file=sys.stdout, highlight=False)
    if console.width < _LEAST_WIDTH:
        console = Console(file=sys.stdout, highlight=False, width=_LEAST_WIDTH)
    console.print(grid)


def print_client(answer: _Entry) -> None:
    """Prints one client, endpoint by endpoint."""
    for entry in _entries(answer):
        lines = [
            *((key, entry[key]) for key in ("label", "level") if entry.get(key)),
            *zip(_FIGURES, _figures(entry), strict=True),
            *(
                (f"evidence of {name}", f"{nats} nats; alarms at {threshold}")
                for name, nats, threshold in _evidence(entry)
            ),
        ]
        click.echo(f"{printable(entry.get('client'))} at {printable(entry.get('endpoint'))}")
        for key, value in lines:
            click.echo(f"  {printable(key)}: {printable(value)}")


def printable(value: object) -> str:
    """The value's text on one line, without what a terminal would obey."""
    text = "-" if value is None else str(value)
    return "".join(char if char.isprintable() else "?" for char in text)


def _entries(answer: _Entry) -> list[_Entry]:
    return [entry for entry in answer.get("clients") or () if isinstance(entry, dict)]


def _figures(entry: _Entry) -> tuple[str, ...]:
    queries, coverage = entry.get("queries"), entry.get("coverage")
    banned, seen = entry.get("banned_seconds"), entry.get("seen_seconds_ago")
    return (
        "-" if queries is None else str(queries),
        "-" if coverage is None else f"{100 * coverage:.1f} %",
        f"for {_span(banned)}" if banned else "-",
        "-" if seen is None else f"{_span(seen)} ago",
    )


def _evidence(entry: _Entry) -> list[tuple[str, str, str]]:
    """Family, nats and threshold, the strongest first."""
    evidence = entry.get("evidence") or {}
    thresholds = entry.get("thresholds") or {}
    return [
        (name, _number(evidence[name]), _number(thresholds.get(name)))
        for name in sorted(evidence, key=lambda name: -(evidence[name] or 0))
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _span(seconds: float) -> str:
    """A duration in the largest unit that it fills: ``1.5h``."""
    for unit in ("d", "h", "m"):
        if seconds >= UNITS[unit]:
            return f"{seconds / UNITS[unit]:.1f}".removesuffix(".0") + unit
    return f"{seconds:.0f}s"
