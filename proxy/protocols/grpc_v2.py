"""Open Inference Protocol v2 over gRPC: the messages of ``ModelInfer``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import orjson

from proxy import protobuf
from proxy.protobuf import Span, WireError
from proxy.protocols.base import (
    INLINE_BYTES,
    Headers,
    InferRequest,
    InferResponse,
    Refused,
    Route,
    Rows,
    plain,
)
from proxy.protocols.contract import Contract, ContractError
from proxy.protocols.grpc_v2_contents import from_contents, to_contents
from proxy.protocols.grpc_v2_messages import (
    MAX_FIELDS,
    RAW_INPUT,
    named,
    parameters_of,
    read_message,
    read_tensor,
    tensor_head,
)
from proxy.protocols.grpc_v2_paths import Paths
from proxy.protocols.grpc_v2_responses import decode_response, encode_response
from proxy.protocols.rows import check_range, most_rows, other_rows, scored_rows
from proxy.protocols.tensors import BYTES, Tensor, datatype_of, from_buffer, to_buffer
from proxy.protocols.v2_binary import check_size
from proxy.protocols.v2_inputs import Input, InputReader, most_strings
from proxy.protocols.v2_messages import MAX_TENSORS, read_input_parameters, read_options
from proxy.rules import (
    BINARY_FRAMING,
    BODY_TOO_LARGE,
    CONTRACT_UNKNOWN,
    MEDIA_TYPE,
    PARAMETER,
    SHAPE,
    SYNTAX,
    UPSTREAM_INVALID,
    Refusal,
)

_MEMORABLE: Final = 2048  # bytes of a frame that is worth remembering
_REMEMBERED: Final = 64
_MEDIA_TYPES: Final = frozenset({None, b"application/grpc", b"application/grpc+proto"})
_NOTHING: Final[Mapping[str, Any]] = {}


class _Layout(NamedTuple):
    """One request, all but its tensors' data.

    Attributes:
        model, version: whom it asks.
        contents: where the typed data of each input is, or None.
        options: everything beside the tensors, to pass on; read-only, as layouts are shared.
    """

    model: str
    version: str
    inputs: list[Input]
    n: int
    contents: list[Span | None]
    options: Mapping[str, Any]


class GrpcV2:
    """The codec of one model.

    A request is read completely before anything of it is believed, and forwarded as a message that
    this class wrote: fields in the order of their numbers, tensors in the contract's order, raw
    where the client sent raw contents, typed where it sent typed ones.

    Args:
        prefix: the model's place, ``/inference.GRPCInferenceService/MODEL[/VERSION]``.
        contract: what the model takes; None while it is not known, and every inference is refused.
        upstream_prefix: the same, or None: a model has one name on both sides.
        max_rows: rows of one request.
        max_bytes: bytes of one request.
        max_response_bytes: bytes of one answer that is to be read.
        parameters: names of further request parameters that the operator vouches for.
        stream: whether ``ModelStreamInfer`` passes, each of its messages as a ``ModelInfer``.

    Raises:
        ValueError: if the prefix is not such a place.
    """

    name = "grpc"
    inline_bytes = INLINE_BYTES
    framing: Sequence[tuple[bytes, bytes]] = ()
    accepts: frozenset[bytes] = frozenset()
    forwarded: Sequence[tuple[bytes, bytes]] = ((b"grpc-timeout", b"grpc-timeout: %b\r\n"),)

    def __init__(
        self,
        prefix: str,
        contract: Contract | None,
        *,
        upstream_prefix: str | None = None,
        max_rows: int = 256,
        max_bytes: int = 10 * 2**20,
        max_response_bytes: int = 10 * 2**20,
        parameters: Collection[str] = (),
        stream: bool = True,
    ) -> None:
        if upstream_prefix not in (None, prefix):
            raise ValueError("a model that is asked by gRPC has the same name on its server")
        self.contract = contract
        self._arguments: dict[str, Any] = {
            "prefix": prefix,
            "max_rows": max_rows,
            "max_bytes": max_bytes,
            "max_response_bytes": max_response_bytes,
            "parameters": parameters,
            "stream": stream,
        }
        self._paths = Paths(prefix, stream=stream)
        self.probe: Route | None = self._paths.metadata
        self._max_bytes = max_bytes
        self._max_response_bytes = max_response_bytes
        self._max_rows = max_rows
        self._parameters = frozenset(parameters)
        self._held = held = contract or Contract()
        self._width = held.width
        self._order = [spec.name for spec in held.inputs]
        self._outputs = frozenset(spec.name for spec in held.outputs)
        self._inputs = InputReader(held, max_rows)
        self._strings = most_strings(held, max_rows)
        # A request without its numbers is the same from one request to the next.
        self._recall = lru_cache(maxsize=_REMEMBERED)(self._layout)

    def learn(self, body: bytes, width: int | None) -> Contract:
        """The contract that a ``ModelMetadataResponse`` declares. See ``Codec.learn``."""
        metadata: dict[str, Any] = {"inputs": [], "outputs": []}
        try:
            for number, start, stop in protobuf.spans(body, 0, len(body), 4 * MAX_TENSORS):
                if number == 1:
                    metadata["name"] = protobuf.text(body[start:stop])
                elif number in (4, 5):
                    item, _ = read_tensor(body, start, stop)
                    metadata["inputs" if number == 4 else "outputs"].append(item)
        except (WireError, Refusal) as error:
            raise ContractError(f"model metadata: {error}") from None
        return Contract.from_metadata(
            orjson.dumps(metadata), model=self._paths.metadata.model, width=width
        )

    def with_contract(self, contract: Contract | None) -> Self:
        """The same codec bound to another contract; this one stays as it is."""
        return type(self)(contract=contract, **self._arguments)

    def route(self, method: str, target: str) -> Route:
        """Understands a target. See ``Codec.route``."""
        return self._paths.route(method, target)

    def decode_request(self, head: Headers, body: bytes, route: Route) -> InferRequest:
        """Reads a request strictly and within bounds. One contract holds for every version.

        Raises:
            Refusal: and nothing else, whatever the bytes.
        """
        if self.contract is None:
            raise Refusal(CONTRACT_UNKNOWN)
        if len(body) > self._max_bytes:
            raise Refusal(BODY_TOO_LARGE, f"at most {self._max_bytes} bytes")
        if head.get(b"content-type") not in _MEDIA_TYPES:
            raise Refusal(MEDIA_TYPE, "use application/grpc")
        try:
            frame, raw = _split(body)
            if raw and len(frame) <= _MEMORABLE:
                layout = self._recall(frame, raw=True)
            else:
                layout = self._layout(frame, raw=bool(raw))
            tensors = self._typed(frame, layout) if not raw else self._raw(body, raw, layout)
        except WireError as error:
            raise Refusal(SYNTAX, str(error)) from None
        if (layout.model, layout.version) != (route.model, route.version):
            raise Refusal(SYNTAX, "the message names another model than the call")
        for known in layout.inputs:
            if known.range is not None:
                check_range(known.range, tensors[known.name])
        n = layout.n
        if len(tensors) > 1 and self._order:
            tensors = {name: tensors[name] for name in self._order if name in tensors}
        rows = scored_rows(tensors, n, self._held)
        if rows.shape[1] != self._width and self._width is not None:
            raise Refusal(SHAPE, f"a row has {self._width} features")
        return InferRequest(tensors, rows, n, layout.options)

    def encode_request(self, request: InferRequest) -> tuple[bytes, bytes]:
        """No header lines, and the canonical message of a request.

        Raises:
            ValueError: for a tensor that typed contents cannot hold.
        """
        options, tensors = request.options, request.tensors
        whom = options["model_name"], options["model_version"]
        if len(options) == 2:
            shapes = tuple((name, each.dtype, each.shape) for name, each in tensors.items())
            parts = [_frame(*whom, shapes)]
        else:
            parts = [named(*whom)]
            if "id" in options:
                parts.append(protobuf.span(3, options["id"].encode()))
            unsigned = options.get("unsigned", ())
            parts.append(parameters_of(4, options.get("parameters", _NOTHING), unsigned))
            own = options.get("input_parameters", _NOTHING)
            for name, tensor in tensors.items():
                item = tensor_head(name, tensor.dtype, tensor.shape)
                item += parameters_of(4, own.get(name, _NOTHING))
                if options.get("typed"):
                    contents = to_contents(name, tensor, datatype_of(tensor.dtype))
                    item += protobuf.span(5, contents)
                parts.append(protobuf.span(5, item))
            for output in options.get("outputs", ()):
                item = protobuf.span(1, output["name"].encode())
                item += parameters_of(2, output.get("parameters", _NOTHING))
                parts.append(protobuf.span(6, item))
        if not options.get("typed"):
            parts += [protobuf.span(RAW_INPUT, to_buffer(tensor)) for tensor in tensors.values()]
        return b"", b"".join(parts)

    def batch(self, request: InferRequest) -> int:
        """The most rows of one request like this one. See ``Codec.batch``."""
        return most_rows(self._held, request, self._max_rows)

    def with_rows(
        self, request: InferRequest, rows: Rows, origins: npt.NDArray[np.int64]
    ) -> InferRequest:
        """The same question about other rows. See ``Codec.with_rows``."""
        return other_rows(self._held, request, rows, origins, self._max_rows)

    def decode_response(self, head: Headers, body: bytes) -> InferResponse:
        """Reads a successful answer to an inference strictly and within bounds.

        Its numbers must be finite. ``n`` is the size of the outputs' common first dimension, or 1
        if they have none in common.

        Raises:
            Refusal: UPSTREAM_INVALID, and nothing else, whatever the bytes.
        """
        if head.get(b"content-encoding") not in (None, b"identity"):
            raise Refusal(UPSTREAM_INVALID, "the answer is compressed")
        try:
            return decode_response(body, self._max_response_bytes)
        except WireError as error:
            raise Refusal(UPSTREAM_INVALID, str(error)) from None
        except Refusal as refusal:
            detail = f"{refusal.rule.message}: {refusal.detail}"
            raise Refusal(UPSTREAM_INVALID, detail) from None

    def encode_response(self, response: InferResponse) -> tuple[bytes, bytes]:
        """No header lines, and the message of an answer, in the form in which it was read.

        Raises:
            ValueError: for a tensor that typed contents cannot hold.
        """
        return b"", encode_response(response)

    def refuse(self, refusal: Refusal) -> Refused:
        """A refusal as the text of a gRPC status. Its code comes of the rule's HTTP status."""
        return Refused(b"text/plain", plain(refusal.message).encode())

    def _layout(self, frame: bytes, *, raw: bool) -> _Layout:
        """Reads a message without its raw tensors; a function of its bytes alone.

        Raises:
            WireError, Refusal: for everything that can be wrong with it.
        """
        message = read_message(frame)
        items = message.document["inputs"]
        if not 0 < len(items) <= MAX_TENSORS:
            raise Refusal(SYNTAX, f"inputs are not 1 to {MAX_TENSORS} tensors")
        options, _ = read_options(message.document, self._outputs, self._parameters)
        inputs, n = self._inputs.read(items)
        kept: dict[str, Mapping[str, Any]] = {}
        for item, known in zip(items, inputs, strict=True):
            if known.kind is BYTES and known.elements > self._strings:
                raise Refusal(SHAPE, f"{known.name} has too many strings")
            if "parameters" in item:
                size, passed = read_input_parameters(known.name, known.kind, item["parameters"])
                if size is not None:
                    raise Refusal(PARAMETER, "binary_data_size")
                kept[known.name] = passed
        if raw and any(message.contents):
            raise Refusal(BINARY_FRAMING, "both raw and typed contents")
        options.pop("inputs", None)
        options["model_name"], options["model_version"] = message.model, message.version
        if message.unsigned:
            options["unsigned"] = message.unsigned
        if kept:
            options["input_parameters"] = kept
        if not raw:
            options["typed"] = True
        return _Layout(
            message.model,
            message.version,
            inputs,
            n,
            message.contents,
            MappingProxyType(options),
        )

    def _raw(self, body: bytes, raw: Sequence[Span], layout: _Layout) -> dict[str, Tensor]:
        inputs = layout.inputs
        if len(raw) != len(inputs):
            raise Refusal(
                BINARY_FRAMING, f"{len(raw)} raw contents for {len(inputs)} inputs without others"
            )
        tensors: dict[str, Tensor] = {}
        for (name, kind, shape, _, count), (_, start, stop) in zip(inputs, raw, strict=True):
            check_size(name, kind, stop - start, count)
            tensors[name] = from_buffer(name, kind, body, shape, start=start, stop=stop)
        return tensors

    @staticmethod
    def _typed(frame: bytes, layout: _Layout) -> dict[str, Tensor]:
        return {
            name: from_contents(name, kind, frame, contents, shape)
            for (name, kind, shape, *_), contents in zip(
                layout.inputs, layout.contents, strict=True
            )
        }


def _split(body: bytes) -> tuple[bytes, list[Span]]:
    """A request without its raw tensors, and where these are in it.

    Raises:
        WireError: if it is no message.
    """
    fields = protobuf.spans(body, 0, len(body), MAX_FIELDS)
    raw = [field for field in fields if field.number == RAW_INPUT]
    if not raw:
        return body, raw
    others = len(fields) - len(raw)
    if fields[others:] == raw:  # as every client writes it
        return body[: fields[others - 1].stop if others else 0], raw
    start, parts = 0, []
    for number, _, stop in fields:
        if number != RAW_INPUT:
            parts.append(body[start:stop])
        start = stop
    return b"".join(parts), raw


@lru_cache(maxsize=_REMEMBERED)
def _frame(
    model: str, version: str, tensors: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]
) -> bytes:
    """A message with raw tensors and nothing else, these left out."""
    return named(model, version) + b"".join(
        protobuf.span(5, tensor_head(*tensor)) for tensor in tensors
    )
