"""Scores as text: what Triton answers to the parameter ``classification``. Pure.

Each string is a score as C's ``%f`` writes it, the index of the class, and its name if it has one;
the best comes first. So not only the scores leave as text: the order tells too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from proxy.shaping_scores import Reals, nearest

Changed: TypeAlias = tuple[Reals, list[int]]
"""New scores, and of which place each is."""

CLASSES: Final = 65_536
"""Beyond that, indices begin anew: noise is drawn for each class up to the last."""

_CLASSIFIED: Final = re.compile(rb"(-?[0-9]{1,300}\.[0-9]+)(:([0-9]{1,300})(?::.*)?)", re.DOTALL)


def reworded(
    tensor: npt.NDArray[Any], change: Callable[[int, Reals, list[int]], Changed]
) -> npt.NDArray[Any] | None:
    """Strings with other scores; None if none of them is such a string.

    Args:
        tensor: (m, k) of bytes.
        change: takes the number of the row, its (k,) scores and the indices of their classes. In a
            row that holds other strings too, each is taken on its own.
    """
    found = None
    for number, texts in enumerate(tensor.tolist()):
        matches = map(_CLASSIFIED.fullmatch, texts)
        known = [(place, match) for place, match in enumerate(matches) if match]
        if not known:
            continue
        if found is None:
            found = tensor.copy()
        for group in [known] if len(known) == len(texts) else [[one] for one in known]:
            scores = np.array([float(match[1]) for _, match in group])
            classes = [int(match[3]) % CLASSES for _, match in group]
            new, places = change(number, scores, classes)
            for (place, _), score, whence in zip(group, new.tolist(), places, strict=True):
                found[number, place] = b"%f%b" % (score, group[whence][1][2])
    return found


def rounded(scores: Reals, decimals: int) -> Changed:
    """Rounded, in their order."""
    return nearest(scores, decimals), list(range(scores.size))


def label(scores: Reals) -> Changed:
    """The best, in every place."""
    best = int(scores.argmax())
    return np.full(scores.size, 1.0 if _are_shares(scores) else 8.0), [best] * scores.size


def best_few(scores: Reals, indices: list[int], k: int) -> Changed:
    """The best ``k``; the others at their mean, in the order of their classes."""
    order = np.argsort(-scores, kind="stable").tolist()
    others = sorted(order[k:], key=indices.__getitem__)
    new = scores[order]
    if others:
        new[k:] = scores[others].mean()
    return new, order[:k] + others


def disturbed(scores: Reals, noise: Reals, *, keep: bool) -> Changed:
    """With noise, (k,), in the log-odds; the classes that are not shown have none."""
    if _are_shares(scores):
        new = scores * np.exp(noise)
        new /= max(new.sum() + max(1 - scores.sum(), 0.0), 1e-300)
    else:
        new = scores + noise
    was, is_ = int(scores.argmax()), int(new.argmax())
    if keep:
        new[was], new[is_] = new[is_], new[was]
    order = np.argsort(-new, kind="stable").tolist()
    return new[order], order


def _are_shares(scores: Reals) -> bool:
    return bool((scores >= 0).all() and scores.sum() <= 1.01)
