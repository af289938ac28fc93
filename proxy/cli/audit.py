"""``bartizan audit``: what can be done with an audit log."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import click
import orjson

from proxy.telemetry.audit_chain import Link, head_path
from proxy.telemetry.audit_verify import Report, verify


def _record(_context: click.Context, _option: click.Parameter, value: str | None) -> Link | None:
    """A record by its ``seq`` and hash, as ``verify`` prints the last one."""
    if value is None:
        return None
    parts = re.fullmatch(r"([1-9][0-9]{0,17}):([0-9a-f]{64})", value)
    if parts is None:
        raise click.BadParameter("must read SEQ:SHA256, as verify prints the last record")
    return Link(int(parts[1]), parts[2])


def _key(file: Path) -> bytes:
    """The key as the gateway takes it from its configuration: text without white space around."""
    try:
        key = file.read_bytes().decode().strip()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{file} is not UTF-8 text") from error
    if not key:
        raise click.UsageError(f"{file} is empty")
    return key.encode()


@click.group("audit")
def audit() -> None:
    """Work with the audit log."""


@audit.command("verify")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option(
    "--expect-head",
    callback=_record,
    metavar="SEQ:SHA256",
    help="A record that must be there, noted from an earlier run: finds a log that was cut or "
    "rewritten together with its head.",
)
@click.option(
    "--key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file that holds the secret that the log's head is sealed with (audit.key).",
)
def verify_command(
    path: Path, as_json: bool, expect_head: Link | None, key_file: Path | None
) -> None:
    """Check that the log at PATH, with its rotated files, is as it was written.

    Exit code 0 if it is, 1 if it was edited, cut or reordered, with every place.
    """
    try:
        key = None if key_file is None else _key(key_file)
        report = verify(path, key=key, expect=expect_head)
    except OSError as error:
        raise click.UsageError(str(error)) from error
    if not report.files and not head_path(path).exists():
        raise click.UsageError(f"{path}: no such audit log")
    if as_json:
        click.echo(orjson.dumps({"ok": report.ok, **asdict(report)}))
    else:
        _print(path, report)
    raise SystemExit(0 if report.ok else 1)


def _print(path: Path, report: Report) -> None:
    for finding in report.findings:
        place = f"{finding.file}:{finding.line}" if finding.line else finding.file
        click.echo(f"{place}: {finding.kind}: {finding.message}")
    if report.found > len(report.findings):
        click.echo(f"and {report.found - len(report.findings)} more")
    last = report.last
    click.echo(
        f"{path.name}: {report.records} records in {len(report.files)} files, "
        f"{report.first} to {last.seq}"
    )
    if report.torn_bytes:
        click.echo(
            f"torn tail: {report.torn_bytes} bytes after the last record, as a crash leaves them "
            "or a writer at work; cut at the next start"
        )
    if report.beyond_head:
        click.echo(f"{report.beyond_head} records are newer than the head, and only chained")
    if report.dropped:
        click.echo(f"{report.dropped} exchanges were not recorded: the log says when")
    click.echo(f"last record: {last.seq}:{last.hash}")
    click.echo("intact" if report.ok else f"NOT INTACT: {report.found} findings")
