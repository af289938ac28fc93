"""The messages of OIP v2 over gRPC beside the tensors' data, in the form in which JSON has them.

So what is checked of a request is checked by the same code for both. The field numbers are those of
the protocol's ``service GRPCInferenceService``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from proxy import protobuf
from proxy.protobuf import FIXED64, SPAN, VARINT, Span, WireError
from proxy.protocols.tensors import MAX_RANK, datatype_of
from proxy.protocols.v2_messages import MAX_TENSORS, shown
from proxy.rules import DUPLICATE_KEY, PARAMETER, VALUE, Refusal

_MAX_PARAMETERS: Final = 64  # of a request, an input or an output
MAX_FIELDS: Final = 3 + _MAX_PARAMETERS + 3 * MAX_TENSORS
_MAX_TENSOR_FIELDS: Final = 4 + _MAX_PARAMETERS
_NAMES: Final = {1: "model_name", 2: "model_version", 3: "id"}
_TRUTHS: Final = (0, 1)

RAW_INPUT: Final = 7
RAW_OUTPUT: Final = 6


class Message(NamedTuple):
    """A request without its raw tensors.

    Attributes:
        model: the model's name.
        version: the version asked for, or "".
        document: what a JSON request would say: ``inputs``, ``id``, ``parameters``, ``outputs``.
        contents: where the typed data of each input is, or None.
        unsigned: the parameters of the request that came as unsigned integers.
    """

    model: str
    version: str
    document: dict[str, Any]
    contents: list[Span | None]
    unsigned: frozenset[str]


def read_message(data: bytes) -> Message:
    """Reads a ``ModelInferRequest`` without raw tensors.

    Raises:
        WireError: if it is none, or has a field that is not known.
        Refusal: DUPLICATE_KEY, PARAMETER or VALUE.
    """
    document: dict[str, Any] = {}
    inputs: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    contents: list[Span | None] = []
    parameters: dict[str, Any] = {}
    unsigned: set[str] = set()
    names: dict[str, str] = {}
    for number, start, stop in protobuf.spans(data, 0, len(data), MAX_FIELDS):
        if number in _NAMES:
            _once(names, _NAMES[number], protobuf.text(data[start:stop]))
        elif number == 4:
            key, value, is_unsigned = read_parameter(data, start, stop)
            _once(parameters, key, value)
            if is_unsigned:
                unsigned.add(key)
        elif number == 5:
            item, place = read_tensor(data, start, stop)
            inputs.append(item)
            contents.append(place)
        elif number == 6:
            outputs.append(_read_output(data, start, stop))
        else:
            raise WireError("an unknown field")
    document["inputs"] = inputs
    if "id" in names:
        document["id"] = names["id"]
    if parameters:
        document["parameters"] = parameters
    if outputs:
        document["outputs"] = outputs
    return Message(
        names.get("model_name", ""),
        names.get("model_version", ""),
        document,
        contents,
        frozenset(unsigned),
    )


def read_tensor(
    data: bytes, start: int, stop: int, *, parameters: bool = True
) -> tuple[dict[str, Any], Span | None]:
    """An input or output tensor as JSON would have it, and where its typed data is.

    Args:
        parameters: whether to understand its parameters: otherwise they are left out.

    Raises:
        WireError, Refusal: as :func:`read_message`.
    """
    item: dict[str, Any] = {"shape": []}
    kept: dict[str, Any] = {}
    shape = contents = None
    for field in protobuf.spans(data, start, stop, _MAX_TENSOR_FIELDS):
        number, at, end = field
        if number == 1:
            _once(item, "name", protobuf.text(data[at:end]))
        elif number == 2:
            _once(item, "datatype", protobuf.text(data[at:end]))
        elif number == 3 and shape is None:
            item["shape"] = shape = protobuf.numbers(data, at, end, MAX_RANK)
        elif number == 4:
            if parameters:
                _keep(kept, data, at, end)
        elif number == 5 and contents is None:
            contents = field
        else:
            raise WireError("a field that is unknown, or there twice")
    if kept:
        item["parameters"] = kept
    return item, contents


def read_parameter(data: bytes, start: int, stop: int) -> tuple[str, Any, bool]:
    """An entry of a map of parameters: its key, its value, and whether that came unsigned.

    Raises:
        WireError, Refusal: as :func:`read_message`.
    """
    key = value = None
    for number, at, end in protobuf.spans(data, start, stop, 2):
        if number == 1 and key is None:
            key = protobuf.text(data[at:end])
        elif number == 2 and value is None:
            value = protobuf.scalar(data[at:end])
        else:
            raise WireError("a field that is unknown, or there twice")
    if key is None or value is None:
        raise WireError("a parameter without a key or a value")
    return key, *_value(key, value)


def parameter(number: int, key: str, value: Any, *, unsigned: bool = False) -> bytes:
    """The field of a map of parameters that holds this one."""
    if type(value) is bool:
        held = protobuf.integer(1, value)
    elif type(value) is int:
        held = protobuf.integer(5 if unsigned else 2, value)
    elif type(value) is str:
        held = protobuf.span(3, value.encode())
    else:
        held = protobuf.double(4, value)
    return protobuf.span(number, protobuf.span(1, key.encode()) + protobuf.span(2, held))


def parameters_of(number: int, values: Mapping[str, Any], unsigned: Collection[str] = ()) -> bytes:
    """The fields of a map of parameters."""
    return b"".join(
        parameter(number, key, value, unsigned=key in unsigned) for key, value in values.items()
    )


def tensor_head(name: str, dtype: Any, shape: Sequence[int]) -> bytes:
    """The fields of a tensor that say what it is."""
    return b"".join(
        (
            protobuf.span(1, name.encode()),
            protobuf.span(2, datatype_of(dtype).name.encode()),
            protobuf.span(3, b"".join(map(protobuf.varint, shape))) if shape else b"",
        )
    )


def named(model: str, version: str) -> bytes:
    """The fields of a request that say whom it asks."""
    return protobuf.span(1, model.encode()) + (
        protobuf.span(2, version.encode()) if version else b""
    )


def _read_output(data: bytes, start: int, stop: int) -> dict[str, Any]:
    item: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    for number, at, end in protobuf.spans(data, start, stop, _MAX_TENSOR_FIELDS):
        if number == 1:
            _once(item, "name", protobuf.text(data[at:end]))
        elif number == 2:
            _keep(kept, data, at, end)
        else:
            raise WireError("an unknown field")
    if kept:
        item["parameters"] = kept
    return item


def _keep(kept: dict[str, Any], data: bytes, start: int, stop: int) -> None:
    """Reads a parameter of a tensor. None that is known is unsigned."""
    key, value, is_unsigned = read_parameter(data, start, stop)
    if is_unsigned:
        raise Refusal(PARAMETER, f"{shown(key)} is unsigned")
    _once(kept, key, value)


def _once(known: dict[str, Any], key: str, value: Any) -> None:
    """General readers take the last of several."""
    if key in known:
        raise Refusal(DUPLICATE_KEY, shown(key))
    known[key] = value


def _value(key: str, field: protobuf.Scalar) -> tuple[Any, bool]:
    number, kind, value = field
    if number == 1 and kind == VARINT and value in _TRUTHS:
        return bool(value), False
    if number == 2 and kind == VARINT and type(value) is int:
        return protobuf.signed(value), False
    if number == 3 and kind == SPAN and type(value) is bytes:
        return protobuf.text(value), False
    if number == 4 and kind == FIXED64 and type(value) is float:
        if not math.isfinite(value):
            raise Refusal(VALUE, f"the parameter {shown(key)} is not finite")
        return value, False
    if number == 5 and kind == VARINT:
        return value, True
    raise WireError("a parameter of an unknown kind")
