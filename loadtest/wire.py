"""HTTP/1.1 messages as bytes, both ways, as cheaply as a load generator needs them.

Framing follows RFC 9112, section 6, for the messages of a well-behaved peer: Content-Length,
chunked, or no body. Whatever else arrives is a ``ValueError``, and so an error that is counted.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterable
from types import TracebackType
from typing import Final, NamedTuple, Self

Header = tuple[str, str]

_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n", re.IGNORECASE)
_MAX_HEAD: Final = 1 << 16


class Response(NamedTuple):
    """One answer: header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def render_request(
    method: str, target: str, host: str, body: bytes = b"", headers: Iterable[Header] = ()
) -> bytes:
    """The bytes of one request with a Content-Length."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + _END + body


def body_span(data: bytes, head_end: int) -> tuple[int, int]:
    """Where the message ends whose head ends at ``head_end`` (the index of the empty line).

    Returns:
        The index of the body's first byte and the index after its last, which is -1 while the
        message is incomplete.

    Raises:
        ValueError: if a chunk's size is not hexadecimal.
    """
    start = head_end + 4
    found = _LENGTH.search(data, 0, head_end + 2)
    if found is not None:
        end = start + int(found[1])
        return start, end if end <= len(data) else -1
    if _CHUNKED.search(data, 0, head_end + 2) is not None:
        return start, _chunked_end(data, start)
    return start, start


def _chunked_end(data: bytes, at: int) -> int:
    while True:
        line = data.find(b"\r\n", at)
        if line < 0:
            return -1
        size = int(data[at:line].split(b";")[0], 16)
        at = line + 2 + size + 2
        if at > len(data):
            return -1
        if size == 0:
            return at


def dechunk(data: bytes) -> bytes:
    """The content of a complete chunked body without trailers."""
    parts: list[bytes] = []
    at = 0
    while True:
        line = data.index(b"\r\n", at)
        size = int(data[at:line].split(b";")[0], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(data[line + 2 : line + 2 + size])
        at = line + 2 + size + 2


def response_end(data: bytes) -> tuple[int, int]:
    """Status of the first final response in ``data``, and the index after it (-1: incomplete).

    Interim (1xx) responses are passed over.

    Raises:
        ValueError: if ``data`` does not begin with an HTTP/1 response, or its body would be ended
            only by the connection's end.
    """
    head_end = data.find(_END)
    if head_end < 0:
        if len(data) > _MAX_HEAD:
            raise ValueError("response head too large")
        return 0, -1
    if data[:7] != b"HTTP/1." or data[8:9] != b" ":
        raise ValueError(f"not an HTTP/1 response: {data[:40]!r}")
    status = int(data[9:12])
    if status < 200:
        status, end = response_end(data[head_end + 4 :])
        return status, end if end < 0 else end + head_end + 4
    if status in {204, 304}:
        return status, head_end + 4
    start, end = body_span(data, head_end)
    if end == start and not _LENGTH.search(data, 0, head_end + 2):
        raise ValueError("response without a length")
    return status, end


def parse_response(data: bytes) -> Response:
    """One complete final response: as :func:`response_end` found it, or ended by the connection."""
    head_end = data.index(_END)
    status = int(data[9:12])
    if status < 200:
        return parse_response(data[head_end + 4 :])
    headers = {}
    for line in data[:head_end].decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = data[head_end + 4 :]
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = dechunk(body)
    return Response(status, headers, body)


class Session:
    """One blocking keep-alive connection: sends raw bytes, reads one answer, reconnects if closed.

    Args:
        address: host and port.
        source: local IP address to connect from, or "" for any.
        timeout: seconds for connecting and for each read.
    """

    def __init__(self, address: tuple[str, int], source: str = "", timeout: float = 10.0) -> None:
        self._address = address
        self._source = (source, 0) if source else None
        self._timeout = timeout
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; the next exchange opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def exchange(self, request: bytes) -> Response:
        """Sends one request and reads its answer.

        Raises:
            OSError: if the peer is unreachable, resets or stays silent past the timeout.
            ValueError: if what comes back is not one HTTP/1 response.
        """
        if self._socket is None:
            self._socket = socket.create_connection(self._address, self._timeout, self._source)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            return self._exchange(self._socket, request)
        except BaseException:
            self.close()
            raise

    def _exchange(self, connection: socket.socket, request: bytes) -> Response:
        # A refusal may come before the whole body was sent: it is still to be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
        data = b""
        while True:
            got = connection.recv(1 << 16)
            if not got:
                raise ConnectionResetError("connection ended before the answer")
            data += got
            _, end = response_end(data)
            if end >= 0:
                break
        if end != len(data):
            raise ValueError("more bytes than one answer")
        response = parse_response(data)
        if response.headers.get("connection", "").lower() == "close":
            self.close()
        return response
