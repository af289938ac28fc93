"""Which rows are for fitting, which for the merge and which for the threshold."""

from __future__ import annotations

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
    """There are too few distinct rows to fit, merge and keep the budget."""

    def __init__(self, have: int, alpha: float, delta: float) -> None:
        calibration = rows_needed(alpha, delta)
        super().__init__(have, calibration + MIN_TRAIN + MIN_MERGE, alpha, delta)

    def __str__(self) -> str:
        calibration = self.need - MIN_TRAIN - MIN_MERGE
        return (
            f"too few rows: {self.have} distinct rows, {self.need} needed "
            f"({calibration} to keep this false-positive budget with this confidence, "
            f"{MIN_TRAIN} to fit and {MIN_MERGE} to merge); "
            "more rows, a larger budget or a lower confidence would do"
        )


def distinct(rows: Singles) -> Positions:
    """Positions, rising, of the first occurrence of each distinct row.

    A row in two splits is scored by detectors that were fitted on it: its score is no longer
    exchangeable with that of a new row. So duplicates are dropped before the split. The zero's sign
    does not count.
    """
    plain = np.ascontiguousarray(rows) + np.float32(0.0)
    packed = plain.view(np.dtype((np.void, plain.dtype.itemsize * plain.shape[1]))).ravel()
    _, first = np.unique(packed, return_index=True)
    positions: Positions = np.sort(first).astype(np.int64)
    return positions


def split(count: int, alpha: float, delta: float, seed: int, *, least: int = 0) -> Split:
    """Splits ``count`` rows at random, deterministically under ``seed``.

    The threshold gets 40 % of the rows, or more if the budget takes more, or ``least`` is more.

    Raises:
        TooFewRowsError: if the budget cannot be kept; says how many rows it takes.
        ValueError: if there are not ``least`` rows beside those to fit and to merge.
    """
    need = rows_needed(alpha, delta)
    if count < need + MIN_TRAIN + MIN_MERGE:
        raise TooFewRowsError(count, alpha, delta)
    if count < least + MIN_TRAIN + MIN_MERGE:
        raise ValueError(f"{count} rows leave fewer than {least} for the threshold")
    need = max(need, least)
    threshold = max(int(count * THRESHOLD_SHARE), need)
    merge = max(int((count - threshold) * MERGE_SHARE), MIN_MERGE)
    train = count - threshold - merge
    if train < MIN_TRAIN:  # the threshold's share was more than its need
        threshold -= MIN_TRAIN - train
        train = MIN_TRAIN
    order = np.random.default_rng(seed).permutation(count).astype(np.int64)
    parts = np.split(order, [train, train + merge])
    caps = (MAX_TRAIN, MAX_MERGE, max(MAX_THRESHOLD, need))
    used = [part[:cap] for part, cap in zip(parts, caps, strict=True)]
    unused = np.concatenate([part[cap:] for part, cap in zip(parts, caps, strict=True)])
    return Split(used[0], used[1], used[2], unused)
