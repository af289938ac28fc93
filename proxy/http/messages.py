"""HTTP messages as plain values. Nothing here knows tensors, sockets or an event loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

REASONS: Final[dict[int, bytes]] = {
    200: b"OK",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    417: b"Expectation Failed",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}


class Head:
    """The head of one request, already checked against the refusals of ``http.limits``.

    Attributes:
        method: as sent, ASCII.
        target: the request target exactly as sent, ASCII.
        headers: lower-cased name to value. Repeats of a header that decides anything were refused;
            repeats of any other are joined by ``b", "`` (RFC 9110, 5.3).
        keep_alive: whether the client lets the connection live on.
    """

    __slots__ = ("headers", "keep_alive", "method", "target")

    def __init__(
        self, method: str, target: str, headers: dict[bytes, bytes], keep_alive: bool
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.keep_alive = keep_alive

    def get(self, name: bytes) -> bytes | None:
        """The value of the header with this lower-case name, or None."""
        return self.headers.get(name)


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a downstream connection, known once per connection.

    Attributes:
        address: the IP address as text (``::ffff:`` already mapped to IPv4), or "" on a unix socket.
        tls: whether the connection is encrypted.
        certificate: the verified client certificate in DER, or None.
    """

    address: str
    tls: bool = False
    certificate: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer made here. The connection's own headers and Content-Length are added when sent.

    Attributes:
        close: whether the connection ends after it.
    """

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    close: bool = False
