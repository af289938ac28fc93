"""Data frames: columns of JSON values or of CSV cells as a request, by the names of a contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from proxy.protocols.base import InferRequest
from proxy.protocols.contract import Contract, TensorSpec
from proxy.protocols.rows import MISSING, check_range, scored_rows
from proxy.protocols.tensors import BOOL, BYTES, DATATYPES, FP64, Datatype, Tensor, from_values
from proxy.protocols.v2_messages import check_text, shown
from proxy.rules import SHAPE, SYNTAX, TENSOR_NAME, VALUE, Refusal

_INT64: Final = DATATYPES["INT64"]
_OF_NUMBERS: Final = b"0123456789.eE+-,"
# What pandas and R write, and no more.
_BOOLEANS: Final = {"true": True, "True": True, "false": False, "False": False}
_WORDS: Final = {
    "FP64": "a number",
    "INT64": "an integer",
    "BOOL": "true or false",
    "BYTES": "a string",
}

Mask = npt.NDArray[np.bool_]


def read_frame(
    contract: Contract,
    columns: Mapping[str, Sequence[Any]],
    n: int,
    *,
    cells: bool = False,
    options: Mapping[str, Any] | None = None,
) -> InferRequest:
    """A data frame as a request: its columns in the contract's order, each a tensor of shape (n,).

    Where the contract is open the names, their order and the datatypes are the client's, as
    ``read_column`` infers them; CSV is then numbers alone.

    Args:
        contract: of columns, or open.
        columns: by name, each of n JSON values (None where one is missing) or of n CSV cells.
        n: rows, at least 1.
        cells: whether the values are cells, which are text: "" is missing.
        options: of the request; ``MISSING`` is added to them where an element is missing.

    Raises:
        Refusal: TENSOR_NAME for a column that is missing or unknown, VALUE for an element that is
            not what its column declares, SHAPE if a row has not as many features as it must.
    """
    tensors: dict[str, Tensor] = {}
    masks: dict[str, Mask] = {}
    read = read_cells if cells else read_column
    if contract.open:
        specs: Sequence[TensorSpec | None] = [None] * len(columns)
        names: Sequence[str] = list(columns)
    else:
        specs = contract.inputs
        names = [spec.name for spec in contract.inputs]
        if columns.keys() != set(names):
            _check_names(contract, columns)
    for name, spec in zip(names, specs, strict=True):
        values = columns.get(name)
        if values is None:  # optional
            continue
        tensors[name], mask = read(name, values, spec)
        if mask is not None:
            masks[name] = mask
    rows = scored_rows(tensors, n, contract)
    if contract.width is not None and rows.shape[1] != contract.width:
        raise Refusal(SHAPE, f"a row has {contract.width} features")
    given: Mapping[str, Any] = options or {}
    return InferRequest(tensors, rows, n, {**given, MISSING: masks} if masks else given)


def check_names(what: str, names: Any) -> None:
    """Refuses what cannot be the names of columns that stand beside the data.

    Raises:
        Refusal: SYNTAX or TENSOR_NAME.
    """
    if type(names) is not list or not names:
        raise Refusal(SYNTAX, f"{what} has no list of columns")
    seen = set()
    for name in names:
        check_text("the name of a column", name)
        if name in seen:
            raise Refusal(TENSOR_NAME, f"the column {shown(name)} comes twice")
        seen.add(name)


def _check_names(contract: Contract, columns: Mapping[str, Any]) -> None:
    for spec in contract.inputs:
        if spec.name not in columns and not spec.optional:
            raise Refusal(TENSOR_NAME, f"the column {shown(spec.name)} is missing")
    known = {spec.name for spec in contract.inputs}
    for name in columns:
        if name not in known:
            raise Refusal(TENSOR_NAME, f"the column {shown(name)} is not one of the model's")


def read_column(
    name: str, values: Sequence[Any], spec: TensorSpec | None = None
) -> tuple[Tensor, Mask | None]:
    """JSON values as a column, and which of them are missing, None if none is.

    Numbers of which none is written as a float stay integers, as in the client's own text: a
    reader that infers types then infers the same. Without a ``spec``, what the values are says
    what the column is: integers, numbers, booleans or strings.

    Raises:
        Refusal: VALUE.
    """
    kinds = set(map(type, values))
    mask = None
    if type(None) in kinds:
        if spec is None or spec.missing is None:
            raise Refusal(VALUE, f"{name} has an element that is missing")
        kinds.discard(type(None))
        mask = np.array([value is None for value in values])
        stand_in = spec.missing.decode() if isinstance(spec.missing, bytes) else spec.missing
        values = [stand_in if value is None else value for value in values]
        if type(stand_in) is float and kinds <= {float, int}:
            kinds.add(float)
    kind = _kind(kinds, spec)
    shape = (len(values),)
    try:
        tensor = from_values(name, kind, list(values), shape, booleans=bool in kinds)
    except Refusal:
        word = _WORDS[spec.datatype if spec else kind.name]
        raise Refusal(VALUE, f"{name} has an element that is not {word}") from None
    if spec is not None and spec.bounded:
        check_range(spec, tensor)
    return tensor, mask


def _kind(kinds: set[type], spec: TensorSpec | None) -> Datatype:
    if spec is not None and spec.datatype != FP64.name:
        return DATATYPES[spec.datatype]
    if kinds == {int}:
        return _INT64
    if spec is None and kinds == {str}:
        return BYTES
    if spec is None and kinds == {bool}:
        return BOOL
    return FP64


def read_cells(
    name: str, cells: Sequence[str], spec: TensorSpec | None = None
) -> tuple[Tensor, Mask | None]:
    """CSV cells as a column: as ``read_column``, with an empty cell for what is missing.

    Numbers are written as in JSON, booleans ``true``, ``True``, ``false`` or ``False``. Without a
    ``spec`` there are numbers only: text alone does not say what it is.

    Raises:
        Refusal: VALUE.
    """
    spec = spec or _NUMBERS
    if spec.datatype == BYTES.name:
        values: list[Any] = [cell or None for cell in cells]
    elif spec.datatype == BOOL.name:
        values = [_BOOLEANS.get(cell, cell) if cell else None for cell in cells]
    else:
        values = _numbers(name, cells, spec)
    return read_column(name, values, spec)


def _numbers(name: str, cells: Sequence[str], spec: TensorSpec) -> list[Any]:
    """Cells as JSON numbers, None where there is none."""
    written = [cell for cell in cells if cell]
    text = ",".join(written).encode()
    values: list[Any] = []
    if not text.translate(None, _OF_NUMBERS):
        with suppress(orjson.JSONDecodeError):
            values = orjson.loads(b"[%b]" % text)
    if len(values) != len(written):
        raise Refusal(VALUE, f"{name} has an element that is not {_WORDS[spec.datatype]}")
    if len(written) == len(cells):
        return values
    numbers = iter(values)
    return [next(numbers) if cell else None for cell in cells]


_NUMBERS: Final = TensorSpec("", FP64.name, (-1,))
"""A column of which nothing is declared but that it is of numbers."""


def column_values(tensor: Tensor, mask: Mask | None = None) -> list[Any]:
    """A column as JSON values again, None where one is missing."""
    values: list[Any] = tensor.tolist()
    if tensor.dtype.hasobject:
        values = list(map(bytes.decode, values))
    if mask is not None:
        values = [None if out else value for value, out in zip(values, mask.tolist(), strict=True)]
    return values
