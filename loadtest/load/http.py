"""One HTTP/1.1 connection of a load: a ready-made request out, a status back, and no more read.

Framing follows RFC 9112, section 6: Content-Length, chunked, no body, or the connection's end.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final, Protocol, cast

from loadtest.load.outcome import INVALID, RESET, TRUNCATED

_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked[ \t]*\r\n", re.IGNORECASE)
_CLOSE: Final = re.compile(rb"\r\nconnection:[^\r]*\bclose\b", re.IGNORECASE)
_KEEP: Final = re.compile(rb"\r\nconnection:[^\r]*\bkeep-alive\b", re.IGNORECASE)
_MAX_HEAD: Final = 1 << 16
_TO_THE_END: Final = -1


class AnswerReader:
    """Reads one answer after another, in whatever pieces they come.

    Attributes:
        closes: whether the connection ends with the last answer.
        begun: whether a part of an answer is there.
    """

    __slots__ = ("_chunked", "_missing", "_pending", "_status", "begun", "closes")

    def __init__(self) -> None:
        self._pending = b""
        self._missing = 0  # bytes of the body (or a chunk) still to come
        self._chunked = False
        self._status = 0  # of the answer whose body is being read; 0: its head is
        self.begun = False
        self.closes = False

    def feed(self, data: bytes) -> int:
        """The status of the answer that ends with these bytes, or 0 while it is incomplete.

        Raises:
            ValueError: if it is no HTTP/1 answer, or more follows than one.
        """
        if self._status:
            return self._body(data)
        if self._pending:
            data = self._pending + data
        start = 0
        while True:
            head = data.find(_END, start)
            if head < 0:
                if len(data) - start > _MAX_HEAD:
                    raise ValueError("the head is too large")
                self._pending, self.begun = data[start:], True
                return 0
            if data[start : start + 7] != b"HTTP/1." or data[start + 8 : start + 9] != b" ":
                raise ValueError("not an HTTP/1 answer")
            status = int(data[start + 9 : start + 12])
            if status >= 200:
                break
            start = head + 4  # interim: what counts follows
            if status < 100:
                raise ValueError("not a status")
        if start:
            data, head = data[start:], head - start
        # The servers that matter write it like this; a search that minds no case costs far more.
        at = data.find(b"\r\nContent-Length: ", 0, head)
        if at >= 0 and status != 304 and status != 204:  # noqa: PLR1714 - twice as fast as a set
            length = int(data[at + 18 : data.find(b"\r\n", at + 18)])
            if length < 0:
                raise ValueError("a negative length")
        else:
            length = self._framing(data, head, status)
        if data.find(b"onnection", 0, head) >= 0 or data.find(b"ONNECTION", 0, head) >= 0:
            self.closes = _CLOSE.search(data, 0, head) is not None
        else:
            self.closes = False
        if data[7:8] == b"0" and not _KEEP.search(data, 0, head):
            self.closes = True
        beyond = len(data) - head - 4
        if beyond == length and not self._chunked:
            self._pending, self.begun = b"", False
            return status
        self._status, self._missing, self._pending, self.begun = status, max(length, 0), b"", True
        if length == _TO_THE_END and not self._chunked:
            self._missing, self.closes = _TO_THE_END, True
            return 0
        return self._body(data[head + 4 :])

    def end(self) -> int:
        """The status of the answer that the connection's end completes, or 0."""
        return self._status if self._missing == _TO_THE_END else 0

    def _framing(self, data: bytes, head: int, status: int) -> int:
        """The body's length, where it is not told in the plainest way; sets ``_chunked``."""
        if status in {204, 304}:
            return 0
        if _CHUNKED.search(data, 0, head + 2) is not None:
            self._chunked = True
            return 0
        found = _LENGTH.search(data, 0, head + 2)
        return int(found[1]) if found is not None else _TO_THE_END

    def _body(self, data: bytes) -> int:
        if self._missing == _TO_THE_END:
            return 0
        if self._chunked:
            return self._chunks(self._pending + data if self._pending else data)
        self._missing -= len(data)
        if self._missing < 0:
            raise ValueError("more than one answer")
        return 0 if self._missing else self._complete()

    def _chunks(self, data: bytes) -> int:
        at = 0
        while True:
            if self._missing:
                taken = min(self._missing, len(data) - at)
                self._missing -= taken
                at += taken
                if self._missing:
                    self._pending = b""
                    return 0
            line = data.find(b"\r\n", at)
            if line < 0:
                self._pending = data[at:]
                if len(self._pending) > _MAX_HEAD:
                    raise ValueError("the size of a chunk is too long")
                return 0
            size = int(data[at:line].split(b";")[0], 16)
            if size < 0:
                raise ValueError("a chunk of a negative size")
            if size:
                self._missing, at = size + 2, line + 2
                continue
            # Trailers end with an empty line, as the head does.
            end = data.find(_END, line)
            if end < 0:
                self._pending = data[at:]
                if len(self._pending) > _MAX_HEAD:
                    raise ValueError("the trailers are too large")
                return 0
            if end + 4 != len(data):
                raise ValueError("more than one answer")
            return self._complete()

    def _complete(self) -> int:
        status = self._status
        self._pending, self._missing, self._status = b"", 0, 0
        self._chunked = self.begun = False
        return status


class Owner(Protocol):
    """Who gives a connection its requests."""

    def ended(self, connection: Connection, index: int, status: int) -> None:
        """A request has its reply, or will have none: see ``outcome`` for the status."""

    def lost(self, connection: Connection) -> None:
        """The connection is no more; no request is under way on it."""


class Connection(Protocol):
    """One request at a time, over any wire.

    Attributes:
        index: of the request under way; -1: none.
        usable: whether it can take another request.
    """

    index: int
    usable: bool

    def send(self, index: int, message: object) -> None:
        """Sends a request."""

    def give_up(self, status: int) -> None:
        """Ends the request under way with this status, and the connection with it."""

    async def close(self) -> None:
        """Ends the connection; the owner is told nothing of a request under way."""


class HttpConnection(asyncio.Protocol):
    """Over HTTP/1.1; as ``Connection``."""

    __slots__ = ("_owner", "_reader", "_transport", "index", "usable")

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._reader = AnswerReader()
        self._transport: asyncio.WriteTransport
        self.index = -1
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def send(self, index: int, message: object) -> None:
        self.index = index
        self._transport.write(cast("bytes", message))

    def data_received(self, data: bytes) -> None:
        if self.index < 0:  # nobody asked: what it is an answer to cannot be told any more
            self.usable = False
            self._transport.abort()
            return
        try:
            status = self._reader.feed(data)
        except ValueError:
            self.give_up(INVALID)
            return
        if status:
            if self._reader.closes:
                self.usable = False
                self._transport.close()
            index, self.index = self.index, -1
            self._owner.ended(self, index, status)

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self.index >= 0:
            index, self.index = self.index, -1
            status = 0 if exc else self._reader.end()
            broken = TRUNCATED if self._reader.begun else RESET
            self._owner.ended(self, index, status or broken)
        self._owner.lost(self)

    def give_up(self, status: int) -> None:
        index, self.index = self.index, -1
        self.usable = False
        self._transport.abort()
        self._owner.ended(self, index, status)

    async def close(self) -> None:
        self.index = -1
        self.usable = False
        self._transport.abort()
