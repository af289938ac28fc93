"""Answers of OIP v2 over gRPC: from the wire and back to it, raw or typed."""

from __future__ import annotations

from math import prod
from typing import Any, Final

from proxy import protobuf
from proxy.protobuf import Span, WireError
from proxy.protocols.base import InferResponse
from proxy.protocols.grpc_v2_contents import from_contents, to_contents
from proxy.protocols.grpc_v2_messages import MAX_FIELDS, RAW_OUTPUT, read_tensor, tensor_head
from proxy.protocols.tensors import DATATYPES, Tensor, datatype_of, from_buffer, to_buffer
from proxy.protocols.v2_binary import check_size
from proxy.protocols.v2_messages import check_text, read_shape, shown
from proxy.rules import BINARY_FRAMING, BODY_TOO_LARGE, DATATYPE, TENSOR_NAME, Refusal

_PARAMETERS: Final = 4  # the number of their field, of an answer as of an output


def decode_response(body: bytes, limit: int) -> InferResponse:
    """Reads a ``ModelInferResponse`` strictly.

    The options keep what the answer says of itself (``head``: names, id, parameters) and the
    parameters of its outputs (``output_parameters``), as they came: they are the server's own, and
    not understood. ``typed`` is there if the outputs were.

    Args:
        limit: bytes that it may have.

    Raises:
        WireError, Refusal: for whatever is wrong with it.
    """
    if len(body) > limit:
        raise Refusal(BODY_TOO_LARGE, f"at most {limit} bytes")
    head: list[bytes] = []
    outputs: list[Span] = []
    raw: list[Span] = []
    at = 0
    for field in protobuf.spans(body, 0, len(body), MAX_FIELDS):
        if field.number == RAW_OUTPUT:
            raw.append(field)
        elif field.number == 5:
            outputs.append(field)
        elif field.number <= _PARAMETERS:
            head.append(body[at : field.stop])
        else:
            raise WireError("an unknown field")
        at = field.stop
    if not outputs:
        raise WireError("no outputs")
    if raw and len(raw) != len(outputs):
        raise Refusal(BINARY_FRAMING, f"{len(raw)} raw contents for {len(outputs)} outputs")
    tensors: dict[str, Tensor] = {}
    kept: dict[str, bytes] = {}
    for index, (_, start, stop) in enumerate(outputs):
        item, contents = read_tensor(body, start, stop, parameters=False)
        name: Any = item.get("name")
        check_text("the name of an output", name)
        kind = DATATYPES.get(str(item.get("datatype")))
        if kind is None or name in tensors:
            raise Refusal(DATATYPE if kind is None else TENSOR_NAME, shown(name))
        shape = read_shape(name, item["shape"], smallest=0)
        if not raw:
            tensors[name] = from_contents(name, kind, body, contents, shape)
        elif contents is None:
            _, start_of_data, stop_of_data = raw[index]
            check_size(name, kind, stop_of_data - start_of_data, prod(shape))
            tensors[name] = from_buffer(
                name, kind, body, shape, start=start_of_data, stop=stop_of_data
            )
        else:
            raise Refusal(BINARY_FRAMING, f"{name} has both raw and typed contents")
        if own := _parameters(body, start, stop):
            kept[name] = own
    options: dict[str, Any] = {"head": b"".join(head)}
    if kept:
        options["output_parameters"] = kept
    if not raw:
        options["typed"] = True
    first = {tensor.shape[0] for tensor in tensors.values()}
    return InferResponse(tensors, first.pop() if len(first) == 1 else 1, options)


def encode_response(response: InferResponse) -> bytes:
    """The message of an answer, in the form in which it was read.

    Raises:
        ValueError: for a tensor that typed contents cannot hold.
    """
    options = response.options
    parts = [options["head"]]
    kept = options.get("output_parameters", {})
    typed = options.get("typed", False)
    raw = []
    for name, tensor in response.tensors.items():
        item = tensor_head(name, tensor.dtype, tensor.shape) + kept.get(name, b"")
        if typed:
            item += protobuf.span(5, to_contents(name, tensor, datatype_of(tensor.dtype)))
        else:
            raw.append(protobuf.span(RAW_OUTPUT, to_buffer(tensor)))
        parts.append(protobuf.span(5, item))
    return b"".join([*parts, *raw])


def _parameters(body: bytes, start: int, stop: int) -> bytes:
    """The parameters of an output, as they came."""
    kept = []
    at = start
    for number, _, end in protobuf.spans(body, start, stop, MAX_FIELDS):
        if number == _PARAMETERS:
            kept.append(body[at:end])
        at = end
    return b"".join(kept)
