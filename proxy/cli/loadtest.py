"""``bartizan loadtest``: what the firewall costs, what it catches and what breaks, in one run."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NoReturn, TextIO

import click

from proxy.settings.problems import SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from loadtest.evidence.results import Results
    from loadtest.scenario.settings import Format, Scenario

EXIT_FAILED: Final = 1
EXIT_CONFIGURATION: Final = 3
EXIT_UNREACHABLE: Final = 4

_LEAST_WIDTH: Final = 120
_FOLDER: Final = Path("report")
_FORMATS: Final = ("json", "html", "junit", "sarif", "markdown")
_SECRET: Final = re.compile(r"clients|secret|key|password|token|header", re.IGNORECASE)
"""What an override holds that is not for a report."""
_SCENARIO = click.argument("path", metavar="SCENARIO", type=click.Path(path_type=Path))
_SET = click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change a key of the scenario, as load.steady.rate=50 or attacks.square.tries=2.",
)


@click.group()
def loadtest() -> None:
    """Load a model and attack it, with and without the firewall, and report both.

    docs/loadtest.md describes the scenario's file. Exit status: 0 all thresholds hold, 1 one does
    not or something failed, 2 usage, 3 the scenario, 4 unreachable, 130 interrupted.
    """
    if find_spec("hdrh") is None:
        _end("this needs the extra loadtest, pip install '.[loadtest]' in a checkout", EXIT_FAILED)


@loadtest.command()
@_SCENARIO
@click.option("--out", type=click.Path(path_type=Path), help="The report's folder.")
@click.option(
    "--format",
    "formats",
    type=click.Choice(_FORMATS),
    multiple=True,
    help="The report's formats, in the place of the scenario's.",
)
@click.option(
    "--resume", is_flag=True, help="Go on with the run that was broken off in the folder."
)
@_SET
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def run(  # noqa: PLR0917 - by name, as click calls it
    path: Path,
    out: Path | None,
    formats: tuple[Format, ...],
    resume: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Carry a scenario out, and write its report.

    SCENARIO is a file, or the name of one that is shipped: demo, smoke.
    """
    from rich.console import Console  # noqa: PLC0415 - here and below: slow, and not always needed

    from loadtest.evidence import terminal  # noqa: PLC0415
    from loadtest.scenario.conduct import conduct  # noqa: PLC0415
    from loadtest.scenario.ground import GroundError, UnreachableError  # noqa: PLC0415
    from loadtest.scenario.ledger import LedgerError  # noqa: PLC0415
    from loadtest.scenario.opening import ScenarioError  # noqa: PLC0415
    from loadtest.scenario.reports import ReportError, written  # noqa: PLC0415

    scenario = _read(path, overrides)
    folder = out or scenario.report.folder or _FOLDER
    console = Console(stderr=True, highlight=False)
    try:
        results, status = conduct(
            scenario, folder, resume=resume, command=_command(), console=console
        )
    except (SettingsError, ScenarioError, LedgerError) as error:
        _end(str(error), EXIT_CONFIGURATION)
    except UnreachableError as error:
        _end(f"unreachable: {error}", EXIT_UNREACHABLE)
    except (GroundError, OSError) as error:
        _end(str(error), EXIT_FAILED)
    try:
        paths = written(results, folder, formats or scenario.report.formats, str(path))
    except ReportError as error:
        click.echo(f"error: {error}", err=True)
        paths, status = [], status or EXIT_FAILED
    if as_json:
        sys.stdout.buffer.write((folder / "results.json").read_bytes())
        sys.stdout.flush()
    else:
        terminal.show(results, _tables(sys.stdout))
    for one in paths:
        console.print(f"written: {one}", markup=False, soft_wrap=True)
    raise SystemExit(status)


