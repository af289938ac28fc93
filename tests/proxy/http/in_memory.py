"""Both sides of the wire without sockets: every byte and every moment is the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from proxy.decision import ALLOWED, Permit, UpstreamRequest
from proxy.http.address import Address
from proxy.http.application import Intake
from proxy.http.client_connection import ClientConnection
from proxy.http.downstream import Listener
from proxy.http.exchange import Exchange
from proxy.http.limits import ListenerLimits, PoolLimits
from proxy.http.messages import Head, Peer, Reply
from proxy.http.upstream import Pool
from proxy.rules import Refusal


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class MemoryTransport(asyncio.Transport):
    """Keeps what is written. ``lose`` is the other end's, or the event loop's, doing."""

    def __init__(
        self, protocol: asyncio.Protocol, *, peername: Any = ("192.0.2.1", 4711), **extra: Any
    ) -> None:
        super().__init__({"peername": peername, **extra})
        self.protocol = protocol
        self.written = bytearray()
        self.writes = 0
        self.eof = self.closed = self.aborted = self.paused = False
        self._lost = False
        protocol.connection_made(self)

    def write(self, data: Any) -> None:
        assert not self.eof, "written after its end"
        if not self.closed:
            self.written += data
            self.writes += 1

    def take(self) -> bytes:
        """What was written since the last time."""
        data = bytes(self.written)
        self.written.clear()
        return data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def feed(self, data: bytes) -> None:
        """The other end sends."""
        if not self._lost and not self.closed:
            self.protocol.data_received(data)

    def feed_eof(self) -> None:
        """The other end sends no more."""
        if not self._lost and not self.closed and not self.protocol.eof_received():
            self.closed = True

    def lose(self, error: Exception | None = None) -> None:
        """The connection is gone."""
        if not self._lost:
            self._lost = self.closed = True
            self.protocol.connection_lost(error)


class Dialer:
    """Opens connections to nowhere, or fails to."""

    def __init__(self) -> None:
        self.transports: list[MemoryTransport] = []
        self.addresses: list[Address] = []
        self.unreachable: set[str] = set()
        self.hang = False

    async def __call__(
        self, address: Address, factory: Callable[[], ClientConnection]
    ) -> ClientConnection:
        self.addresses.append(address)
        if self.hang:
            await asyncio.get_running_loop().create_future()
        if str(address) in self.unreachable:
            raise ConnectionRefusedError("nobody listens")
        connection = factory()
        self.transports.append(MemoryTransport(connection))
        return connection

    @property
    def last(self) -> MemoryTransport:
        return self.transports[-1]


class Application:
    """Forwards what it gets as POST to ``/model``, unless ``handler`` does something else."""

    def __init__(self, pool: Pool | None = None, body_limit: int = 1 << 20) -> None:
        self.pool = pool
        self.body_limit = body_limit
        self.handler: Callable[[Exchange], Any] | None = None
        self.opener: Callable[[Head, Peer], Intake] | None = None
        self.opened: list[Head] = []
        self.handled: list[Exchange] = []
        self.shed_heads: list[Head] = []
        self.refused: list[tuple[Refusal, Head | None]] = []
        self.raised: list[BaseException] = []

    def open(self, head: Head, peer: Peer) -> Intake:
        self.opened.append(head)
        if self.opener is not None:
            return self.opener(head, peer)
        return Intake(self.body_limit, "context")

    async def handle(self, exchange: Exchange) -> None:
        self.handled.append(exchange)
        try:
            if self.handler is not None:
                await self.handler(exchange)
            else:
                assert self.pool is not None
                response = await self.pool.send(permit(exchange.body))
                await exchange.relay(response, b"x-request-id: 1\r\n")
        except BaseException as error:
            self.raised.append(error)
            raise

    def shed(self, head: Head) -> Reply | None:
        self.shed_heads.append(head)
        return None if head.method == "GET" else Reply(503, b"shed", b"text/plain")

    def refuse(self, refusal: Refusal, head: Head | None, peer: Peer, received: float) -> Reply:
        self.refused.append((refusal, head))
        return Reply(refusal.rule.status, refusal.rule.id.encode(), b"text/plain")

    @property
    def rules(self) -> list[str]:
        return [refusal.rule.id for refusal, _ in self.refused]


def permit(body: bytes = b"", method: bytes = b"POST", target: bytes = b"/model") -> Permit:
    return Permit(ALLOWED, UpstreamRequest(method, target, b"x-test: 1\r\n", body))


async def echo(exchange: Exchange) -> None:
    """A handler that needs no upstream."""
    exchange.reply(Reply(200, exchange.body, b"text/plain"))


class World:
    """A listener, an application and a pool, all in memory."""

    def __init__(
        self,
        *,
        limits: ListenerLimits | None = None,
        pool_limits: PoolLimits | None = None,
        upstreams: int = 1,
        **listener: Any,
    ) -> None:
        self.clock = Clock()
        self.dialer = Dialer()
        addresses = [Address.parse(f"http://model{index}:80") for index in range(upstreams)]
        self.pool = Pool(addresses, pool_limits, clock=self.clock, dial=self.dialer)
        self.application = Application(self.pool)
        self.listener = Listener(
            self.application,
            Address("127.0.0.1", 0),
            limits,
            clock=self.clock,
            wall=lambda: 784111777.0,
            **listener,
        )

    def connect(self, **transport: Any) -> MemoryTransport:
        """A new client."""
        return MemoryTransport(self.listener.accept(), **transport)

    async def settle(self) -> None:
        """Lets the event loop do all that it can do now."""
        for _ in range(10):
            await asyncio.sleep(0)


DATE = b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"


def post(
    body: bytes = b"", *headers: bytes, target: bytes = b"/a", length: bytes | None = None
) -> bytes:
    """A well-formed request."""
    length = str(len(body)).encode() if length is None else length
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\n%b\r\n%b" % (
        target,
        length,
        lines,
        body,
    )


def answer(body: bytes = b"", *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """A well-formed answer of an upstream."""
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), lines, body)


def ok(body: bytes, connection: bytes = b"") -> bytes:
    """What a client reads of ``echo``."""
    return b"HTTP/1.1 200 OK\r\n%b%bcontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%b" % (
        DATE,
        connection,
        len(body),
        body,
    )


def refused(status_line: bytes, rule: bytes) -> bytes:
    """What a client reads of a refusal."""
    return (
        b"HTTP/1.1 %b\r\n%bconnection: close\r\n"
        b"content-type: text/plain\r\ncontent-length: %d\r\n\r\n%b"
        % (status_line, DATE, len(rule), rule)
    )
