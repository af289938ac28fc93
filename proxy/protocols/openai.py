"""OpenAI's API: chat, completions and embeddings, as many servers speak it.

Texts are counted, not inspected. Embeddings are vectors, and scored as such; they are in the
answer.

Source: the OpenAPI description of the API (platform.openai.com/docs/api-reference).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
import orjson

from proxy.protocols import openai_embeddings
from proxy.protocols.base import (
    JSON_ACCEPTED,
    Headers,
    Holds,
    InferRequest,
    InferResponse,
    Refused,
    Route,
    Rows,
    plain,
)
from proxy.protocols.contract import Contract, ContractError
from proxy.protocols.openai_meter import CHARACTERS, TokenMeter
from proxy.protocols.openai_paths import Paths, Question
from proxy.protocols.openai_requests import Reader, Volume
from proxy.protocols.strict_json import Bounds, check_bounds, strict_json
from proxy.protocols.tensors import Tensor
from proxy.rules import (
    BODY_TOO_LARGE,
    CONTRACT_UNKNOWN,
    MEDIA_TYPE,
    SHAPE,
    UPSTREAM_INVALID,
    Refusal,
)

Unit = Literal["requests", "items", "characters", "tokens"]

_JSON: Final = b"application/json"
_SPELT: Final = re.compile(rb'(?i:application/json(?:[ \t]*;[ \t]*charset=(?:utf-8|"utf-8"))?)')
_JSON_LINES: Final = b"content-type: application/json\r\n"

_INLINE_BYTES: Final = 8 * 1024
"""Lists of short lists of tokens are the slowest to read: these take two milliseconds."""

_BOUNDS: Final = Bounds(values=2**20, lists=2**16, fields=2**17, strings=2**17)
"""Of a large body: what costs more than its bytes to read."""

_SURE: Final = 8
"""Characters of which hardly any text makes less than a token: so much is taken beforehand."""
_MEDIUM: Final = 512
"""Tokens of an embedded medium, where tokens have to be estimated."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a refusal is called in the API's errors."""

    type: str
    code: str | None


_INVALID: Final = _Kind("invalid_request_error", None)
_KINDS: Final = {
    403: _Kind("permission_denied", "permission_denied"),
    404: _Kind("invalid_request_error", "not_found"),
    429: _Kind("rate_limit_error", "rate_limit_exceeded"),
}
_FAULT: Final = _Kind("server_error", None)


