"""Scores of one thing that come as several outputs of one column each, as in tables. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from proxy.shaping_scores import SUMS

_Tensor = npt.NDArray[Any]

_ALIKE: Final = 1e-3  # relative: half precision
_EPSILON: Final = 1e-9


def scores(views: Mapping[str, _Tensor]) -> list[str]:
    """The outputs of one floating-point score a row. Whole numbers alone are labels, but zeros may
    be the scores of a class that is out of the question.

    Args:
        views: (n, things, scores) by output.
    """
    return [
        name
        for name, view in views.items()
        if view.size
        and view.dtype.kind == "f"
        and view.shape[1:] == (1, 1)
        and (not view.any() or not (view == np.rint(view)).all())
    ]


def distributions(views: Mapping[str, _Tensor], names: Sequence[str]) -> list[tuple[str, ...]]:
    """The outputs that together are a distribution over classes: neighbours of [0, 1] that sum to
    1 in each row, as many as do.

    Shaped one by one they would tell what is to be taken away: the best of them is not the best of
    each, and that they sum to 1 undoes a change that all of them share. Zeros at either end are
    left out: they may be labels.

    Args:
        names: the outputs to look at, each (n, 1, 1), in their order.
    """
    if len(names) < 2:
        return []
    columns = np.concatenate([views[name][:, 0].astype(np.float64) for name in names], axis=1)
    columns = columns[np.isfinite(columns).all(axis=1)]
    if not len(columns):
        return []
    shares = ((columns >= 0) & (columns <= 1)).all(axis=0)
    filled = columns.any(axis=0)
    # What is no share ends a run: it adds more than a run may have.
    sums = np.cumsum(np.where(shares, columns, 2.0), axis=1)
    before = np.hstack([np.zeros((len(sums), 1)), sums])
    found = []
    start = 0
    while start < len(names) - 1:
        stop = _end(sums, before[:, start], start) if shares[start] and filled[start] else 0
        while stop and not filled[stop - 1]:
            stop -= 1
        if stop > start + 1:
            found.append(tuple(names[start:stop]))
            start = stop
        else:
            start += 1
    return found


def _end(sums: _Tensor, before: _Tensor, start: int) -> int:
    """Behind the longest run from a column on that sums to 1 in each row; 0 if there is none.

    Args:
        sums: (n, k) of the columns up to each, which never fall.
        before: (n,) of those before the run.
    """
    low, high = np.searchsorted(sums[0], [before[0] + 1 - SUMS, before[0] + 1 + SUMS + _EPSILON])
    low = max(int(low) - 1, start)  # the sums are as exact as doubles are
    runs = sums[:, low:high] - before[:, None]
    ends = np.flatnonzero((np.abs(runs - 1) <= SUMS).all(axis=0))
    return low + int(ends[-1]) + 1 if ends.size else 0


def alike(views: Mapping[str, _Tensor], names: Sequence[str]) -> dict[str, str]:
    """For each output the first one that says the same, mostly itself.

    Args:
        names: the outputs to look at, each (n, 1, 1).
    """
    if len(names) < 2:
        return {name: name for name in names}
    columns = np.stack([views[name].reshape(-1).astype(np.float64) for name in names])
    columns[~np.isfinite(columns)] = 0.0
    slack = _ALIKE * np.abs(columns)
    return {
        name: names[int((np.abs(columns - own) <= slack).all(axis=1).argmax())]
        for name, own in zip(names, columns, strict=True)
    }


def says_two_classes(view: _Tensor, views: Mapping[str, _Tensor]) -> bool:
    """Whether an output of one column, (n, 1, 1), is what another one of two columns has in the
    second, or the log-odds of it."""
    column = view.reshape(-1).astype(np.float64)
    for other in views.values():
        if other.dtype.kind != "f" or other.shape != (len(column), 1, 2):
            continue
        first, second = other[:, 0].astype(np.float64).T
        with np.errstate(all="ignore"):
            odds = np.log(second) - np.log(first)
        for same in (second, odds, second - first):
            if np.allclose(column, same, rtol=_ALIKE, atol=_EPSILON, equal_nan=True):
                return True
    return False
