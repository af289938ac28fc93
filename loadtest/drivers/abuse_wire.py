"""Raw bytes to an endpoint, whatever they are, and what comes back: of drivers that break rules.

Knows neither tensors nor verdicts. Nothing that the peer does raises: it is told as a value.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from time import perf_counter
from typing import Final, NamedTuple, Protocol

from loadtest.targets.base import Oracle, Rows
from loadtest.wire import body_span
from proxy.protocols.base import Codec

_END: Final = b"\r\n\r\n"
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?:[ \r]|\Z)")
_ANSWER_HEAD: Final = 1 << 16  # bytes; more is no head
_ANSWER: Final = 8 << 20  # bytes of answers that are kept
_READ: Final = 1 << 16


class Raw(Protocol):
    """The way to an endpoint, below its protocol.

    Attributes:
        address: host and port, or the path of a unix socket.
        tls: to connect with; None: plain.
        server_name: that TLS asks for; "": the host.
        codec: of the endpoint's protocol, bound to its contract and to the paths of this side.
    """

    address: tuple[str, int] | str
    tls: ssl.SSLContext | None
    server_name: str
    codec: Codec

    def source(self, client: str) -> str:
        """The local address from which this client connects, or "" for any."""

    def request(self, rows: Rows, client: str) -> bytes:
        """One complete, valid inference request for (n, d) rows, with a Content-Length."""


def raw_of(oracle: Oracle) -> Raw:
    """The oracle's raw wire.

    Raises:
        ValueError: if it is not asked over HTTP.
    """
    raw: Raw | None = getattr(oracle, "raw", None)
    if raw is None:
        raise ValueError("protocol abuse needs an endpoint that is asked over HTTP/1.1")
    return raw


class End(Enum):
    """How an exchange of raw bytes ended."""

    OPEN = "open"
    """We left: enough was heard."""
    CLOSED = "closed"
    """By the peer, of its own accord."""
    CLOSED_AFTER_US = "closed after us"
    """By the peer, once we had said that nothing more would come."""
    RESET = "reset"
    SILENT = "silent"
    """Nothing came, and the connection was kept."""
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back.

    Attributes:
        statuses: of the final answers whose heads came, in order; 0: bytes that are no answer.
        whole: whether the last of them came completely.
        end: how it ended.
        seconds: from the connection on.
    """

    statuses: tuple[int, ...]
    whole: bool
    end: End
    seconds: float


class Parts(NamedTuple):
    """A request taken apart.

    Attributes:
        lines: header lines, without Content-Length.
    """

    method: bytes
    target: bytes
    lines: tuple[bytes, ...]
    body: bytes

    def header(self, name: bytes) -> bytes:
        """The value of the first header of this lower-case name, or b""."""
        for line in self.lines:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name:
                return value.strip()
        return b""

    def without(self, *names: bytes) -> Parts:
        """Without the headers of these lower-case names."""
        kept = (line for line in self.lines if line.partition(b":")[0].lower() not in names)
        return self._replace(lines=tuple(kept))

    def framed(self, *framing: bytes, body: bytes | None = None) -> bytes:
        """The bytes of the request with these lines in place of Content-Length."""
        start = b"%b %b HTTP/1.1" % (self.method, self.target)
        head = b"\r\n".join((start, *self.lines, *framing))
        return head + _END + (self.body if body is None else body)

    def with_body(self, body: bytes, *lines: bytes) -> bytes:
        """The bytes of the request with this body and its right length."""
        return self.framed(*lines, b"Content-Length: %d" % len(body), body=body)


