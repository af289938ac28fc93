"""What ``bartizan replay`` found, for people."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from proxy.cli.client_tables import printable

_LIMITS = (
    "What another configuration would decide is told of the very requests that were sent: a client "
    "that had been refused, or answered otherwise, would have asked otherwise from there on."
)


def print_log(told: dict[str, Any]) -> None:
    """The replay of an audit log."""
    for words in told["broken"]:
        click.echo(f"not intact: {words}: run bartizan audit verify")
    for words in told["notes"]:
        click.echo(f"note: {words}")
    rate = told["exchanges"] / told["seconds"] if told["seconds"] else 0.0
    click.echo(
        f"{told['equal']} of {told['played']} decisions equal "
        f"({told['exchanges']} exchanges recorded, {rate:,.0f} a second)"
    )
    for why, count in told["as_recorded"].items():
        click.echo(f"  {count} taken as recorded: {why}")
    for one in told["differences"]:
        click.echo(f"  {printable(one['time'])} {printable(one['id'])}")
        for name, pair in one["differs"].items():
            click.echo(f"    {name}: was {json.dumps(pair['was'])}, now {json.dumps(pair['now'])}")
    if told["unequal"] > len(told["differences"]):
        click.echo(f"  and {told['unequal'] - len(told['differences'])} more")
    if "what_if" in told:
        _print_change(told["what_if"])


def _print_change(change: dict[str, Any]) -> None:
    console = _console()
    console.print(f"\nWith {' '.join(change['changed'])}, of {change['exchanges']} exchanges:")
    console.print(f"  newly refused: {_share(change['newly_refused'])}")
    console.print(f"  newly passed:  {_share(change['newly_passed'])}")
    if change["unheard"]:
        console.print(
            f"  {change['unheard']} would have passed to the model, and what it would have "
            "answered is not recorded: they are judged by their input alone"
        )
    grid = _table("By what is decided", "was", "would be", "exchanges")
    for one in change["actions"]:
        grid.add_row(one["was"], one["would"], str(one["exchanges"]))
    console.print(grid)
    grid = _table("By rule", "rule", "was", "would be", "newly", "no longer")
    for rule, one in change["rules"].items():
        grid.add_row(rule, *(str(one[name]) for name in ("was", "would", "newly", "no_longer")))
    console.print(grid)
    clients = change["clients"]
    if clients["most_changed"]:
        title = f"By client ({clients['changed']} of {clients['known']} see a change)"
        grid = _table(title, "client", "exchanges", "newly refused", "newly passed")
        for one in clients["most_changed"]:
            shares = (_share(one[name]) for name in ("newly_refused", "newly_passed"))
            grid.add_row(printable(one["client"]), str(one["exchanges"]), *shares)
        console.print(grid)
    console.print(_LIMITS)


def print_capture(told: dict[str, Any]) -> None:
    """The verdicts on a capture's rows."""
    console = _console()
    flagged = ", ".join(f"{count} by {rule}" for rule, count in told["flagged"].items())
    console.print(f"{told['rows']} rows of endpoint {told['endpoint']}: {flagged} flagged")
    change = told.get("what_if")
    if change is not None:
        console.print(f"\nWith {' '.join(change['changed'])}:")
        grid = _table("By rule", "rule", "was", "would be", "newly", "no longer")
        for rule, one in change["rules"].items():
            grid.add_row(rule, *(str(one[name]) for name in ("was", "would", "newly", "no_longer")))
        console.print(grid)
        if change["clients"]:
            grid = _table("By client", "client", "rows", "newly flagged", "no longer")
            for one in change["clients"]:
                share = (
                    f"{one['newly_flagged']} ({_percent(one['low'])} to {_percent(one['high'])})"
                )
                grid.add_row(str(one["client"]), str(one["rows"]), share, str(one["no_longer"]))
            console.print(grid)
    console.print(
        "A capture holds rows and answers, but neither their order nor their moments: what limits, "
        "patterns, bans and second opinions would do cannot be told. An enforcing endpoint "
        "captures nothing of what it refuses."
    )


def _share(share: dict[str, Any]) -> str:
    interval = f" ({_percent(share['low'])} to {_percent(share['high'])})" if share["of"] else ""
    return f"{share['exchanges']} of {share['of']}{interval}"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _table(title: str, *names: str) -> Table:
    grid = Table(title=title, title_justify="left")
    for name in names:
        grid.add_column(name, justify="left" if name in ("rule", "client") else "right")
    return grid


def _console() -> Console:
    return Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)
