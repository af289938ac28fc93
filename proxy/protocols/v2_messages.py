"""The parts of OIP v2 messages beside the tensors' data: what is understood, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from math import prod
from typing import Any, Final

from proxy.protocols.tensors import BYTES, MAX_RANK, Datatype
from proxy.rules import (
    MEDIA_TYPE,
    PARAMETER,
    SHAPE,
    SHARED_MEMORY,
    SYNTAX,
    TENSOR_NAME,
    Refusal,
)

MAX_TENSORS: Final = 256  # inputs or outputs of one request
MAX_ELEMENTS: Final = 2**32  # of one tensor: far above any body, far below any overflow
MAX_NAME: Final = 256  # characters of a name, id or string parameter
_MAX_INTEGER: Final = 2**63 - 1

# None: tritonclient and many scripts send no Content-Type. Octets for JSON: aiohttp's default,
# which tritonclient.http.aio leaves as it is. The form is told by the length header alone, as the
# servers do; forms and text, which a browser sends across origins unasked, are refused.
MEDIA_TYPES: Final = frozenset({None, b"application/json", b"application/octet-stream"})
_SPELT: Final = re.compile(
    rb"(?i:application/octet-stream|application/json(?:[ \t]*;[ \t]*charset=(?:utf-8|\"utf-8\"))?)"
)
_CONTENT_TYPES: Final = frozenset({"np", "pd"})


def check_media_type(value: bytes | None) -> None:
    """Refuses a Content-Type other than JSON in UTF-8, octets, or none.

    Raises:
        Refusal: MEDIA_TYPE.
    """
    if value not in MEDIA_TYPES and (value is None or _SPELT.fullmatch(value) is None):
        raise Refusal(MEDIA_TYPE, "use application/json or application/octet-stream")


def shown(name: str) -> str:
    """A client's own string, fit for a message: escaped and short."""
    return ascii(name[:64])


def check_text(what: str, value: Any) -> None:
    """Refuses what is not a printable string of 1 to ``MAX_NAME`` characters.

    Servers copy ids and names into headers and logs.

    Raises:
        Refusal: SYNTAX.
    """
    if type(value) is not str or not 0 < len(value) <= MAX_NAME or not value.isprintable():
        raise Refusal(SYNTAX, f"{what} is not a printable string of at most {MAX_NAME} characters")


def read_shape(name: str, value: Any, *, smallest: int = 1) -> tuple[int, ...]:
    """A shape as the wire has it: 1 to 16 whole numbers from ``smallest`` on.

    Nothing is allocated for it, and nothing overflows.

    Raises:
        Refusal: SHAPE.
    """
    if type(value) is not list or not 0 < len(value) <= MAX_RANK:
        raise Refusal(SHAPE, f"{name} has no shape of 1 to {MAX_RANK} dimensions")
    for size in value:
        if type(size) is not int or size < smallest:
            raise Refusal(SHAPE, f"{name} has a dimension that is not a positive number")
    if prod(size for size in value if size) > MAX_ELEMENTS:
        raise Refusal(SHAPE, f"{name} is too large")
    return tuple(value)


def read_input_parameters(
    name: str, kind: Datatype, parameters: Any
) -> tuple[Any, Mapping[str, Any]]:
    """An input's ``binary_data_size`` (None if it has none), and the parameters to pass on.

    MLServer's ``content_type`` passes where it leaves the tensor what it is: ``np``, ``pd``, and
    ``str`` for BYTES. Its other values make a server read other data than was scored.

    Raises:
        Refusal: SYNTAX, SHARED_MEMORY or PARAMETER.
    """
    size = None
    kept = {}
    for key, value in _items(parameters):
        if key == "binary_data_size":
            size = value
        elif key == "content_type" and type(value) is str:
            if value not in _CONTENT_TYPES and not (kind is BYTES and value == "str"):
                raise Refusal(PARAMETER, f"content_type {shown(value)} of {name}")
            kept[key] = value
        else:
            raise _unknown(key)
    return size, kept


def read_options(
    document: Mapping[str, Any],
    outputs: Collection[str],
    extra: Collection[str],
    *,
    model: str = "",
) -> tuple[dict[str, Any], int]:
    """Everything in a request beside its inputs.

    Args:
        outputs: the names that may be asked for; empty for any.
        extra: further request parameters whose scalar values pass.
        model: the model's name in the path. KServe's client repeats it in the body, where servers
            ignore it: it is not passed on, and no other passes.

    Returns:
        The options to pass on, and how many keys they and the document itself have.

    Raises:
        Refusal: SYNTAX, SHARED_MEMORY, PARAMETER or TENSOR_NAME.
    """
    options: dict[str, Any] = {}
    keys = len(document)
    for key, value in document.items():
        match key:
            case "inputs":
                continue
            case "model_name" if model and value == model:
                continue
            case "id":
                # tritonclient leaves an empty id out, others send it.
                if value != "":
                    check_text("id", value)
            case "parameters":
                keys += len(_items(value))
                _check_request_parameters(value, extra)
            case "outputs":
                keys += _check_outputs(value, outputs)
            case _:
                raise Refusal(SYNTAX, f"unknown key {shown(key)}")
        if value:
            options[key] = value
    return options, keys


def _items(parameters: Any) -> Any:
    if type(parameters) is not dict:
        raise Refusal(SYNTAX, "parameters is not an object")
    return parameters.items()


def _unknown(key: str) -> Refusal:
    if key.startswith("shared_memory"):
        return Refusal(SHARED_MEMORY)
    return Refusal(PARAMETER, shown(key))


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_INTEGER


def _check_request_parameters(parameters: Mapping[str, Any], extra: Collection[str]) -> None:
    for key, value in parameters.items():
        match key:
            case "binary_data_output":
                known = type(value) is bool
            case "priority" | "timeout":
                known = _is_whole(value)
            case "content_type":
                known = type(value) is str and value in _CONTENT_TYPES
            case _:
                known = key in extra and (
                    type(value) in (bool, int, float)
                    or (type(value) is str and len(value) <= MAX_NAME and value.isprintable())
                )
        if not known:
            raise _unknown(key)


def _check_outputs(outputs: Any, allowed: Collection[str]) -> int:
    """Returns how many keys the outputs have."""
    if type(outputs) is not list or len(outputs) > MAX_TENSORS:
        raise Refusal(SYNTAX, f"outputs is not a list of at most {MAX_TENSORS}")
    keys = 0
    names = set()
    for output in outputs:
        if type(output) is not dict or not output.keys() <= {"name", "parameters"}:
            raise Refusal(SYNTAX, "an output is not an object of name and parameters")
        name: Any = output.get("name")
        check_text("the name of an output", name)
        if name in names or (allowed and name not in allowed):
            raise Refusal(TENSOR_NAME, f"output {shown(name)}")
        names.add(name)
        parameters = output.get("parameters", {})
        for key, value in _items(parameters):
            if not (
                (key == "binary_data" and type(value) is bool)
                or (key == "classification" and _is_whole(value))
            ):
                raise _unknown(key)
        keys += len(output) + len(parameters)
    return keys
