"""An endpoint asked over HTTP/1.1: the same bytes that a load sends, one request at a time."""

from __future__ import annotations

import contextlib
import io
import select
import socket
import ssl
from collections import OrderedDict
from collections.abc import Mapping
from http.client import HTTPException, HTTPResponse
from time import perf_counter
from typing import Any, Final, Self

import numpy as np

from loadtest.targets.answers import Reader, Unreadable
from loadtest.targets.base import Reply, Rows, Said
from loadtest.targets.clients import Identity
from loadtest.targets.places import BOUNDS, Place
from proxy.http.address import Address
from proxy.protocols.base import Codec, InferRequest, Route
from proxy.rules import Refusal

CONNECTIONS: Final = 64
"""Kept alive at once, each of one client."""
_SHOWN: Final = 300
_SAID: Final = {403: Said.REFUSED, 429: Said.LIMITED, 503: Said.SHED}


def said_of(status: int) -> Said:
    """What a client takes a status for."""
    if 200 <= status < 300:
        return Said.ANSWERED
    return _SAID.get(status, Said.INVALID if 400 <= status < 500 else Said.FAILED)


class Asking:
    """How one side is asked about rows over HTTP: rows to complete requests.

    Args:
        place: where it is.
        codec: bound to the contract.
        route: of an inference.
        first: one row in the form in which all are asked.
        identities: of the clients, by name.

    Attributes:
        address: as ``Raw`` has it: (host, port), or the path of a unix socket.
        tls, server_name: of its connections; the name is "" where it is the host.
    """

    def __init__(
        self,
        place: Place,
        codec: Codec,
        route: Route,
        first: InferRequest,
        identities: Mapping[str, Identity],
    ) -> None:
        at = place.address
        self.codec = codec
        self.address: tuple[str, int] | str = at.path or (at.host, at.port)
        self.tls = at.tls
        self.server_name = at.server_name
        self._first = first
        self._identities = identities
        self._start = b"POST %b HTTP/1.1\r\nHost: %b\r\nAccept: application/json\r\n" % (
            route.target,
            at.authority,
        )
        self._lines = {
            name: "".join(f"{key}: {value}\r\n" for key, value in identity.headers).encode()
            for name, identity in identities.items()
        }

    def source(self, client: str) -> str:
        """The local address that a client connects from; "": any."""
        return self._identities[client].source

    def request(self, rows: Rows, client: str) -> bytes:
        """One complete request about (n, d) finite rows.

        Raises:
            ValueError: if the endpoint does not take such rows, or so many at once.
            KeyError: if there is no such client.
        """
        rows = np.ascontiguousarray(rows, np.float32)
        asked = self.codec.with_rows(self._first, rows, np.zeros(len(rows), np.int64))
        lines, body = self.codec.encode_request(asked)
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        return b"".join((self._start, self._lines[client], lines, length, body))


