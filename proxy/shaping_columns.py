"""Scores of one thing that come as several outputs of one column each, as in tables. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from proxy.shaping_scores import SUMS

_Tensor = npt.NDArray[Any]

_ALIKE: Final = 1e-3  # relative: half precision


def scores(views: Mapping[str, _Tensor]) -> list[str]:
    """The outputs of one floating-point score a row. Whole numbers alone are labels.

    Args:
        views: (n, things, scores) by output.
    """
    return [
        name
        for name, view in views.items()
        if view.size and view.dtype.kind == "f" and view.shape[1:] == (1, 1) and not _is_whole(view)
    ]


def distributions(views: Mapping[str, _Tensor], names: Sequence[str]) -> list[tuple[str, ...]]:
    """The outputs that together are a distribution over classes: neighbours of [0, 1] that sum to
    1 in each row, as many as do.

    Shaped one by one they would tell what is to be taken away: the best of them is not the best of
    each, and that they sum to 1 undoes a change that all of them share.

    Args:
        names: the outputs to look at, each (n, 1, 1), in their order.
    """
    if len(names) < 2:
        return []
    columns = np.concatenate([views[name][:, 0].astype(np.float64) for name in names], axis=1)
    columns = columns[np.isfinite(columns).all(axis=1)]
    shares = ((columns >= 0) & (columns <= 1)).all(axis=0)
    found = []
    start = 0
    while start < len(names) - 1 and len(columns):
        run = np.cumsum(columns[:, start:], axis=1)
        fits = (np.abs(run - 1) <= SUMS).all(axis=0) & np.logical_and.accumulate(shares[start:])
        ends = np.flatnonzero(fits)
        if ends.size and ends[-1]:
            stop = start + int(ends[-1]) + 1
            found.append(tuple(names[start:stop]))
            start = stop
        else:
            start += 1
    return found


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


def _is_whole(view: _Tensor) -> bool:
    return bool((view == np.rint(view)).all())
