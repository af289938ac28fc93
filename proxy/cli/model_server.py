"""A model server as ``bartizan fit`` asks it: many rows, over the Open Inference Protocol v2."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection
from typing import Final
from urllib.parse import urlsplit

import numpy as np

from proxy.protocols.base import InferRequest, InferResponse, Rows
from proxy.protocols.contract import ANY, Contract, ContractError, TensorSpec
from proxy.protocols.tensors import DATATYPES, from_rows
from proxy.protocols.v2 import V2
from proxy.rules import Refusal

SECONDS: Final = 60.0
"""How long each of connecting, sending and reading may take."""
BATCH: Final = 256
_MOST_BYTES: Final = 64 << 20
_SHOWN: Final = 300
_LONE_INPUT: Final = "input-0"
"""What servers that declare no inputs read one tensor by, whatever its name."""


class ModelError(ValueError):
    """The model server cannot be reached, or does not answer as it should. Says which and why."""


class ModelServer:
    """Asks one model about rows, over one connection for each call.

    Args:
        url: of the model: ``http://HOST[:PORT][/BASE]/v2/models/NAME[/versions/VERSION]``.
        features: d, of a row.
        row_shape: of one row, where the model leaves its input's shape open; None: (d,).
        batch: rows of one request, at most.
        seconds: how long each of connecting, sending and reading may take.

    Raises:
        ModelError: if the URL is none of a model, nobody answers there, or the model does not take
            such rows.
    """

    def __init__(
        self,
        url: str,
        features: int,
        *,
        row_shape: tuple[int, ...] | None = None,
        batch: int = BATCH,
        seconds: float = SECONDS,
    ) -> None:
        self.url = url
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query:
            raise ModelError(f"{url!r}: expected http://HOST[:PORT]/v2/models/NAME")
        self._secure = parts.scheme == "https"
        try:
            self._host, self._port = parts.hostname, parts.port
            prefix, _, version = parts.path.rstrip("/").partition("/versions/")
            codec = V2(prefix, None, max_rows=batch, max_response_bytes=_MOST_BYTES)
            behind = f"{prefix}/versions/{version}" if version else prefix
            metadata = codec.route("GET", behind)
            self._target = codec.route("POST", f"{behind}/infer").target.decode()
        except (ValueError, Refusal) as error:
            raise ModelError(
                f"{url!r} is not the URL of a model, http://HOST[:PORT]/v2/models/NAME: {error}; a "
                "model that speaks another protocol is not asked here: give its answers as a file"
            ) from error
        self._seconds = seconds
        with closing(self._connect()) as connection:
            _, body = self._ask(connection, "GET", metadata.target.decode())
        try:
            contract = _numeric(Contract.from_metadata(body, model=metadata.model))
            contract = contract.with_width(features)
        except ContractError as error:
            raise ModelError(f"{url}: {error}") from error
        if contract.open:
            contract = Contract((TensorSpec(_LONE_INPUT, "FP32", (ANY, features)),))
        self._codec = codec.with_contract(contract)
        self._inputs = [
            (spec, shape)
            for spec, shape in zip(
                contract.inputs, _shapes(url, contract, features, row_shape), strict=True
            )
        ]
        self._features = features
        self._batch = self._codec.batch(self._request(np.zeros((1, features), np.float32)))

    def ask(self, rows: Rows) -> Iterator[tuple[InferResponse, int]]:
        """The answers to (n, d) rows: one for each request, and how many rows it is for.

        Raises:
            ModelError: if one cannot be had; says why.
        """
        with closing(self._connect()) as connection:
            for start in range(0, len(rows), self._batch):
                part = np.ascontiguousarray(rows[start : start + self._batch])
                lines, body = self._codec.encode_request(self._request(part))
                head, answer = self._ask(connection, "POST", self._target, lines, body)
                try:
                    said = self._codec.decode_response(head, answer)
                except Refusal as refusal:
                    raise ModelError(f"{self.url}: {refusal.message}") from refusal
                yield said, len(part)

    def _request(self, rows: Rows) -> InferRequest:
        tensors = {}
        at = 0
        for spec, shape in self._inputs:
            width = math.prod(shape)
            part = from_rows(
                rows[:, at : at + width],
                DATATYPES[spec.datatype],
                minimum=spec.minimum,
                maximum=spec.maximum,
            )
            batched = self._codec.contract is None or self._codec.contract.batched
            tensors[spec.name] = part.reshape((len(rows), *shape) if batched else shape)
            at += width
        return InferRequest(tensors, rows, len(rows))

    def _ask(
        self,
        connection: HTTPConnection,
        method: str,
        target: str,
        lines: bytes = b"",
        body: bytes | None = None,
    ) -> tuple[_Head, bytes]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        for line in lines.decode().splitlines():
            name, _, value = line.partition(":")
            headers[name] = value.strip()
        try:
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            data = answer.read(_MOST_BYTES + 1)
        except (OSError, HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ModelError(f"{self.url}: {reason}") from error
        if len(data) > _MOST_BYTES:
            raise ModelError(f"{self.url}: an answer of more than {_MOST_BYTES >> 20} MiB")
        if answer.status != 200:
            said = data[:_SHOWN].decode(errors="replace").strip()
            raise ModelError(f"{self.url}: {method} {target} was answered {answer.status}: {said}")
        return _Head(answer.headers), data

    def _connect(self) -> HTTPConnection:
        kind = HTTPSConnection if self._secure else HTTPConnection
        return kind(self._host, self._port, timeout=self._seconds)


class _Head:
    """An answer's headers as a codec reads them."""

    def __init__(self, headers: HTTPMessage) -> None:
        self._headers = headers

    def get(self, name: bytes) -> bytes | None:
        value = self._headers.get(name.decode())
        return None if value is None else value.encode("latin-1", "replace")


def _numeric(contract: Contract) -> Contract:
    """The contract, if rows can hold all that it takes.

    Raises:
        ContractError: otherwise.
    """
    for spec in contract.inputs:
        if not spec.numeric:
            raise ContractError(f"input {spec.name!r} is {spec.datatype}, which no row holds")
    return contract


def _shapes(
    url: str, contract: Contract, features: int, row_shape: tuple[int, ...] | None
) -> list[tuple[int, ...]]:
    """The shape of one row of each input.

    Raises:
        ModelError: if the inputs do not make up such rows.
    """
    batched = contract.batched
    shapes = [spec.shape[1:] if batched else spec.shape for spec in contract.inputs]
    if len(shapes) == 1 and ANY in shapes[0]:
        shapes[0] = _filled(shapes[0], features, row_shape)
    if any(ANY in shape for shape in shapes) or sum(map(math.prod, shapes)) != features:
        takes = ", ".join(f"{s.name} {list(s.shape)}" for s in contract.inputs)
        raise ModelError(
            f"{url}: it takes {takes}, which rows of {features} features do not fill; "
            "--row-shape says what one row is"
        )
    return shapes


def _filled(
    shape: tuple[int, ...], features: int, row_shape: tuple[int, ...] | None
) -> tuple[int, ...]:
    """A shape whose open lengths are those of the row, where that leaves no doubt."""
    if row_shape is not None and len(row_shape) == len(shape):
        fits = all(want in {ANY, have} for want, have in zip(shape, row_shape, strict=True))
        if fits:
            return row_shape
    known = math.prod(size for size in shape if size != ANY)
    if shape.count(ANY) == 1 and features % known == 0:
        return tuple(features // known if size == ANY else size for size in shape)
    return shape