class HttpOracle:
    """One side of an endpoint, asked about one row at a time. Of one thread.

    Args:
        name: of the side.
        raw: how it is asked.
        reader: of its answers.
        features: d, of a row.
        seconds: how long connecting, and each reply, may take.
    """

    def __init__(
        self, name: str, raw: Asking, reader: Reader, features: int, *, seconds: float
    ) -> None:
        self.name = name
        self.features = features
        self.classes = reader.classes
        self.raw: Asking | None = raw
        self._asking = raw
        self._reader = reader
        self._seconds = seconds
        self._connections: OrderedDict[str, socket.socket] = OrderedDict()
        self._keep = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends every connection; the next question opens another."""
        while self._connections:
            self._connections.popitem()[1].close()

    def ask(self, row: Rows, client: str) -> Reply:
        """Asks about one row, (d,). Never raises for what the endpoint does."""
        request = self._asking.request(np.asarray(row)[None], client)
        begun = perf_counter()
        try:
            response, body = self._exchange(request, client)
        except (OSError, HTTPException, ValueError) as error:
            self._drop(client)
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            return Reply(Said.FAILED, 0, seconds=perf_counter() - begun, body=why[:_SHOWN])
        took = perf_counter() - begun
        said = said_of(response.status)
        name = response.getheader("x-request-id") or ""
        shown = body[:_SHOWN].decode("utf-8", "replace") or f"status {response.status}"
        if said is not Said.ANSWERED:
            after = _seconds(response.getheader("retry-after"))
            return Reply(said, response.status, None, -1, name, after, took, shown)
        try:
            answer = self._asking.codec.decode_response(_Head(response), body)
            scores, label = self._reader.read(answer)
            self.classes = self._reader.classes
        except (Refusal, Unreadable) as error:
            why = error.message if isinstance(error, Refusal) else str(error)
            return Reply(
                Said.FAILED, response.status, request_id=name, seconds=took, body=why[:_SHOWN]
            )
        return Reply(said, response.status, scores, label, name, None, took)

    def _exchange(self, request: bytes, client: str) -> tuple[HTTPResponse, bytes]:
        try:
            response, body = _answer(self._connection(client), request, self._seconds)
        except ConnectionError:
            # It may have been closed at that moment, without a word. The question is not sent
            # again, for it may have been read: from now on each has a connection of its own.
            self._keep = False
            raise
        if response.will_close or not self._keep:
            self._drop(client)
        return response, body

    def _connection(self, client: str) -> socket.socket:
        found = self._connections.get(client)
        if found is not None and not _stale(found):
            self._connections.move_to_end(client)
            return found
        self._drop(client)
        if len(self._connections) >= CONNECTIONS:
            self._connections.popitem(last=False)[1].close()
        made = connect(
            self._asking.address,
            self._asking.tls,
            self._asking.server_name,
            self._asking.source(client),
            self._seconds,
        )
        self._connections[client] = made
        return made

    def _drop(self, client: str) -> None:
        found = self._connections.pop(client, None)
        if found is not None:
            found.close()


def connect(
    address: tuple[str, int] | str,
    tls: ssl.SSLContext | None,
    server_name: str,
    source: str,
    seconds: float,
) -> socket.socket:
    """A blocking connection.

    Raises:
        OSError: if nobody is there.
    """
    if isinstance(address, str):
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        plain.settimeout(seconds)
        try:
            plain.connect(address)
        except OSError:
            plain.close()
            raise
        return plain
    plain = socket.create_connection(address, seconds, (source, 0) if source else None)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls is None:
        return plain
    try:
        return tls.wrap_socket(plain, server_hostname=server_name or address[0])
    except BaseException:
        plain.close()
        raise


def get(address: Address, target: str, seconds: float) -> tuple[int, bytes]:
    """Asks with GET: the status and the body.

    Raises:
        OSError, http.client.HTTPException, ValueError: if there is no answer.
    """
    where: tuple[str, int] | str = address.path or (address.host, address.port)
    with contextlib.closing(
        connect(where, address.tls, address.server_name, "", seconds)
    ) as connection:
        lines = (f"GET {target} HTTP/1.1", f"Host: {address.authority.decode()}")
        more = ("Accept: application/json", "Connection: close", "", "")
        response, body = _answer(connection, "\r\n".join((*lines, *more)).encode(), seconds)
        return response.status, body


def _stale(connection: socket.socket) -> bool:
    """Whether a connection that rested was closed meanwhile, or holds what nobody asked for: that
    would be taken for the next answer."""
    if isinstance(connection, ssl.SSLSocket) and connection.pending():
        return True
    waiting = select.poll()
    waiting.register(connection, select.POLLIN)
    return bool(waiting.poll(0))


def _answer(
    connection: socket.socket, request: bytes, seconds: float
) -> tuple[HTTPResponse, bytes]:
    """Sends a request, and reads the head and the body of its answer.

    Raises:
        OSError, HTTPException: if there is no whole answer in time.
        ValueError: if it is too long, or more comes with it than was asked for.
    """
    stream = _Timed(connection, seconds)
    # A refusal may come before the whole body was sent: it is still to be read.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(request)
    response = HTTPResponse(stream, method=request.split(b" ", 1)[0].decode())  # type: ignore[arg-type]  # it calls makefile alone
    response.begin()
    body = response.read(BOUNDS.answer_bytes + 1)
    response.close()
    if len(body) > BOUNDS.answer_bytes:
        raise ValueError(f"an answer of more than {BOUNDS.answer_bytes} bytes")
    if stream.surplus:
        raise ValueError("more than the answer came")
    return response, body


class _Timed(io.RawIOBase):
    """What comes on a connection, all of it in time: a socket's own timeout is that of each read,
    and a byte now and then would keep it waiting for ever.

    Attributes:
        surplus: bytes that came with the answer and are none of it.
    """

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._end = perf_counter() + seconds
        self.over = False
        self.surplus = 0
        connection.settimeout(seconds)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """As a socket makes one."""
        return _Buffered(self)

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        """What comes next; None if nothing is wanted any more.

        Raises:
            OSError: if nothing comes in time.
        """
        if self.over:
            return None
        left = self._end - perf_counter()
        if left <= 0:
            raise TimeoutError(f"no whole answer in {self._seconds:g} s")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Buffered(io.BufferedReader):
    """Tells, when it is closed, what nobody has read."""

    def __init__(self, raw: _Timed) -> None:
        super().__init__(raw)
        self._timed = raw

    def close(self) -> None:
        """At the end of the answer."""
        if not self.closed:
            self._timed.over = True
            self._timed.surplus = len(self.peek(1))
        super().close()


class _Head:
    """An answer's headers as a codec reads them."""

    def __init__(self, response: HTTPResponse) -> None:
        self._response = response

    def get(self, name: bytes, /) -> bytes | None:
        value = self._response.getheader(name.decode())
        return None if value is None else value.encode("latin-1", "replace")


def _seconds(value: str | None) -> float | None:
    """Retry-After in seconds (RFC 9110, 10.2.3); a date is not taken."""
    if value is None or not value.strip().isdecimal():
        return None
    return float(value.strip()[:9])
