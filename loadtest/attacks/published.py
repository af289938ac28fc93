"""The published black-box attacks against a victim that nothing defends: traces of what they asked.

The attacks, with budgets large enough to succeed, are in ``loadtest.drivers.evasion_art``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from loadtest.attacks.datasets import Singles
from loadtest.attacks.traces import Recorder, Trace
from loadtest.attacks.victims import Victim
from loadtest.drivers.evasion_art import ATTACKS, LINF, STEPPING, STEPS, Canvas, generate

__all__ = ["ATTACKS", "STEPS", "attack", "attacks", "is_adversarial"]

MOST_BASES: Final = 80


def attack(
    victim: Victim, name: str, base: Singles, seed: int, steps: Sequence[float] = STEPS
) -> Trace:
    """Attacks one row, undefended, and gives what was asked.

    Args:
        victim: the model.
        name: one of ``ATTACKS``.
        base: (d,) a row that the model gets right.
        seed: of the attack's own randomness: it replaces numpy's and Python's global state, which
            is what the toolbox draws from.
        steps: step sizes to try in turn, of those attacks that have one.
    """
    trace = _attack(victim, name, base, seed, steps[0])
    for step in steps[1:] if name in STEPPING else ():
        if trace.success:
            break
        trace = _attack(victim, name, base, seed, step)
    return trace


def _attack(victim: Victim, name: str, base: Singles, seed: int, step: float) -> Trace:
    split = victim.split
    recorder = Recorder()

    def ask(cells: Singles) -> Singles:
        rows = victim.from_box(cells)
        recorder(rows)
        return victim.ask(rows)

    canvas = Canvas(split.image, split.table, split.classes)
    found = generate(name, canvas, ask, victim.to_box(base), seed=seed, step=step)
    return recorder.trace(is_adversarial(victim, base, victim.from_box(found[None])[0]))


def attacks(victim: Victim, name: str, count: int, seed: int) -> list[Trace]:
    """``count`` runs that count, each on a base of its own; fewer where the bases run out."""
    runs: list[Trace] = []
    for number, base in enumerate(victim.bases(MOST_BASES, seed)):
        trace = attack(victim, name, base, 1000 * seed + number)
        if trace.counts:
            runs.append(trace)
        if len(runs) == count:
            break
    return runs


def is_adversarial(victim: Victim, base: Singles, row: Singles) -> bool:
    """Whether the row is decided otherwise than the base, and lies near it."""
    before, after = victim.label(np.stack([base, row]))
    step = victim.to_box(row) - victim.to_box(base)
    near = np.linalg.norm(step) <= victim.near or np.abs(step).max() <= LINF + 1e-5
    return bool(before != after and near)
