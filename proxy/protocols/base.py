"""What a wire protocol gives the firewall: bytes to tensors, tensors to bytes, refusals in words
that its clients understand. Knows no detectors and no sockets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from proxy.rules import Refusal

Rows = npt.NDArray[np.float32]


class Headers(Protocol):
    """The part of a message's head that a codec reads."""

    def get(self, name: bytes, /) -> bytes | None:
        """The value of the header with this lower-case name, or None."""


class Call(Enum):
    """What a path of a protocol asks for."""

    INFER = "infer"
    METADATA = "metadata"
    HEALTH = "health"


@dataclass(frozen=True, slots=True)
class Route:
    """A path that a codec understood.

    Attributes:
        call: what it asks for.
        method: the only method that it takes.
        target: the canonical path to send upstream.
        model: the model's name, or "" for the server's own paths.
        version: the model's version, or "".
    """

    call: Call
    method: str
    target: bytes
    model: str = ""
    version: str = ""


@dataclass(slots=True)
class InferRequest:
    """One request as the tensors that the model would see.

    Attributes:
        tensors: by name, in the contract's order (in the order sent if it names no inputs), each
            with its declared shape. Read-only.
        rows: (n, d) float32, C-contiguous, finite: what is scored. All numeric tensors flattened
            per row and joined in the contract's order; (n, 0) if none is numeric.
        n: number of rows, the unit of every limit.
        options: the protocol's own remainder (ids, requested outputs), validated, kept for
            encoding. Read-only: equal requests may share it.
    """

    tensors: dict[str, npt.NDArray[Any]]
    rows: Rows
    n: int
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class InferResponse:
    """The model's answer as tensors by name.

    Attributes:
        tensors: in the order of the answer. Read-only.
        n: the size of their common first dimension, or 1 if they have none in common.
        options: the protocol's own remainder (ids, parameters, which tensors were binary), kept
            for encoding.
    """

    tensors: dict[str, npt.NDArray[Any]]
    n: int
    options: Mapping[str, Any] = field(default_factory=dict)


class Codec(Protocol):
    """One wire protocol, bound to one endpoint's contract. Every codec passes the conformance
    suite in ``tests/proxy/protocols/conformance.py``.

    Attributes:
        framing: names and lines of the headers without which a request body cannot be read. They
            go on with a body that was not understood and is let through all the same.
    """

    name: str
    framing: Sequence[tuple[bytes, bytes]]

    def route(self, method: str, target: str) -> Route:
        """Understands a request target.

        Raises:
            Refusal: NO_ROUTE, METHOD or CONTROL_PATH.
        """

    def decode_request(self, head: Headers, body: bytes, route: Route) -> InferRequest:
        """Reads a request strictly and within bounds.

        Raises:
            Refusal: and nothing else, whatever the bytes.
        """

    def encode_request(self, request: InferRequest) -> tuple[bytes, bytes]:
        """The canonical header lines (Content-Type and the protocol's own, CRLF-ended) and body."""

    def batch(self, request: InferRequest) -> int:
        """The most rows that one request like this one may hold."""

    def with_rows(
        self, request: InferRequest, rows: Rows, origins: npt.NDArray[np.int64]
    ) -> InferRequest:
        """The same question about other rows: each number of a row in its tensor's place.

        Integers and booleans are rounded, and what leaves the datatype or the contract's range
        moves to its edge. What is not in the rows (BYTES) is that of the row's origin. The ids of
        the request are left out.

        Args:
            rows: (m, d) float32, finite.
            origins: (m,) for each the index of the row of ``request`` that it was made from.

        Raises:
            ValueError: if they do not fit the request, or are more than its ``batch``.
        """

    def decode_response(self, head: Headers, body: bytes) -> InferResponse:
        """Reads an answer strictly and within bounds.

        Raises:
            Refusal: UPSTREAM_INVALID, and nothing else, whatever the bytes.
        """

    def encode_response(self, response: InferResponse) -> tuple[bytes, bytes]:
        """Header lines (Content-Type and the protocol's own, CRLF-ended) and body of an answer, in
        the form in which it was read: what was binary is binary, ids and parameters stay.

        Raises:
            ValueError: for a number that the form cannot hold, as NaN in JSON.
        """

    def refuse(self, refusal: Refusal) -> tuple[bytes, bytes]:
        """Content type and body of a refusal, in the shape that this protocol's clients expect."""
