"""JSON lists as tensors, and back, where the wire declares neither datatype nor shape."""

from __future__ import annotations

from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np

from proxy.protocols.contract import ANY, Contract, TensorSpec
from proxy.protocols.rows import check_range
from proxy.protocols.strict_json import Bounds
from proxy.protocols.tensors import (
    BOOL,
    BYTES,
    DATATYPES,
    FP64,
    MAX_RANK,
    Datatype,
    Tensor,
    from_values,
)
from proxy.rules import SHAPE, VALUE, Refusal

INT64: Final = DATATYPES["INT64"]
# What tensors may hold where the contract does not fix their shapes: see ``json_bounds``.
FREE_VALUES: Final = 2**20
FREE_LISTS: Final = 2**16
FREE_STRINGS: Final = 2**14
_LEAST: Final = 4 * 2**10
_LARGE: Final = 32 * 2**10
_NUMBER: Final = 32  # bytes of a number with what separates it from the next


def from_nested(
    name: str,
    value: Any,
    spec: TensorSpec | None = None,
    *,
    booleans: bool = True,
    smallest: int = 1,
) -> Tensor:
    """A parsed JSON list, flat or nested, as a read-only tensor of the shape of its nesting.

    Without a ``spec``, integers alone are INT64, numbers among which one is written as a float
    FP64, booleans BOOL, strings BYTES. With one, the datatype is the contract's, and shape and
    range are held against it.

    Args:
        name: of the tensor, for messages.
        spec: the contract's word on it.
        booleans: whether ``true`` or ``false`` may be among the elements. They pass for numbers,
            so they are looked for, but only where the text could hold one: ``may_hold_booleans``.
        smallest: size of a dimension: 0 for answers, which may be empty.

    Raises:
        Refusal: SHAPE for what is ragged, empty, nested deeper than 16 levels or not as the spec
            has it; VALUE for an element of the wrong kind, beyond its datatype or out of range.
    """
    flat, shape = unnest(name, value, smallest=smallest)
    return from_flat(name, flat, shape, spec, booleans=booleans)


def unnest(name: str, value: Any, *, smallest: int = 1) -> tuple[list[Any], tuple[int, ...]]:
    """The elements of a nested JSON list in row-major order, and the shape of the nesting.

    Elements may be anything but lists. Nothing is allocated beyond one list of them.

    Raises:
        Refusal: SHAPE.
    """
    if type(value) is not list:
        raise Refusal(SHAPE, f"{name} is not a list")
    shape = [len(value)]
    while value and type(value[0]) is list:
        if len(shape) == MAX_RANK:
            raise Refusal(SHAPE, f"{name} is nested deeper than {MAX_RANK} levels")
        size = len(value[0])
        if len(value) == 1:
            value = value[0]
        elif set(map(type, value)) == {list} and set(map(len, value)) == {size}:
            value = list(chain.from_iterable(value))
        else:
            raise Refusal(SHAPE, f"{name} is ragged")
        shape.append(size)
    if not value and smallest:
        raise Refusal(SHAPE, f"{name} is empty")
    return value, tuple(shape)


def from_flat(
    name: str,
    values: list[Any],
    shape: tuple[int, ...],
    spec: TensorSpec | None = None,
    *,
    booleans: bool = True,
) -> Tensor:
    """The second half of ``from_nested``: flat elements, as many as ``shape`` says.

    Raises:
        Refusal: SHAPE or VALUE.
    """
    if spec is None:
        return _inferred(name, values, shape, booleans)
    check_shape(name, shape, spec)
    tensor = _converted(name, DATATYPES[spec.datatype], values, shape, booleans)
    if spec.bounded:
        check_range(spec, tensor)
    return tensor


def check_shape(name: str, shape: tuple[int, ...], spec: TensorSpec) -> None:
    """Holds a shape against the contract's.

    Raises:
        Refusal: SHAPE.
    """
    if len(shape) != len(spec.shape) or any(
        wanted not in (size, ANY) for size, wanted in zip(shape, spec.shape, strict=True)
    ):
        raise Refusal(SHAPE, f"{name} is {list(spec.shape)}, not {list(shape)}")


