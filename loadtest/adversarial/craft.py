"""Trains victims and attacks them. Needs torch, and runs in the environment that has it:

    PYTHONPATH=. .venv-torch/bin/python -m loadtest.adversarial.craft [--set mnist] [--seed 0]
        [--out FOLDER]

Seed 0 serves development; figures are reported on seeds 1 to 3. A set takes from half a minute to
two minutes on one core.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch

from loadtest.adversarial import attacks, victims
from loadtest.adversarial.attacks import Box
from loadtest.adversarial.crafted import Attack, Crafted
from loadtest.adversarial.datasets import (
    DEVELOPMENT,
    REPORTED,
    SETS,
    WRONG,
    Cut,
    Labels,
    Singles,
    Unavailable,
    friedman,
    load,
)
from loadtest.adversarial.networks import Floats
from loadtest.adversarial.victims import Victim
from loadtest.adversarial.work import WORK, set_of

IMAGE_STEPS: Final = {"fgsm": (0.1, 0.2, 0.3), "pgd": (0.05, 0.1, 0.2, 0.3), "transfer": (0.2, 0.3)}
"""L-infinity, of the pixel range."""
TABLE_STEPS: Final = {
    "fgsm": (0.1, 0.2, 0.3, 0.5),
    "pgd": (0.1, 0.2, 0.3, 0.5),
    "transfer": (0.3, 0.5),
}
"""L-infinity, in standard deviations of each feature."""
SUBSPACE: Final = 0.2
"""L-infinity of the attack within the principal components."""
COMPONENTS: Final = {"mnist": 64, "digits": 24, "segment": 9, "shuttle": 5}


def craft(name: str, seed: int) -> Crafted:
    """Trains the victim and its surrogate, and attacks.

    Raises:
        Unavailable: if the data is not on this machine.
    """
    cut = load(name, seed)
    victim = victims.train(cut, seed=seed)
    ask = victim.network.outputs if cut.kind.regression else victim.network.probabilities
    rest_p = ask(cut.rest_x).astype(np.float64)
    bases = _bases(cut, victim, rest_p)
    surrogate = victims.train(cut, seed=seed + 1000, surrogate=True)
    found = dict(
        _regression(cut, victim, bases)
        if cut.kind.regression
        else _all(cut, victim, surrogate, bases)
    )
    return Crafted(
        row_shape=cut.kind.row_shape,
        regression=cut.kind.regression,
        train_x=cut.train_x,
        train_y=cut.train_y,
        train_p=ask(cut.train_x).astype(np.float64),
        rest_x=cut.rest_x,
        rest_y=cut.rest_y,
        rest_p=rest_p,
        bases=bases,
        attacks=found,
        network=victim.network,
        surrogate=surrogate.network,
    )


def _bases(cut: Cut, victim: Victim, answers: Floats) -> Labels:
    """Unseen rows inside the attacker's box that the victim gets right."""
    inside = np.abs(victim.from_units(victim.to_units(cut.rest_x)) - cut.rest_x).max(axis=1) < 1e-3
    if cut.kind.regression:
        right = np.ones(len(cut.rest_x), bool)
    else:
        right = answers.argmax(axis=1) == cut.rest_y
    first = len(cut.rest_x) - cut.candidates
    chosen = first + np.flatnonzero((inside & right)[first:])
    return chosen[: cut.kind.bases].astype(np.int64)


