"""``bartizan clients``: who is suspected, and what is forgiven or banned, over the admin API."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click

from proxy.cli.admin import AdminListener
from proxy.cli.asking import answered, listener, listener_options
from proxy.cli.client_tables import UNITS, print_client, print_list, printable
from proxy.settings.fields import Origin

_PATH: Final = "/api/v1/clients"
_YEAR: Final = 365 * 86_400

_Entry = dict[str, Any]
_Command = Callable[..., _Entry]
_Show = Callable[[_Entry], None]


def seconds_of(text: str) -> int:
    """A duration in seconds: ``30m``, ``1h``, ``7d``.

    Raises:
        ValueError: if it is none, or not within a year.
    """
    parts = re.fullmatch(r"([0-9]{1,9})([smhdw])", text.strip())
    if parts is None:
        raise ValueError("must be a number and a unit: 90s, 30m, 1h, 7d or 2w")
    seconds = int(parts[1]) * UNITS[parts[2]]
    if not 0 < seconds <= _YEAR:
        raise ValueError("must be above 0 and at most 365d")
    return seconds


def _client(_context: click.Context, _argument: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{32}", value):
        raise click.BadParameter("a client is 32 hex digits in lower case, as in the audit log")
    return value


def _duration(_context: click.Context, _option: click.Parameter, value: str) -> int:
    try:
        return seconds_of(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _asking(show: _Show) -> Callable[[_Command], Callable[..., None]]:
    """Makes a command of a function that asks the listener.

    Args:
        show: prints the answer for people.
    """

    def decorate(function: _Command) -> Callable[..., None]:
        @listener_options
        @click.option("--endpoint", metavar="NAME", help="One endpoint only.  [default: all]")
        @click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
        @wraps(function)
        def command(
            *,
            admin: Origin | None,
            token: str | None,
            config: Path | None,
            as_json: bool,
            **given: Any,
        ) -> None:
            asked = listener(admin, token, config)
            answer = answered(lambda: function(asked, **given))
            if as_json:
                click.echo(json.dumps(answer))
            else:
                show(answer)

        return command

    return decorate


@click.group()
def clients() -> None:
    """See which clients are suspected, forgive them or ban them.

    Exit status: 0 ok, 1 not found or failed, 2 usage, 3 configuration, 4 unreachable.
    """


@clients.command("list")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many."
)
@_asking(print_list)
def list_command(listener: AdminListener, *, endpoint: str | None, limit: int) -> _Entry:
    """List the clients with the most evidence against them."""
    return listener.ask("GET", _PATH, {"endpoint": endpoint, "limit": limit})


@clients.command()
@click.argument("client", callback=_client)
@_asking(print_client)
def show(listener: AdminListener, *, endpoint: str | None, client: str) -> _Entry:
    """Show what is known of CLIENT."""
    return listener.ask("GET", f"{_PATH}/{client}", {"endpoint": endpoint})


@clients.command()
@click.argument("client", callback=_client)
@_asking(lambda answer: click.echo(f"{printable(answer.get('client'))}: forgiven"))
def forgive(listener: AdminListener, *, endpoint: str | None, client: str) -> _Entry:
    """Forget what was learnt about CLIENT, and lift its ban."""
    return listener.ask("POST", f"{_PATH}/{client}/forgive", {"endpoint": endpoint})


@clients.command()
@click.argument("client", callback=_client)
@click.option(
    "--for",
    "seconds",
    callback=_duration,
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="How long: 30m, 1h, 7d, and at most 365d.",
)
@_asking(lambda answer: click.echo(f"{printable(answer.get('client'))}: banned"))
def ban(listener: AdminListener, *, endpoint: str | None, client: str, seconds: int) -> _Entry:
    """Ban CLIENT for a while: all its requests are refused."""
    body = {"seconds": seconds}
    return listener.ask("POST", f"{_PATH}/{client}/ban", {"endpoint": endpoint}, body)


@clients.command()
@click.argument("client", callback=_client)
@_asking(lambda answer: click.echo(f"{printable(answer.get('client'))}: not banned"))
def unban(listener: AdminListener, *, endpoint: str | None, client: str) -> _Entry:
    """Lift the ban of CLIENT. What was learnt about it stays."""
    return listener.ask("DELETE", f"{_PATH}/{client}/ban", {"endpoint": endpoint})
