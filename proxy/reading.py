"""The model's answer in the detectors' words: the tensors of a response as labels, probabilities or
values in the bundle's order of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from detectors.agreement.base import Answers, Labels, Need
from detectors.arrays import Floats
from proxy.protocols.base import InferResponse

Kind: TypeAlias = Literal["auto", "probabilities", "logits", "labels", "values"]

SUM_SLACK: Final = 1e-3
"""By how much the probabilities of a row may miss 1; ten times as much in half precision."""

_MOST_DECIMALS: Final = 4
"""Probabilities of so many decimals or fewer may miss 1 by what their rounding explains."""
_LARGEST_LABEL: Final = 2.0**31
_REMEMBERED: Final = 64

_Tensor: TypeAlias = npt.NDArray[Any]
_Read: TypeAlias = Callable[[_Tensor], Answers]
_Signature: TypeAlias = tuple[object, ...]


class UnreadableAnswer(ValueError):  # noqa: N818 - a property of the answer, not an error of ours
    """An answer that is not what the detectors need: the message says why."""


class MissingAnswer(UnreadableAnswer):
    """None of the outputs is what the detectors need: perhaps the client asked for others."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """How answers of one make are read: which output, and what of it."""

    output: str
    read: _Read


class AnswerReader:
    """Reads the answers of one model. Any thread.

    Args:
        classes: of the bundle, in its order; None for a regression model.
        outputs: the number of classes, or of values a row.
        needs: what is to be known of an answer.
        output: the tensor that holds the answer; None: the one that fits.
        kind: what it holds; ``auto``: told by datatype, shape, and whether rows sum to 1.
        order: the classes in the order of the output's columns; none: the bundle's.

    Raises:
        ValueError: if ``order`` is not a permutation of ``classes``, or the kind is not one of
            such a model.
    """

    def __init__(
        self,
        classes: Sequence[str] | None,
        outputs: int,
        needs: frozenset[Need],
        *,
        output: str | None = None,
        kind: Kind = "auto",
        order: Sequence[str] = (),
    ) -> None:
        if classes is None and order:
            raise ValueError("a regression model has no classes")
        if kind != "auto" and (kind == "values") != (classes is None):
            of = "values" if classes is None else "classes"
            raise ValueError(f"the bundle is of {of}: an answer of {kind} does not fit it")
        if classes is not None and order and sorted(order) != sorted(classes):
            raise ValueError(
                f"the classes are not those of the bundle: {', '.join(sorted(classes)[:16])}"
            )
        self._classes = tuple(classes or ())
        self._outputs = outputs
        self._needs = needs
        self._output = output
        self._kind = kind
        self._regression = classes is None
        wire = tuple(order) or self._classes
        place = {name: index for index, name in enumerate(self._classes)}
        # Column or index j of the wire is class _from_wire[j] of the bundle.
        self._from_wire = np.array([place[name] for name in wire], np.int64)
        self._columns = None if wire == self._classes else np.argsort(self._from_wire)
        self._numbered = all(name.removeprefix("-").isdecimal() for name in wire)
        self._place = place
        self._known: dict[_Signature, _Choice] = {}

    def read(
        self, response: InferResponse, n: int, among: Collection[str] | None = None
    ) -> Answers:
        """What the model said of ``n`` rows.

        Args:
            among: the names of all the model's outputs, where the client chose some of them; empty:
                not known. Unless this reader was told which output to read, it may then be one
                alone, all there are, or several that name the same classes: what is judged is what
                leaves, whatever else the client wants to see.

        Raises:
            MissingAnswer: if no output, or more than one, holds ``n`` answers of the kind, or if it
                does not tell all that is needed.
            UnreadableAnswer: if an answer is not finite or of no known class.
        """
        tensors = response.tensors
        signature = (n, *[(name, t.dtype.char, t.shape) for name, t in tensors.items()])
        choice = self._known.get(signature)
        if choice is None:
            choice = self._choose(tensors, n)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[signature] = choice
        try:
            # Logits may be further apart than a double can tell; what is NaN is found out.
            with np.errstate(over="ignore", invalid="ignore"):
                answers = choice.read(tensors[choice.output])
                if among is not None and len(tensors) > 1 and self._output is None:
                    self._check_chosen(tensors, n, among, answers)
        except UnreadableAnswer:
            raise
        except ValueError as error:
            raise UnreadableAnswer(f"output {choice.output!r}: {error}") from None
        for need in self._needs:
            if not answers.has(need):
                raise MissingAnswer(f"output {choice.output!r} tells no {need}")
        return answers

    def _check_chosen(
        self, tensors: dict[str, _Tensor], n: int, among: Collection[str], answers: Answers
    ) -> None:
        """Checks that several outputs are all there are, or name the classes of these answers.

        Raises:
            MissingAnswer: otherwise.
            ValueError: if one is not finite or of no known class.
        """
        if among and tensors.keys() >= set(among):
            return
        judged = answers.labels
        for tensor in tensors.values():
            fit = self._fit(tensor, n)
            labels = None if fit is None else fit[1](tensor).labels
            if judged is None or labels is None or not np.array_equal(labels, judged):
                raise MissingAnswer(f"answer.output names none of those chosen: {_shown(tensors)}")

    def _choose(self, tensors: dict[str, _Tensor], n: int) -> _Choice:
        if self._output is not None:
            tensor = tensors.get(self._output)
            if tensor is None:
                raise MissingAnswer(f"no output {self._output!r}: {_shown(tensors)}")
            fit = self._fit(tensor, n)
            if fit is None:
                raise MissingAnswer(
                    f"not {n} answers of the expected kind: {_shown({self._output: tensor})}"
                )
            return _Choice(self._output, fit[1])
        fits = [
            (fit[0], name, fit[1])
            for name, tensor in tensors.items()
            if (fit := self._fit(tensor, n)) is not None
        ]
        if not fits:
            raise MissingAnswer(f"no output holds {n} answers: {_shown(tensors)}")
        best = max(rank for rank, _, _ in fits)
        chosen = [(name, read) for rank, name, read in fits if rank == best]
        if len(chosen) > 1:
            names = ", ".join(name for name, _ in chosen)
            raise MissingAnswer(f"several outputs could hold the answer ({names}): name one")
        return _Choice(*chosen[0])

    def _fit(self, tensor: _Tensor, n: int) -> tuple[int, _Read] | None:
        """How much a tensor tells (scores more than labels), and how it is read; None if it is not
        ``n`` answers."""
        single = n == 1 and tensor.ndim == 1 and tensor.shape == (self._outputs,)
        shape = (1, *tensor.shape) if single and self._outputs > 1 else tensor.shape
        if len(shape) > 2 and all(size == 1 for size in shape[2:]):
            shape = shape[:2]
        if len(shape) not in {1, 2} or shape[0] != n:
            return None
        width = 1 if len(shape) == 1 else shape[1]
        read = self._reading(tensor.dtype.kind, width)
        if read is None:
            return None
        rank, inner = read
        return rank, lambda given: inner(given.reshape(n, width))

    def _reading(self, dtype: str, width: int) -> tuple[int, _Read] | None:
        kind, count = self._kind, self._outputs
        if self._regression:
            fits = width == count and dtype in "fiu"
            return (2, Answers.of_values) if fits else None
        if dtype == "f" and kind != "labels":
            if width == count and count > 1:
                return 2, self._scores
            if width == 1 and count == 2:
                return 2, self._chances
        if width == 1 and kind in {"auto", "labels"}:
            if dtype in "iubf":
                return 1, self._numbers
            if dtype == "O":
                return 1, self._names
        return None

    def _scores(self, given: _Tensor) -> Answers:
        """(n, C) scores, one for each class."""
        scores = given.astype(np.float64)
        if self._columns is not None:
            scores = scores[:, self._columns]
        if self._kind != "logits":
            sums = scores.sum(axis=1)
            if _are_probabilities(scores, sums, SUM_SLACK * (10 if given.itemsize == 2 else 1)):
                return Answers(scores.argmax(axis=1), scores / sums[:, None])
            if self._kind == "probabilities":
                raise UnreadableAnswer("the rows are no probabilities: they do not sum to 1")
        return Answers.of_logits(scores)

    def _chances(self, given: _Tensor) -> Answers:
        """(n, 1) scores of a binary classifier: the chances of its second class."""
        second = given.astype(np.float64)
        if self._kind == "logits":
            scores = np.hstack([np.zeros_like(second), second])
            return Answers.of_logits(scores if self._columns is None else scores[:, self._columns])
        if not bool(((second >= 0) & (second <= 1)).all()):
            raise UnreadableAnswer("no probabilities of the second class: they leave [0, 1]")
        scores = np.hstack([1 - second, second])
        return Answers.of_probabilities(
            scores if self._columns is None else scores[:, self._columns]
        )

    def _numbers(self, given: _Tensor) -> Answers:
        """(n, 1) numbers: names of classes where those are numbers, else places in their order."""
        flat = given.reshape(-1)
        if flat.dtype.kind == "f":
            flat = flat.astype(np.float64)  # the largest label is beyond half precision
        if flat.dtype.kind == "f" and not bool(
            ((np.abs(flat) <= _LARGEST_LABEL) & (np.rint(flat) == flat)).all()
        ):
            raise UnreadableAnswer("a label is not a whole number")
        if flat.dtype == np.uint64 and bool((flat > _LARGEST_LABEL).any()):
            raise UnreadableAnswer("a label is of no known class: it is too large")
        whole = flat.astype(np.int64)
        if self._numbered:
            return self._of([str(label) for label in whole.tolist()])
        if not bool(((whole >= 0) & (whole < self._outputs)).all()):
            raise UnreadableAnswer(f"a label is none of {self._outputs} classes")
        return Answers.of_labels(self._from_wire[whole])

    def _names(self, given: _Tensor) -> Answers:
        """(n, 1) names of classes."""
        return self._of([str(name, "utf-8", "replace") for name in given.reshape(-1).tolist()])

    def _of(self, names: Sequence[str]) -> Answers:
        try:
            labels: Labels = np.array([self._place[name] for name in names], np.int64)
        except KeyError as unknown:
            raise UnreadableAnswer(f"a label is of no known class: {unknown}") from None
        return Answers.of_labels(labels)


def _are_probabilities(scores: Floats, sums: Floats, slack: float) -> bool:
    """Whether each row lies in [0, 1] and sums to 1, as exactly as its decimals allow."""
    if not (scores.min(initial=0) >= 0 and scores.max(initial=0) <= 1):  # nor if one is NaN
        return False
    low, high = float(sums.min(initial=1)), float(sums.max(initial=1))
    missed = max(1 - low, high - 1)
    if missed <= slack:
        return True
    if low <= 0:
        return False
    for decimals in range(1, _MOST_DECIMALS + 1):
        if bool(np.isclose(scores, np.round(scores, decimals), rtol=0, atol=1e-6).all()):
            explained: bool = missed <= scores.shape[1] * 0.5 * 10.0**-decimals + slack
            return explained
    return False


def _shown(tensors: dict[str, _Tensor]) -> str:
    said = [f"{name!r} {t.dtype.name} {list(t.shape)}" for name, t in list(tensors.items())[:8]]
    return ", ".join(said) or "no outputs"
