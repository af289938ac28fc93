"""``bartizan health``: whether a gateway is well, for health checks that start a process each time.

So it imports neither the settings' models nor an HTTP client: it starts in a tenth of a second.
"""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path
from typing import Any, Final, NoReturn

import click

EXIT_FAILED: Final = 1
EXIT_CONFIGURATION: Final = 3
EXIT_UNREACHABLE: Final = 4

_USUAL: Final = "127.0.0.1:9090"
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where it listens, not we
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: |\r\n)")
_MOST_BYTES: Final = 64 * 2**10
_CONFIGURATION_BYTES: Final = 512 * 2**10


class _Unknown(Exception):  # noqa: N818 - a question that is passed on
    """The configuration says it in a way that only the settings' own reader understands."""


class _Unreachable(Exception):  # noqa: N818 - the condition's name
    """Nobody answers there, or nobody who speaks HTTP."""


@click.command()
@click.argument("path", metavar="[CONFIG]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--admin",
    metavar="ADDRESS",
    help=f"The admin listener: HOST:PORT or unix:/PATH.  [default: {_USUAL}]",
)
@click.option("--ready", is_flag=True, help="Ask whether traffic may be sent there: /readyz.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, 3600, min_open=True),
    default=5.0,
    show_default=True,
    help="How long the answer may take, in all.",
)
def health(path: Path | None, admin: str | None, ready: bool, seconds: float) -> None:
    """Ask a running gateway whether it is well: exit status 0 if it is, 1 if not.

    The gateway is the one whose admin listener CONFIG names, or --admin. Exit status 3 if CONFIG
    cannot be read, 4 if nobody answers.
    """
    if path is not None and admin is not None:
        raise click.UsageError("CONFIG and --admin exclude each other")
    where = configured(path) if path is not None else admin or _USUAL
    try:
        reached = reach(where, path.absolute().parent if path is not None else Path())
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        status, body = ask(reached, "/readyz" if ready else "/healthz", seconds)
    except _Unreachable as error:
        _end(f"bartizan: {where}: {error}", EXIT_UNREACHABLE)
    if status != 200:
        _end(f"bartizan: {where} answers {status}: {_printable(body)}", EXIT_FAILED)
    click.echo("ready" if ready else "ok")


def configured(path: Path) -> str:
    """The address of the admin listener that a configuration names.

    Raises:
        SystemExit: if the configuration cannot be used, once that is said.
    """
    try:
        return _glanced(path)
    except _Unknown:
        pass
    # Only now: it takes half a second.
    from proxy.settings.load import load  # noqa: PLC0415
    from proxy.settings.problems import SettingsError  # noqa: PLC0415

    try:
        return str(load(path).admin.listen)
    except SettingsError as error:
        _end(str(error), EXIT_CONFIGURATION)


def _glanced(path: Path) -> str:
    """``admin.listen`` of a plain configuration; all the rest is left unread.

    Raises:
        _Unknown: if it is not said plainly.
    """
    import yaml  # noqa: PLC0415 - not needed where the address is given

    try:
        with path.open("rb") as file:
            text = file.read(_CONFIGURATION_BYTES)
        node = yaml.compose(text.decode(), yaml.SafeLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        raise _Unknown from None
    for name in ("admin", "listen"):
        found = [value for key, value in _pairs(node) if key == name]
        if not found:
            return _USUAL
        node = found[-1]
        if len(found) > 1:
            raise _Unknown
    if not isinstance(node, yaml.ScalarNode):
        raise _Unknown
    return _substituted(node.value)


def _pairs(node: Any) -> list[tuple[str, Any]]:
    """The keys and values of a plain mapping."""
    import yaml  # noqa: PLC0415 - as above

    if not isinstance(node, yaml.MappingNode):
        raise _Unknown
    pairs = []
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
            raise _Unknown
        pairs.append((key.value, value))
    return pairs


def _substituted(text: str) -> str:
    """The text with the values of its variables."""
    from proxy.settings.variables import VARIABLE  # noqa: PLC0415 - as above

    def value(match: re.Match[str]) -> str:
        escaped, name, default, malformed = match.groups()
        if escaped:
            return "$"
        found = default if malformed else os.environ.get(name) or default
        if malformed or found is None:
            raise _Unknown
        return found

    return VARIABLE.sub(value, text)


def reach(where: str, directory: Path) -> tuple[str, int] | str:
    """Where this machine reaches a listener: host and port, or the path of a unix socket.

    Args:
        directory: what a relative path starts from.

    Raises:
        ValueError: if ``where`` is no address.
    """
    if where.startswith("unix:") and len(where) > len("unix:"):
        return str(directory / where.removeprefix("unix:"))
    where = where.removeprefix("http://").removesuffix("/")
    host, _, port = where.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"{where!r} is no address: HOST:PORT or unix:/PATH")
    if not int(port):
        raise ValueError("the configuration lets the system choose the port: use --admin")
    return _LOOPBACK.get(host, host), int(port)


def ask(where: tuple[str, int] | str, path: str, seconds: float) -> tuple[int, bytes]:
    """Status and body of one answer, as far as it came.

    Args:
        seconds: for everything.

    Raises:
        _Unreachable: if there is none.
    """
    until = time.monotonic() + seconds
    token = os.environ.get("BARTIZAN_ADMIN_TOKEN", "")
    # Whatever it is called here: of names, the listener knows this one in any case.
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    if token and token.isascii() and token.isprintable():  # with it, it is told why not
        head += f"Authorization: Bearer {token}\r\n"
    answer = b""
    try:
        with _connected(where, seconds) as connection:
            connection.settimeout(_left(until))
            connection.sendall(f"{head}\r\n".encode())
            while len(answer) < _MOST_BYTES:
                connection.settimeout(_left(until))
                received = connection.recv(_MOST_BYTES)
                if not received:
                    break
                answer += received
    except TimeoutError:
        raise _Unreachable(f"no answer within {seconds:g} seconds") from None
    except OSError as error:
        raise _Unreachable(error.strerror or str(error)) from None
    except UnicodeError:  # a host name that the resolver cannot even encode
        raise _Unreachable("no host has such a name") from None
    status = _STATUS.match(answer)
    if status is None:
        raise _Unreachable("what answers there does not speak HTTP")
    return int(status[1]), answer.partition(b"\r\n\r\n")[2]


def _connected(where: tuple[str, int] | str, seconds: float) -> socket.socket:
    if not isinstance(where, str):
        return socket.create_connection(where, seconds)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(seconds)
        connection.connect(where)
    except BaseException:
        connection.close()
        raise
    return connection


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _printable(body: bytes) -> str:
    text = body.decode(errors="replace").strip()
    return "".join(char if char.isprintable() else "?" for char in text[:2000])


def _end(message: str, status: int) -> NoReturn:
    click.echo(message, err=True)
    raise SystemExit(status)
