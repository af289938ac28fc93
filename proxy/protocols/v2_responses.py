"""Answers of OIP v2 to an inference: from the wire and back to it, as JSON or with binary data."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, Final

import numpy as np
import orjson

from proxy.protocols.base import Headers, InferResponse
from proxy.protocols.strict_json import check_unique_keys, count_keys, loads
from proxy.protocols.tensors import (
    DATATYPES,
    Tensor,
    datatype_of,
    flatten,
    from_buffer,
    from_values,
    to_buffer,
    to_values,
)
from proxy.protocols.v2_binary import LENGTH_HEADER, check_size, header_length
from proxy.protocols.v2_messages import check_media_type, check_text, read_shape, shown
from proxy.rules import BINARY_FRAMING, BODY_TOO_LARGE, DATATYPE, SYNTAX, TENSOR_NAME, Refusal

JSON_LINES: Final = b"Content-Type: application/json\r\n"
BINARY_LINES: Final = (
    b"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: %d\r\n"
)
_KEPT: Final = ("model_name", "model_version", "id", "parameters")
_NOTHING: Final[Mapping[str, Any]] = {}


def decode_response(head: Headers, body: bytes, limit: int) -> InferResponse:
    """Reads a successful answer strictly.

    The options keep the model's name and version, the id, the parameters of the answer
    (``parameters``) and of its outputs by name (``output_parameters``), and which outputs were
    binary (``binary``). Parameters are the server's own: they are kept, not understood.

    Args:
        limit: bytes that the body may have.

    Raises:
        Refusal: for whatever is wrong with it.
    """
    if len(body) > limit:
        raise Refusal(BODY_TOO_LARGE, f"at most {limit} bytes")
    if head.get(b"content-encoding") not in (None, b"identity"):
        raise Refusal(SYNTAX, "the answer is compressed")
    check_media_type(head.get(b"content-type"))
    declared = head.get(LENGTH_HEADER)
    start = len(body) if declared is None else header_length(declared, len(body))
    text = body[:start]
    document = loads(text)
    if type(document) is not dict or type(document.get("outputs")) is not list:
        raise Refusal(SYNTAX, "no list of outputs")
    outputs = document.pop("outputs")
    keys = 1 + count_keys(document)
    options: dict[str, Any] = {key: document[key] for key in _KEPT if key in document}
    tensors: dict[str, Tensor] = {}
    kept: dict[str, Mapping[str, Any]] = {}
    binary: set[str] = set()
    for item in outputs:
        if type(item) is not dict:
            raise Refusal(SYNTAX, "an output is not an object")
        name: Any = item.get("name")
        check_text("the name of an output", name)
        kind = DATATYPES.get(str(item.get("datatype")))
        if kind is None or name in tensors:
            raise Refusal(DATATYPE if kind is None else TENSOR_NAME, shown(name))
        shape = read_shape(name, item.get("shape"), smallest=0)
        count = prod(shape)
        values = item.pop("data", None)
        keys += count_keys(item) + (values is not None)
        parameters = item.get("parameters")
        size = parameters.pop("binary_data_size", None) if type(parameters) is dict else None
        if parameters:
            kept[name] = parameters
        if size is not None:
            check_size(name, kind, size, count)
            if values is not None or start + size > len(body):
                raise Refusal(BINARY_FRAMING, f"{name} is not where its size says")
            tensors[name] = from_buffer(name, kind, body, shape, start=start, stop=start + size)
            start += size
            binary.add(name)
        elif type(values) is list:
            flat = flatten(name, values, shape, count)
            tensors[name] = from_values(name, kind, flat, shape, booleans=True)
        else:
            raise Refusal(SYNTAX, f"{name} has no list of data")
    if start != len(body):
        raise Refusal(BINARY_FRAMING, "the tensors' sizes do not add up to the body's")
    check_unique_keys(text, keys)
    if kept:
        options["output_parameters"] = kept
    if binary:
        options["binary"] = frozenset(binary)
    first = {tensor.shape[0] for tensor in tensors.values()}
    return InferResponse(tensors, first.pop() if len(first) == 1 else 1, options)


def encode_response(response: InferResponse) -> tuple[bytes, bytes]:
    """Header lines and body of an answer: JSON data flat, binary what was binary.

    Raises:
        ValueError: for a number that is not finite in a JSON output: JSON has none such.
    """
    options = response.options
    binary: frozenset[str] = options.get("binary", frozenset())
    parameters: Mapping[str, Mapping[str, Any]] = options.get("output_parameters", _NOTHING)
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for name, tensor in response.tensors.items():
        item: dict[str, Any] = {
            "name": name,
            "datatype": datatype_of(tensor.dtype).name,
            "shape": tensor.shape,
        }
        outputs.append(item)
        own = parameters.get(name, _NOTHING)
        if name in binary:
            data = to_buffer(tensor)
            item["parameters"] = {"binary_data_size": len(data), **own}
            tail.append(data)
        else:
            if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
                raise ValueError(f"{name} has an element that is not finite")
            if own:
                item["parameters"] = own
            item["data"] = to_values(tensor)
    document = {key: options[key] for key in _KEPT if key in options}
    document["outputs"] = outputs
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if tail:
        return BINARY_LINES % len(text), b"".join((text, *tail))
    return JSON_LINES, text
