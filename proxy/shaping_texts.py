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

from proxy.shaping_scores import Kind, Reals, nearest

Changed: TypeAlias = tuple[Reals, list[int]]
"""New scores, and of which place each is."""

_CLASSIFIED: Final = re.compile(rb"(-?[0-9]{1,300}\.[0-9]+)(:[0-9]{1,300}(?::.*)?)", re.DOTALL)


def reworded(
    tensor: npt.NDArray[Any], change: Callable[[Reals], Changed], decimals: int
) -> npt.NDArray[Any] | None:
    """Strings with other scores; None if none of them is such a string.

    Args:
        tensor: (m, k) of bytes.
        change: takes the (k,) scores of one row.
        decimals: to which the scores are rounded in a row that holds other strings too: NaN and
            infinities are such.
    """
    found = None
    for number, texts in enumerate(tensor.tolist()):
        matches = [_CLASSIFIED.fullmatch(text) for text in texts]
        known = [(place, match) for place, match in enumerate(matches) if match]
        if not known:
            continue
        if found is None:
            found = tensor.copy()
        scores = np.array([float(match[1]) for _, match in known])
        new, places = change(scores) if len(known) == len(texts) else rounded(scores, decimals)
        for (place, _), score, whence in zip(known, new.tolist(), places, strict=True):
            found[number, place] = b"%f%b" % (score, known[whence][1][2])
    return found


def rounded(scores: Reals, decimals: int) -> Changed:
    """Rounded, in their order."""
    return nearest(scores, decimals), list(range(scores.size))


def label(scores: Reals, kind: Kind) -> Changed:
    """The best, in every place: as a probability 1, as a logit 8.

    The best alone tells which it is: how many others are listed is the client's choice.
    """
    best = int(scores.argmax())
    share = kind != "logits" and 0 <= scores[best] <= 1
    return np.full(scores.size, 1.0 if share else 8.0), [best] * scores.size


def best_few(scores: Reals, k: int) -> Changed:
    """The best ``k``, and the last of them again in every place after it.

    A mean of the others would tell them one by one: the client chooses how many are listed.
    """
    order = np.argsort(-scores, kind="stable")
    places = order[np.minimum(np.arange(scores.size), k - 1)]
    return scores[places], places.tolist()
