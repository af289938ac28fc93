"""``bartizan run``: the firewall as a process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from proxy.distribution import ClashError, check_packages
from proxy.memory import start_without_collecting

if TYPE_CHECKING:
    from proxy.settings.models import Settings

EXIT_FAILED: Final = 1
EXIT_CONFIGURATION: Final = 3


@click.command()
@click.argument("path", metavar="CONFIG", type=click.Path(path_type=Path))
def run(path: Path) -> None:
    """Run the firewall until SIGTERM, which drains it. SIGHUP reloads CONFIG and its bundles.

    Exit status 3 if the configuration cannot be used, 1 if it cannot be served.
    """
    start(path)


def start(path: Path, *, envoy: bool = False) -> None:
    """Serves until the end.

    Args:
        envoy: for Envoy's external processing, instead of clients.
    """
    start_without_collecting()
    try:
        check_packages()
    except ClashError as error:
        _end(str(error), EXIT_FAILED)
    # Only now: another distribution's files may stand where ours should.
    from proxy.settings import load  # noqa: PLC0415
    from proxy.settings.problems import SettingsError  # noqa: PLC0415

    try:
        settings = load.load_for_envoy(path) if envoy else load.load(path)
    except SettingsError as error:
        _end(str(error), EXIT_CONFIGURATION)
    except OSError as error:
        _end(f"bartizan: {error}", EXIT_FAILED)
    if settings.ext_proc is not None and not envoy:
        _end(f"{path}: ext_proc is served by `bartizan ext-proc`", EXIT_CONFIGURATION)
    if settings.workers > 1:
        _supervise(path, settings)
    else:
        _serve(path, settings)


def _serve(path: Path, settings: Settings) -> None:
    from proxy.build import BuildError  # noqa: PLC0415 - see run
    from proxy.server import serve  # noqa: PLC0415
    from proxy.settings.problems import SettingsError  # noqa: PLC0415
    from proxy.telemetry.audit import AuditError  # noqa: PLC0415

    try:
        serve(path, settings)
    except (SettingsError, BuildError) as error:
        _end(str(error), EXIT_CONFIGURATION)
    except (AuditError, OSError) as error:
        _end(f"bartizan: {error}", EXIT_FAILED)


def _supervise(path: Path, settings: Settings) -> None:
    from proxy.supervisor import StartError, supervise  # noqa: PLC0415 - see run

    try:
        supervise(path, settings)
    except StartError as error:
        words = str(error) if error.status == EXIT_CONFIGURATION else f"bartizan: {error}"
        _end(words, error.status)
    except OSError as error:
        _end(f"bartizan: {error}", EXIT_FAILED)


def _end(message: str, status: int) -> NoReturn:
    click.echo(message, err=True)
    raise SystemExit(status)
