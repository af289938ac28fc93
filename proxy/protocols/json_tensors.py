"""Tensors in JSON that declares neither datatypes nor shapes: one without a name, or several by
name, in columns or in the objects of rows; and the columns of a data frame, also without names.
Elements may be bytes, as ``{"b64": "..."}``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

import numpy as np

from proxy.protocols.contract import Contract, TensorSpec
from proxy.protocols.frames import Mask, column_values, read_column
from proxy.protocols.nested import check_shape, from_flat, to_nested, unnest
from proxy.protocols.tensors import BYTES, Tensor
from proxy.protocols.v2_messages import MAX_TENSORS, check_text, shown
from proxy.rules import DATATYPE, ROWS_PER_REQUEST, SHAPE, SYNTAX, TENSOR_NAME, VALUE, Refusal

_B64: Final = "b64"
_NONE: Final[frozenset[str]] = frozenset()
_WHOLE: Final[Mapping[str, Mask]] = {}


class Form(Enum):
    """How tensors lie in a JSON value."""

    ALONE = "alone"
    """One tensor without a name: a list."""

    TABLE = "table"
    """The columns of a data frame without their names: a list of rows, each a list."""

    COLUMNS = "columns"
    """An object: a list for each name."""

    RECORDS = "records"
    """A list of objects: an element, or a list of such, for each name."""


class Reading(NamedTuple):
    """What a JSON value holds.

    Attributes:
        n: rows.
        keys: of all objects in it.
        encoded: names of the tensors whose elements came as base64.
        missing: which elements of which columns of a data frame are missing.
    """

    form: Form
    tensors: dict[str, Tensor]
    n: int
    keys: int
    encoded: frozenset[str] = _NONE
    missing: Mapping[str, Mask] = _WHOLE


class JsonTensors:
    """Reads the tensors of requests to one model, or of its answers.

    Args:
        contract: what the tensors must be.
        max_rows: rows of one request; None: of an answer, which may also be empty, and whose
            tensors may differ in their first dimension.
        b64: whether ``{"b64": "..."}`` stands for bytes.
        names: how many tensors there may be where the contract declares none.
    """

    def __init__(
        self,
        contract: Contract,
        max_rows: int | None,
        *,
        b64: bool = False,
        names: int = MAX_TENSORS,
    ) -> None:
        self._most = names
        self._open = contract.open
        self._columns = contract.columns
        self._batched = contract.batched
        self._max_rows = max_rows
        self._smallest = 0 if max_rows is None else 1
        self._b64 = b64
        self._specs = {spec.name: spec for spec in contract.inputs}
        self._required = frozenset(spec.name for spec in contract.inputs if not spec.optional)

    def rows(self, what: str, value: Any, *, booleans: bool = True) -> Reading:
        """A list of rows: of plain elements, lists, or objects that name the tensors.

        Args:
            what: where the value was, and the name of a tensor without one if nothing else
                names it.
            booleans: as for ``from_nested``.

        Raises:
            Refusal: SYNTAX, TENSOR_NAME, DATATYPE, SHAPE, VALUE or ROWS_PER_REQUEST.
        """
        if type(value) is not list:
            raise Refusal(SYNTAX, f"{what} is not a list")
        if value and type(value[0]) is dict and not self._is_bytes(value[0]):
            return self._records(what, value, booleans)
        return self.alone(what, value, booleans=booleans)

    def columns(self, what: str, value: Any, *, booleans: bool = True) -> Reading:
        """A list of elements of one tensor, or an object with such a list for each. As ``rows``."""
        if type(value) is dict:
            return self._named(Form.COLUMNS, what, value, len(value), booleans)
        if type(value) is not list:
            raise Refusal(SYNTAX, f"{what} is neither a list nor an object")
        return self.alone(what, value, booleans=booleans)

    def alone(self, what: str, value: Any, *, booleans: bool = True) -> Reading:
        """A list of rows without names: of the elements of one tensor, or of the columns of a data
        frame. As ``rows``.
        """
        if self._columns:
            return self._table(what, value, booleans)
        name, spec = self._only(what)
        tensor, keys = self._tensor(name, value, spec, booleans)
        n = len(tensor) if self._batched else 1
        return Reading(Form.ALONE, {name: tensor}, n, keys, frozenset({name}) if keys else _NONE)

    def shaped(self, what: str, values: list[Any], shape: tuple[int, ...]) -> Reading:
        """The same, as flat elements, as many as the shape has. As ``rows``."""
        if self._batched and self._max_rows is not None and shape[0] > self._max_rows:
            raise Refusal(ROWS_PER_REQUEST, f"at most {self._max_rows}")
        if self._columns:
            if len(shape) != 2:
                raise Refusal(SHAPE, f"{what} has not two dimensions")
            n, width = shape
            return self._table(what, [values[i * width : (i + 1) * width] for i in range(n)], True)
        name, spec = self._only(what)
        tensor = from_flat(name, values, shape, spec)
        return Reading(Form.ALONE, {name: tensor}, len(tensor) if self._batched else 1, 0)

    def _only(self, what: str) -> tuple[str, TensorSpec | None]:
        """The name of the tensor that has none on the wire, and the contract's word on it."""
        if self._open:
            return what, None
        if len(self._specs) > 1 and len(self._required) != 1:
            raise Refusal(TENSOR_NAME, f"name the inputs: {', '.join(self._specs)}"[:256])
        (name,) = self._required if len(self._specs) > 1 else self._specs
        return name, self._specs[name]

    def _table(self, what: str, rows: Any, booleans: bool) -> Reading:
        self._check_rows(rows)
        if type(rows) is not list or not rows:
            raise Refusal(SHAPE, f"{what} is not a list of rows")
        width = len(self._specs)
        for row in rows:
            if type(row) is not list or len(row) != width:
                raise Refusal(SHAPE, f"a row of {what} is not a list of {width} columns")
        columns = dict(zip(self._specs, map(list, zip(*rows, strict=True)), strict=False))
        return self._named(Form.TABLE, what, columns, 0, booleans)

    def _records(self, what: str, rows: list[Any], booleans: bool) -> Reading:
        self._check_rows(rows)
        names = rows[0].keys()
        for row in rows:
            if type(row) is not dict or row.keys() != names:
                raise Refusal(TENSOR_NAME, f"the rows of {what} do not name the same inputs")
        columns = {name: [row[name] for row in rows] for name in names}
        return self._named(Form.RECORDS, what, columns, len(rows) * len(names), booleans)

    def _named(
        self, form: Form, what: str, columns: Mapping[str, Any], keys: int, booleans: bool
    ) -> Reading:
        if not columns or (self._open and len(columns) > self._most):
            raise Refusal(TENSOR_NAME, f"{what} names no inputs, or more than {self._most}")
        tensors: dict[str, Tensor] = {}
        encoded = set()
        missing: dict[str, Mask] = {}
        for name, value in columns.items():
            spec = self._specs.get(name)
            if spec is None:
                if not self._open:
                    raise Refusal(TENSOR_NAME, shown(name))
                check_text("the name of an input", name)
            if self._columns:
                tensors[name], mask = self._column(name, value, spec)
                if mask is not None:
                    missing[name] = mask
                continue
            tensors[name], own = self._tensor(name, value, spec, booleans)
            if own:
                keys += own
                encoded.add(name)
        if not self._required <= columns.keys():
            raise Refusal(TENSOR_NAME, f"{shown(min(self._required - columns.keys()))} is missing")
        return Reading(form, tensors, self._n(tensors), keys, frozenset(encoded), missing)

    def _column(
        self, name: str, values: Any, spec: TensorSpec | None
    ) -> tuple[Tensor, Mask | None]:
        self._check_rows(values)
        if type(values) is not list or not values:
            raise Refusal(SHAPE, f"{name} is not a list of elements")
        return read_column(name, values, spec)

    def _tensor(
        self, name: str, value: Any, spec: TensorSpec | None, booleans: bool
    ) -> tuple[Tensor, int]:
        """The tensor, and how many keys its elements have: each one if it is base64."""
        self._check_rows(value)
        flat, shape = unnest(name, value, smallest=self._smallest)
        if self._b64 and flat and type(flat[0]) is dict:
            if spec is not None:
                if spec.datatype != BYTES.name:
                    raise Refusal(DATATYPE, f"{name} is {spec.datatype}")
                check_shape(name, shape, spec)
            return _from_b64(name, flat, shape), len(flat)
        return from_flat(name, flat, shape, spec, booleans=booleans), 0

    def _check_rows(self, value: Any) -> None:
        # Before anything is made of them.
        most = self._max_rows
        if most is not None and self._batched and type(value) is list and len(value) > most:
            raise Refusal(ROWS_PER_REQUEST, f"at most {most}")

    def _n(self, tensors: Mapping[str, Tensor]) -> int:
        lengths = {len(tensor) for tensor in tensors.values()}
        if self._max_rows is None:
            return lengths.pop() if len(lengths) == 1 else 1
        if not self._batched:
            return 1
        if len(lengths) > 1:
            raise Refusal(SHAPE, "the inputs have different numbers of rows")
        return lengths.pop()

    def _is_bytes(self, value: dict[str, Any]) -> bool:
        return self._b64 and value.keys() == {_B64}


