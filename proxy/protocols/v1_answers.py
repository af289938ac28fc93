"""TensorFlow Serving's answer to ``classify``: for each row a list of pairs of class and score."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from proxy.protocols.nested import from_flat, to_nested_finite, unnest
from proxy.protocols.tensors import Tensor
from proxy.rules import SHAPE, VALUE, Refusal

CLASSES: Final = "classes"
SCORES: Final = "scores"


class Pairs(Enum):
    """The form of such an answer, beside those of ``json_tensors.Form``."""

    CLASSES = "pairs"


def read_pairs(value: Any) -> dict[str, Tensor] | None:
    """Tensors ``classes`` (BYTES) and ``scores``, each (rows, classes); None for another answer,
    as that to ``regress`` is.

    Raises:
        Refusal: SHAPE or VALUE.
    """
    flat, shape = unnest("result", value, smallest=0)
    if len(shape) == 1:
        return None
    if len(shape) != 3 or shape[2] != 2:
        raise Refusal(SHAPE, "result is no list of pairs for each row")
    classes = from_flat(CLASSES, flat[::2], shape[:2])
    if not classes.dtype.hasobject and classes.size:
        raise Refusal(SHAPE, "result names no classes")
    scores = from_flat(SCORES, flat[1::2], shape[:2])
    if scores.dtype.kind not in "if":
        raise Refusal(VALUE, "result has a score that is not a number")
    return {CLASSES: classes, SCORES: scores}


def write_pairs(tensors: Mapping[str, Tensor]) -> list[list[tuple[str, Any]]]:
    """The pairs again.

    Raises:
        ValueError: for a score that is not finite.
    """
    classes = to_nested_finite(CLASSES, tensors[CLASSES])
    scores = to_nested_finite(SCORES, tensors[SCORES]).tolist()
    return [
        list(zip(names, numbers, strict=True))
        for names, numbers in zip(classes, scores, strict=True)
    ]
