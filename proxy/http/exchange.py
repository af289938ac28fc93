"""One request and the channel for its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from proxy.http import render
from proxy.http.messages import Head, Peer, Reply
from proxy.rules import Refusal

if TYPE_CHECKING:
    from proxy.http.application import Application
    from proxy.http.response import Response
    from proxy.http.server_connection import ServerConnection


DESCRIBING: Final = frozenset(
    {
        b"accept-ranges",
        b"content-digest",
        b"content-encoding",
        b"content-md5",
        b"content-range",
        b"content-type",
        b"digest",
        b"etag",
        b"inference-header-content-length",
        b"last-modified",
        b"repr-digest",
        b"signature",
        b"signature-input",
    }
)
"""Headers that hold of one body, and of no other in its place (RFC 9110, 8; RFC 9421; RFC 9530)."""


class Exchange:
    """One request that was read wholly, and the channel for its one answer.

    Attributes:
        head: already checked.
        body: as sent, without the framing of its transfer.
        peer: the other end of the connection.
        context: what the application put into its ``Intake``.
        received: clock at the first byte of the request.
        read: clock when the request was complete.
        status: of the answer that was begun, or 0.
        answered: whether the answer is complete.
        upstream: None: the request goes to the servers of its binding.
    """

    upstream: Final = None
    __slots__ = (
        "_connection",
        "answered",
        "application",
        "body",
        "context",
        "head",
        "keep_alive",
        "peer",
        "read",
        "received",
        "status",
    )

    def __init__(
        self,
        connection: ServerConnection,
        application: Application,
        head: Head,
        received: float,
    ) -> None:
        self._connection = connection
        self.application = application
        self.head = head
        self.body = b""
        self.peer: Peer = connection.peer
        self.context: Any = None
        self.received = received
        self.read = 0.0
        self.status = 0
        self.answered = False
        self.keep_alive = head.keep_alive

    def reply(self, reply: Reply) -> None:
        """Sends a local answer, complete, at once. Nothing happens if the client has left.

        Raises:
            RuntimeError: if an answer was begun before.
        """
        if self.status:
            raise _answered()
        self.status = reply.status
        if reply.close:
            self.keep_alive = False
        connection = self._connection
        connection.write(
            render.reply(
                reply,
                date=connection.date,
                connection=connection.connection_line(self),
                with_body=self.head.method != "HEAD",
            )
        )
        self.answered = True

    async def relay(
        self, response: Response, extra: bytes = b"", tap: Callable[[bytes], None] | None = None
    ) -> int:
        """Passes the upstream's answer on, re-framed, at the pace of the slower side.

        An answer that is there already goes out in one write, without a wait.

        Args:
            extra: further header lines, each ended by CRLF.
            tap: sees each part of the body once it was sent.

        Returns:
            The number of bytes of body sent.

        Raises:
            Refusal: if the upstream died in the middle. The client's connection has then been
                aborted: a part never looks like the whole.
            RuntimeError: if an answer was begun before.
        """
        if self.status:
            raise _answered()
        self.status = response.status
        if response.complete:
            body = response.take()
            self._connection.write(self._head(response, extra, len(body), body))
            self.answered = True
            if tap is not None:
                tap(body)
            return 0 if self.head.method == "HEAD" else len(body)
        return await self._stream(response, extra, tap)

    def replace(self, response: Response, lines: bytes, body: bytes, extra: bytes = b"") -> int:
        """Sends a body of ours in place of the upstream's, complete, at once.

        The status and the other headers are the upstream's, but for those that described its body.

        Args:
            response: what it stands for; nobody takes the body of that any more.
            lines: the header lines that describe the body, each ended by CRLF.
            extra: further header lines, each ended by CRLF.

        Returns:
            The number of bytes of body sent.

        Raises:
            ValueError: if there is no body to replace (HEAD, 204, 304).
            RuntimeError: if an answer was begun before.
        """
        if self.status:
            raise _answered()
        if response.bodiless:
            raise ValueError("there is no body to replace")
        response.headers = [pair for pair in response.headers if pair[0] not in DESCRIBING]
        response.discard()
        head = self._head(response, lines + extra, len(body), body)
        self.status = response.status
        self._connection.write(head)
        self.answered = True
        return len(body)

    async def drained(self) -> None:
        """Waits until the client has taken most of what was sent."""
        await self._connection.drained()

    async def _stream(
        self, response: Response, extra: bytes, tap: Callable[[bytes], None] | None
    ) -> int:
        connection = self._connection
        if self.head.method == "HEAD":
            response.discard()
            connection.write(self._head(response, extra, response.length, b""))
            self.answered = True
            return 0
        chunked = response.length is None and not self.head.http10
        if response.length is None and not chunked:
            self.keep_alive = False  # the end of the connection is the end of the body
        piece = response.take()
        sent = len(piece)
        connection.write(
            self._head(response, extra, response.length, render.chunk(piece) if chunked else piece)
        )
        try:
            while True:
                if tap is not None:
                    tap(piece)
                if response.complete and not response.buffered:
                    break
                await connection.drained()
                piece = await response.read()
                sent += len(piece)
                connection.write(render.chunk(piece) if chunked else piece)
        except Refusal:
            connection.abort()
            raise
        except BaseException:
            response.discard()
            connection.abort()
            raise
        if chunked:
            connection.write(render.LAST_CHUNK)
        self.answered = True
        return sent

    def _head(self, response: Response, extra: bytes, length: int | None, body: bytes) -> bytes:
        connection = self._connection
        status = response.status
        if status == 204:
            framing = b""  # RFC 9110, 8.6: neither length nor coding
        elif status == 304 or (self.head.method == "HEAD" and response.bodiless):
            length = response.length  # that of the answer to GET
            framing = b"" if length is None else b"content-length: %d\r\n" % length
        elif length is not None:
            framing = b"content-length: %d\r\n" % length
        elif self.keep_alive or not self.head.http10:
            framing = b"transfer-encoding: chunked\r\n"
        else:
            framing = b""
        return b"%b%b%b%b%b%b\r\n%b" % (
            render.status_line(status),
            render.header_lines(response.headers),
            b"" if response.dated else connection.date,
            extra,
            connection.connection_line(self),
            framing,
            b"" if self.head.method == "HEAD" else body,
        )


def _answered() -> RuntimeError:
    return RuntimeError("the exchange has been answered already")
