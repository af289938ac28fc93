"""Which row is used for what: what was promised, what the model has seen, whose rows they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from detectors.training.patterns import PatternRowsError, rows_needed
from detectors.training.splits import MIN_MERGE, MIN_TRAIN, Split, of_some_clients, split


class Promise(NamedTuple):
    """What the rows are to support.

    Attributes:
        alpha: the false-positive budget.
        delta: the risk that it does not hold.
        client_alarm_budget: of patterns; None: no patterns.
    """

    alpha: float
    delta: float
    client_alarm_budget: float | None


class Usage(NamedTuple):
    """How distinct rows are used.

    Attributes:
        parts: their positions.
        seen: how many are for fitting only.
        clients: how many clients those belong to by choice; 0: split at random.
    """

    parts: Split
    seen: int
    clients: int


def use_rows(
    promise: Promise,
    count: int,
    seed: int,
    *,
    seen: npt.NDArray[np.bool_] | None,
    clients: npt.NDArray[np.int64] | None,
) -> Usage:
    """Splits ``count`` distinct rows.

    Args:
        promise: what they are to support.
        count: n.
        seed: of the split.
        seen: (n,) for fitting only; None: none.
        clients: (n,) a number for each row's client; None: unknown.

    Raises:
        TooFewRowsError: if the budget cannot be kept; says how many rows it takes.
        PatternRowsError: if the patterns' budget cannot be kept; says how many rows it takes.
    """
    alpha, delta, budget = promise
    known = 0 if seen is None else int(seen.sum())
    least = 0
    if budget is not None:
        least = rows_needed(budget)
        left = count - max(known, MIN_TRAIN) - MIN_MERGE
        if left < least:
            raise PatternRowsError(max(left, 0), least, budget)
    parts = split(count, alpha, delta, seed, least=least, seen=seen)
    if clients is None:
        return Usage(parts, known, 0)
    some = of_some_clients(clients, len(parts.train) - known, seed)
    if some is None:
        return Usage(parts, known, 0)
    whole = some if seen is None else some | seen
    try:
        parts = split(count, alpha, delta, seed, least=least, seen=whole, apart=True)
    except ValueError:  # too few rows of the others: at random, then
        return Usage(parts, known, 0)
    return Usage(parts, int(whole.sum()), len(np.unique(clients[some])))