def may_hold_booleans(text: bytes, *, lists: bool = False) -> bool:
    """Whether ``true`` or ``false`` may stand in a JSON text: two looks at the speed of memory.

    Args:
        lists: whether it only matters in lists: keys before the first of them say nothing then.
    """
    start = max(text.find(b"["), 0) if lists else 0
    # true has a u and false an l; no number has either.
    return text.find(b"u", start) >= 0 or text.find(b"l", start) >= 0


def to_nested(tensor: Tensor) -> Any:
    """A tensor for ``orjson.dumps`` with ``OPT_SERIALIZE_NUMPY``: lists nested as its shape.

    FP32 and FP16 go as the double that equals them (see ``tensors.to_values``), BYTES as strings.
    A tensor of no dimensions is a plain value.

    Raises:
        UnicodeDecodeError: for BYTES that are not UTF-8: whoever took such from the wire has a
            form of his own for them.
    """
    dtype = tensor.dtype
    if dtype.hasobject:
        texts = np.empty(tensor.size, object)
        texts[:] = list(map(bytes.decode, tensor.reshape(-1).tolist()))
        return texts.reshape(tensor.shape).tolist()
    if dtype.kind == "f" and dtype.itemsize < 8:
        tensor = tensor.astype(np.float64)
    return tensor if tensor.ndim else tensor.item()


def to_nested_finite(name: str, tensor: Tensor) -> Any:
    """As ``to_nested``, for answers, whose numbers may have been changed.

    Raises:
        ValueError: for an element that is not finite: JSON has none such.
    """
    if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
        raise ValueError(f"{name} has an element that is not finite")
    return to_nested(tensor)


def json_bounds(contract: Contract, max_rows: int, *, names: int = 64) -> Bounds:
    """The most that the JSON of an honest request can hold: see ``strict_json.check_bounds``.

    Args:
        max_rows: rows of one request.
        names: objects, keys and strings beside the tensors' own elements, all together. Where
            each row is an object: rows times columns, and some.
    """
    rows = max_rows if contract.batched else 1
    values = lists = strings = 0
    for spec in contract.inputs:
        row = spec.shape[1:] if contract.batched else spec.shape
        free = ANY in row
        elements = FREE_VALUES if free else rows * prod(row)
        values += elements
        if spec.datatype == BYTES.name:
            strings += min(elements, FREE_STRINGS) if free else elements
        if ANY in row[:-1]:
            lists += rows + FREE_LISTS
        else:
            lists += 1 + rows * sum(prod(row[:depth]) for depth in range(len(row)))
    if contract.open:
        values, lists, strings = FREE_VALUES, rows + FREE_LISTS, FREE_STRINGS
    # Text that stands for bytes is an object of one key for each element: {"b64": "..."}.
    return Bounds(
        values=values + names,
        lists=lists + names,
        fields=names + 2 * strings,
        strings=2 * strings + names,
    )


def json_cheap(bounds: Bounds, max_rows: int) -> int:
    """Bytes of JSON whose cost need not be looked at: what one row of numbers takes, within 4 and
    32 KiB.
    """
    return min(max(_NUMBER * bounds.values // max_rows, _LEAST), _LARGE)


def _inferred(name: str, values: list[Any], shape: tuple[int, ...], booleans: bool) -> Tensor:
    first: type = type(values[0]) if values else float
    if first is bool:
        return _converted(name, BOOL, values, shape, True)
    if first is str:
        return _converted(name, BYTES, values, shape, True)
    if first is int and (not booleans or float not in set(map(type, values))):
        try:
            return _converted(name, INT64, values, shape, booleans)
        except Refusal:
            # Only a float further on is another matter than what was refused.
            if float not in set(map(type, values)):
                raise
    return _converted(name, FP64, values, shape, booleans)


def _converted(
    name: str, kind: Datatype, values: list[Any], shape: tuple[int, ...], booleans: bool
) -> Tensor:
    try:
        return from_values(name, kind, values, shape, booleans=booleans)
    except Refusal as refusal:
        if refusal.rule is SHAPE:
            raise Refusal(SHAPE, f"{name} is ragged") from None
        raise Refusal(VALUE, f"{name} has an element that is not {_word(kind)}") from None


def _word(kind: Datatype) -> str:
    return "a string, as others are" if kind is BYTES else kind.name
