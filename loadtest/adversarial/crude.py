"""Rows that are nothing like honest ones, flagged before the model is asked and by the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from detectors.bundle import Bundle
from loadtest.adversarial.crafted import Crafted
from loadtest.adversarial.datasets import Singles
from loadtest.adversarial.measure import answers

Change = Callable[[Singles, np.random.Generator], Singles]
"""(n, d) rows from 0 to 1 over the range of each feature, to as many changed ones."""

CRUDE: Final[dict[str, Change]] = {
    "uniform noise": lambda rows, rng: rng.random(rows.shape).astype(np.float32),
    "noise of 0.3 added": lambda rows, rng: np.clip(
        rows + rng.normal(0, 0.3, rows.shape), 0, 1
    ).astype(np.float32),
    "three times the values": lambda rows, _: (3 * rows).astype(np.float32),
    "inverted": lambda rows, _: (1 - rows).astype(np.float32),
    "features shuffled": lambda rows, rng: rng.permuted(rows, axis=1),
}


def measure(made: Crafted, bundle: Bundle, seed: int) -> list[dict[str, Any]]:
    """Of each kind, how many the served bundle flags before the model is asked, and by the end."""
    after = bundle.agreement
    if after is None:
        raise ValueError("the bundle has no agreement")
    rng = np.random.default_rng((seed, 83))
    low, high = made.train_x.min(axis=0), made.train_x.max(axis=0)
    if len(made.row_shape) == 2:
        low, high = np.zeros_like(low), np.ones_like(high)
    span = np.where(high > low, high - low, 1).astype(np.float32)
    base = (made.rest_x[made.bases] - low) / span
    found = []
    for name, change in CRUDE.items():
        rows = np.ascontiguousarray(low + span * change(base, rng), np.float32)
        scored = bundle.scorer.score(rows)
        verdicts = after.score(rows, answers(made, made.ask(rows)), scored.merged)
        found.append(
            {
                "change": name,
                "tried": len(rows),
                "before": int(scored.flagged.sum()),
                "after": int((scored.flagged | verdicts.flagged).sum()),
            }
        )
    return found
