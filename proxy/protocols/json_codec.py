"""What codecs have in common whose requests and answers are one JSON document."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from typing import Any, ClassVar, Final, Self

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
)
from proxy.protocols.contract import Contract
from proxy.protocols.json_tensors import JsonTensors, Reading
from proxy.protocols.nested import json_bounds, json_cheap
from proxy.protocols.rows import MISSING, most_rows, other_rows, scored_rows
from proxy.protocols.strict_json import check_bounds, loads, strict_json
from proxy.protocols.tensors import Tensor
from proxy.protocols.v2_messages import MAX_TENSORS, shown
from proxy.rules import (
    BODY_TOO_LARGE,
    CONTRACT_UNKNOWN,
    MEDIA_TYPE,
    SHAPE,
    SYNTAX,
    TENSOR_NAME,
    UPSTREAM_INVALID,
    Refusal,
)

JSON_LINES: Final = b"Content-Type: application/json\r\n"
# None: many scripts send no Content-Type.
_MEDIA_TYPES: Final = frozenset({None, b"application/json"})
_SPELT: Final = re.compile(rb"(?i:application/json(?:[ \t]*;[ \t]*charset=(?:utf-8|\"utf-8\"))?)")


class JsonCodec(ABC):
    """Half a codec: bounds, the contract, rows and the errors of answers.

    Args:
        contract: what the model takes; None while it is not known, and every inference is refused.
        max_rows: rows of one request.
        max_bytes: bytes of one request body, decompressed.
        max_response_bytes: bytes of one answer that is to be read.
        names: of the features, where something such as a bundle says so. Where the contract
            declares no inputs, a request may give its numbers by these names, in any order.
    """

    inline_bytes = INLINE_BYTES
    framing: Sequence[tuple[bytes, bytes]] = ((b"content-type", b"content-type: %b\r\n"),)
    forwarded: Sequence[tuple[bytes, bytes]] = ()
    accepts = JSON_ACCEPTED
    b64: ClassVar[bool] = False
    """Whether ``{"b64": "..."}`` stands for bytes."""

    def __init__(
        self,
        contract: Contract | None,
        *,
        max_rows: int = 256,
        max_bytes: int = 10 * 2**20,
        max_response_bytes: int = 10 * 2**20,
        names: Sequence[str] = (),
    ) -> None:
        self._names = names
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._max_response_bytes = max_response_bytes
        self._answers = JsonTensors(Contract(), None, b64=self.b64)
        self._bind(contract)

    def _bind(self, contract: Contract | None) -> None:
        self.contract = contract
        self._held = held = contract or Contract()
        self._order = [spec.name for spec in held.inputs]
        names = max(MAX_TENSORS, len(self._names))
        self._tensors = JsonTensors(held, self._max_rows, b64=self.b64, names=names)
        objects = self._max_rows * (1 + (len(held.inputs) or names))
        self._bounds = json_bounds(held, self._max_rows, names=objects + MAX_TENSORS)
        self._cheap = json_cheap(self._bounds, self._max_rows)

    def learn(self, body: bytes, width: int | None) -> Contract:
        """An open contract: the answer only shows that the model is there. See ``Codec.learn``."""
        return Contract().with_width(width)

    def with_contract(self, contract: Contract | None) -> Self:
        """The same codec bound to another contract; this one stays as it is."""
        other = copy(self)
        other._bind(contract)
        return other

    @abstractmethod
    def decode_request(self, head: Headers, body: bytes, route: Route) -> InferRequest:
        """Reads a request strictly and within bounds. See ``Codec.decode_request``."""

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

        The answer must be plain (no content coding), its numbers finite, and nothing in it null.

        Raises:
            Refusal: UPSTREAM_INVALID, and nothing else, whatever the bytes.
        """
        try:
            self._check_answer(head, body)
            return self._read_answer(strict_json(body))
        except Refusal as refusal:
            detail = f"{refusal.rule.message}: {refusal.detail}"
            raise Refusal(UPSTREAM_INVALID, detail) from None

    @abstractmethod
    def _read_answer(self, document: Any) -> InferResponse:
        """The tensors of an answer.

        Raises:
            Refusal: for whatever is wrong with it.
        """

    @abstractmethod
    def refuse(self, refusal: Refusal) -> Refused:
        """A refusal in the protocol's shape. See ``Codec.refuse``."""

    def _check_answer(self, head: Headers, body: bytes) -> None:
        if len(body) > self._max_response_bytes:
            raise Refusal(BODY_TOO_LARGE, f"at most {self._max_response_bytes} bytes")
        if head.get(b"content-encoding") not in (None, b"identity"):
            raise Refusal(SYNTAX, "the answer is compressed")
        _check_media_type(head.get(b"content-type"))

    def _admit(self, body: bytes) -> None:
        """Refuses what need not be read.

        Raises:
            Refusal: CONTRACT_UNKNOWN or BODY_TOO_LARGE.
        """
        if self.contract is None:
            raise Refusal(CONTRACT_UNKNOWN)
        if len(body) > self._max_bytes:
            raise Refusal(BODY_TOO_LARGE, f"at most {self._max_bytes} bytes")

    def _document(self, head: Headers, body: bytes) -> Any:
        """The JSON of a request. Keys that come twice are the caller's to look for.

        Raises:
            Refusal: CONTRACT_UNKNOWN, BODY_TOO_LARGE, MEDIA_TYPE or SYNTAX.
        """
        self._admit(body)
        _check_media_type(head.get(b"content-type"))
        if len(body) > self._cheap:
            check_bounds(body, self._bounds)
        return loads(body)

    def _request(self, reading: Reading, options: Mapping[str, Any]) -> InferRequest:
        """A request of what was read of it.

        Raises:
            Refusal: TENSOR_NAME, SHAPE or VALUE.
        """
        tensors, n = reading.tensors, reading.n
        held = self._held
        width = held.width
        if held.open and width is not None:
            tensors = self._undeclared(tensors)
        elif len(tensors) > 1 and self._order:
            tensors = {name: tensors[name] for name in self._order if name in tensors}
        if reading.missing:
            options = {**options, MISSING: reading.missing}
        rows = scored_rows(tensors, n, held)
        if rows.shape[1] != width and width is not None:
            raise Refusal(SHAPE, f"a row has {width} features")
        return InferRequest(tensors, rows, n, options)

    def _undeclared(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a request whose contract declares none, as they are to be scored.

        A model takes them by their names or in an order of its own. If what is scored were theirs
        in the order sent, or a part of what it reads, numbers as text among it, the choice would
        be the client's.

        Raises:
            Refusal: TENSOR_NAME if they are neither one tensor of numbers nor the features by name.
        """
        if len(tensors) > 1:
            tensors = {name: tensors[name] for name in self._in_order(tensors)}
        if any(tensor.dtype.hasobject for tensor in tensors.values()):
            raise Refusal(TENSOR_NAME, "no inputs are declared: texts are not taken for numbers")
        return tensors

    def _in_order(self, names: Collection[str]) -> Sequence[str]:
        """The names of a request's several inputs in the order of the features.

        Raises:
            Refusal: TENSOR_NAME if they are not those of the features.
        """
        if not self._names:
            raise Refusal(TENSOR_NAME, "no inputs are declared: send one tensor of numbers")
        for name in self._names:
            if name not in names:
                raise Refusal(TENSOR_NAME, f"{shown(name)} is missing")
        if len(names) > len(self._names):
            raise Refusal(TENSOR_NAME, shown(min(set(names) - set(self._names))))
        return self._names


def dumps(document: Any) -> bytes:
    """JSON of plain values and arrays."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _check_media_type(value: bytes | None) -> None:
    """Refuses a Content-Type other than JSON in UTF-8, or none.

    Raises:
        Refusal: MEDIA_TYPE.
    """
    if value not in _MEDIA_TYPES and (value is None or _SPELT.fullmatch(value) is None):
        raise Refusal(MEDIA_TYPE, "use application/json")
