"""The first request, in whose form every other row is asked: an example, or made of the contract.

For each protocol its plainest form; what else a server understands, an example shows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import orjson

from loadtest.targets.settings import Target
from proxy.protocols.base import Call, Codec, InferRequest, Route
from proxy.protocols.contract import ANY, Contract, TensorSpec
from proxy.protocols.tensors import DATATYPES, FP32
from proxy.rules import Refusal
from proxy.settings.protocols import CustomJson, Invocations, TorchServe

_LONE_INPUT: Final = "input-0"
"""What servers that declare no inputs read one tensor by, whatever its name."""
_TYPES: Final = {
    ".csv": "text/csv",
    ".npy": "application/x-npy",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".bin": "application/octet-stream",
}
_MOST_BYTES: Final = 64 * 2**20


class FormError(ValueError):
    """No request can be made for this model: the message says why."""


class _Head:
    """Headers as a codec reads them."""

    def __init__(self, headers: Mapping[bytes, bytes]) -> None:
        self._headers = headers

    def get(self, name: bytes, /) -> bytes | None:
        return self._headers.get(name)


def call_route(codec: Codec, match: str, *, rpc: bool) -> Route:
    """The route by which a model is asked.

    Raises:
        FormError: if the path leads to none.
    """
    if rpc:
        return codec.route("RPC", f"{match}/ModelInfer")
    for below in ("", "/infer", ":predict"):
        try:
            route = codec.route("POST", match + below)
        except Refusal:
            continue
        if route.call is Call.INFER:
            return route
    raise FormError(f"{match} is not the path of a model in the protocol {codec.name}")


def first_request(
    target: Target, codec: Codec, route: Route, protocol: Any, features: int | None, *, rpc: bool
) -> InferRequest:
    """One row in the form in which every other is asked.

    Args:
        features: d, of the rows that are to be asked; None: as the contract says.

    Raises:
        FormError: if there is no such request.
        OSError: if the example cannot be read.
    """
    if target.example is not None and not rpc:
        request = _example(target, codec, route)
    else:
        contract = codec.contract or Contract()
        width = contract.width or features
        if not width:
            raise FormError("how many features a row has is not known: say contract, or give data")
        request = _made(target, codec, route, protocol, width, rpc=rpc)
    if features is not None and request.rows.shape[1] != features:
        raise FormError(
            f"the model takes {request.rows.shape[1]} features, the data have {features}"
        )
    return request


def _example(target: Target, codec: Codec, route: Route) -> InferRequest:
    path = target.example
    assert path is not None  # the caller looked
    with path.open("rb") as file:
        body = file.read(_MOST_BYTES + 1)
    kind = target.example_type or _TYPES.get(path.suffix.lower(), "application/json")
    headers = {b"content-type": kind.encode()}
    if codec.name == "v2" and kind == "application/octet-stream":
        # The JSON part ends where its braces do; what a client would have said in a header.
        headers[b"inference-header-content-length"] = b"%d" % _json_end(body)
    return _decoded(codec, route, headers, body, f"{path} is not understood")


def _decoded(
    codec: Codec, route: Route, headers: Mapping[bytes, bytes], body: bytes, what: str
) -> InferRequest:
    try:
        request = codec.decode_request(_Head(headers), body, route)
    except Refusal as refusal:
        raise FormError(f"{what}: {refusal.message}") from None
    if not request.rows.shape[1]:
        raise FormError(f"{what}: it holds no numbers")
    return request


def _json_end(body: bytes) -> int:
    """Where the JSON object ends that a body begins with; its whole length if it holds none."""
    try:
        # Latin-1: a character a byte, and no byte that JSON's own marks could be mistaken for.
        return json.JSONDecoder().raw_decode(body.decode("latin-1"))[1]
    except (ValueError, RecursionError):
        return len(body)


def _made(
    target: Target, codec: Codec, route: Route, protocol: Any, width: int, *, rpc: bool
) -> InferRequest:
    contract = codec.contract or Contract()
    inputs = contract.inputs or (TensorSpec(_LONE_INPUT, "FP32", (ANY, width)),)
    if rpc or codec.name == "v2":
        return _tensors(target, contract, inputs, route, width, rpc=rpc)
    headers, body = _document(codec, contract, inputs, protocol, width)
    return _decoded(
        codec, route, headers, body, "the protocol's plainest form does not do (give an example)"
    )


def _tensors(
    target: Target,
    contract: Contract,
    inputs: tuple[TensorSpec, ...],
    route: Route,
    width: int,
    *,
    rpc: bool,
) -> InferRequest:
    """The Open Inference Protocol: tensors as they are declared."""
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for spec in inputs:
        shape = (1, *_row_shape(contract, spec, width)) if contract.batched else spec.shape
        kind = DATATYPES.get(spec.datatype, FP32)
        tensors[spec.name] = np.full(shape, _filling(spec), kind.dtype)
    options: dict[str, Any] = {}
    if rpc:
        options = {"model_name": route.model, "model_version": route.version}
    elif target.binary:
        options = {"binary": frozenset(tensors)}
    return InferRequest(tensors, np.zeros((1, width), np.float32), 1, options)


def _document(
    codec: Codec,
    contract: Contract,
    inputs: tuple[TensorSpec, ...],
    protocol: Any,
    width: int,
) -> tuple[dict[bytes, bytes], bytes]:
    names = [spec.name for spec in inputs]
    values = [_nested(contract, spec, width) for spec in inputs]
    alone = len(inputs) == 1 and not contract.columns
    row: Any = values[0] if alone else dict(zip(names, values, strict=True))
    document: Any
    match codec.name:
        case "v1":
            document = {"instances": [row]}
        case "sagemaker" if contract.columns:
            line = ",".join(str(value) for value in values)
            return {b"content-type": b"text/csv"}, f"{line}\n".encode()
        case "sagemaker":
            document = {"instances": [row]}
        case "seldon" if alone:
            document = {"data": {"ndarray": [row]}}
        case "seldon":
            document = {"data": {"names": names, "ndarray": [values]}}
        case "torchserve":
            if isinstance(protocol, TorchServe) and protocol.image is not None:
                raise FormError("the model takes images: give an example, a PNG")
            document = [row]
        case "json":
            document = _placed(protocol, row)
        case _ if isinstance(protocol, Invocations):
            if contract.columns:
                document = {"dataframe_split": {"columns": names, "data": [values]}}
            elif alone:
                document = {"inputs": [row]}
            else:
                document = {"inputs": {name: [value] for name, value in row.items()}}
        case name:
            raise FormError(f"no form of {name} is known: give an example")
    return {b"content-type": b"application/json"}, orjson.dumps(document)


def _placed(protocol: Any, row: Any) -> Any:
    """A document with rows at the place that the protocol's settings name."""
    from proxy.protocols.json_path import steps_of  # noqa: PLC0415 - needs a library of its own

    assert isinstance(protocol, CustomJson)  # of this codec
    document: Any = row if protocol.single else [row]
    for step in reversed(steps_of(protocol.rows)):
        if isinstance(step, int):
            raise FormError("the rows lie in a list of the body: give an example")
        document = {step: document}
    return document


