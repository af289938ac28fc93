"""One gRPC call that was read wholly, and the channel for its one answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from grpc import StatusCode

from proxy import protobuf
from proxy.grpc.answer import Answer
from proxy.grpc.metadata import Metadata, trailers_of
from proxy.grpc.status import code_of
from proxy.http.messages import Head, Peer, Reply

_NUMBERS: Final = {code: code.value[0] for code in StatusCode}
_RETRY_INFO: Final = b"type.googleapis.com/google.rpc.RetryInfo"


class Outcome(NamedTuple):
    """How a call ends.

    Attributes:
        details: words for the client, where ``code`` is not OK.
        message: for the client, where it is.
    """

    code: StatusCode
    details: str
    message: bytes
    initial: Metadata
    trailing: Metadata

    @classmethod
    def of(cls, reply: Reply) -> Outcome:
        """A local answer: its body is the text of the status."""
        code, details = code_of(reply.status), reply.body.decode("utf-8", "replace")
        trailing: list[tuple[str, str | bytes]] = []
        for name, value in reply.headers:
            trailing.append((name.decode(), value.decode("latin-1")))
            if name == b"retry-after":
                trailing.append(("grpc-status-details-bin", _retry(code, details, int(value))))
        return cls(code, details, b"", (), tuple(trailing))


class Exchange:
    """A call on its way through the firewall. Implements ``proxy.transport.Exchange``.

    Attributes:
        head: with the method ``RPC``, the target of the call, and the metadata as headers.
        body: the request's message.
        peer: the other end of the connection.
        context: what the application put into its ``Intake``.
        received, read: clock when the message was there.
        status: of the answer, as HTTP has it, or 0.
        answered: whether there is one.
        outcome: the answer.
        upstream: None: the call goes to the servers of its binding.
    """

    upstream: Final = None

    __slots__ = (
        "answered",
        "body",
        "context",
        "head",
        "outcome",
        "peer",
        "read",
        "received",
        "status",
    )

    def __init__(self, head: Head, body: bytes, peer: Peer, context: Any, received: float) -> None:
        self.head = head
        self.body = body
        self.peer = peer
        self.context = context
        self.received = self.read = received
        self.status = 0
        self.answered = False
        self.outcome: Outcome | None = None

    def reply(self, reply: Reply) -> None:
        """Answers with a status of ours.

        Raises:
            RuntimeError: if there is an answer already.
        """
        self._end(reply.status, Outcome.of(reply))

    async def relay(
        self, response: Answer, extra: bytes = b"", tap: Callable[[bytes], None] | None = None
    ) -> int:
        """Passes the upstream's answer on, whatever its status.

        Args:
            extra: header lines of ours, each ended by CRLF, for the trailing metadata.
            tap: sees the message once it was sent.

        Returns:
            The number of bytes of its message.

        Raises:
            RuntimeError: if there is an answer already.
        """
        body = response.take()
        self._end(response.status, self._outcome(response, body, extra))
        if tap is not None:
            tap(body)
        return len(body)

    def replace(self, response: Answer, lines: bytes, body: bytes, extra: bytes = b"") -> int:
        """Sends a message of ours in place of the upstream's, with the status of that.

        Args:
            lines: nothing: a message describes itself.
            extra: as in :meth:`relay`.

        Returns:
            The number of bytes of the message.

        Raises:
            RuntimeError: if there is an answer already.
        """
        response.discard()
        self._end(response.status, self._outcome(response, body, lines + extra))
        return len(body)

    async def drained(self) -> None:
        """Waits for nothing: the answer is sent after the exchange, and gRPC holds it then."""

    @staticmethod
    def _outcome(response: Answer, body: bytes, extra: bytes) -> Outcome:
        trailing = (*response.trailing, *trailers_of(extra))
        return Outcome(response.code, response.details, body, response.initial, trailing)

    def _end(self, status: int, outcome: Outcome) -> None:
        if self.status:
            raise RuntimeError("the exchange has been answered already")
        self.status = status
        self.outcome = outcome
        self.answered = True


def _retry(code: StatusCode, details: str, seconds: int) -> bytes:
    """A ``google.rpc.Status`` with a ``RetryInfo``: what clients read that look for one."""
    delay = protobuf.span(1, protobuf.integer(1, seconds))
    told = protobuf.span(1, _RETRY_INFO) + protobuf.span(2, delay)
    return (
        protobuf.integer(1, _NUMBERS[code])
        + protobuf.span(2, details.encode())
        + protobuf.span(3, told)
    )
