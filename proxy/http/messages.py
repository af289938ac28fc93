"""HTTP messages as plain values. Nothing here knows tensors, sockets or an event loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

REASONS: Final[dict[int, bytes]] = {status.value: status.phrase.encode() for status in HTTPStatus}
REASONS[413] = b"Content Too Large"  # RFC 9110 renamed it; Python 3.11 has the old name


class Head:
    """The head of one request, already checked against the refusals of ``http.limits``.

    Attributes:
        method: as sent, ASCII.
        target: the request target exactly as sent, ASCII.
        headers: lower-cased name to value. Repeats of a header that decides anything were refused;
            repeats of any other are joined by ``b", "`` (RFC 9110, 5.3).
        keep_alive: whether the client lets the connection live on.
        http10: whether the client speaks HTTP/1.0, which knows no chunked coding.
    """

    __slots__ = ("headers", "http10", "keep_alive", "method", "target")

    def __init__(
        self,
        method: str,
        target: str,
        headers: dict[bytes, bytes],
        keep_alive: bool,
        http10: bool = False,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.keep_alive = keep_alive
        self.http10 = http10

    def get(self, name: bytes) -> bytes | None:
        """The value of the header with this lower-case name, or None."""
        return self.headers.get(name)


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a downstream connection, known once per connection.

    Attributes:
        address: the IP address as text (``::ffff:`` already mapped to IPv4), or "" on a
            unix socket.
        tls: whether the connection is encrypted.
        certificate: the verified client certificate in DER, or None.
        subject: what that stands for, where it is not at hand: as the proxy tells that has
            verified it; "" for nobody.
    """

    address: str
    tls: bool = False
    certificate: bytes | None = field(default=None, repr=False)
    subject: str = ""


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
