"""The published black-box attacks, as the adversarial-robustness-toolbox has them.

HopSkipJump (Chen et al. 2020), Boundary (Brendel et al. 2018), SignOPT (Cheng et al. 2020), ZOO
(Chen et al. 2017), SimBA (Guo et al. 2019), Square (Andriushchenko et al. 2020). Budgets are large
enough to succeed where nothing defends.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from loadtest.attacks.datasets import Singles
from loadtest.attacks.traces import Recorder, Trace
from loadtest.attacks.victims import Victim

LINF: Final = 0.3
"""An L∞ distance, in units of the box, that counts as an adversarial example too (Square)."""
STEPS: Final = (0.05, 0.1, 0.2, 0.3)
"""Step sizes of Square and SimBA, in units of the box: each base is attacked with the smallest that
succeeds, since a larger one is over before it has asked 20 times."""
Build = Callable[[Any, Victim, float], Any]


def _hop_skip_jump(classifier: Any, victim: Victim, step: float) -> Any:
    from art.attacks.evasion import HopSkipJump  # noqa: PLC0415 - an extra, and slow

    return HopSkipJump(classifier, max_iter=8, max_eval=300, init_eval=50, verbose=False)


def _boundary(classifier: Any, victim: Victim, step: float) -> Any:
    from art.attacks.evasion import BoundaryAttack  # noqa: PLC0415

    return BoundaryAttack(
        classifier, targeted=False, delta=0.05, epsilon=0.05, max_iter=150, verbose=False
    )


def _sign_opt(classifier: Any, victim: Victim, step: float) -> Any:
    from art.attacks.evasion import SignOPTAttack  # noqa: PLC0415

    return SignOPTAttack(
        classifier, targeted=False, num_trial=50, max_iter=40, k=50, query_limit=5000, verbose=False
    )


def _zoo(classifier: Any, victim: Victim, step: float) -> Any:
    from art.attacks.evasion import ZooAttack  # noqa: PLC0415

    return ZooAttack(
        classifier,
        learning_rate=0.1,
        max_iter=300,
        initial_const=100.0,
        use_resize=False,
        use_importance=False,
        nb_parallel=min(64, victim.split.features),
        variable_h=1e-2,
        verbose=False,
    )


def _simba(classifier: Any, victim: Victim, step: float) -> Any:
    from art.attacks.evasion import SimBA  # noqa: PLC0415

    side = min(victim.split.image)
    return SimBA(
        classifier,
        attack="px",
        epsilon=step,
        max_iter=5 * victim.split.features,
        freq_dim=side,
        verbose=False,
    )


def _square(classifier: Any, victim: Victim, step: float) -> Any:
    from art.attacks.evasion import SquareAttack  # noqa: PLC0415

    # A first square of 80 % of a small table would leave no place to move.
    first = 0.3 if victim.split.table else 0.8
    return SquareAttack(classifier, eps=step, p_init=first, max_iter=300, verbose=False)


ATTACKS: Final[dict[str, Build]] = {
    "hopskipjump": _hop_skip_jump,
    "boundary": _boundary,
    "signopt": _sign_opt,
    "zoo": _zoo,
    "simba": _simba,
    "square": _square,
}
STEPPING: Final = ("simba", "square")
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
    from art.estimators.classification import BlackBoxClassifierNeuralNetwork  # noqa: PLC0415

    # SignOPT takes two classes for one output and refuses: it is shown a third, never given.
    unused = max(0, 3 - victim.split.classes)
    # Square never moves the last row and column of a picture: a table is given idle ones.
    idle = int(name == "square" and victim.split.table)
    height, width = victim.split.image
    recorder = Recorder()

    def to_rows(inputs: Singles) -> Singles:
        cells = np.asarray(inputs, np.float32)[:, 0, :height, :width]
        return victim.from_box(cells.reshape(len(inputs), -1))

    def ask(inputs: Singles) -> Singles:
        rows = to_rows(inputs)
        recorder(rows)
        return np.pad(victim.ask(rows), ((0, 0), (0, unused)))

    shape = (1, height + idle, width + idle)
    classifier = BlackBoxClassifierNeuralNetwork(
        ask, shape, victim.split.classes + unused, clip_values=(0.0, 1.0)
    )
    np.random.seed(seed % 2**32)
    random.seed(seed)
    start = victim.to_box(base).reshape(1, 1, height, width).astype(np.float32)
    start = np.pad(start, ((0, 0), (0, 0), (0, idle), (0, idle)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # divisions by zero in batches that came out empty
        found = np.asarray(ATTACKS[name](classifier, victim, step).generate(start), np.float32)
    return recorder.trace(is_adversarial(victim, base, to_rows(found)[0]))


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
