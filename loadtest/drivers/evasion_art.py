"""The published black-box attacks, as the adversarial-robustness-toolbox has them: what the study
of traces and the live drivers have in common.

HopSkipJump (Chen et al. 2020), Boundary (Brendel et al. 2018), SignOPT (Cheng et al. 2020), ZOO
(Chen et al. 2017), SimBA (Guo et al. 2019), Square (Andriushchenko et al. 2020). Budgets are large
enough to succeed where nothing defends.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from loadtest.attacks.datasets import Singles

LINF: Final = 0.3
"""An L∞ distance, in units of the box, that counts as an adversarial example too (Square)."""
STEPS: Final = (0.05, 0.1, 0.2, 0.3)
"""Step sizes of Square and SimBA, in units of the box: each base is attacked with the smallest that
succeeds, since a larger one is over before it has asked 20 times."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """What the toolbox is shown of a row.

    Attributes:
        image: (height, width); a table has a shape too, since some attacks only take pictures.
        table: whether it is one.
        classes: of the model.
    """

    image: tuple[int, int]
    table: bool
    classes: int

    @property
    def features(self) -> int:
        """Of a row."""
        return self.image[0] * self.image[1]


Build = Callable[[Any, Canvas, float], Any]


def _hop_skip_jump(classifier: Any, canvas: Canvas, step: float) -> Any:
    from art.attacks.evasion import HopSkipJump  # noqa: PLC0415 - an extra, and slow

    return HopSkipJump(classifier, max_iter=8, max_eval=300, init_eval=50, verbose=False)


def _boundary(classifier: Any, canvas: Canvas, step: float) -> Any:
    from art.attacks.evasion import BoundaryAttack  # noqa: PLC0415

    return BoundaryAttack(
        classifier, targeted=False, delta=0.05, epsilon=0.05, max_iter=150, verbose=False
    )


def _sign_opt(classifier: Any, canvas: Canvas, step: float) -> Any:
    from art.attacks.evasion import SignOPTAttack  # noqa: PLC0415

    return SignOPTAttack(
        classifier, targeted=False, num_trial=50, max_iter=40, k=50, query_limit=5000, verbose=False
    )


def _zoo(classifier: Any, canvas: Canvas, step: float) -> Any:
    from art.attacks.evasion import ZooAttack  # noqa: PLC0415

    return ZooAttack(
        classifier,
        learning_rate=0.1,
        max_iter=300,
        initial_const=100.0,
        use_resize=False,
        use_importance=False,
        nb_parallel=min(64, canvas.features),
        variable_h=1e-2,
        verbose=False,
    )


def _simba(classifier: Any, canvas: Canvas, step: float) -> Any:
    from art.attacks.evasion import SimBA  # noqa: PLC0415

    side = min(canvas.image)
    return SimBA(
        classifier,
        attack="px",
        epsilon=step,
        max_iter=5 * canvas.features,
        freq_dim=side,
        verbose=False,
    )


def _square(classifier: Any, canvas: Canvas, step: float) -> Any:
    from art.attacks.evasion import SquareAttack  # noqa: PLC0415

    # A first square of 80 % of a small table would leave no place to move.
    first = 0.3 if canvas.table else 0.8
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


def generate(
    name: str,
    canvas: Canvas,
    ask: Callable[[Singles], Any],
    base: Singles,
    *,
    seed: int,
    step: float,
) -> Singles:
    """Attacks one row, and gives what was found: (d,) in units of the box.

    Args:
        name: one of ``ATTACKS``.
        ask: (n, d) rows in units of the box to (n, classes) scores. What it raises comes through.
        base: (d,) in units of the box, decided as it should be.
        seed: of the attack's own randomness: it replaces numpy's and Python's global state, which
            is what the toolbox draws from, for good.
        step: its size, of those attacks that have one.

    Raises:
        ImportError: if the toolbox is not installed.
    """
    # SignOPT takes two classes for one output and refuses: it is shown a third, never given.
    unused = max(0, 3 - canvas.classes)
    # Square never moves the last row and column of a picture: a table is given idle ones.
    idle = int(name == "square" and canvas.table)
    height, width = canvas.image

    def to_rows(inputs: Singles) -> Singles:
        cells = np.asarray(inputs, np.float32)[:, 0, :height, :width]
        return cells.reshape(len(inputs), -1)

    def answer(inputs: Singles) -> Singles:
        scores: Singles = np.pad(ask(to_rows(inputs)), ((0, 0), (0, unused)))
        return scores

    shape = (1, height + idle, width + idle)
    start = base.reshape(1, 1, height, width).astype(np.float32)
    start = np.pad(start, ((0, 0), (0, 0), (0, idle), (0, idle)))
    toolbox = installed()
    np.random.seed(seed % 2**32)
    random.seed(seed)
    with warnings.catch_warnings(), _seeded_states(seed):
        warnings.simplefilter("ignore")  # divisions by zero in batches that came out empty
        classifier = toolbox(answer, shape, canvas.classes + unused, clip_values=(0.0, 1.0))
        found = ATTACKS[name](classifier, canvas, step).generate(start)
    row: Singles = to_rows(np.asarray(found, np.float32))[0]
    return row


def installed() -> Any:
    """The toolbox's classifier of a function. What it says of libraries that it lacks is not told.

    Raises:
        ImportError: if the toolbox is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import art.attacks.evasion  # noqa: F401, PLC0415 - an extra, and slow
        from art.estimators.classification import (  # noqa: PLC0415
            BlackBoxClassifierNeuralNetwork,
        )
    return BlackBoxClassifierNeuralNetwork


@contextmanager
def _seeded_states(seed: int) -> Iterator[None]:
    """Gives a seed to the generators that the toolbox makes without one: the first rows of
    HopSkipJump and Boundary come from such, and no run of theirs could be repeated."""
    original: Any = np.random.RandomState
    seeds = iter(range(seed % 2**31, 2**32))

    class Seeded(original):  # type: ignore[misc]  # a class that is only known when it runs
        def __init__(self, given: Any = None) -> None:
            super().__init__(next(seeds) if given is None else given)

    np.random.RandomState = Seeded  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        np.random.RandomState = original  # type: ignore[misc]
