"""Open Inference Protocol v2 over REST: JSON, and Triton's binary tensor data extension."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import orjson

from proxy.protocols.base import (
    INLINE_BYTES,
    JSON_ACCEPTED,
    Headers,
    InferRequest,
    InferResponse,
    Refused,
    Route,
    Rows,
    plain,
)
from proxy.protocols.contract import Contract
from proxy.protocols.rows import check_range, most_rows, other_rows, scored_rows
from proxy.protocols.strict_json import loads, split_arrays
from proxy.protocols.tensors import (
    Tensor,
    datatype_of,
    flatten,
    from_buffer,
    from_values,
    to_buffer,
    to_rows,
    to_values,
)
from proxy.protocols.v2_binary import LENGTH_HEADER, header_length
from proxy.protocols.v2_layout import Layout, LayoutReader
from proxy.protocols.v2_messages import MEDIA_TYPES, check_media_type
from proxy.protocols.v2_paths import Paths
from proxy.protocols.v2_responses import (
    BINARY_LINES,
    JSON_LINES,
    decode_response,
    encode_response,
)
from proxy.rules import (
    BINARY_FRAMING,
    BODY_TOO_LARGE,
    CONTRACT_UNKNOWN,
    SHAPE,
    SYNTAX,
    UPSTREAM_INVALID,
    Refusal,
)

_NOTHING: Final[Mapping[str, Any]] = {}
_MEMORABLE: Final = 2048  # bytes of a frame that is worth remembering
_REMEMBERED: Final = 64


class V2:
    """The codec of one model.

    A request is read completely before anything of it is believed, and forwarded as text or
    bytes that this class wrote: tensors in the contract's order, JSON data flat, binary where the
    client sent binary.

    Args:
        prefix: the model's path as clients write it,
            ``[/BASE]/v2/models/MODEL[/versions/VERSION]``.
        contract: what the model takes; None while it is not known, and every inference is refused.
        upstream_prefix: the model's path on the model server; the same if None.
        max_rows: rows of one request.
        max_bytes: bytes of one request body, decompressed.
        max_response_bytes: bytes of one answer that is to be read.
        parameters: names of further request parameters that the operator vouches for.

    Raises:
        ValueError: if a prefix is not such a path.
    """

    name = "v2"
    inline_bytes = INLINE_BYTES
    framing: Sequence[tuple[bytes, bytes]] = (
        (b"content-type", b"content-type: %b\r\n"),
        (b"inference-header-content-length", b"inference-header-content-length: %b\r\n"),
    )
    forwarded: Sequence[tuple[bytes, bytes]] = ()
    accepts = JSON_ACCEPTED

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
    ) -> None:
        self.contract = contract
        self._arguments: dict[str, Any] = {
            "prefix": prefix,
            "upstream_prefix": upstream_prefix,
            "max_rows": max_rows,
            "max_bytes": max_bytes,
            "max_response_bytes": max_response_bytes,
            "parameters": parameters,
        }
        self._paths = Paths(prefix, upstream_prefix)
        self.probe: Route | None = self._paths.route("GET", prefix)
        self._max_bytes = max_bytes
        self._max_response_bytes = max_response_bytes
        self._max_rows = max_rows
        self._held = held = contract or Contract()
        self._width = held.width
        self._order = [spec.name for spec in held.inputs]
        self._layouts = LayoutReader(held, max_rows, parameters, model=self._paths.model)
        # A request without its numbers is the same from one request to the next.
        self._recall = lru_cache(maxsize=_REMEMBERED)(self._layouts.read)

    def learn(self, body: bytes, width: int | None) -> Contract:
        """The contract that the model's metadata declares. See ``Codec.learn``."""
        return Contract.from_metadata(body, model=self._paths.served, width=width)

    def with_contract(self, contract: Contract | None) -> Self:
        """The same codec bound to another contract; this one stays as it is."""
        return type(self)(contract=contract, **self._arguments)

    def route(self, method: str, target: str) -> Route:
        """Understands a request target. See ``Codec.route``."""
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
        media = head.get(b"content-type")
        if media not in MEDIA_TYPES:
            check_media_type(media)
        declared = head.get(LENGTH_HEADER)
        if declared is None:
            base = len(body)
            text = body
        else:
            base = header_length(declared, len(body))
            text = body[:base]
        layout, arrays, booleans = self._read(text)
        if base + layout.tail != len(body):
            raise Refusal(BINARY_FRAMING, "the tensors' sizes do not add up to the body's")
        tensors: dict[str, Tensor] = {}
        data = iter(arrays)
        n = layout.n
        for name, kind, shape, ranged, count, start, stop in layout.places:
            if start < 0:
                values = next(data)
                if len(values) != count or type(values[0]) is list:
                    values = flatten(name, values, shape, count)
                tensor = from_values(name, kind, values, shape, booleans=booleans)
            else:
                tensor = from_buffer(name, kind, body, shape, start=base + start, stop=base + stop)
            if ranged is not None:
                check_range(ranged, tensor)
            tensors[name] = tensor
        if len(tensors) == 1 and not self._held.columns:
            rows = to_rows(name, kind, tensor, n)
        else:
            if self._order:
                tensors = {name: tensors[name] for name in self._order if name in tensors}
            rows = scored_rows(tensors, n, self._held)
        if rows.shape[1] != self._width and self._width is not None:
            raise Refusal(SHAPE, f"a row has {self._width} features")
        return InferRequest(tensors, rows, n, layout.options)

    def encode_request(self, request: InferRequest) -> tuple[bytes, bytes]:
        """The canonical header lines and body of a request."""
        options = request.options
        if not options and len(request.tensors) == 1:
            ((name, tensor),) = request.tensors.items()
            data = orjson.dumps(to_values(tensor), option=orjson.OPT_SERIALIZE_NUMPY)
            return JSON_LINES, _frame(name, tensor.shape, tensor.dtype) % data
        document: dict[str, Any] = {}
        binary: frozenset[str] = frozenset()
        parameters: Mapping[str, Mapping[str, Any]] = _NOTHING
        if options:
            for key in ("id", "parameters"):
                if key in options:
                    document[key] = options[key]
            binary = options.get("binary", binary)
            parameters = options.get("input_parameters", parameters)
        inputs: list[dict[str, Any]] = []
        document["inputs"] = inputs
        tail: list[bytes] = []
        for name, tensor in request.tensors.items():
            item: dict[str, Any] = {
                "name": name,
                "shape": tensor.shape,
                "datatype": datatype_of(tensor.dtype).name,
            }
            inputs.append(item)
            own = parameters.get(name, _NOTHING)
            if name in binary:
                data = to_buffer(tensor)
                item["parameters"] = {"binary_data_size": len(data), **own}
                tail.append(data)
            else:
                if own:
                    item["parameters"] = own
                item["data"] = to_values(tensor)
        if "outputs" in options:
            document["outputs"] = options["outputs"]
        text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
        if tail:
            return BINARY_LINES % len(text), b"".join((text, *tail))
        return JSON_LINES, text

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

        The answer must be plain (no content coding) and its numbers finite. ``n`` is the size of
        the outputs' common first dimension, or 1 if they have none in common.

        Raises:
            Refusal: UPSTREAM_INVALID, and nothing else, whatever the bytes.
        """
        try:
            return decode_response(head, body, self._max_response_bytes)
        except Refusal as refusal:
            detail = f"{refusal.rule.message}: {refusal.detail}"
            raise Refusal(UPSTREAM_INVALID, detail) from None

    def encode_response(self, response: InferResponse) -> tuple[bytes, bytes]:
        """Header lines and body of an answer, in the form in which it was read.

        Raises:
            ValueError: for a number that is not finite in a JSON output: JSON has none such.
        """
        return encode_response(response)

    def refuse(self, refusal: Refusal) -> Refused:
        """A refusal in the protocol's shape: a string, since an object breaks tritonclient."""
        return Refused(b"application/json", orjson.dumps({"error": plain(refusal.message)}))

    def _read(self, text: bytes) -> tuple[Layout, list[list[Any]], bool]:
        """The layout of a request, its JSON data, and whether booleans may be in that."""
        if len(text) > self._layouts.cheap and not self._layouts.check_cost(text):
            layout = self._layouts.read(text)
            return layout, layout.arrays, True
        frame, arrays, booleans = split_arrays(text)
        try:
            layout = self._recall(frame) if len(frame) <= _MEMORABLE else self._layouts.read(frame)
        except Refusal as refusal:
            if arrays and refusal.rule is SYNTAX:
                loads(text)  # says where in the text
            raise
        if not arrays:  # the frame is the text
            return layout, layout.arrays, True
        if layout.hollow != len(arrays):
            del arrays
            layout = self._layouts.read(text)
            return layout, layout.arrays, True
        return layout, arrays, booleans


@lru_cache(maxsize=_REMEMBERED)
def _frame(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """The format of a request with one JSON tensor and nothing else, its data left out."""
    item = {"name": name, "shape": shape, "datatype": datatype_of(dtype).name, "data": []}
    text = orjson.dumps({"inputs": [item]})
    return text[: -len(b"]}]}") - 1].replace(b"%", b"%%") + b"%b}]}"
