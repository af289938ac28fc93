"""Measures the detectors that see the answer: adversarial examples found, honest rows flagged.

    make .venv-torch/.installed
    PYTHONPATH=. .venv-torch/bin/python -m loadtest.adversarial.craft
    .venv/bin/python -m loadtest.adversarial.evaluate
    PYTHONPATH=. .venv-torch/bin/python -m loadtest.adversarial.adaptive
    .venv/bin/python -m loadtest.adversarial.evaluate --markdown docs/detection.md

Seed 0 served development; figures are reported on seeds 1 to 3, whose bases nothing had touched
before. What was measured is kept in the work folder by the digest of the detectors' sources, so
that an interrupted evaluation goes on where it stopped, and figures of different detectors are
never mixed. Each set's and seed's first fit is kept there as a bundle, for the attack that knows
the defence.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from detectors.bundle import load_bundle
from detectors.bundle_writer import save_bundle
from detectors.training.fit import Fitted
from loadtest.adversarial import crude, tables
from loadtest.adversarial.crafted import Crafted
from loadtest.adversarial.datasets import DEVELOPMENT, REPORTED, SETS
from loadtest.adversarial.measure import FOLDS, fitted, fold_of, measure
from loadtest.adversarial.work import WORK, adaptive_of, bundle_of, kept_in, set_of

ATTACKERS_FOLD = 1
"""The attacker's own witnesses come from another fold, with another seed."""


@click.command()
@click.option("--set", "sets", type=click.Choice(list(SETS)), multiple=True)
@click.option(
    "--seed", "seeds", type=click.Choice([str(s) for s in (DEVELOPMENT, *REPORTED)]), multiple=True
)
@click.option("--folds", type=click.IntRange(1, FOLDS), default=FOLDS, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), default=WORK, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Where figures go.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Markdown file to update.")
def main(  # noqa: PLR0917 - click passes them by name
    sets: tuple[str, ...],
    seeds: tuple[str, ...],
    folds: int,
    work: Path,
    json_path: Path | None,
    markdown: Path | None,
) -> None:
    """Measures the detectors on crafted sets, and writes the tables."""
    if str(DEVELOPMENT) in seeds:
        click.echo("this seed served development: report others", err=True)
    kept = kept_in(work)
    results: list[dict[str, Any]] = []
    adaptive: list[dict[str, Any]] = []
    outliers: list[dict[str, Any]] = []
    skipped: list[str] = []
    for name in sets or tuple(SETS):
        for seed in map(int, seeds or map(str, REPORTED)):
            path = set_of(work, name, seed)
            if not path.exists():
                skipped.append(f"{name}, seed {seed}: {path.name} was not crafted")
                click.echo(f"skipped {skipped[-1]}", err=True)
                continue
            results += [_measured(path, name, seed, fold, kept) for fold in range(folds)]
            served = bundle_of(kept, name, seed)
            if served.exists():
                found = crude.measure(Crafted.load(path), load_bundle(served), seed)
                outliers += [{"set": name, "seed": seed} | row for row in found]
            known = adaptive_of(kept, name, seed)
            if known.exists():
                adaptive += json.loads(known.read_text(encoding="utf-8"))
    if json_path is not None:
        told = {"results": results, "adaptive": adaptive, "crude": outliers}
        json_path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    report = tables.render(results, adaptive, outliers, skipped)
    if markdown is None:
        click.echo(report)
    else:
        tables.replace_section(markdown, report)


def _measured(crafted: Path, name: str, seed: int, fold: int, kept: Path) -> dict[str, Any]:
    """The figures of one fold, measured or read."""
    path = kept / f"{name}-{seed}-{fold}.json"
    if not path.exists():
        start = time.monotonic()
        made = Crafted.load(crafted)
        found = measure(made, seed, fold)
        if fold == 0 and not made.regression:
            _bundles(made, name, seed, kept)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(found), encoding="utf-8")
        partial.replace(path)
        click.echo(f"{name}, seed {seed}, fold {fold}: {time.monotonic() - start:.0f} s", err=True)
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {"set": name, "seed": seed, "fold": fold} | told


def _bundles(made: Crafted, name: str, seed: int, kept: Path) -> None:
    """What is served, and what an attacker with a model of its own can make."""
    _save(fitted(made, fold_of(made, seed, 0), seed=0), bundle_of(kept, name, seed))
    own = made.of_surrogate()
    fold = fold_of(own, seed, ATTACKERS_FOLD)
    _save(fitted(own, fold, seed=seed + 100), bundle_of(kept, name, seed, attackers=True))


def _save(one: Fitted, path: Path) -> None:
    save_bundle(
        path,
        one.scorer,
        one.training,
        agreement=one.agreement,
        created="1970-01-01T00:00:00Z",
        created_by="loadtest.adversarial.evaluate",
        libraries={},
        row_shape=one.row_shape,
        fitted_with=one.fitted_with,
    )


if __name__ == "__main__":
    main()
