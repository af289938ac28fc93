"""``bartizan explain``: why an exchange was refused or shaped."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any, Final

import click

from proxy.cli.asking import EXIT_FAILED, answered, listener, listener_options
from proxy.cli.explanation_text import print_explanation
from proxy.settings.fields import Origin

_PATH: Final = "/api/v1/explanations"
_SECONDS: Final = 90.0
_FILE: Final = click.Path(path_type=Path, dir_okay=False, exists=True)


def _exchange(_context: click.Context, _argument: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", value):
        raise click.BadParameter("a request id, as in x-request-id and in the audit log")
    return value


@click.command()
@click.argument("exchange", metavar="ID", callback=_exchange)
@listener_options
@click.option(
    "--audit",
    type=click.Path(path_type=Path),
    metavar="LOG",
    help="Explain from this audit log, which must hold values (audit.values), not from a running "
    "gateway. Takes --bundle.",
)
@click.option("--bundle", type=_FILE, help="The bundle that scored the exchange.")
@click.option("--json", "as_json", is_flag=True, help="Print the explanation as JSON.")
def explain(
    *,
    exchange: str,
    admin: Origin | None,
    token: str | None,
    config: Path | None,
    audit: Path | None,
    bundle: Path | None,
    as_json: bool,
) -> None:
    """Explain why the exchange with this request ID was refused or shaped, or would have been.

    Shows the rules that matched, each detector's score, which features made it and by how much,
    what the model's answer was expected to be, and an exclusion to paste. The gateway keeps the
    last such exchanges in memory (admin.explanations).

    Exit status: 0 ok, 1 not kept any more or failed, 2 usage, 3 configuration, 4 unreachable.
    """
    if (audit is None) != (bundle is None):
        raise click.UsageError("--audit and --bundle go together")
    if audit is not None and bundle is not None:
        if admin is not None or config is not None:
            raise click.UsageError("--audit asks no gateway: leave --admin and --config out")
        told = _offline(exchange, audit, bundle)
    else:
        asked = listener(admin, token, config, seconds=_SECONDS)
        told = answered(lambda: asked.ask("GET", f"{_PATH}/{exchange}"))
    if as_json:
        click.echo(json.dumps(told))
        return
    try:
        print_explanation(told)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        click.echo(f"bartizan: the answer is not as this version knows it: {error!r}", err=True)
        raise SystemExit(EXIT_FAILED) from None


def _offline(exchange: str, audit: Path, path: Path) -> dict[str, Any]:
    """The explanation from an audit log's record.

    Raises:
        SystemExit: if there is none, once that is said.
    """
    # Numpy, and all that scores: not for who asks a gateway.
    from detectors.bundle import BundleError, load_bundle  # noqa: PLC0415
    from proxy.cli.audit_record import Unexplained, find, kept_of  # noqa: PLC0415
    from proxy.explain import explained  # noqa: PLC0415

    try:
        bundle = load_bundle(path)
        kept, note = kept_of(find(audit, exchange), bundle)
    except (BundleError, Unexplained, OSError) as error:
        click.echo(f"bartizan: {error}", err=True)
        raise SystemExit(EXIT_FAILED) from None
    told = explained(kept, bundle, now=time.time())
    if note:
        told["notes"].append(note)
    return told