class OpenAI:
    """The codec of one server.

    Args:
        prefix: the server's path as clients write it, ``[/BASE]/v1``.
        contract: open; its width is that of the embeddings that are scored. None while the server
            was not reached, and every inference is refused.
        upstream_prefix: its path on the server itself; the same if None.
        max_rows: of one request, prompts times answers to each, whatever the unit of the limits.
        max_bytes: bytes of one request body, decompressed.
        max_response_bytes: bytes of one answer that is to be read.
        calls: what may be asked.
        unit: of the limits, ``InferRequest.n``. Tokens are known when the answer is there: what is
            sure beforehand is ``n``, and the request's meter tells the rest.
        models: that may be asked for; none: any.
        parameters: names of further request fields that the operator vouches for.
        remote_images: whether the server may be told to fetch images.
        max_characters: of one request; None: as many as its body holds.
        max_tokens: that one request may ask for, over all its answers; None: any number.
        ask_usage: whether a stream is asked to count its tokens where its client did not.
        probe: the path that shows that the server is there; None: it is not asked.

    Raises:
        ValueError: if a prefix is not such a path, or a width is to hold for what is no embedding.
    """

    name = "openai"
    inline_bytes = _INLINE_BYTES
    framing: Sequence[tuple[bytes, bytes]] = ((b"content-type", b"content-type: %b\r\n"),)
    accepts = JSON_ACCEPTED
    forwarded: Sequence[tuple[bytes, bytes]] = (
        (b"openai-organization", b"openai-organization: %b\r\n"),
        (b"openai-project", b"openai-project: %b\r\n"),
    )

    def __init__(
        self,
        prefix: str,
        contract: Contract | None,
        *,
        upstream_prefix: str | None = None,
        max_rows: int = 256,
        max_bytes: int = 10 * 2**20,
        max_response_bytes: int = 10 * 2**20,
        calls: Collection[Question] = ("chat", "completions", "embeddings"),
        unit: Unit = "requests",
        models: Collection[str] = (),
        parameters: Collection[str] = (),
        remote_images: bool = False,
        max_characters: int | None = None,
        max_tokens: int | None = None,
        ask_usage: bool = False,
        probe: Literal["models"] | None = None,
    ) -> None:
        self._arguments: dict[str, Any] = {
            "prefix": prefix,
            "upstream_prefix": upstream_prefix,
            "max_rows": max_rows,
            "max_bytes": max_bytes,
            "max_response_bytes": max_response_bytes,
            "calls": calls,
            "unit": unit,
            "models": models,
            "parameters": parameters,
            "remote_images": remote_images,
            "max_characters": max_characters,
            "max_tokens": max_tokens,
            "ask_usage": ask_usage,
            "probe": probe,
        }
        self.contract = contract
        self._paths = Paths(prefix, upstream_prefix, calls)
        self.probe: Route | None = self._paths.models if probe == "models" else None
        self._width = contract.width if contract is not None else None
        if self._width is not None and set(calls) != {"embeddings"}:
            raise ValueError("what is scored are embeddings: calls must be [embeddings]")
        self._max_bytes = max_bytes
        self._max_response_bytes = max_response_bytes
        self._unit = unit
        self._ask_usage = ask_usage
        self._reader = Reader(
            max_items=max_rows,
            max_characters=max_characters,
            max_tokens=max_tokens,
            models=frozenset(models),
            parameters=frozenset(parameters),
            remote=remote_images,
        )

    def learn(self, body: bytes, width: int | None) -> Contract:
        """An open contract: the server declares no tensors, but that it is there.

        Raises:
            ContractError: if the answer is not a list of models.
        """
        try:
            document = strict_json(body)
        except Refusal as refusal:
            raise ContractError(f"list of models: {refusal.message}") from None
        if type(document) is not dict or type(document.get("data")) is not list:
            raise ContractError("the answer is not a list of models")
        return Contract().with_width(width)

    def with_contract(self, contract: Contract | None) -> Self:
        """The same codec bound to another contract; this one stays as it is."""
        return type(self)(contract=contract, **self._arguments)

    def route(self, method: str, target: str) -> Route:
        """Understands a request target. See ``Codec.route``."""
        return self._paths.route(method, target)

    def decode_request(self, head: Headers, body: bytes, route: Route) -> InferRequest:
        """Reads a request strictly and within bounds.

        ``rows`` is (n, 0), and n is in the unit of the limits. Texts to be embedded are a tensor,
        ``input`` (m,) of BYTES; a conversation and a prompt are none.

        Raises:
            Refusal: and nothing else, whatever the bytes.
        """
        if self.contract is None:
            raise Refusal(CONTRACT_UNKNOWN)
        if len(body) > self._max_bytes:
            raise Refusal(BODY_TOO_LARGE, f"at most {self._max_bytes} bytes")
        media = head.get(b"content-type")
        if media is not None and media != _JSON and _SPELT.fullmatch(media) is None:
            raise Refusal(MEDIA_TYPE, "use application/json")
        if len(body) > _INLINE_BYTES:
            check_bounds(body, _BOUNDS)
        question = self._paths.questions[route.target]
        fields, volume = self._reader.read(question, strict_json(body))
        if question == "embeddings":
            dimensions = fields.get("dimensions", self._width)
            if self._width is not None and dimensions != self._width:
                raise Refusal(SHAPE, f"an embedding has {self._width} dimensions")
        n = self._units(volume)
        meter = None
        if self._unit == "tokens":
            prompt = volume.tokens + -(-volume.characters // CHARACTERS) + volume.parts * _MEDIUM
            meter = TokenMeter(n, prompt, worded=question != "embeddings")
            if self._ask_usage and fields.get("stream") is True:
                options = fields.get("stream_options", {})
                fields["stream_options"] = {**options, "include_usage": True}
        return InferRequest(
            _texts(fields["input"]) if question == "embeddings" else {},
            np.empty((n, 0), np.float32),
            n,
            {"document": fields},
            Holds.ROWS if question == "embeddings" else Holds.TEXT,
            meter,
        )

    def _units(self, volume: Volume) -> int:
        if self._unit == "requests":
            return 1
        if self._unit == "items":
            return volume.items
        if self._unit == "characters":
            # Each answer is made from all of the prompt, and a token has some four characters.
            size = volume.characters + volume.media + volume.tokens * CHARACTERS
            return max(1, size * volume.choices)
        return max(volume.items, volume.tokens + volume.characters // _SURE)

    def encode_request(self, request: InferRequest) -> tuple[bytes, bytes]:
        """The canonical header lines and body of a request."""
        return _JSON_LINES, orjson.dumps(request.options["document"])

    def batch(self, request: InferRequest) -> int:
        """1: texts are not changed."""
        return 1

    def with_rows(
        self, request: InferRequest, rows: Rows, origins: npt.NDArray[np.int64]
    ) -> InferRequest:
        """See ``Codec.with_rows``.

        Raises:
            ValueError: always: there are no numbers to change in a text.
        """
        raise ValueError(f"rows of shape {rows.shape} do not fit a text")

    def decode_response(self, head: Headers, body: bytes) -> InferResponse:
        """Reads a successful answer with embeddings strictly and within bounds.

        Raises:
            Refusal: UPSTREAM_INVALID, and nothing else, whatever the bytes.
        """
        try:
            return openai_embeddings.read(
                body,
                coded=head.get(b"content-encoding") not in (None, b"identity"),
                width=self._width,
                most=self._max_response_bytes,
            )
        except Refusal as refusal:
            detail = f"{refusal.rule.message}: {refusal.detail}"
            raise Refusal(UPSTREAM_INVALID, detail) from None

    def encode_response(self, response: InferResponse) -> tuple[bytes, bytes]:
        """Header lines and body of an answer, in the form in which it was read.

        Raises:
            ValueError: for a number that is not finite.
        """
        return openai_embeddings.write(response)

    def refuse(self, refusal: Refusal) -> Refused:
        """A refusal as the API's clients raise it. They try a block again unless told not to."""
        status = refusal.rule.status
        kind = _KINDS.get(status, _INVALID if status < 500 else _FAULT)
        error = {
            "message": plain(refusal.message),
            "type": kind.type,
            "param": None,
            "code": kind.code,
        }
        headers = ((b"x-should-retry", b"false"),) if status == 403 else ()
        return Refused(_JSON, orjson.dumps({"error": error}), headers)


def _texts(given: Any) -> dict[str, Tensor]:
    """Texts as a tensor; none where they were sent as tokens."""
    texts = [given] if type(given) is str else given
    if type(texts[0]) is not str:
        return {}
    array = np.empty(len(texts), object)
    array[:] = [text.encode() for text in texts]
    array.flags.writeable = False
    return {"input": array}
