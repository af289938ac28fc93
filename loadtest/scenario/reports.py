"""A run's report, in every format that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Final

from loadtest.evidence.results import Results
from loadtest.evidence.store import write
from loadtest.scenario.settings import Format

FILES: Final[Mapping[Format, str]] = {
    "json": "results.json",
    "html": "report.html",
    "junit": "junit.xml",
    "sarif": "results.sarif",
    "markdown": "report.md",
}
_MODULES: Final[Mapping[Format, str]] = {
    "html": "page",
    "junit": "junit",
    "sarif": "sarif",
    "markdown": "markdown",
}


class ReportError(Exception):
    """A report cannot be made or written. Says which."""


def rendered(results: Results, kind: Format, scenario: str) -> bytes:
    """The report in one format other than JSON.

    Args:
        scenario: the path of the scenario's file, to which findings are pinned.

    Raises:
        ReportError: if an extra is missing.
    """
    try:
        render: Callable[..., str | bytes] = import_module(
            f"loadtest.evidence.{_MODULES[kind]}"
        ).render
    except ImportError as error:
        raise ReportError(
            f"{kind} needs the extra loadtest, pip install '.[loadtest]' in a checkout ({error})"
        ) from error
    made = render(results, scenario) if kind == "sarif" else render(results)
    return made.encode() if isinstance(made, str) else made


def written(results: Results, folder: Path, formats: Iterable[Format], scenario: str) -> list[Path]:
    """Writes the report; JSON first, so that no other format's fault can lose it.

    Raises:
        ReportError: if one cannot be made or written.
    """
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILES["json"]
        write(results, path)
        paths.append(path)
        for kind in dict.fromkeys(formats):
            if kind != "json":
                path = folder / FILES[kind]
                path.write_bytes(rendered(results, kind, scenario))
                paths.append(path)
    except OSError as error:
        raise ReportError(f"{folder}: {error.strerror or error}") from error
    return paths
