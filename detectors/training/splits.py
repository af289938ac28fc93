"""Which rows are for fitting, which for the merge and which for the threshold."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from detectors.arrays import Singles
from detectors.calibration import BudgetError, rows_needed

Positions = npt.NDArray[np.int64]

MIN_TRAIN: Final = 100
MIN_MERGE: Final = 50
THRESHOLD_SHARE: Final = 0.4
MERGE_SHARE: Final = 0.25
"""Of what the threshold leaves."""
MIN_CLIENTS: Final = 20
"""Below this a split by client would leave the threshold to a handful of them."""
MAX_TRAIN: Final = 20_000
MAX_MERGE: Final = 10_000
MAX_THRESHOLD: Final = 100_000
"""Beyond these a row adds time and size, and next to nothing else."""


class Split(NamedTuple):
    """Disjoint positions of rows.

    Attributes:
        train: the estimators are fitted on these.
        merge: split A, which fixes the tails.
        threshold: split B, which calibrates the merged score.
        unused: beyond the caps.
    """

    train: Positions
    merge: Positions
    threshold: Positions
    unused: Positions


class TooFewRowsError(BudgetError):
    """There are too few distinct rows to fit, merge and keep the budget.

    ``have`` and ``need`` count rows that may calibrate: all, but for those that are for fitting
    only.
    """

    def __init__(self, have: int, alpha: float, delta: float, *, seen: int = 0) -> None:
        self.calibration = rows_needed(alpha, delta)
        self.seen = seen
        super().__init__(have, self.calibration + MIN_MERGE + _lacking(seen), alpha, delta)

    def __str__(self) -> str:
        kind = "distinct rows that the model was not trained on" if self.seen else "distinct rows"
        lacking = _lacking(self.seen)
        return (
            f"too few rows: {self.have} {kind}, {self.need} needed "
            f"({self.calibration} to keep this false-positive budget with this confidence, "
            + (f"{lacking} to fit and " if lacking else "and ")
            + f"{MIN_MERGE} to merge); more rows, a larger budget or a lower confidence would do"
        )


def _lacking(seen: int) -> int:
    """Rows that are still needed to fit, beside those that are for nothing else."""
    return max(MIN_TRAIN - seen, 0)


def distinct(rows: Singles) -> Positions:
    """Positions, rising, of the first occurrence of each distinct row.

    A row in two splits is scored by detectors that were fitted on it: its score is no longer
    exchangeable with that of a new row. So duplicates are dropped before the split. The zero's sign
    does not count.
    """
    _, first = np.unique(_packed(rows), return_index=True)
    positions: Positions = np.sort(first).astype(np.int64)
    return positions


def of_any(rows: Singles, marks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Of each distinct row, in the order of :func:`distinct`, whether any of its occurrences is
    marked."""
    _, first, which = np.unique(_packed(rows), return_index=True, return_inverse=True)
    found = np.zeros(len(first), dtype=np.bool_)
    np.logical_or.at(found, which, marks)
    return found[np.argsort(first)]


def _packed(rows: Singles) -> npt.NDArray[np.void]:
    """(n,) the rows' bytes, with one zero only."""
    plain = np.ascontiguousarray(rows) + np.float32(0.0)
    packed: npt.NDArray[np.void] = plain.view(
        np.dtype((np.void, plain.dtype.itemsize * plain.shape[1]))
    ).ravel()
    return packed


def split(
    count: int,
    alpha: float,
    delta: float,
    seed: int,
    *,
    least: int = 0,
    seen: npt.NDArray[np.bool_] | None = None,
    apart: bool = False,
) -> Split:
    """Splits ``count`` rows at random, deterministically under ``seed``.

    The threshold gets 40 % of the rows, or more if the budget takes more, or ``least`` is more.

    Args:
        count: n.
        alpha: the false-positive budget.
        delta: the risk that it does not hold.
        seed: of the order.
        least: rows for the threshold.
        seen: (n,) rows that are for fitting only, such as those that the model was trained on: its
            answers to them are too good to calibrate with. None: none.
        apart: whether no other row may fit; what is left over then goes to the threshold.

    Raises:
        TooFewRowsError: if the budget cannot be kept; says how many rows it takes.
        ValueError: if there are not ``least`` rows beside those to fit and to merge.
    """
    need = rows_needed(alpha, delta)
    known = 0 if seen is None else int(seen.sum())
    free = count - known - _lacking(known)
    if free < need + MIN_MERGE:
        raise TooFewRowsError(count - known, alpha, delta, seen=known)
    if free < least + MIN_MERGE:
        raise ValueError(f"{count} rows leave fewer than {least} for the threshold")
    need = max(need, least)
    threshold = max(int(count * THRESHOLD_SHARE), need)
    merge = max(int((count - threshold) * MERGE_SHARE), MIN_MERGE)
    # Where rows are scarce the threshold gives first: its share was more than its need.
    threshold = max(threshold - max(threshold + merge - free, 0), need)
    merge = min(merge, free - threshold)
    if apart and known >= MIN_TRAIN:
        threshold = free - merge
    order = np.random.default_rng(seed).permutation(count).astype(np.int64)
    fixed = order[:0] if seen is None else order[seen[order]]
    order = order if seen is None else order[~seen[order]]
    train = len(order) - threshold - merge
    parts = np.split(order, [train, train + merge])
    parts[0] = np.concatenate([fixed, parts[0]])
    caps = (MAX_TRAIN, MAX_MERGE, max(MAX_THRESHOLD, need))
    used = [part[:cap] for part, cap in zip(parts, caps, strict=True)]
    unused = np.concatenate([part[cap:] for part, cap in zip(parts, caps, strict=True)])
    return Split(used[0], used[1], used[2], unused)


def rows_to_calibrate(threshold: int) -> int:
    """The fewest distinct rows of which :func:`split` gives ``threshold`` to the threshold by its
    share, where none are for fitting only."""
    return max(math.ceil(threshold / THRESHOLD_SHARE), threshold + MIN_TRAIN + MIN_MERGE)


def of_some_clients(
    clients: npt.NDArray[np.int64], most: int, seed: int
) -> npt.NDArray[np.bool_] | None:
    """(n,) the rows of some clients, to fit on, so that the rows of others can calibrate.

    Rows of one client are alike. A threshold that was set on rows of the clients that were fitted
    on would promise too much about new clients.

    Args:
        clients: (n,) a number for each row's client.
        most: rows, at most.
        seed: of the choice, which is at random.

    Returns:
        None if the clients are too few, or too unequal, to be told apart like this.
    """
    names, sizes = np.unique(clients, return_counts=True)
    if len(names) < MIN_CLIENTS:
        return None
    chosen, rows = [], 0
    for place in np.random.default_rng(seed).permutation(len(names)):
        if rows + sizes[place] <= most:
            chosen.append(names[place])
            rows += int(sizes[place])
    if rows < MIN_TRAIN or 2 * len(chosen) < most / len(clients) * len(names):
        return None
    found: npt.NDArray[np.bool_] = np.isin(clients, chosen)
    return found
