"""``bartizan audit``: what can be done with an audit log."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import click
import orjson

from proxy.telemetry.audit_chain import MAX_WORKERS, Link, chain_path, chain_paths
from proxy.telemetry.audit_verify import Report, verify_chains


def _records(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> dict[str, Link]:
    """Records by the file name of their chain, each with its ``seq`` and hash, as ``verify`` prints
    the last ones; "" is the name where none is given."""
    records = {}
    for value in values:
        parts = re.fullmatch(r"(?:([^/]+):)?([1-9][0-9]{0,17}):([0-9a-f]{64})", value)
        if parts is None:
            raise click.BadParameter(
                "must read [FILE:]SEQ:SHA256, as verify prints the last record"
            )
        if (parts[1] or "") in records:
            raise click.BadParameter(f"given twice for {parts[1] or 'the log'}")
        records[parts[1] or ""] = Link(int(parts[2]), parts[3])
    return records


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
    "expected",
    callback=_records,
    multiple=True,
    metavar="[FILE:]SEQ:SHA256",
    help="A record that must be there, noted from an earlier run: finds a log that was cut or "
    "rewritten together with its head. Once for each worker's chain, with its FILE.",
)
@click.option(
    "--key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file that holds the secret that the log's head is sealed with (audit.key).",
)
def verify_command(
    path: Path, as_json: bool, expected: dict[str, Link], key_file: Path | None
) -> None:
    """Check that the log at PATH, with its rotated files, is as it was written.

    Several workers write a chain each, beside PATH: all of them are checked.

    Exit code 0 if it is, 1 if it was edited, cut or reordered, with every place.
    """
    try:
        key = None if key_file is None else _key(key_file)
        reports = verify_chains(path, key=key, expect=_by_chain(path, expected))
    except OSError as error:
        raise click.UsageError(str(error)) from error
    if not reports:
        raise click.UsageError(f"{path}: no such audit log")
    ok = all(report.ok for report in reports.values())
    if as_json:
        chains = [
            {"name": name, "ok": report.ok, **asdict(report)} for name, report in reports.items()
        ]
        click.echo(orjson.dumps({"ok": ok, "chains": chains}))
    else:
        _print(reports)
    raise SystemExit(0 if ok else 1)


def _by_chain(path: Path, expected: dict[str, Link]) -> dict[str, Link]:
    """The demanded records by chain: one without a name is of the only chain.

    Raises:
        OSError: if the folder cannot be read.
    """
    chains = chain_paths(path)
    if "" in expected:
        if len(chains) > 1:
            raise click.UsageError("there are several chains: --expect-head needs FILE:SEQ:SHA256")
        (only,) = chains.values() or (path,)
        expected = {(name or only.name): link for name, link in expected.items()}
    workers = {chain_path(path, worker).name for worker in range(MAX_WORKERS + 1)}
    for name in sorted(set(expected) - workers):
        raise click.UsageError(f"{name} is no chain of {path}")
    return expected


def _print(reports: dict[str, Report]) -> None:
    for name, report in reports.items():
        _print_chain(name, report, "" if len(reports) == 1 else f"{name}:")
    found = sum(report.found for report in reports.values())
    chains = "" if len(reports) == 1 else f" in {len(reports)} chains"
    click.echo(f"NOT INTACT: {found} findings{chains}" if found else f"intact{chains}")


def _print_chain(name: str, report: Report, prefix: str) -> None:
    for finding in report.findings:
        place = f"{finding.file}:{finding.line}" if finding.line else finding.file
        click.echo(f"{place}: {finding.kind}: {finding.message}")
    if report.found > len(report.findings):
        click.echo(f"and {report.found - len(report.findings)} more")
    last = report.last
    click.echo(
        f"{name}: {report.records} records in {len(report.files)} files, "
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
    click.echo(f"last record: {prefix}{last.seq}:{last.hash}")
