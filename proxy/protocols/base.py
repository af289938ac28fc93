"""What a wire protocol gives the firewall: bytes to tensors, tensors to bytes, refusals in words
that its clients understand. Knows no detectors and no sockets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from proxy.protocols.contract import Contract
from proxy.rules import Refusal

Rows = npt.NDArray[np.float32]

INLINE_BYTES: Final = 32 * 1024
"""Plain bodies below this are decoded and scored on the loop, where a codec says nothing else: it
takes two milliseconds at most."""


JSON_ACCEPTED: Final = frozenset({b"application/json", b"*/*"})
"""``Codec.accepts`` where answers are JSON."""

CHOOSES: Final = frozenset({"outputs"})
"""Options of a request by which a client says what is to be answered."""

SAYS: Final = CHOOSES | {"parameters", "input_parameters"}
"""Those, and the ones by which it says how."""


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


class Holds(Enum):
    """What the answer to a request holds for the firewall."""

    TENSORS = "tensors"
    """The model's verdict on the rows that the request holds."""
    ROWS = "rows"
    """The rows that are scored: the request has none."""
    TEXT = "text"
    """Nothing that is read, whatever is configured: it streams by."""


class Meter(Protocol):
    """Reads off an answer, while it streams by, what it cost. In bounded memory, whatever comes."""

    def add(self, piece: bytes) -> None:
        """Some more of the answer's body."""

    def units(self) -> int:
        """What the request has cost so far, what was known before it was sent included."""


@dataclass(slots=True)
class InferRequest:
    """One request as the tensors that the model would see.

    Attributes:
        tensors: by name, in the contract's order (in the order sent if it names no inputs), each
            with its declared shape. Read-only.
        rows: (n, d) float32, C-contiguous, finite: what is scored. All numeric tensors flattened
            per row and joined in the contract's order; (n, 0) if none is numeric.
        n: number of rows, the unit of every limit.
        options: the protocol's own remainder, validated, kept for encoding. Read-only: equal
            requests may share it. Four keys mean the same for every protocol: ``id``, of this
            request alone; ``outputs``, the client's choice among the model's outputs, each a
            mapping whose ``parameters`` hold ``classification`` where it asks for a ranking in the
            output's place; ``parameters`` and ``input_parameters``, how it is to be computed.
        answer: what its answer holds. Where that is ``ROWS``, ``rows`` has no columns, and
            ``InferResponse.rows`` holds what is scored.
        meter: tells what it cost once it is answered; None: n is all.
    """

    tensors: dict[str, npt.NDArray[Any]]
    rows: Rows
    n: int
    options: Mapping[str, Any] = field(default_factory=dict)
    answer: Holds = Holds.TENSORS
    meter: Meter | None = None


@dataclass(slots=True)
class InferResponse:
    """The model's answer as tensors by name.

    Attributes:
        tensors: in the order of the answer. Read-only.
        n: the size of their common first dimension, or 1 if they have none in common.
        options: the protocol's own remainder (ids, parameters, which tensors were binary), kept
            for encoding.
        rows: (m, d) float32, C-contiguous, finite: what is scored, where the request has none.
    """

    tensors: dict[str, npt.NDArray[Any]]
    n: int
    options: Mapping[str, Any] = field(default_factory=dict)
    rows: Rows | None = None


class Refused(NamedTuple):
    """A refusal in a protocol's own shape.

    Attributes:
        headers: further ones, lower-case names, that the protocol's clients look at.
    """

    content_type: bytes
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


def plain(message: str) -> str:
    """A message that every encoder of text takes: lone surrogates are replaced."""
    return message.encode("utf-8", "replace").decode()


class Codec(Protocol):
    """One wire protocol, bound to one endpoint's contract. Every codec passes the conformance
    suite in ``tests/proxy/protocols/conformance.py``.

    Attributes:
        name: of the protocol, as in the configuration.
        contract: what the model takes; None while it is to be learnt, and every inference is
            refused with CONTRACT_UNKNOWN.
        probe: the route of the server's own, to be asked with GET, that shows that the model is
            there; None: there is nothing to ask.
        inline_bytes: plain bodies below this are read on the loop, as that takes two milliseconds
            at most; 0: none are.
        framing: names and lines of the headers without which a request body cannot be read. They
            go on with a body that was not understood and is let through all the same.
        forwarded: the same of further headers that every request of this protocol keeps. None
            chooses a model or a call, or frames a body.
        accepts: values of Accept that lead to an answer that is understood. Where answers are read,
            a client's other wishes are not passed on: none may choose not to be read.
    """

    name: str
    contract: Contract | None
    probe: Route | None
    inline_bytes: int
    framing: Sequence[tuple[bytes, bytes]]
    forwarded: Sequence[tuple[bytes, bytes]]
    accepts: frozenset[bytes]

    def learn(self, body: bytes, width: int | None) -> Contract:
        """The contract that the answer to ``probe`` declares: an open one, held to ``width``,
        where the protocol's servers declare nothing.

        Args:
            body: of an answer with status 200.
            width: features per row that something else fixes, such as a bundle.

        Raises:
            ContractError: if the answer is not what such a server says, or names what cannot be
                inspected.
        """

    def with_contract(self, contract: Contract | None) -> Self:
        """The same codec bound to another contract; this one stays as it is."""

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

    def refuse(self, refusal: Refusal) -> Refused:
        """A refusal in the shape that this protocol's clients expect. Its status is the rule's."""
