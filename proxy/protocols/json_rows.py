"""Rows in a JSON document: bare or below one key; one row may stand without a list around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from proxy.protocols.base import InferRequest
from proxy.protocols.contract import Contract
from proxy.protocols.json_tensors import Form, JsonTensors, Reading, write_tensors
from proxy.protocols.rows import MISSING
from proxy.protocols.v2_messages import shown
from proxy.rules import SHAPE, SYNTAX, Refusal

SINGLE: Final = "single"
"""The option of a request of one row without a list around it."""


def read_rows(
    reader: JsonTensors,
    contract: Contract,
    document: Any,
    keys: Sequence[str],
    *,
    sample: str | None = None,
    booleans: bool = True,
) -> tuple[Reading, Mapping[str, Any]]:
    """The rows of a document, and the options to write it again.

    A list that is nested one level less than the contract's tensor is a single row; where no input
    but the number of features is known, a list without lists is.

    Args:
        keys: those of which one may hold the rows.
        sample: the key of an object that is itself a single row, as it may be in a list of rows.
        booleans: as for ``from_nested``.

    Returns:
        ``Reading.keys`` counts those of the whole document.

    Raises:
        Refusal: SYNTAX, TENSOR_NAME, DATATYPE, SHAPE, VALUE or ROWS_PER_REQUEST.
    """
    if type(document) is not dict:
        key, value, outside = None, document, 0
    else:
        if len(document) != 1:
            raise Refusal(SYNTAX, f"give one of {', '.join(keys)}, and nothing else")
        ((key, value),) = document.items()
        if key == sample:
            if _depth(value) != max(1, _rank(contract) - 1):
                raise Refusal(SHAPE, f"{key} is one row: send several as {keys[0]}")
            reading = reader.rows(key, [document], booleans=booleans)
            return reading, {"key": None, "form": reading.form, SINGLE: True}
        if key not in keys:
            raise Refusal(SYNTAX, f"unknown key {shown(key)}: use {', '.join(keys)}")
        outside = 1
    single = 0 < _depth(value) == _rank(contract) - 1
    reading = reader.rows(key or "instances", [value] if single else value, booleans=booleans)
    options: dict[str, Any] = {"key": key, "form": reading.form}
    if single:
        options[SINGLE] = True
    return reading._replace(keys=reading.keys + outside), options


def write_rows(request: InferRequest) -> Any:
    """The document of a request, for orjson with ``OPT_SERIALIZE_NUMPY``."""
    options = request.options
    form: Form = options["form"]
    value = write_tensors(form, request.tensors, missing=options.get(MISSING, {}))
    if SINGLE in options:
        value = value[0]
    key = options["key"]
    return value if key is None else {key: value}


def _rank(contract: Contract) -> int:
    """Dimensions of the list of rows: 0 if it always stands for itself."""
    # Where nothing says what a row is, each element may be one: that is what it is charged as.
    if not contract.batched or (contract.open and contract.width is None):
        return 0
    if contract.open or contract.columns or len(contract.inputs) > 1:
        return 2
    return len(contract.inputs[0].shape)


def _depth(value: Any) -> int:
    """Levels of lists down to the first thing that is none; 0 if that is an object."""
    depth = 0
    while type(value) is list:
        depth += 1
        if not value:
            return depth
        value = value[0]
    return 0 if type(value) is dict else depth
