"""What ``bartizan attack`` is pointed at, and as whom it asks: options to settings."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from proxy.settings.problems import SettingsError

if TYPE_CHECKING:
    from loadtest.targets.settings import Target

EXIT_CONFIGURATION: Final = 3


def target_of(given: Mapping[str, Any]) -> Target:
    """What is attacked: a file, or the options."""
    from pydantic import ValidationError  # noqa: PLC0415 - slow, and not always needed

    from loadtest.targets.settings import Target  # noqa: PLC0415
    from proxy.settings.load import load_as  # noqa: PLC0415

    keys = ("firewall", "direct", "configuration", "endpoint", "wire", "example")
    values: dict[str, Any] = {key: given[key] for key in keys if given[key] is not None}
    values |= {key: plain(given[key]) for key in ("protocol", "contract") if given[key]}
    if given["binary"]:
        values["binary"] = True
    if given["target"] is not None:
        if values or given["by"] != "none":
            raise click.UsageError("--target says all of it: leave the other options out")
        try:
            return load_as(Target, given["target"])
        except SettingsError as error:
            end_with(str(error), EXIT_CONFIGURATION)
    if not any(key in values for key in ("firewall", "direct", "configuration")):
        raise click.UsageError("name what is attacked: --url, --configuration or --target")
    values["timeout_seconds"] = given["timeout"]
    values["authorised_hosts"] = given["authorised"]
    values["clients"] = _clients(given)
    try:
        return Target.model_validate(values)
    except ValidationError as error:
        raise click.UsageError(_words(error)) from None


def _clients(given: Mapping[str, Any]) -> dict[str, Any]:
    clients: dict[str, Any] = {"by": given["by"]}
    if given["by"] != "none" and given["keys"] is None:  # of a file, all are used
        clients["count"] = given["tries"] * given["accounts"]
    for key in ("keys", "header"):
        if given[key] is not None:
            clients[key] = given[key]
    return clients


def write_keys(given: Mapping[str, Any]) -> None:
    """Writes the list of the attackers' keys, by which the firewall is to know them; and the keys
    beside it, for their owner alone, where no file has any yet."""
    from pydantic import ValidationError  # noqa: PLC0415 - slow, and not always needed

    from loadtest.targets.clients import Clients, api_keys, listing  # noqa: PLC0415

    path: Path = given["write_keys"]
    beside = path.with_name(f"{path.name}.keys")
    settings = {**_clients(given), "by": "api_key"}
    new = given["keys"] is None
    if new:
        settings |= {
            "count": given["tries"] * given["accounts"],
            "secret": secrets.token_urlsafe(32),
        }
    try:
        keys = api_keys(Clients.model_validate(settings))
        if new:
            _write_secretly(beside, "".join(f"{name}:{key}\n" for name, key in keys.items()))
        path.write_text(listing(keys))
    except ValidationError as error:
        raise click.UsageError(_words(error)) from None
    except (SettingsError, ValueError, OSError) as error:
        end_with(str(error), EXIT_CONFIGURATION)
    click.echo(f"{len(keys)} keys: client.api_keys of the firewall names {path}")
    if new:
        click.echo(f"the attackers have them in {beside}: --keys")


def _write_secretly(path: Path, text: str) -> None:
    """A new file that nobody else may read.

    Raises:
        OSError: if it is there already, or cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def plain(text: str) -> Any:
    """JSON, or the text itself where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _words(error: Any) -> str:
    """What pydantic found, in lines of our own."""
    lines = []
    for one in error.errors(include_url=False, include_input=False):
        faults = one.get("ctx", {}).get("faults")
        if faults:
            lines += [": ".join([*map(str, place), words]) for place, words in faults]
        else:
            place = ".".join(map(str, one["loc"]))
            lines.append(f"{place}: {one['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines)


def end_with(message: str, status: int) -> NoReturn:
    click.echo(f"bartizan: {message}", err=True)
    sys.exit(status)
