"""A model's answer to one row as a client reads it: scores and the best class, without a bundle."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from loadtest.targets.base import Scores
from proxy.protocols.base import InferResponse
from proxy.settings.answers import Answer

_SLACK: Final = 0.05
"""By how much a row's probabilities may miss 1 for each class: coarse answers are rounded to one
decimal, and are still probabilities."""
_SHARP: Final = 1e-3


class Unreadable(ValueError):  # noqa: N818 - a property of the answer
    """An answer that says nothing of the row, as far as it is understood: the message says why."""


class Reader:
    """Reads the answers of one model, one row each.

    Args:
        answer: which output, what it holds and what the classes are called, as far as is stated.
        classes: how many there seem to be, as by labels that may not show them all; 0: as many as
            the first answer with scores has columns.

    Attributes:
        classes: as far as they are known; 0 for a regression.
    """

    def __init__(self, answer: Answer, classes: int = 0) -> None:
        self._output = answer.output
        self._kind: str = answer.kind
        self._places = {name: place for place, name in enumerate(answer.classes)}
        self.classes = 0 if answer.kind == "values" else len(answer.classes) or classes
        self._named = bool(answer.classes)
        self._logits = answer.kind == "logits"

    def read(self, response: InferResponse) -> tuple[Scores, int]:
        """The scores, and the index of the best class, -1 for a regression.

        Probabilities are left as they are; logits become their softmax; of a label, 1 at its place.

        Raises:
            Unreadable: if no output holds them.
        """
        best: tuple[int, str, npt.NDArray[Any]] | None = None
        for name, tensor in response.tensors.items():
            if self._output is not None and name != self._output:
                continue
            flat = tensor.reshape(-1)
            found = self._form(flat)
            if found is not None and (best is None or found[0] > best[0]):
                best = (*found, flat)
        if best is None:
            shown = ", ".join(
                f"{name} {tensor.dtype} {list(tensor.shape)}"
                for name, tensor in list(response.tensors.items())[:8]
            )
            raise Unreadable(f"no output is an answer to one row: {shown or 'there are none'}")
        _, form, flat = best
        if form == "values":
            return _finite(flat), -1
        if form == "label":
            return self._label(flat[0])
        if form == "chance":
            second = float(_finite(flat)[0])
            if self._logits:
                second = float(1 / (1 + np.exp(-np.clip(second, -700, 700))))
            scores = np.array([1 - second, second])
        else:
            scores = self._probabilities(_finite(flat))
        self.classes = scores.size
        return scores, int(scores.argmax())

    def _form(self, flat: npt.NDArray[Any]) -> tuple[int, str] | None:
        """How much a tensor tells, and as what."""
        kind, dtype, width = self._kind, flat.dtype.kind, flat.size
        if not width:
            return None
        if kind == "values":
            return (3, "values") if dtype in "fiu" else None
        if dtype == "f" and width > 1 and kind != "labels":
            if self.classes == width:
                return 4, "scores"
            return None if self._named else (3, "scores")
        if width > 1:
            return None
        if dtype == "f" and kind != "labels":
            if self.classes == 2 or kind in {"probabilities", "logits"}:
                return 3, "chance"
            # A whole number may be a class that a server writes as a float.
            return (1, "label") if self.classes else (1, "values")
        return 2, "label"

    def _probabilities(self, scores: Scores) -> Scores:
        if not self._logits and self._kind == "auto":
            # Once they were none, they are none: a row of logits may look like probabilities.
            off = abs(float(scores.sum()) - 1)
            inside = bool((scores >= 0).all() and (scores <= 1).all())
            self._logits = not inside or off > max(_SHARP, _SLACK * scores.size)
        if not self._logits:
            return scores
        powers = np.exp(scores - scores.max())
        return np.asarray(powers / powers.sum())

    def _label(self, value: Any) -> tuple[Scores, int]:
        if isinstance(value, bytes):
            name = value.decode("utf-8", "replace")
        else:
            number = float(value)
            if not number.is_integer():
                raise Unreadable(f"a label is not a whole number: {number}")
            name = str(int(number))
        place = self._places.get(name)
        if place is None and name.isdecimal() and int(name) < (self.classes or 0):
            # Numbers are places where the classes have other names, or none.
            place = int(name)
        if place is None:
            known = f"one of {self.classes}" if self.classes else "known: say answer.classes"
            raise Unreadable(f"the class {name[:64]!r} is not {known}")
        scores = np.zeros(self.classes)
        scores[place] = 1.0
        return scores, place


def _finite(flat: npt.NDArray[Any]) -> Scores:
    values: Scores = flat.astype(np.float64)
    if not np.isfinite(values).all():
        raise Unreadable("an answer is not finite")
    return values
