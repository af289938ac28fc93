"""One connection to an upstream: one request at a time, and nothing left over between two."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from proxy.decision import UpstreamRequest
from proxy.http import render
from proxy.http.heads import HOP_BY_HOP, is_length
from proxy.http.limits import PoolLimits
from proxy.http.response import Response
from proxy.rules import UPSTREAM_INVALID, UPSTREAM_TIMEOUT, Refusal

if TYPE_CHECKING:
    from proxy.http.balance import Upstream

_INTERIMS: Final = 16  # 1xx answers before the final one; more is not an answer

# Headers of an answer that mean something here, or end here: requests have an id of ours.
_SPECIAL: Final = HOP_BY_HOP | {b"content-length", b"date", b"x-request-id"}


class Stale(Exception):  # noqa: N818 - a state of a connection, not an error
    """A reused connection was closed before a byte of the answer: it may have been closed before
    the request reached the upstream.
    """


class ClientConnection(asyncio.Protocol):
    """One connection to an upstream.

    Attributes:
        upstream: whose it is.
        started: clock at which the current request was sent.
        idle_since: the pool's last sweep before the connection became idle.
    """

    __slots__ = (
        "_among",
        "_answer",
        "_chunked",
        "_clock",
        "_closed",
        "_done",
        "_fed",
        "_headed",
        "_interim",
        "_interims",
        "_limits",
        "_options",
        "_parser",
        "_poll",
        "_read_paused",
        "_reusable",
        "_served",
        "_size",
        "_tls",
        "_transport",
        "_write_paused",
        "idle_since",
        "started",
        "upstream",
    )

    def __init__(self, upstream: Upstream, limits: PoolLimits, clock: Callable[[], float]) -> None:
        self.upstream = upstream
        self._limits = limits
        self._clock = clock
        self._parser: Any = HttpResponseParser(self)
        self._transport: Any = None
        self._poll: Callable[[int], list[Any]] | None = None
        self._tls = False
        self._answer: Response | None = None
        self._served = 0  # answers that were complete
        self._closed = False
        self._read_paused = False
        self._write_paused = False
        # Of the current answer:
        self._fed = 0  # bytes of it up to the end of its head
        self._headed = False  # its head is complete
        self._done = False  # all of it is complete
        self._reusable = False
        self._chunked = False
        self._options: bytes | None = None  # what its Connection header says
        self._interim = False  # the head being read is that of a 1xx answer
        self._interims = 0
        self._among = 0  # requests under way when it was sent; 0: it tells nothing of the upstream
        self._size = 0
        self.started = 0.0
        self.idle_since = 0.0

    # What the pool does:

    def usable(self) -> bool:
        """Whether nothing, neither a byte nor an end, has arrived since the last answer. Asks the
        kernel too: the event loop may not have read it yet.
        """
        if self._closed:
            return False
        poll = self._poll
        # Under TLS a session ticket may be what is readable, but only before the first answer.
        return poll is None or (self._tls and not self._served) or not poll(0)

    def ask(self, request: UpstreamRequest) -> Response:
        """Sends one request.

        Raises:
            ValueError: if it is not one well-formed request. Nothing was sent.
        """
        wire = render.upstream_request(request, self.upstream.host_line)
        self._answer = answer = Response(self)
        if request.method == b"HEAD":
            answer.bodiless = True
        self.started = self._clock()
        self._size = len(request.body)
        self._among = self.upstream.outstanding if request.method == b"POST" else 0
        self._fed = self._interims = 0
        self._headed = self._done = self._chunked = False
        self._options = None
        self._transport.write(wire)
        return answer

    def check(self, now: float) -> None:
        """Ends an answer that missed its deadline."""
        if self._answer is None:
            return
        elapsed = now - self.started
        if not self._headed and elapsed > self._limits.response_seconds:
            self._fail(Refusal(UPSTREAM_TIMEOUT, "no answer by the response deadline"))
        elif elapsed > self._limits.total_seconds:
            # Who makes us pause is the client: that says nothing of the upstream.
            self._fail(
                Refusal(UPSTREAM_TIMEOUT, "the answer was incomplete at the total deadline"),
                blame=not self._read_paused,
            )

    def abandon(self) -> None:
        """Nobody wants the current answer any more: the connection cannot be used again."""
        if self._answer is not None and not self._headed:
            self._missed()
        self._answer = None
        self.abort()

    def abort(self) -> None:
        """Closes the connection at once."""
        if not self._closed:
            self._closed = True
            if self._transport is not None:
                self._transport.abort()
            self.upstream.closed(self)

    def give_up(self) -> None:
        """Closes the connection at once and fails its answer."""
        answer = self._answer
        self._answer = None
        self.abort()
        if answer is not None:
            answer.fail(_invalid("the pool was closed"))

    def flow(self) -> None:
        """Some of the answer was taken: reads on if that had been paused."""
        if self._read_paused and not self._closed:
            self._read_paused = False
            self._transport.resume_reading()

    # What the event loop says:

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._tls = transport.get_extra_info("ssl_object") is not None
        sock = transport.get_extra_info("socket")
        if sock is not None:
            poll = select.poll()
            poll.register(sock.fileno(), select.POLLIN)
            self._poll = poll.poll
        self.upstream.opened(self)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            if not self._closed:
                self.upstream.unsolicited += 1
                self.abort()
            return
        if not self._headed:
            self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self._done:
                why = error.__context__
                self._fail(why if isinstance(why, Refusal) else _invalid(str(error)))
                return
            self.upstream.unsolicited += 1
            self._reusable = False  # bytes after a complete answer belong to nobody
        if self._done:
            self._complete(answer)
            return
        if not self._headed:
            if self._fed > self._limits.head_bytes:
                self._fail(_invalid("the head of the answer is too large"))
            return
        if answer.buffered > self._limits.buffer_bytes and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()
        answer.notify()

    def eof_received(self) -> None:
        # The transport closes itself after this.
        self._lost(clean=True)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost(clean=error is None)
        self._parser = None  # ends the cycle of references

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False

    # What llhttp says:

    def on_message_begin(self) -> None:
        if self._done:
            raise _invalid("bytes after the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        answer = self._answer
        if self._headed or answer is None:
            return  # a trailer
        name = name.lower()
        if name not in _SPECIAL:
            answer.headers.append((name, value))
        elif name == b"content-length":
            value = value.strip()
            if not is_length(value):
                raise _invalid("Content-Length is not a plain decimal number")
            answer.length = int(value)
        elif name == b"date":
            answer.dated = True
            answer.headers.append((name, value))
        elif name == b"transfer-encoding":
            if self._chunked or value.strip().lower() != b"chunked":
                raise _invalid("Transfer-Encoding other than chunked")
            self._chunked = True
        elif name == b"connection":
            self._options = value if self._options is None else self._options + b"," + value

    def on_headers_complete(self) -> None:
        answer, parser = self._answer, self._parser
        if answer is None:
            raise _invalid("the answer was discarded")
        status = parser.get_status_code()
        if self._fed > self._limits.head_bytes:
            size = sum(len(name) + len(value) + 4 for name, value in answer.headers)
            if size > self._limits.head_bytes:
                raise _invalid("the head of the answer is too large")
        if len(answer.headers) > self._limits.header_count:
            raise _invalid("the answer has too many headers")
        self._reusable = parser.should_keep_alive()
        if self._options is not None or not self._reusable:
            if parser.get_http_version() not in ("1.1", "1.0"):
                raise _invalid("the version of the answer is not HTTP/1")
            if self._options is not None:
                self._strip(answer)
        if status < 200:
            self._interims += 1
            if status < 100 or status == 101 or self._interims > _INTERIMS:
                raise _invalid(f"a status of {status} was not asked for")
            self._interim = True
            return
        if status > 599:
            raise _invalid(f"a status of {status}")
        answer.status = status
        self._headed = True
        if self._among and status < 400:  # a refusal is quick, and says nothing
            now = self._clock()
            concurrency = self.upstream.concurrency
            concurrency.answered(now - self.started, self._size, self._among, now)
        if status in {204, 304}:
            answer.bodiless = True
        if status >= 500:
            self.upstream.failed()
        elif self.upstream.failures:
            self.upstream.failures = 0
        if answer.bodiless:
            self._done = True

    def on_body(self, piece: bytes) -> None:
        answer = self._answer
        if self._done or answer is None:
            raise _invalid("bytes after the answer")
        answer.add(piece)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            answer = self._answer
            if answer is not None:
                answer.headers.clear()
                answer.length = None
                answer.dated = False
            self._options = None
        else:
            self._done = True

    # Ends of an answer:

    def _complete(self, answer: Response) -> None:
        self._answer = None
        self._served += 1
        if answer.bodiless:
            self._parser = HttpResponseParser(self)  # the old one may wait for a body (HEAD)
        if self._read_paused:
            self.flow()
        if self._reusable and not self._write_paused:
            self.upstream.freed(self.upstream, self)
        else:
            self.abort()
        answer.end()

    def _lost(self, *, clean: bool) -> None:
        if not self._closed:
            self._closed = True
            self.upstream.closed(self)
        answer = self._answer
        if answer is None:
            return
        self._answer = None
        if clean and self._headed and answer.length is None and not self._chunked:
            answer.end()  # the end of the connection is the end of the body (RFC 9112, 6.3)
        elif self._served and not self._fed:
            answer.fail(Stale())
        else:
            self.upstream.failed()
            answer.fail(
                _invalid("closed in the middle of the answer" if self._fed else "closed unanswered")
            )

    def _missed(self) -> None:
        """No answer came in all this time: the client did not wait for it, or we did not."""
        now = self._clock()
        seconds, concurrency = now - self.started, self.upstream.concurrency
        if self._among and seconds > concurrency.baseline:
            concurrency.missed(seconds, self._size, now)

    def _fail(self, refusal: Refusal, *, blame: bool = True) -> None:
        if not self._headed and refusal.rule is UPSTREAM_TIMEOUT:
            self._missed()
        answer = self._answer
        self._answer = None
        self.abort()
        if blame:
            self.upstream.failed()
        if answer is not None:
            answer.fail(refusal)

    def _strip(self, answer: Response) -> None:
        options = _options(self._options or b"")
        if options:
            answer.headers = [header for header in answer.headers if header[0] not in options]


def _invalid(why: str) -> Refusal:
    return Refusal(UPSTREAM_INVALID, why)


@lru_cache(maxsize=64)
def _options(value: bytes) -> frozenset[bytes]:
    options = {option.strip().lower() for option in value.split(b",")}
    return frozenset(options - {b"close", b"keep-alive", b""})
