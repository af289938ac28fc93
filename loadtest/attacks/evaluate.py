"""Measures the patterns: honest clients, black-box attacks, theft, replicas.

    python -m loadtest.attacks.evaluate [--quick] [--part blackbox] [--set digits] [--split 1]
        [--work FOLDER] [--json FILE] [--markdown docs/detection.md]

Splits 0 and 10 to 19 served development; figures are reported on splits 4 to 6. A part of one set
and one split takes from seconds to a few minutes on one core. What was measured is kept in the work
folder by the digest of the detectors' sources, so that an interrupted evaluation goes on where it
stopped, and figures of different detectors are never mixed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

import detectors
from loadtest.attacks import measure_honest, measure_probing, measure_theft, replicas, tables
from loadtest.attacks.datasets import DEVELOPMENT, SETS, Unavailable
from loadtest.attacks.study import Study

Measure = Callable[[Study, bool], list[dict[str, Any]]]

PARTS: Final[dict[str, Measure]] = {
    "honest": measure_honest.measure,
    "stressors": measure_honest.stressors,
    "blackbox": measure_probing.blackbox,
    "rounded": measure_probing.rounded,
    "interleaved": measure_probing.interleaving,
    "sybils": measure_probing.accounts,
    "noise": measure_probing.noise,
    "adaptive": measure_probing.adapting,
    "extraction": measure_theft.recognition,
    "fidelity": measure_theft.fidelity,
    "replicas": replicas.measure,
}
REPORTED: Final = ("mnist", "digits", "satellite", "shuttle")
FRESH: Final = (4, 5, 6)
"""Splits that nothing had been measured on when the detectors were last changed."""
FEW: Final = (4, 5)
"""Splits of the parts that take long."""
SPLITS: Final[dict[str, tuple[int, ...]]] = {
    "honest": FRESH,
    "stressors": FRESH,
    "blackbox": FRESH,
    "rounded": FRESH,
    "interleaved": FRESH,
    "sybils": FEW,
    "noise": FEW,
    "adaptive": FEW,
    "extraction": FEW,
    "fidelity": FEW,
    "replicas": FEW,
}
WORK: Final = Path(tempfile.gettempdir()) / "bartizan-attacks"


@click.command()
@click.option("--quick", is_flag=True, help="A small sample of everything, on one split.")
@click.option("--part", "parts", type=click.Choice(list(PARTS)), multiple=True)
@click.option("--set", "sets", type=click.Choice(list(SETS)), multiple=True)
@click.option("--split", "splits", type=click.IntRange(0), multiple=True)
@click.option("--work", type=click.Path(path_type=Path), default=WORK, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Where figures go.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Markdown file to update.")
def main(  # noqa: PLR0917 - click passes them by name
    quick: bool,
    parts: tuple[str, ...],
    sets: tuple[str, ...],
    splits: tuple[int, ...],
    work: Path,
    json_path: Path | None,
    markdown: Path | None,
) -> None:
    """Measures the patterns over clients' queries, and writes the tables."""
    logging.getLogger("art").setLevel(logging.ERROR)
    parts = parts or tuple(PARTS)
    if DEVELOPMENT.intersection(splits):
        click.echo("these splits served development: report others", err=True)
    kept = work / f"results-{digest()}{'-quick' if quick else ''}"
    kept.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    skipped: list[str] = []
    for name in sets or REPORTED:
        for split in splits or sorted({split for part in parts for split in SPLITS[part]}):
            try:
                study = Study(name, split, work)
            except Unavailable as problem:
                skipped.append(f"{name}: {problem}")
                click.echo(f"{name} skipped: {problem}", err=True)
                break
            for part in parts:
                if splits or split in SPLITS[part][: 1 if quick else None]:
                    results += _measured(study, part, quick, kept)
    if json_path is not None:
        json_path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    report = tables.render(results, skipped)
    if markdown is None:
        click.echo(report)
    else:
        tables.replace_section(markdown, report)


def _measured(study: Study, part: str, quick: bool, kept: Path) -> list[dict[str, Any]]:
    """The rows of one part for one set and split, measured or read."""
    path = kept / f"{part}-{study.name}-{study.seed}.json"
    if not path.exists():
        start = time.monotonic()
        rows = PARTS[part](study, quick)
        taken = time.monotonic() - start
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(rows), encoding="utf-8")
        partial.replace(path)
        click.echo(f"{part}, {study.name}, split {study.seed}: {taken:.0f} s", err=True)
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [{"part": part, "set": study.name, "split": study.seed} | row for row in rows]


def digest() -> str:
    """Of the detectors' sources: what is under test."""
    total = hashlib.sha256()
    root = Path(detectors.__path__[0])
    for path in sorted(root.rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode())
        total.update(path.read_bytes())
    return total.hexdigest()[:12]


if __name__ == "__main__":
    main()
