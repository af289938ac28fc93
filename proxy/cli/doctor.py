"""``bartizan doctor``: what an operator gets wrong, found before clients do."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import click

from proxy.cli.client_tables import printable
from proxy.cli.config import check_extras, check_tls
from proxy.doctor.examination import examine, examine_outside
from proxy.doctor.finding import Finding, Level
from proxy.doctor.host import Host
from proxy.settings.files import check_files
from proxy.settings.load import load
from proxy.settings.models import Settings
from proxy.settings.problems import SettingsError

EXIT_FAILED: Final = 1
EXIT_CONFIGURATION: Final = 3
EXIT_UNREACHABLE: Final = 4


@click.command()
@click.argument("path", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option(
    "--outside",
    "hosts",
    multiple=True,
    metavar="HOST",
    help="Try only whether the model's ports answer at HOST, the firewall's: to be run from where "
    "clients are. May be given several times.",
)
@click.option(
    "--control",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="With --outside: a port that clients reach at HOST, which shows that a silence means "
    "closed. The firewall's own by default; with ext_proc, give Envoy's.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, 600, min_open=True),
    default=5.0,
    show_default=True,
    help="How long one server may take to answer.",
)
def doctor(
    path: Path, as_json: bool, hosts: tuple[str, ...], control: int | None, seconds: float
) -> None:
    """Try what CONFIG depends on, from where the gateway is to run, and say what is wrong.

    A finding a line: ok, warning, wrong or could-not-be-tried. It changes nothing.

    Exit status 0 if nothing is wrong, 1 if something is, 3 if CONFIG cannot be used, 4 if all that
    is wrong is that a server does not answer.
    """
    if control and not hosts:
        raise click.UsageError("--control is for --outside")
    checks = () if hosts else (check_extras, check_files, check_tls)
    try:
        settings = load(path, checks=checks)
    except SettingsError as error:
        if as_json:
            found = [_told(_unusable(problem.summary)) for problem in error.problems]
            click.echo(json.dumps({"ok": False, "findings": found}, indent=2))
        else:
            click.echo(str(error), err=True)
        raise SystemExit(EXIT_CONFIGURATION) from None
    findings = asyncio.run(_gather(settings, hosts, control, seconds, tell=not as_json))
    if as_json:
        told = [_told(finding) for finding in findings]
        click.echo(json.dumps({"ok": not status(findings), "findings": told}, indent=2))
    else:
        counts = Counter(finding.level for finding in findings)
        click.echo(", ".join(f"{counts[level]} {level.value}" for level in Level))
    raise SystemExit(status(findings))


def status(findings: list[Finding]) -> int:
    """The exit status that findings amount to."""
    faults = [finding for finding in findings if finding.level is Level.WRONG]
    if not faults:
        return 0
    return EXIT_UNREACHABLE if all(one.unreachable for one in faults) else EXIT_FAILED


async def _gather(
    settings: Settings,
    hosts: tuple[str, ...],
    control: int | None,
    seconds: float,
    *,
    tell: bool,
) -> list[Finding]:
    """All findings, told as they come: some take seconds."""
    found: AsyncIterator[Finding] = (
        examine_outside(settings, hosts, seconds=seconds, control=control)
        if hosts
        else examine(settings, Host(), seconds=seconds)
    )
    findings = []
    async for finding in found:
        findings.append(finding)
        if tell:
            click.echo(printable(finding))
    return findings


def _unusable(words: str) -> Finding:
    return Finding("configuration", Level.WRONG, words, "correct it: bartizan validate CONFIG")


def _told(finding: Finding) -> dict[str, str]:
    return {
        "check": finding.check,
        "level": finding.level.value,
        "words": finding.words,
        "advice": finding.advice,
    }
