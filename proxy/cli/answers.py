"""Where ``fit`` and ``score`` have the model's answers from: a file, or the model itself.

Both are read as the gateway will read them, so that what is calibrated is what is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from detectors.agreement.base import Answers, Need
from detectors.sample import class_order
from detectors.training.readers import ANSWER_NAMES, DataError, read_answers
from proxy.cli.model_server import ModelServer
from proxy.protocols.base import InferResponse, Rows
from proxy.reading import AnswerReader, Kind, UnreadableAnswer

KINDS: Final = ("auto", "probabilities", "logits", "labels", "values")


class Reading:
    """How answers are read.

    Args:
        classes: the model's classes; None: told by the first answer.
        order: the same in the order of the output's columns; none: as they are.
        outputs: the values of a regression model's answer; None: a classifier's, or told by the
            first answer.
        regression: whether the answers are values.
        output: the tensor that holds the answer; None: the one that fits.
        kind: what it holds.
    """

    def __init__(
        self,
        classes: Sequence[str] | None,
        *,
        order: Sequence[str] = (),
        regression: bool = False,
        outputs: int | None = None,
        output: str | None = None,
        kind: Kind = "auto",
    ) -> None:
        self.classes = None if classes is None else tuple(classes)
        self._order = tuple(order)
        self._regression = regression
        self._outputs = outputs
        self._output = output
        self._kind: Kind = kind
        self._reader: AnswerReader | None = None

    def read(self, response: InferResponse, n: int) -> Answers:
        """The answers to ``n`` rows.

        Raises:
            DataError: if they cannot be read.
        """
        try:
            if self._reader is None:
                self._reader = self._made(response, n)
            return self._reader.read(response, n)
        except UnreadableAnswer as error:
            raise DataError(f"the model's answer cannot be read: {error}") from error
        except ValueError as error:
            raise DataError(f"the model's answer: {error}") from error

    def file(self, path: Path, count: int) -> Answers:
        """The answers in a file to ``count`` rows.

        Raises:
            DataError: if they cannot be read.
        """
        array, name = read_answers(path, count)
        if self._kind == "auto" and name in ANSWER_NAMES and name != "answers":
            self._kind = name  # type: ignore[assignment]  # one of the kinds, as ANSWER_NAMES is
        try:
            return self.read(InferResponse({name or "answers": array}, count), count)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def _made(self, response: InferResponse, n: int) -> AnswerReader:
        need: frozenset[Need]
        if self._regression:
            need, outputs, classes = (
                frozenset({"values"}),
                self._outputs or self._width(response, n),
                None,
            )
        else:
            classes = self.classes or self._told(response, n)
            need, outputs, self.classes = frozenset({"labels"}), len(classes), classes
        return AnswerReader(
            classes, outputs, need, output=self._output, kind=self._kind, order=self._order
        )

    def _candidates(self, response: InferResponse) -> list[npt.NDArray[np.generic]]:
        tensors = response.tensors
        if self._output is None:
            return list(tensors.values())
        return [tensors[self._output]] if self._output in tensors else []

    def _width(self, response: InferResponse, n: int) -> int:
        """The values of a row, in the first output that has some."""
        for tensor in self._candidates(response):
            if tensor.dtype.kind in "fiu" and len(tensor.shape) in {1, 2} and len(tensor) == n:
                return 1 if tensor.ndim == 1 else tensor.shape[1]
        raise DataError("the model's answer holds no values")

    def _told(self, response: InferResponse, n: int) -> tuple[str, ...]:
        """Classes that nobody named: the columns of scores, or all labels that occur."""
        candidates = self._candidates(response)
        for tensor in candidates:
            if tensor.dtype.kind == "f" and tensor.ndim == 2 and tensor.shape[1] > 1:
                return tuple(map(str, range(tensor.shape[1])))
        for tensor in candidates:
            if tensor.dtype.kind in "iuO" and tensor.size == n:
                words = {
                    word.decode() if isinstance(word, bytes) else str(word)
                    for word in tensor.ravel().tolist()
                }
                return tuple(sorted(words, key=class_order))
        raise DataError("the model's answer names no classes: --classes does")


class AskedModel:
    """The model itself: rows to answers."""

    def __init__(self, server: ModelServer, reading: Reading) -> None:
        self._server = server
        self._reading = reading

    def __call__(self, rows: Rows) -> Answers:
        """Asks about (n, d) rows.

        Raises:
            ModelError: if the model cannot be asked.
            DataError: if an answer cannot be read.
        """
        return joined([self._reading.read(said, n) for said, n in self._server.ask(rows)])


def joined(parts: Sequence[Answers]) -> Answers:
    """Several answers as one."""

    def column(name: str) -> npt.NDArray[np.generic] | None:
        found = [getattr(part, name) for part in parts]
        return None if not found or any(one is None for one in found) else np.concatenate(found)

    return Answers(column("labels"), column("probabilities"), column("values"))  # type: ignore[arg-type]  # the parts' own
