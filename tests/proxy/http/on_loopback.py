"""Real sockets around the wire: a client that speaks raw bytes, and upstreams that do as told."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

from in_memory import Application

from proxy.http.address import Address
from proxy.http.downstream import Listener
from proxy.http.limits import ListenerLimits, PoolLimits
from proxy.http.upstream import Pool

PATIENCE = 20  # seconds until a test that hangs fails instead

_LENGTH = re.compile(rb"\r\ncontent-length: (0|[1-9][0-9]*)(?=\r\n)")


def split_requests(data: bytes) -> tuple[list[bytes], bytes]:
    """Whole requests and the rest, by a parser of its own: it takes nothing but what a firewall
    that keeps its promise sends.
    """
    requests = []
    while True:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return requests, data
        head = data[: end + 4]
        lengths = _LENGTH.findall(head)
        assert len(lengths) <= 1, head
        assert b"transfer-encoding" not in head.lower(), head
        size = end + 4 + int(lengths[0] if lengths else 0)
        if len(data) < size:
            return requests, data
        requests.append(data[:size])
        data = data[size:]


class Upstream(asyncio.Protocol):
    """One connection of the recording upstream."""

    def __init__(self, server: RecordingUpstream) -> None:
        self.server = server
        self.transport: Any = None
        self.received = b""
        self._rest = b""
        self.requests: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.server.connections.append(self)

    def data_received(self, data: bytes) -> None:
        self.received += data
        requests, self._rest = split_requests(self._rest + data)
        for request in requests:
            self.requests.append(request)
            self.server.answer(self, request)

    def connection_lost(self, error: Exception | None) -> None:
        self.server.lost += 1


def echo_body(connection: Upstream, request: bytes) -> None:
    """Answers with the body of the request."""
    body = request.partition(b"\r\n\r\n")[2]
    connection.transport.write(
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


class RecordingUpstream:
    """Remembers every byte of every connection."""

    def __init__(self, answer: Callable[[Upstream, bytes], None] = echo_body) -> None:
        self.answer = answer
        self.connections: list[Upstream] = []
        self.lost = 0
        self.server: Any = None

    async def start(self, path: str | None = None, ssl: Any = None) -> str:
        """Listens, and returns its URL."""
        loop = asyncio.get_running_loop()
        if path is not None:
            self.server = await loop.create_unix_server(lambda: Upstream(self), path)
            return f"unix:{path}"
        self.server = await loop.create_server(lambda: Upstream(self), "127.0.0.1", 0, ssl=ssl)
        scheme = "http" if ssl is None else "https"
        return f"{scheme}://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    @property
    def requests(self) -> list[bytes]:
        return [request for connection in self.connections for request in connection.requests]

    def stop(self) -> None:
        self.server.close()
        for connection in self.connections:
            connection.transport.abort()


class Site:
    """A running firewall without its brain: it forwards what its application says."""

    def __init__(self, listener: Listener, application: Application, upstream: RecordingUpstream):
        self.listener = listener
        self.application = application
        self.upstream = upstream

    async def connect(self, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new client."""
        if self.listener.address.path:
            return await asyncio.open_unix_connection(self.listener.address.path)
        return await asyncio.open_connection("127.0.0.1", self.listener.port, **options)

    async def talk(self, data: bytes, *, step: int = 0, shut: bool = True, **options: Any) -> bytes:
        """All that a client reads until its connection ends."""
        async with asyncio.timeout(PATIENCE):
            reader, writer = await self.connect(**options)
            try:
                for start in range(0, len(data), step or len(data) or 1):
                    writer.write(data[start : start + (step or len(data))])
                    if step:
                        await asyncio.sleep(0)
                if shut and writer.can_write_eof():
                    writer.write_eof()
                return await reader.read()
            finally:
                writer.close()


@contextlib.asynccontextmanager
async def site(
    answer: Callable[[Upstream, bytes], None] = echo_body,
    *,
    limits: ListenerLimits | None = None,
    pool_limits: PoolLimits | None = None,
    listen: Address | None = None,
    upstream_path: str | None = None,
    upstream_tls: tuple[Any, Any] = (None, None),
) -> AsyncIterator[Site]:
    """Starts upstream, pool and listener; ends them, whatever happens."""
    upstream = RecordingUpstream(answer)
    server_tls, client_tls = upstream_tls
    url = await upstream.start(upstream_path, server_tls)
    pool = Pool([Address.parse(url, tls=client_tls)], pool_limits)
    application = Application(pool)
    listener = Listener(application, listen or Address("127.0.0.1", 0), limits)
    await listener.start()
    try:
        yield Site(listener, application, upstream)
    finally:
        await listener.close()
        await pool.close()
        upstream.stop()