def _nested(contract: Contract, spec: TensorSpec, width: int) -> Any:
    """One row of a tensor, as JSON has it."""
    value = _filling(spec)
    if isinstance(value, bytes):
        value = value.decode()
    if contract.columns:
        return value
    shape = _row_shape(contract, spec, width) if contract.batched else spec.shape
    nested: Any = value
    for size in reversed(shape):
        nested = [nested] * size
    return nested


def _filling(spec: TensorSpec) -> Any:
    """A value that the contract takes."""
    if spec.categories:
        return spec.categories[0]
    if not spec.numeric:
        return b""
    kind = DATATYPES[spec.datatype].dtype.kind
    low = spec.minimum if spec.minimum is not None else -math.inf
    high = spec.maximum if spec.maximum is not None else math.inf
    value = min(max(0.0, low), high)
    return False if kind == "b" else math.ceil(value) if kind in "iu" else float(value)


def _row_shape(contract: Contract, spec: TensorSpec, width: int) -> tuple[int, ...]:
    """The shape of one row, an open length filled where that leaves no doubt.

    Raises:
        FormError: otherwise.
    """
    shape = spec.shape[1:]
    if ANY not in shape:
        return shape
    known = math.prod(size for size in shape if size != ANY)
    if shape.count(ANY) > 1 or len(contract.inputs) > 1 or width % known:
        raise FormError(f"the shape of {spec.name}, {list(spec.shape)}, is open: give an example")
    return tuple(width // known if size == ANY else size for size in shape)
