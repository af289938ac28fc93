"""One HTTP exchange of Envoy's, and the verdict on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy.decision import Permit
from proxy.ext_proc import messages
from proxy.ext_proc.answer import Answer
from proxy.ext_proc.heads import Request
from proxy.ext_proc.stream import Stream
from proxy.http.exchange import DESCRIBING
from proxy.http.messages import Peer, Reply
from proxy.rules import UPSTREAM_INVALID, UPSTREAM_TIMEOUT, Refusal


class Onward:
    """The way of one request to its model server: Envoy goes it. Implements
    ``proxy.transport.Sender``.

    Args:
        request: as Envoy holds it.
    """

    __slots__ = ("_request", "_stream")

    def __init__(self, stream: Stream, request: Request) -> None:
        self._stream = stream
        self._request = request

    async def send(self, permit: Permit, /) -> Answer:
        """Has Envoy send what is permitted in place of what it holds, and waits for the head of the
        answer.

        Raises:
            Refusal: UPSTREAM_TIMEOUT or UPSTREAM_INVALID; INTERNAL if Envoy sends something else.
        """
        stream, head = self._stream, self._request.head
        method, target, lines, body = permit.request
        response = messages.onward(
            stream.pending,
            target,
            lines,
            body,
            # With a body to come, they were removed before it.
            removed=self._request.removed if stream.pending == messages.REQUEST_HEADERS else (),
            method=None if method == head.method.encode() else method,
        )
        await stream.send(response)
        message = await stream.next(
            stream.limits.answer_seconds, UPSTREAM_TIMEOUT, messages.RESPONSE_HEADERS
        )
        answer = Answer(stream, message, method.decode())
        if answer.bodiless and not answer.complete:  # HTTP/2 can say so; no body may pass unread
            await answer.progress()
            if answer.buffered:
                raise Refusal(UPSTREAM_INVALID, "a body where none belongs")
        return answer


class Exchange:
    """One request that Envoy holds, and its answer. Implements ``proxy.transport.Exchange``.

    Attributes:
        head, body, peer, context, received, read: as in ``http.exchange.Exchange``.
        upstream: the way to the model server.
        status: of the answer that was decided on, or 0.
        answered: whether there is nothing left to decide.
        verdict: what is still to be told to Envoy, or None.
    """

    __slots__ = (
        "_stream",
        "answered",
        "body",
        "context",
        "head",
        "peer",
        "read",
        "received",
        "status",
        "upstream",
        "verdict",
    )

    def __init__(
        self,
        stream: Stream,
        request: Request,
        body: bytes,
        peer: Peer,
        context: Any,
        *,
        received: float,
        read: float,
    ) -> None:
        self._stream = stream
        self.head = request.head
        self.body = body
        self.peer = peer
        self.context = context
        self.received = received
        self.read = read
        self.upstream = Onward(stream, request)
        self.status = 0
        self.answered = False
        self.verdict: bytes | None = None

    def reply(self, reply: Reply) -> None:
        """Answers with an answer of ours, whatever the model server has said.

        Raises:
            RuntimeError: if there is an answer already.
        """
        self._end(reply.status, messages.immediate(reply))

    async def relay(
        self, response: Answer, extra: bytes = b"", tap: Callable[[bytes], None] | None = None
    ) -> int:
        """Lets the model server's answer pass.

        Args:
            extra: header lines of ours, each ended by CRLF.
            tap: sees each part of the body before it passes.

        Returns:
            The number of bytes of body; as its head declares it, where nobody saw it.

        Raises:
            Refusal: if Envoy stops in the middle, or sends something else.
            RuntimeError: if there is an answer already.
        """
        stream = self._stream
        if response.complete or stream.pending != messages.RESPONSE_HEADERS:
            body = response.take()
            verdict = messages.passed(stream.pending, extra, response.removed)
            self._end(response.status, verdict)
            if tap is not None:
                tap(body)
            return len(body)
        if tap is None:
            self._end(response.status, messages.unread(extra, response.removed))
            return response.length or 0
        self._begin(response.status)
        await stream.send(messages.watched(extra, response.removed))
        return await self._watch(tap)

    def replace(self, response: Answer, lines: bytes, body: bytes, extra: bytes = b"") -> int:
        """Puts a body of ours in place of the model server's: see ``http.exchange.Exchange``.

        Returns:
            The number of bytes of body.

        Raises:
            ValueError: if there is no body to replace.
            RuntimeError: if there is an answer already.
        """
        if response.bodiless:
            raise ValueError("there is no body to replace")
        described = [name.decode() for name, _ in response.headers if name in DESCRIBING]
        verdict = messages.replaced(
            self._stream.pending, lines + extra, body, response.removed + described
        )
        response.discard()
        self._end(response.status, verdict)
        return len(body)

    async def drained(self) -> None:
        """Waits for nothing: what is told to Envoy is sent after the exchange."""

    async def _watch(self, tap: Callable[[bytes], None]) -> int:
        """Shows a body that passes; the last part of it is answered as the verdict."""
        stream, sent = self._stream, 0
        while True:
            message = await stream.next(
                stream.limits.answer_seconds,
                UPSTREAM_TIMEOUT,
                messages.RESPONSE_BODY,
                messages.RESPONSE_TRAILERS,
            )
            piece = message.response_body.body
            tap(piece)
            sent += len(piece)
            if message.response_body.end_of_stream or stream.pending == messages.RESPONSE_TRAILERS:
                self.verdict = messages.read(stream.pending)
                self.answered = True
                return sent
            await stream.send(messages.read(stream.pending))

    def _begin(self, status: int) -> None:
        if self.status:
            raise RuntimeError("the exchange has been answered already")
        self.status = status

    def _end(self, status: int, verdict: bytes) -> None:
        self._begin(status)
        self.verdict = verdict
        self.answered = True