def parts(request: bytes) -> Parts:
    """Takes a valid request apart.

    Raises:
        ValueError: if it is none.
    """
    head, found, body = request.partition(_END)
    start, *lines = head.split(b"\r\n")
    words = start.split(b" ")
    if not found or len(words) != 3:
        raise ValueError("not an HTTP/1.1 request")
    kept = [line for line in lines if not line.lower().startswith(b"content-length:")]
    return Parts(words[0], words[1], tuple(kept), body)


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(raw: Raw, client: str, seconds: float = 10.0) -> AsyncIterator[Streams]:
    """One connection, ended at once when left.

    Raises:
        OSError: if there is none within ``seconds`` (TimeoutError is one).
    """
    async with asyncio.timeout(seconds):
        if isinstance(raw.address, str):
            reader, writer = await asyncio.open_unix_connection(raw.address, limit=_READ)
        else:
            source = raw.source(client)
            host, port = raw.address
            reader, writer = await asyncio.open_connection(
                host,
                port,
                limit=_READ,
                ssl=raw.tls,
                server_hostname=(raw.server_name or host) if raw.tls else None,
                local_addr=(source, 0) if source else None,
            )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def exchange(
    raw: Raw,
    client: str,
    data: bytes,
    *,
    answers: int = 1,
    patience: float = 0.5,
    deadline: float = 10.0,
    watch: float = 0.0,
    clock: Callable[[], float] = perf_counter,
) -> Heard:
    """Sends raw bytes on a connection of their own and listens.

    Args:
        answers: final ones after which to leave.
        patience: seconds of silence after which the peer is told that nothing more comes. Longer
            than an honest answer takes.
        deadline: seconds for everything.
        watch: seconds to listen on after the last of ``answers``, for one too many.
    """
    began = clock()
    try:
        async with connected(raw, client, deadline) as streams:
            sending = asyncio.ensure_future(_send(streams[1], data))
            due = began + deadline
            listening = _Listening(streams, sending, answers, patience, watch, due, clock)
            try:
                told, end = await listening.run()
            finally:
                sending.cancel()
    except OSError:
        return Heard((), False, End.UNREACHABLE, clock() - began)
    statuses, whole = read_answers(told)
    return Heard(statuses, whole, end, clock() - began)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    with suppress(OSError):  # the listener sees it too
        writer.write(data)
        await writer.drain()


@dataclass(slots=True)
class _Listening:
    """How one exchange is listened to. See :func:`exchange`."""

    streams: Streams
    sending: asyncio.Future[None]
    answers: int
    patience: float
    watch: float
    due: float
    clock: Callable[[], float]

    async def run(self) -> tuple[bytes, End]:
        """What came, and how it ended."""
        reader, writer = self.streams
        told = bytearray()
        enough = ours = False
        while len(told) < _ANSWER and (left := self.due - self.clock()) > 0:
            wait = self.watch if enough else left if ours else self.patience
            try:
                async with asyncio.timeout(min(left, wait)):
                    piece = await reader.read(_READ)
            except TimeoutError:
                if enough:
                    break
                if self.sending.done() and not ours:
                    if not writer.can_write_eof():  # TLS cannot be ended on one side
                        break
                    ours = True
                    with suppress(OSError):
                        writer.write_eof()
                continue
            except OSError:
                return bytes(told), End.RESET
            if not piece:
                return bytes(told), End.CLOSED_AFTER_US if ours else End.CLOSED
            told += piece
            statuses, whole = read_answers(bytes(told))
            if whole and len(statuses) >= self.answers:
                if not self.watch:
                    break
                enough = True
        return bytes(told), End.OPEN if told else End.SILENT


def read_answers(told: bytes) -> tuple[tuple[int, ...], bool]:
    """The statuses of the final answers in what a server said, and whether the last is complete.

    Bytes that are no answer count as one of status 0.
    """
    answers = list(_answers(told))
    return tuple(status for status, _ in answers), bool(answers) and answers[-1][1]


def _answers(told: bytes) -> Iterator[tuple[int, bool]]:
    at = 0
    while at < len(told):
        head_end = told.find(_END, at)
        found = _STATUS.match(told, at)
        if found is None and (head_end >= 0 or not b"HTTP/1.".startswith(told[at : at + 7])):
            yield 0, True
            return
        if head_end < 0 or found is None:
            if len(told) - at > _ANSWER_HEAD:
                yield 0, True
            return  # not even a head
        status = int(found[1])
        end = head_end + len(_END)
        if status >= 200 and status not in {204, 304}:
            try:
                start, stop = body_span(told[at:], head_end - at)
            except ValueError:
                yield 0, True
                return
            bounded = b"\r\ncontent-length:" in told[at:end].lower()
            if stop < 0 or (stop == start and not bounded):
                # Incomplete, or ended by the connection's end: all that follows is its body.
                yield status, stop >= 0
                return
            end = at + stop
        if status >= 200:
            yield status, True
        at = end
