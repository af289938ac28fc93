"""``bartizan promote``: an endpoint from monitor to enforce, with evidence or not at all."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import click
import orjson

from detectors.bundle import Bundle
from proxy.build import BuildError, load_endpoint_bundle
from proxy.cli.admin import AdminListener, Failed, Unreachable
from proxy.cli.asking import EXIT_CONFIGURATION, EXIT_FAILED, EXIT_UNREACHABLE, listener
from proxy.cli.config import bundle_check, check_extras, check_tls
from proxy.cli.promote_report import document, moment, text
from proxy.decision import Mode
from proxy.promotion.edit import Edit, EditError, apply, plan
from proxy.promotion.evidence import Question, gather
from proxy.promotion.requirements import Bounds, requirements
from proxy.settings.endpoint import Endpoint
from proxy.settings.files import check_files
from proxy.settings.load import Check, load
from proxy.settings.models import Settings
from proxy.settings.problems import SettingsError

_PERIOD: Final = re.compile(r"([1-9][0-9]{0,4})([mhdw])")
_UNITS: Final = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
_PSEUDONYM: Final = re.compile(r"([0-9a-f]{32})(?:=(.+))?")
_RELOAD_SECONDS: Final = 60.0


def _period(_context: click.Context, _option: click.Parameter, value: str) -> float:
    """Seconds since the epoch, or a length of time below zero."""
    found = _PERIOD.fullmatch(value)
    if found is not None:
        return -float(int(found[1]) * _UNITS[found[2]])
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(
            "must be a length of time as 90m, 24h, 7d or 2w, or a moment as 2026-05-01T12:00Z"
        ) from None
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


def _hostile(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """Reasons by client."""
    found = {}
    for value in values:
        parts = _PSEUDONYM.fullmatch(value)
        if parts is None:
            raise click.BadParameter(
                f"{value!r}: must be a pseudonym of 32 hex digits as in the audit log, and may be "
                "followed by =REASON"
            )
        found[parts[1]] = parts[2] or ""
    return found


def _rightly(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """Reasons by request."""
    found = {}
    for value in values:
        name, _, reason = value.partition("=")
        if not name or not reason.strip():
            raise click.BadParameter(f"{value!r}: must be ID=REASON: it is told with the evidence")
        found[name] = reason.strip()
    return found


_OPTIONS: Final = (
    click.option(
        "--configuration",
        "path",
        required=True,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The gateway's configuration.",
    ),
    click.option(
        "--audit",
        "logs",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="An audit log, one for each replica.  [default: the configuration's]",
    ),
    click.option(
        "--since",
        callback=_period,
        default="30d",
        show_default=True,
        metavar="TIME",
        help="Only what came since: a length of time, or a moment.",
    ),
    click.option(
        "--min-hours",
        "hours",
        type=click.IntRange(1, 10_000),
        default=24,
        show_default=True,
        help="Hours with traffic.",
    ),
    click.option(
        "--min-clients",
        "clients",
        type=click.IntRange(1),
        default=10,
        show_default=True,
        help="Distinct clients.",
    ),
    click.option(
        "--max-share",
        "share",
        type=click.FloatRange(0, 1, min_open=True),
        default=0.5,
        show_default=True,
        help="Of all requests, that one client may have sent.",
    ),
    click.option(
        "--max-refusals",
        "refusals",
        type=click.FloatRange(0, 1),
        default=0.001,
        show_default=True,
        help="Share of requests that limits, and the contract, may refuse.",
    ),
    click.option(
        "--client-days-shown",
        "shown",
        is_flag=True,
        help="Demand so many client-days that the upper end of their alarms' interval lies within "
        "the budget. Without it, the lower end must.",
    ),
    click.option(
        "--hostile",
        callback=_hostile,
        multiple=True,
        metavar="CLIENT[=REASON]",
        help="A client that attacks: its requests do not count.",
    ),
    click.option(
        "--rightly",
        callback=_rightly,
        multiple=True,
        metavar="ID=REASON",
        help="A request that is rightly flagged: it does not count.",
    ),
    click.option("--apply", "do_apply", is_flag=True, help="Change the mode in the configuration."),
    click.option(
        "--demote",
        is_flag=True,
        help="Back to monitor, without evidence. Needs --apply to be done.",
    ),
    click.option(
        "--reload",
        "pid",
        type=click.IntRange(2),
        metavar="PID",
        help="With --apply: tell this process to reload, and ask its admin listener whether the "
        "mode is served.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
)


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("name", metavar="ENDPOINT")
@_with_options
@click.pass_obj
def promote(  # noqa: PLR0917 - options
    clock: Callable[[], float] | None,
    name: str,
    path: Path,
    logs: tuple[Path, ...],
    since: float,
    hours: int,
    clients: int,
    share: float,
    refusals: float,
    shown: bool,
    hostile: dict[str, str],
    rightly: dict[str, str],
    do_apply: bool,
    demote: bool,
    pid: int | None,
    as_json: bool,
) -> None:
    """Move ENDPOINT from monitor to enforce, if its audit log is evidence that it may be.

    Exit status: 0 if it may be (with --apply: is), 1 if evidence is missing, 3 if the configuration
    cannot be read or changed, 4 if the gateway cannot be reached.
    """
    if pid is not None and not do_apply:
        raise click.UsageError("--reload needs --apply: nothing else has changed")
    now = (clock or time.time)()
    run = _Run(path, name, Mode.MONITOR if demote else Mode.ENFORCE, as_json, now)
    if run.endpoint.mode is run.wanted:
        run.end("already", 0, f"{name} is in mode {run.wanted.value} already")
    if not demote:
        asked = Asked(logs, since if since >= 0 else now + since, hostile, rightly)
        bounds = Bounds(None, None, hours, clients, share, refusals, shown)
        run.weigh(asked, bounds)
    edit = run.planned()
    if not do_apply:
        run.end("may", 0, f"{name} may be moved to {run.wanted.value}: --apply does it")
    run.apply(edit, pid)


@dataclass(frozen=True, slots=True)
class Asked:
    """What of the command line says which exchanges count."""

    logs: tuple[Path, ...]
    since: float
    hostile: Mapping[str, str]
    rightly: Mapping[str, str]


class _Run:
    """One call of the command. Its methods end the process where there is no going on."""

    def __init__(self, path: Path, name: str, wanted: Mode, as_json: bool, now: float) -> None:
        self.wanted = wanted
        self._path = path
        self._name = name
        self._as_json = as_json
        self._now = now
        self._settings, self.endpoint = _endpoint(path, name)
        self._result: dict[str, Any] = {
            "endpoint": name,
            "configuration": str(path),
            "at": moment(now),
            "from": self.endpoint.mode.value,
            "to": wanted.value,
        }

    def weigh(self, asked: Asked, bounds: Bounds) -> None:
        """Reads the evidence, and ends if it does not do."""
        settings, endpoint = self._settings, self.endpoint
        logs = list(asked.logs) or ([settings.audit.path] if settings.audit else [])
        if not logs:
            self._fail("the configuration has no audit log: say --audit PATH")
        bundle = self._bundle()
        question = Question(
            settings,
            endpoint,
            bundle.digest if bundle else "",
            asked.since,
            self._now,
            frozenset(asked.hostile),
            frozenset(asked.rightly),
        )
        key = settings.audit.key if settings.audit else None
        try:
            evidence = gather(logs, question, key.get_secret_value().encode() if key else None)
        except OSError as error:
            self._fail(str(error))
        budget, client_budget = _budgets(endpoint, bundle)
        bounds = replace(bounds, budget=budget, client_budget=client_budget)
        held = requirements(evidence, bounds, pseudonyms=settings.client.secret is not None)
        self._result |= document(evidence, held, question)
        self._result["said by the operator"] = {
            "hostile": dict(asked.hostile),
            "rightly": dict(asked.rightly),
            "rightly, but not found": sorted(set(asked.rightly) - evidence.rightly),
        }
        if not self._as_json:
            click.echo(text(self._result))
        if not all(one.met for one in held):
            self.end("evidence missing", EXIT_FAILED, f"{self._name} stays in monitor mode")

    def planned(self) -> Edit:
        """The change, tried on a copy."""
        checks: list[Check] = [check_extras, check_files, check_tls]
        checks.append(bundle_check(load_endpoint_bundle))
        try:
            return plan(self._path, self._name, self.wanted, checks)
        except EditError as error:
            self._fail(str(error))
        except OSError as error:
            self._fail(f"cannot write beside {self._path}: {error.strerror or error}")

    def apply(self, edit: Edit, pid: int | None) -> None:
        """Makes the change, and has it served if asked to."""
        admin = None
        if pid is not None:
            _check_gateway(pid)
            admin = listener(None, None, self._path)  # while it can still be refused
        try:
            apply(edit)
        except EditError as error:
            self._fail(str(error))
        except OSError as error:
            self._fail(f"{edit.path}: {error.strerror or error}; it is as it was")
        self._result["changed"] = {"file": str(edit.path), "line": edit.line}
        done = f"{edit.path}:{edit.line}: mode: {self.wanted.value}"
        if pid is None or admin is None:
            self.end("applied", 0, f"{done}\nto serve it: kill -HUP PID of the gateway")
        why = self._reload(pid, admin)
        if why:
            words = f"{done}\nbut it is not served: {why}"
            self.end("applied, not served", EXIT_UNREACHABLE, words)
        self.end("served", 0, f"{done}\nserved by process {pid}")

    def _reload(self, pid: int, admin: AdminListener) -> str:
        """Why the new mode is not served, or ""."""
        try:
            os.kill(pid, signal.SIGHUP)
        except OSError as error:
            return f"process {pid}: {error.strerror}"
        return served(admin, self._name, self.wanted, clock=time.monotonic, sleep=time.sleep)

    def _bundle(self) -> Bundle | None:
        if self.endpoint.bundle is None:
            return None
        try:
            return load_endpoint_bundle(self._settings, self.endpoint)
        except BuildError as error:
            self._fail(str(error))

    def _fail(self, words: str) -> NoReturn:
        self._result["problem"] = words
        self.end("failed", EXIT_CONFIGURATION, f"bartizan: {words}", err=True)

    def end(self, verdict: str, status: int, words: str, *, err: bool = False) -> NoReturn:
        """Says how it ended."""
        if self._as_json:
            click.echo(orjson.dumps(self._result | {"verdict": verdict}))
        else:
            click.echo(words, err=err)
        raise SystemExit(status)


def served(
    admin: AdminListener,
    name: str,
    mode: Mode,
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> str:
    """Waits until a gateway serves an endpoint in a mode: why it does not, or ""."""
    until = clock() + _RELOAD_SECONDS
    while True:
        try:
            told = admin.ask("GET", "/api/v1/endpoints").get("endpoints", ())
            modes = [one.get("mode") for one in told if one.get("name") == name]
            why = f"its mode there is {', '.join(map(str, modes)) or 'not known'}"
            if modes and all(one == mode.value for one in modes):
                return ""
        except Failed as error:
            return str(error)
        except Unreachable as error:
            why = str(error)
        if clock() >= until:
            return why
        sleep(0.2)


def _check_gateway(pid: int) -> None:
    """Refuses to signal a process that is no gateway: to most others SIGHUP is their end.

    Raises:
        click.UsageError: if it is not there, or another program.
    """
    place = Path(f"/proc/{pid}/cmdline")
    if not place.parent.parent.joinpath("self").exists():
        return  # a system without /proc: the operator is believed
    try:
        command = place.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        raise click.UsageError(f"--reload: there is no process {pid}") from None
    if "bartizan" not in command and "proxy.cli" not in command:
        raise click.UsageError(f"--reload: process {pid} is no bartizan: {command[:100].strip()}")


def _budgets(endpoint: Endpoint, bundle: Bundle | None) -> tuple[float | None, float | None]:
    """The shares of rows and of client-days that may be flagged; None: of which there are none."""
    if bundle is None:
        return None, None
    patterns = bundle.manifest.patterns
    by_client = (endpoint.client_alarm_budget or patterns.budget) if patterns else None
    return (bundle.agreement or bundle.scorer).calibration.alpha, by_client


def _endpoint(path: Path, name: str) -> tuple[Settings, Endpoint]:
    """Raises SystemExit if there is none, once that is said."""
    try:
        settings = load(path, checks=[check_extras, check_files])
    except SettingsError as error:
        click.echo(str(error), err=True)
        raise SystemExit(EXIT_CONFIGURATION) from None
    for endpoint in settings.endpoints:
        if endpoint.name == name:
            return settings, endpoint
    names = ", ".join(endpoint.name for endpoint in settings.endpoints)
    click.echo(f"bartizan: {path} has no endpoint {name!r}: there are {names}", err=True)
    raise SystemExit(EXIT_CONFIGURATION)