def _all(
    cut: Cut, victim: Victim, surrogate: Victim, bases: Labels
) -> Iterator[tuple[str, Attack]]:
    rows = victim.to_units(cut.rest_x[bases])
    labels = torch.from_numpy(cut.rest_y[bases])
    model, box = victim.model, Box(victim.low, victim.high)
    generator = torch.Generator().manual_seed(cut.seed)
    steps = IMAGE_STEPS if cut.image else TABLE_STEPS

    def kept(changed: Any) -> Attack:
        x = victim.from_units(changed)
        answers = victim.network.probabilities(x)
        fooled = answers.argmax(axis=1) != cut.rest_y[bases]
        return Attack(x[fooled], answers[fooled], bases[fooled], len(bases))

    for epsilon in steps["fgsm"]:
        yield f"fgsm-{epsilon}", kept(attacks.fgsm(model, rows, labels, box, epsilon))
    for epsilon in steps["pgd"]:
        yield f"pgd-{epsilon}", kept(attacks.pgd(model, rows, labels, box, epsilon, generator))
    for epsilon in steps["transfer"]:
        changed = attacks.pgd(surrogate.model, rows, labels, box, epsilon, generator)
        yield f"transfer-{epsilon}", kept(changed)
    yield "deepfool", kept(attacks.deepfool(model, rows, box))
    for confidence in (0, 5):
        changed = attacks.carlini_wagner(model, rows, labels, box, confidence)
        yield f"cw-{confidence}", kept(changed)
    units = victim.to_units(cut.train_x)
    basis = torch.linalg.svd(units - units.mean(dim=0), full_matrices=False)[2][
        : COMPONENTS[cut.name]
    ].T
    changed = attacks.pgd(model, rows, labels, box, SUBSPACE, generator, basis=basis)
    yield f"pca-{SUBSPACE}", kept(changed)


def _regression(cut: Cut, victim: Victim, bases: Labels) -> Iterator[tuple[str, Attack]]:
    """Answers that were pushed away from the truth of the changed row itself."""
    rows = victim.to_units(cut.rest_x[bases])
    box = Box(victim.low, victim.high)
    generator = torch.Generator().manual_seed(cut.seed)
    usual = _error(victim, cut.rest_x)
    mean, deviation = torch.from_numpy(victim.mean), torch.from_numpy(victim.deviation)

    def error(units: Any) -> Any:
        return victim.model(units)[:, 0] - _friedman_of(units * deviation + mean)

    limit = WRONG * float(np.sqrt((usual**2).mean()))
    for epsilon in TABLE_STEPS["pgd"]:
        x = victim.from_units(attacks.push(error, rows, box, epsilon, generator))
        wrong = _error(victim, x) > limit
        answers = victim.network.outputs(x[wrong]).astype(np.float64)
        yield f"push-{epsilon}", Attack(x[wrong], answers, bases[wrong], len(bases))


def _friedman_of(x: Any) -> Any:
    """:func:`friedman`, differentiable."""
    return (
        10 * torch.sin(torch.pi * x[:, 0] * x[:, 1])
        + 20 * (x[:, 2] - 0.5) ** 2
        + 10 * x[:, 3]
        + 5 * x[:, 4]
    )


def _error(victim: Victim, rows: Singles) -> Floats:
    found: Floats = np.abs(victim.network.outputs(rows)[:, 0] - friedman(rows))
    return found


@click.command()
@click.option("--set", "sets", type=click.Choice(list(SETS)), multiple=True)
@click.option(
    "--seed", "seeds", type=click.Choice([str(s) for s in (DEVELOPMENT, *REPORTED)]), multiple=True
)
@click.option("--out", type=click.Path(path_type=Path), default=WORK, show_default=True)
def main(sets: tuple[str, ...], seeds: tuple[str, ...], out: Path) -> None:
    """Trains victims, attacks them, and writes the sets."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    for name in sets or tuple(SETS):
        for seed in seeds or tuple(map(str, REPORTED)):
            start = time.monotonic()
            try:
                made = craft(name, int(seed))
            except Unavailable as problem:
                click.echo(f"{name} skipped: {problem}", err=True)
                break
            made.save(set_of(out, name, int(seed)))
            click.echo(_told(name, seed, made, time.monotonic() - start))


def _told(name: str, seed: str, made: Crafted, seconds: float) -> str:
    reached = ", ".join(f"{k} {len(a.rows)}/{a.tried}" for k, a in made.attacks.items())
    right = (
        "" if made.regression else f", accuracy {made.accuracy:.1%} on {len(made.rest_x)} unseen"
    )
    return f"{name}, seed {seed}{right}: {reached} ({seconds:.0f} s)"


if __name__ == "__main__":
    main()