@loadtest.command()
@_SCENARIO
@_SET
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def validate(path: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check a scenario, and the files that it names, without asking anybody."""
    from loadtest.scenario.steps import steps  # noqa: PLC0415 - as above

    scenario = _read(path, overrides, as_json=as_json)
    words = [step.words for step in steps(scenario)]
    if as_json:
        click.echo(json.dumps({"ok": True, "problems": [], "steps": words}, indent=2))
        return
    click.echo(f"{path}: ok, {len(words)} steps")
    for number, one in enumerate(words, start=1):
        click.echo(f"{number:4d}  {one}")


@loadtest.command()
def schema() -> None:
    """Print the JSON Schema of scenarios."""
    from loadtest.scenario.read import schema as scenario_schema  # noqa: PLC0415 - as above

    click.echo(scenario_schema(), nl=False)


@loadtest.command()
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def metrics(as_json: bool) -> None:
    """List what a scenario's thresholds can bound."""
    from loadtest.evidence.metrics import METRICS  # noqa: PLC0415 - as above

    if as_json:
        listed = {
            name: {"unit": one.unit, "better": one.better, "of": one.selects, "words": one.words}
            for name, one in METRICS.items()
        }
        click.echo(json.dumps(listed, indent=2))
        return
    for name, one in METRICS.items():
        click.echo(f"{name}  ({one.unit}, {one.better} is better, by {one.selects})")
        click.echo(f"    {one.words}")


@loadtest.command()
@click.argument("first", metavar="A.json", type=click.Path(path_type=Path))
@click.argument("second", metavar="B.json", type=click.Path(path_type=Path))
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, max=1),
    default=0.05,
    show_default=True,
    help="The relative change that counts as none.",
)
@click.option("--format", "kind", type=click.Choice(("text", "json", "markdown")), default="text")
@click.option("--out", type=click.Path(path_type=Path), help="The file; none: standard output.")
def compare(first: Path, second: Path, tolerance: float, kind: str, out: Path | None) -> None:
    """Compare two runs. Exit status 1 if the second is worse in anything."""
    from loadtest.evidence import compare as comparing  # noqa: PLC0415
    from loadtest.evidence.terminal import show_table  # noqa: PLC0415

    found = comparing.compare(_results(first), _results(second), tolerance)
    if kind == "json":
        _put(comparing.as_json(found), out)
    elif kind == "markdown":
        _put(comparing.as_markdown(found).encode(), out)
    else:
        with _texts(out) as file:
            console = _tables(file)
            show_table(comparing.table(found), console)
            for words in (*found.faults, *found.notes, comparing.verdict(found)):
                console.print(words, markup=False, soft_wrap=True)
    raise SystemExit(0 if found.passed else EXIT_FAILED)


@loadtest.command()
@click.argument("path", metavar="RESULTS.json", type=click.Path(path_type=Path))
@click.option("--format", "kind", type=click.Choice(("text", *_FORMATS[1:])), default="text")
@click.option("--out", type=click.Path(path_type=Path), help="The file; none: standard output.")
@click.option(
    "--scenario",
    metavar="FILE",
    default="scenario.yaml",
    show_default=True,
    help="The scenario's file, to which the findings of SARIF are pinned.",
)
def report(path: Path, kind: Format | Literal["text"], out: Path | None, scenario: str) -> None:
    """Make a report of a run's results."""
    from loadtest.evidence import terminal  # noqa: PLC0415
    from loadtest.scenario.reports import ReportError, rendered  # noqa: PLC0415

    results = _results(path)
    if kind == "text":
        with _texts(out) as file:
            terminal.show(results, _tables(file))
        return
    try:
        _put(rendered(results, kind, scenario), out)
    except ReportError as error:
        _end(str(error), EXIT_FAILED)


def _read(path: Path, overrides: tuple[str, ...], *, as_json: bool = False) -> Scenario:
    from loadtest.scenario.read import OverrideError, read, shipped  # noqa: PLC0415 - as above

    try:
        return read(shipped(path), overrides=overrides)
    except OverrideError as error:
        raise click.UsageError(str(error)) from None
    except SettingsError as error:
        if as_json:
            problems = [
                {name: getattr(one, name) for name in ("file", "line", "column", "message")}
                for one in error.problems
            ]
            click.echo(json.dumps({"ok": False, "problems": problems}, indent=2))
            raise SystemExit(EXIT_CONFIGURATION) from None
        count = len(error.problems)
        _end(f"{error}\n{count} error{'s' if count != 1 else ''}", EXIT_CONFIGURATION)


def _results(path: Path) -> Results:
    from loadtest.evidence.store import StoreError, read  # noqa: PLC0415 - as above

    try:
        return read(path)
    except StoreError as error:
        raise click.UsageError(str(error)) from None


def _put(data: bytes, out: Path | None) -> None:
    """Into a file, or to standard output.

    Ends with status 1 if the file cannot be written.
    """
    if out is None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    try:
        out.write_bytes(data)
    except OSError as error:
        _end(f"{out}: {error.strerror or error}", EXIT_FAILED)


@contextlib.contextmanager
def _texts(out: Path | None) -> Iterator[TextIO]:
    """A file, or standard output."""
    if out is None:
        yield sys.stdout
        return
    try:
        file = out.open("w", encoding="utf-8")
    except OSError as error:
        _end(f"{out}: {error.strerror or error}", EXIT_FAILED)
    with file:
        yield file


def _tables(file: TextIO) -> Console:
    """What tables are printed on: a log has no width, and its columns need some."""
    from rich.console import Console  # noqa: PLC0415 - as above

    console = Console(file=file, highlight=False)
    if not console.is_terminal and console.width < _LEAST_WIDTH:
        console.width = _LEAST_WIDTH
    return console


def _command() -> str:
    """The command as it was typed, without the program's folder and the values of secrets: a report
    is for many eyes."""
    return shlex.join(["bartizan", *map(_shown, sys.argv[1:])])


def _shown(word: str) -> str:
    option, set_, override = word.partition("--set=")
    key, equals, _ = (override or option).partition("=")
    return f"{set_}{key}=***" if equals and _SECRET.search(word) else word


def _end(message: str, status: int) -> NoReturn:
    click.echo(message, err=True)
    raise SystemExit(status)
