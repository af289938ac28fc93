"""From a client's bytes to whole requests, without any input or output of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from proxy.http import heads
from proxy.http.exchange import Exchange
from proxy.http.limits import ListenerLimits
from proxy.http.messages import Head
from proxy.rules import (
    BODY_DEADLINE,
    BODY_TOO_LARGE,
    FRAMING,
    HEAD_DEADLINE,
    HEAD_TOO_LARGE,
    INTERNAL,
    MALFORMED,
    Refusal,
)

# What of a request is being read.
NOTHING: Final = 0
HEAD: Final = 1
BODY: Final = 2

SLICE: Final = 4096
"""The most to feed at once, unless it is the known rest of a body: it bounds what a segment may
hold in heads, chunks and pipelined requests."""

# Words of llhttp's complaints that two parsers could disagree on, rather than both refuse.
_AMBIGUOUS: Final = ("Content-Length", "Transfer-Encoding", "chunk", "CR", "LF", "space")


class Owner(Protocol):
    """Whose requests are read."""

    def open_exchange(self, head: Head) -> tuple[Exchange, int]:
        """A head is complete: the exchange, and the limit of its body.

        Raises:
            Refusal: not to read on.
        """

    def take(self, exchange: Exchange) -> None:
        """A request is complete."""


class RequestReader:
    """Reads the requests of one connection.

    Args:
        limits: of the listener.
        guarded: further header names to protect as the identity headers are.
        clock: monotonic seconds.

    Attributes:
        stage: NOTHING, HEAD or BODY: what is being read.
        now: the clock, to be set before bytes are fed.
        received: clock at the first byte of the request that is being read.
        incoming: the owner's, whose body is being read, or None.
        expects_continue: whether its client waits for leave to send the body.
    """

    __slots__ = (
        "_body",
        "_body_since",
        "_chunks",
        "_clock",
        "_fed",
        "_guarded",
        "_headers",
        "_length",
        "_limit",
        "_limits",
        "_owner",
        "_parser",
        "_repeats",
        "_size",
        "_target",
        "expects_continue",
        "incoming",
        "now",
        "received",
        "stage",
    )

    def __init__(
        self,
        owner: Owner,
        limits: ListenerLimits,
        guarded: frozenset[bytes],
        clock: Callable[[], float],
    ) -> None:
        self._owner: Any = owner
        self._limits = limits
        self._guarded = guarded
        self._clock = clock
        self._parser: Any = HttpRequestParser(self)
        self.stage = NOTHING
        self.now = 0.0
        self.received = 0.0
        self.incoming: Any = None
        self.expects_continue = False
        self._fed = 0  # bytes of the incomplete head or body so far
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._repeats = 0
        self._limit = 0
        self._length = -1  # Content-Length, or -1
        self._body: bytes | bytearray = b""
        self._size = 0  # of the body so far
        self._chunks = 0
        self._body_since = 0.0  # clock; 0.0 until a body is known to be incomplete

    def feed(self, data: bytes | memoryview) -> None:
        """Reads at most ``SLICE`` bytes, or ``remaining`` ones.

        Raises:
            Refusal: what is being read is not acceptable, or follows a request that was to be
                the last one. Nothing more may be fed.
        """
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            raise _reason(error) from None
        if self.stage:
            self._check_part(len(data))

    @property
    def remaining(self) -> int:
        """The bytes still to come of a body of known length, or 0."""
        return self._length - self._size if self.stage == BODY and self._length > 0 else 0

    def begin_anew(self) -> int:
        """The rest of the body that is being read is not wanted: what is fed next is the next
        request.

        Returns:
            The bytes of it that are still to come, to be fed to nobody.
        """
        rest = self.remaining
        self._parser = HttpRequestParser(self)
        self._body = b""
        self.incoming = None
        self.stage = NOTHING
        self.expects_continue = False
        return rest

    @property
    def body_begun(self) -> bool:
        """Whether any of the incoming body has arrived."""
        return self._size > 0

    def check_deadline(self, now: float) -> None:
        """Refuses a request that takes too long.

        Raises:
            Refusal: HEAD_DEADLINE or BODY_DEADLINE.
        """
        limits = self._limits
        if self.stage == HEAD:
            if now - self.received > limits.head_seconds:
                raise Refusal(HEAD_DEADLINE)
        elif self.stage == BODY:
            elapsed = now - self._body_since
            due = (elapsed - limits.body_grace_seconds) * limits.body_rate
            if elapsed > limits.body_seconds or self._fed < due:
                raise Refusal(BODY_DEADLINE)

    def restart_clock(self, now: float) -> None:
        """Reading goes on after a pause that was not the client's fault."""
        self.now = self.received = now
        self._body_since = now
        if self.stage == BODY:
            self._fed = self._size

    def close(self) -> None:
        """Nothing more is read. Ends the cycles of references."""
        self.stage = NOTHING
        self.expects_continue = False
        self.incoming = self._owner = self._parser = None

    # What llhttp says:

    def on_message_begin(self) -> None:
        self.stage = HEAD
        self.received = self.now
        self._fed = self._size = self._chunks = self._repeats = 0
        self._target = self._body = b""
        self._headers = {}

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.stage != HEAD:
            raise Refusal(FRAMING, "trailers are not supported")
        name = name.lower()
        headers = self._headers
        if name in headers:
            self._repeats += 1
            if self._repeats > self._limits.header_count:
                raise Refusal(HEAD_TOO_LARGE, "too many headers")
            heads.add_repeated(headers, name, value.strip())
        else:
            if b"_" in name:
                heads.refuse_look_alike(name, self._guarded)
            headers[name] = value.strip()

    def on_headers_complete(self) -> None:
        parser, headers, limits = self._parser, self._headers, self._limits
        if len(headers) + self._repeats > limits.header_count:
            raise Refusal(HEAD_TOO_LARGE, "too many headers")
        if self._fed or limits.head_bytes < SLICE:  # else it is no longer than a slice
            heads.check_size(self._target, headers, limits.head_bytes)
        keep_alive = parser.should_keep_alive()
        # llhttp keeps a connection alive unasked for this version only, and asking it is dear.
        plain = keep_alive and b"connection" not in headers
        head = heads.request_head(
            parser.get_method(),
            self._target,
            headers,
            "1.1" if plain else parser.get_http_version(),
            keep_alive,
            guarded=self._guarded,
        )
        self.stage = BODY
        self._body_since = 0.0
        self.incoming, limit = self._owner.open_exchange(head)
        self._limit = limit
        length = headers.get(b"content-length")
        self._length = -1 if length is None else int(length)
        if self._length > limit:
            raise Refusal(BODY_TOO_LARGE, f"more than {limit} bytes")
        self.expects_continue = b"expect" in headers and not head.http10

    def on_chunk_header(self) -> None:
        self._chunks += 1

    def on_body(self, piece: bytes) -> None:
        size = self._size
        self._size = size + len(piece)
        if self._size > self._limit:
            raise Refusal(BODY_TOO_LARGE, f"more than {self._limit} bytes")
        if not size:
            self._body = piece
        else:
            if type(self._body) is bytes:
                self._body = bytearray(self._body)
            self._body += piece

    def on_message_complete(self) -> None:
        exchange = self.incoming
        if exchange is None:
            raise Refusal(INTERNAL, "a request without a head")
        body = self._body
        exchange.body = body if type(body) is bytes else bytes(body)
        exchange.read = self._clock()
        self._body = b""
        self.incoming = None
        self.stage = NOTHING
        self.expects_continue = False
        self._owner.take(exchange)

    def _check_part(self, fed: int) -> None:
        """Bounds a request that is not complete yet."""
        limits = self._limits
        self._fed += fed
        if self.stage == HEAD:
            # What decides is the size of the complete head, however it was cut into segments.
            if self._fed > limits.head_bytes + SLICE:
                raise Refusal(HEAD_TOO_LARGE, f"more than {limits.head_bytes} bytes")
            return
        if not self._body_since:
            self._body_since = self.now
            self._fed = self._size  # of the framing, count only what follows
        if self._fed - self._size > limits.framing_bytes + 16 * self._chunks:
            raise Refusal(FRAMING, "too much chunk framing")


def _reason(error: Exception) -> Refusal:
    """Why the parser stopped."""
    context = error.__context__
    if isinstance(context, Refusal):
        return context
    if context is not None:
        raise context  # a defect, in a callback
    why = str(error)
    return Refusal(FRAMING if any(word in why for word in _AMBIGUOUS) else MALFORMED, why)
