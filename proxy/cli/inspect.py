"""``bartizan inspect``: what a bundle holds."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import click

from detectors.bundle import Bundle, BundleError, load_bundle
from detectors.bundle_writer import FittedPatterns
from proxy.cli.fit_report import (
    agreement_lines,
    agreement_told,
    few_rows,
    guarantee,
    patterns_lines,
    patterns_told,
)

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
TRUST = "Ed25519 public key, PEM, that must have signed the bundle; of several, one."


def load(path: Path, trusted: tuple[Path, ...] = ()) -> Bundle:
    """The bundle, or the reason why it cannot be used.

    Raises:
        click.ClickException: which ends the command with status 1.
    """
    try:
        return load_bundle(path, trusted_keys=[key.read_bytes() for key in trusted])
    except (BundleError, OSError) as error:
        raise click.ClickException(f"{path}: {error}") from error


@click.command()
@click.argument("bundle", type=_FILE)
@click.option("--trust", type=_FILE, multiple=True, help=TRUST)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def inspect(*, bundle: Path, trust: tuple[Path, ...], as_json: bool) -> None:
    """Check a bundle wholly, as the gateway does on loading, and show what it holds."""
    loaded = load(bundle, trust)
    patterns, agreement = _patterns(loaded), _agreement(loaded)
    manifest = loaded.manifest
    calibration, rows = manifest.calibration, manifest.training.rows
    notes = few_rows(calibration.rank, calibration.rows, calibration.alpha, calibration.delta)
    result: dict[str, Any] = {
        "bundle": str(bundle),
        "digest": loaded.digest,
        "signature": loaded.signature,
        "signer": loaded.signer,
        "engine": loaded.scorer.engine,
        "patterns": patterns,
        "agreement": agreement,
        "notes": notes,
        "manifest": manifest.model_dump(mode="json"),
    }
    if as_json:
        click.echo(json.dumps(result))
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.table import Table  # noqa: PLC0415

    grid = Table(show_header=False, box=None, pad_edge=False)
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    grid.add_row("digest", loaded.digest)
    signer = f" by {loaded.signer}" if loaded.signer else ""
    grid.add_row("signature", f"{loaded.signature}{signer}")
    grid.add_row("created", f"{manifest.created} by {manifest.created_by}")
    libraries = ", ".join(f"{name} {version}" for name, version in manifest.libraries.items())
    grid.add_row("libraries", libraries)
    shape = loaded.row_shape
    shaped = f", rows of {' by '.join(map(str, shape))}" if len(shape) > 1 else ""
    grid.add_row("features", f"{manifest.features}{shaped}")
    if loaded.embedding is not None:
        grid.add_row("  embedded in", f"{loaded.embedding.outputs}, in which rows are scored")
    if manifest.feature_names:
        grid.add_row("names", _short(manifest.feature_names))
    for entry in manifest.detectors:
        settings = ", ".join(f"{name} {value}" for name, value in entry.fitted_with.items())
        grid.add_row("detector", f"{entry.kind} ({settings})")
    grid.add_row(
        "rows",
        f"{rows.read} read, {rows.duplicates} duplicates, {rows.train} to fit, "
        f"{rows.merge} to merge, {rows.threshold} for the threshold",
    )
    grid.add_row("threshold", f"{loaded.scorer.threshold:.6g} (rank {calibration.rank})")
    promised = guarantee(
        calibration.alpha, calibration.delta, answered=loaded.agreement is not None
    )
    grid.add_row("guarantee", promised)
    for heading, line in agreement_lines(agreement) if agreement else [("agreement", "none")]:
        grid.add_row(heading, line)
    for heading, line in patterns_lines(patterns) if patterns else [("patterns", "none")]:
        grid.add_row(heading, line)
    if loaded.examples is not None:
        grid.add_row("examples", f"{len(loaded.examples.rows)} honest rows, as they were")
    size = sum(int(a.dtype[-1]) * math.prod(a.shape) for a in manifest.arrays.values())
    grid.add_row("arrays", f"{len(manifest.arrays)}, {size / 1024:.0f} KiB")
    # What a bundle says of itself is text, not markup.
    console = Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)
    console.print(grid)
    for note in notes:
        console.print(f"note: {note}")


def _short(names: list[str], most: int = 12) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _patterns(loaded: Bundle) -> dict[str, Any] | None:
    entry = loaded.manifest.patterns
    if loaded.patterns is None or entry is None:
        return None
    return patterns_told(FittedPatterns(loaded.patterns, entry.budget, entry.space, entry.streams))


def _agreement(loaded: Bundle) -> dict[str, Any] | None:
    entry = loaded.manifest.agreement
    if loaded.agreement is None or entry is None:
        return None
    return agreement_told(loaded.agreement, entry.training)
