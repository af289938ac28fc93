"""The options of every command that asks an admin listener, and how such a command ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click
from pydantic import TypeAdapter, ValidationError

from proxy.cli.admin import ANSWER_SECONDS, AdminListener, Failed, Unreachable, origin_of
from proxy.cli.client_tables import printable
from proxy.settings.fields import Origin, Upstream
from proxy.settings.load import load
from proxy.settings.problems import SettingsError

EXIT_FAILED: Final = 1
EXIT_CONFIGURATION: Final = 3
EXIT_UNREACHABLE: Final = 4

_USUAL: Final = "http://127.0.0.1:9090"
_ORIGIN: Final[TypeAdapter[Origin]] = TypeAdapter(Upstream)

_Command = TypeVar("_Command", bound=Callable[..., None])


def _origin(_context: click.Context, _option: click.Parameter, value: str | None) -> Origin | None:
    try:
        return None if value is None else _ORIGIN.validate_python(value)
    except ValidationError as error:
        words = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise click.BadParameter(words.removeprefix("Value error, ")) from None


def listener_options(command: _Command) -> _Command:
    """Adds ``--admin``, ``--token`` and ``--config``: the arguments of :func:`listener`."""
    options = (
        click.option(
            "--admin",
            callback=_origin,
            metavar="URL",
            help=f"The admin listener: http://HOST:PORT or unix:/PATH.  [default: {_USUAL}]",
        ),
        click.option(
            "--token",
            envvar="BARTIZAN_ADMIN_TOKEN",
            show_envvar=True,
            help="Its bearer token. Other users of the machine can read an option, but not the "
            "variable.",
        ),
        click.option(
            "--config",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="The gateway's configuration, to read address and token from.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def listener(
    admin: Origin | None, token: str | None, config: Path | None, *, seconds: float = ANSWER_SECONDS
) -> AdminListener:
    """The listener that the options name.

    Args:
        seconds: how long an answer may take.

    Raises:
        click.UsageError: if they contradict each other.
        SystemExit: if the configuration cannot be used.
    """
    if config is not None:
        if admin is not None:
            raise click.UsageError("--admin and --config exclude each other")
        try:
            settings = load(config).admin
        except SettingsError as error:
            click.echo(str(error), err=True)
            raise SystemExit(EXIT_CONFIGURATION) from None
        try:
            admin = origin_of(settings.listen)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        if not token and settings.token is not None:
            token = settings.token.get_secret_value()
    if token and not token.isprintable():
        raise click.UsageError("the token holds a character that no header can")
    origin = admin or _ORIGIN.validate_python(_USUAL)
    return AdminListener(origin, token, seconds=seconds)


def answered(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``ask`` returns.

    Raises:
        SystemExit: if the listener refuses or cannot be reached, once that is said.
    """
    try:
        return ask()
    except Failed as failed:
        _end(failed, EXIT_FAILED)
    except Unreachable as unreachable:
        _end(unreachable, EXIT_UNREACHABLE)


def _end(error: Exception, status: int) -> NoReturn:
    click.echo(f"bartizan: {printable(error)}", err=True)
    raise SystemExit(status)
