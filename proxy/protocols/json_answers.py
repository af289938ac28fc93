"""Answers in JSON of any make as tensors, and back: numbers, lists, objects of lists, records, and
scores by the names of classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np

from proxy.protocols.contract import Contract
from proxy.protocols.json_tensors import Form, JsonTensors, write_tensors
from proxy.protocols.nested import to_nested_finite
from proxy.protocols.tensors import Tensor
from proxy.rules import SHAPE, SYNTAX, VALUE, Refusal

ANSWER: Final = "predictions"
"""The name of a tensor that the answer gives none."""
LABEL: Final = "label"
SCORES: Final = "scores"

_READER: Final = JsonTensors(Contract(), None)


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How an answer lay in its document.

    Attributes:
        form: of its tensors.
        key: the only key of an object around records or scores, or None.
        plain: names of the tensors that stood there as a single value, and not as a list.
        classes: the columns of the scores, by row if the rows do not name the same ones.
        orders: for each row the classes in the order of its text; None: the highest score first.
        one: whether the scores were those of one row, without a list around them.
    """

    form: Form
    key: str | None = None
    plain: frozenset[str] = frozenset()
    classes: tuple[tuple[str, ...], ...] = ()
    orders: tuple[tuple[str, ...] | None, ...] = field(default=())
    one: bool = False


def read_answer(document: Any, *, labelled: bool = False) -> tuple[dict[str, Tensor], AnswerForm]:
    """The tensors of an answer. Single values are tensors of shape (1,).

    Scores by name become two: ``label``, (n,) BYTES, the best of each row, and ``scores``,
    (n, k) FP64. Their columns are in the order of the names (as numbers, if all of them are some)
    where all rows name the same classes, and otherwise in each row's own.

    Args:
        document: parsed JSON without duplicate keys.
        labelled: whether an object of nothing but numbers names classes and their scores.

    Raises:
        Refusal: SYNTAX, SHAPE, VALUE, TENSOR_NAME or DATATYPE.
    """
    if type(document) is list:
        if labelled and _are_scores(document):
            return _scores(document, None, one=False)
        reading = _READER.rows(ANSWER, document)
        return reading.tensors, AnswerForm(reading.form)
    if type(document) is not dict:
        tensors = _READER.rows(ANSWER, [document]).tensors
        return tensors, AnswerForm(Form.ALONE, plain=frozenset({ANSWER}))
    if labelled and _are_scores([document]):
        return _scores([document], None, one=True)
    if len(document) == 1:
        ((key, value),) = document.items()
        if labelled and type(value) is list and _are_scores(value):
            return _scores(value, key, one=False)
        if type(value) is list and value and type(value[0]) is dict:
            reading = _READER.rows(key, value)
            return reading.tensors, AnswerForm(reading.form, key)
    plain = frozenset(name for name, value in document.items() if type(value) is not list)
    columns = {name: [value] if name in plain else value for name, value in document.items()}
    return _READER.columns(ANSWER, columns).tensors, AnswerForm(Form.COLUMNS, plain=plain)


def write_answer(tensors: Mapping[str, Tensor], form: AnswerForm) -> Any:
    """The document of an answer, in the form in which it was read, for orjson with
    ``OPT_SERIALIZE_NUMPY``.

    Raises:
        ValueError: for an element that is not finite: JSON has none such.
    """
    if form.classes:
        rows = _ranked(to_nested_finite(SCORES, tensors[SCORES]).tolist(), form)
        document: Any = rows[0] if form.one else rows
    else:
        document = write_tensors(form.form, tensors, nest=to_nested_finite)
        if form.plain and form.form is Form.ALONE:
            document = document[0]
        for name in form.plain & tensors.keys() if form.form is Form.COLUMNS else ():
            document[name] = document[name][0]
    return document if form.key is None else {form.key: document}


def _are_scores(rows: Sequence[Any]) -> bool:
    return bool(rows) and all(
        type(row) is dict and row and all(type(score) in (int, float) for score in row.values())
        for row in rows
    )


def _scores(
    rows: Sequence[Mapping[str, float]], key: str | None, *, one: bool
) -> tuple[dict[str, Tensor], AnswerForm]:
    names = rows[0].keys()
    if any(len(row) != len(names) for row in rows):
        raise Refusal(SHAPE, "the rows have different numbers of classes")
    shared = all(row.keys() == names for row in rows)
    classes = (_in_order(names),) if shared else tuple(tuple(row) for row in rows)
    try:
        scores = np.array(
            [[row[name] for name in classes[at % len(classes)]] for at, row in enumerate(rows)],
            np.float64,
        )
    except OverflowError:
        raise Refusal(VALUE, "a score is out of range") from None
    if any("\0" in name for name in names):
        raise Refusal(SYNTAX, "a class has a NUL in its name")
    best = scores.argmax(axis=1).tolist()
    label = np.empty(len(rows), object)
    label[:] = [classes[at % len(classes)][top].encode() for at, top in enumerate(best)]
    for tensor in (label, scores):
        tensor.flags.writeable = False
    orders = tuple(None if _falls(row.values()) else tuple(row) for row in rows)
    form = AnswerForm(Form.RECORDS, key, classes=classes, orders=orders, one=one)
    return {LABEL: label, SCORES: scores}, form


def _falls(scores: Any) -> bool:
    return all(one >= other for one, other in pairwise(scores))


def _in_order(names: Any) -> tuple[str, ...]:
    """As a bundle has its classes: numbers by their value, else by their letters."""
    numbered = all(name.removeprefix("-").isdecimal() and name.isascii() for name in names)
    return tuple(sorted(names, key=int if numbered else None))


def _ranked(scores: list[list[float]], form: AnswerForm) -> list[dict[str, float]]:
    """Each row's scores by name. A ranking is made anew: after shaping, the old order of equal
    scores would still tell what the digits did."""
    rows = []
    for at, values in enumerate(scores):
        row = dict(zip(form.classes[at % len(form.classes)], values, strict=True))
        order = form.orders[at]
        if order is None:
            rows.append(dict(sorted(row.items(), key=lambda item: (-item[1], item[0]))))
        else:
            rows.append({name: row[name] for name in order})
    return rows
