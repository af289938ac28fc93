"""``bartizan replay``: what was recorded, decided anew; and what other settings would decide."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Final

import click

from proxy.settings.problems import SettingsError

_EXIT_FAILED: Final = 1
_EXIT_CONFIGURATION: Final = 3
_FILE: Final = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command()
@click.argument("recording", metavar="AUDIT_OR_CAPTURE", type=click.Path(path_type=Path))
@click.option(
    "--configuration",
    type=click.Path(path_type=Path),
    default=Path("bartizan.yaml"),
    show_default=True,
    help="The configuration under which it was recorded.",
)
@click.option("--endpoint", metavar="NAME", help="What --bundle and --policy are about.")
@click.option("--bundle", type=_FILE, help="Another bundle.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Another setting: endpoints.NAME.false_positive_budget=0.0005, or any other key.",
)
@click.option("--policy", type=_FILE, help="Keys of an endpoint in YAML, in place of its own.")
@click.option("--clients", "most", default=10, show_default=True, help="Clients that are shown.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def replay(
    *,
    recording: Path,
    configuration: Path,
    endpoint: str | None,
    bundle: Path | None,
    changes: tuple[str, ...],
    policy: Path | None,
    most: int,
    as_json: bool,
) -> None:
    """Decide anew about what an audit log recorded (audit.replay: true), or a capture.

    First as it was: every decision must come out equal, to the last bit. Then, with --bundle,
    --set or --policy, as it would have been: by rule, by client and by action.

    \b
    Exit status: 0 equal, 1 not equal or the log is not intact, 2 usage, 3 configuration.
    """
    # Numpy, and all that decides: not for whoever asks for help.
    from proxy.build import BuildError  # noqa: PLC0415
    from proxy.rehearsal.amendments import Amendments, NoSuchEndpointError  # noqa: PLC0415
    from proxy.rehearsal.whatif import Incomplete, of_capture, of_log  # noqa: PLC0415
    from proxy.telemetry.logs import configure  # noqa: PLC0415

    configure(level="error", form="console")
    given = Amendments(endpoint, bundle, changes, policy)
    try:
        if _is_capture(recording):
            told = of_capture(recording, configuration, given)
        else:
            told = asyncio.run(of_log(recording, configuration, given, most))
    except (SettingsError, BuildError) as error:
        click.echo(f"bartizan: {error}", err=True)
        raise SystemExit(_EXIT_CONFIGURATION) from None
    except NoSuchEndpointError as error:
        raise click.UsageError(str(error)) from None
    except (Incomplete, OSError) as error:
        click.echo(f"bartizan: {error}", err=True)
        raise SystemExit(_EXIT_FAILED) from None
    if as_json:
        click.echo(json.dumps(told))
    else:
        from proxy.cli.replay_text import print_capture, print_log  # noqa: PLC0415

        (print_capture if "capture" in told else print_log)(told)
    raise SystemExit(0 if told.get("ok", True) else _EXIT_FAILED)


def _is_capture(path: Path) -> bool:
    """Whether it is a sample's container, and no log of JSON.

    Raises:
        SystemExit: if there is no such file.
    """
    try:
        with path.open("rb") as file:
            return file.read(1) not in (b"{", b"")
    except FileNotFoundError:
        return False  # a log of several workers has no file of this very name
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from None