def write_tensors(
    form: Form,
    tensors: Mapping[str, Tensor],
    encoded: Collection[str] = (),
    missing: Mapping[str, Mask] = _WHOLE,
    nest: Callable[[str, Tensor], Any] = lambda _, tensor: to_nested(tensor),
) -> Any:
    """Tensors in the form in which they were read, for orjson with ``OPT_SERIALIZE_NUMPY``.

    Args:
        encoded: names of those to write as base64.
        missing: of the columns of a data frame, the elements to leave null.
        nest: what becomes of any other.
    """
    written = {
        name: _to_b64(tensor)
        if name in encoded
        else column_values(tensor, missing[name])
        if name in missing
        else nest(name, tensor)
        for name, tensor in tensors.items()
    }
    if form is Form.COLUMNS:
        return written
    if form is Form.ALONE:
        (value,) = written.values()
        return value
    columns: list[Sequence[Any]] = [
        value.tolist() if isinstance(value, np.ndarray) else value for value in written.values()
    ]
    rows = zip(*columns, strict=True)
    if form is Form.TABLE:
        return list(rows)
    return [dict(zip(written, row, strict=True)) for row in rows]


def _from_b64(name: str, values: list[Any], shape: tuple[int, ...]) -> Tensor:
    items = np.empty(len(values), object)
    for at, value in enumerate(values):
        text = value.get(_B64) if type(value) is dict and len(value) == 1 else None
        if type(text) is not str:
            raise Refusal(VALUE, f"{name} has an element that is not base64 as all others are")
        try:
            items[at] = data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise Refusal(VALUE, f"{name} has base64 that does not decode") from None
        # Readers differ in what they make of superfluous bits and missing padding.
        if base64.b64encode(data) != text.encode():
            raise Refusal(VALUE, f"{name} has base64 that is not canonical")
    items.flags.writeable = False
    return items.reshape(shape)


def _to_b64(tensor: Tensor) -> Any:
    items = np.empty(tensor.size, object)
    for at, data in enumerate(tensor.reshape(-1).tolist()):
        items[at] = {_B64: base64.b64encode(data).decode()}
    return items.reshape(tensor.shape).tolist()
