"""The listening side: one socket, the connections that it accepts, and their deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from email.utils import formatdate
from functools import partial
from typing import Final

from proxy.http.address import Address
from proxy.http.application import Application, Intake
from proxy.http.exchange import Exchange
from proxy.http.handshake import Handshake
from proxy.http.limits import ListenerLimits
from proxy.http.messages import Peer
from proxy.http.server_connection import ServerConnection
from proxy.http.shared_address import refuse_path_in_use
from proxy.http.turned_away import TurnedAway
from proxy.http.turns import Turns

__all__ = ["Address", "Application", "Exchange", "Intake", "Listener", "ListenerLimits"]

_SWEEP_SLICE: Final = 0.002  # seconds of one turn of the loop


class Listener:
    """One listening socket and the connections that it accepted.

    Args:
        application: decides; may be swapped at any time. Requests whose head was read keep the one
            that saw it.
        address: where to listen; its ``tls`` is a server context.
        clock: monotonic seconds.
        wall: seconds since the epoch, for Date.
        guarded: lower-case names of further headers that decide something, such as the one that
            carries API keys: protected as Authorization is.
        sock: a socket that is bound already, instead of ``address``'s own, and of its kind.
        reuse_port: whether other processes listen on the same port.

    Attributes:
        draining: whether every answer is now the last of its connection.
        connections: those that are open.
        handshakes: the TLS handshakes under way, of connections to be.
        shed: connections refused at accept, in total.
        turns: those of the loop, and what waits in them.
    """

    def __init__(
        self,
        application: Application,
        address: Address,
        limits: ListenerLimits | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.time,
        guarded: Iterable[bytes] = (),
        sock: socket.socket | None = None,
        reuse_port: bool = False,
    ) -> None:
        self.application = application
        self.address = address
        self.limits = limits or ListenerLimits()
        self.clock = clock
        self.guarded = frozenset(guarded)
        self.draining = False
        self.connections: set[ServerConnection] = set()
        self.handshakes: set[Handshake] = set()
        self.shed = 0
        self.turns = Turns(clock)
        self.date = b""
        self._wall = wall
        self._sock = sock
        self._reuse_port = reuse_port
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()
        self._tell_date()

    async def start(self) -> None:
        """Listens.

        Raises:
            OSError: if the address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        tls = self.address.tls
        accept: Callable[[], asyncio.Protocol]
        accept = self.accept if tls is None else partial(Handshake, self, tls)
        if self.address.path and self._sock is not None:
            self._server = await loop.create_unix_server(accept, sock=self._sock, backlog=1024)
        elif self.address.path:
            refuse_path_in_use(self.address.path)
            self._server = await loop.create_unix_server(accept, self.address.path, backlog=1024)
        elif self._sock is not None:
            self._server = await loop.create_server(accept, sock=self._sock, backlog=1024)
        else:
            self._server = await loop.create_server(
                accept,
                self.address.host,
                self.address.port,
                backlog=1024,
                reuse_port=self._reuse_port or None,
            )
        self._timer = loop.call_later(self.limits.sweep_seconds, self._tick, loop)

    @property
    def port(self) -> int:
        """The TCP port that is listened on, 0 on a unix socket."""
        if self._server is None or self.address.path:
            return 0
        return int(self._server.sockets[0].getsockname()[1])

    def renew(self) -> None:
        """Does nothing: whoever gave it its TLS context renews that in place."""

    async def drain(self, seconds: float) -> None:
        """Accepts no more, lets what is under way be answered, and closes.

        Every answer is from now on the last of its connection. A connection that is idle is closed
        once it has been so for a second: a request that crosses with the drain is still answered.
        What remains after ``seconds`` is cut off.
        """
        self._stop_listening()
        self.draining = True
        if self.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), seconds)
        await self.close()

    async def close(self) -> None:
        """Closes at once: whatever is under way is cancelled."""
        self._stop_listening()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for handshake in tuple(self.handshakes):
            await handshake.cancel()
        for connection in tuple(self.connections):
            connection.abort()
        if self.connections:
            await self._emptied.wait()

    def sweep(self) -> None:
        """Checks every deadline. Runs by itself every ``sweep_seconds``."""
        self._tell_date()
        self._check(iter(tuple(self.connections)))

    def _check(self, rest: Iterator[ServerConnection]) -> None:
        """Checks some connections, and the others in later turns: many that miss their deadline
        together, as slow clients do, are to cost nobody else his time."""
        now = self.clock()
        for connection in rest:
            connection.check(now)
            if self.clock() - now > _SWEEP_SLICE:
                asyncio.get_running_loop().call_soon(self._check, rest)
                return

    # For connections:

    def accept(self) -> ServerConnection | TurnedAway:
        """The protocol of a new connection."""
        return ServerConnection(self) if self.has_time() else TurnedAway(self.date)

    def has_time(self) -> bool:
        """Whether the loop has time for one more connection, which is counted as shed if not: that
        costs it a third."""
        if self.turns.accepts():
            return True
        self.shed += 1
        return False

    def admit(self, connection: ServerConnection) -> bool:
        """Counts a connection in; False if it is one too many."""
        self.connections.add(connection)
        self._emptied.clear()
        if len(self.connections) <= self.limits.connections:
            return True
        self.shed += 1
        return False

    @property
    def crowded(self) -> bool:
        """Whether there are so many connections, counting those still in their TLS handshake, that
        those shed cannot even linger.
        """
        count = len(self.connections) + len(self.handshakes)
        return count > self.limits.connections * 5 // 4

    def forget(self, connection: ServerConnection) -> None:
        """Counts a connection out."""
        self.connections.discard(connection)
        if not self.connections:
            self._emptied.set()

    def peer(self, transport: asyncio.BaseTransport) -> Peer:
        """Who is at the other end."""
        name = transport.get_extra_info("peername")
        ssl_object = transport.get_extra_info("ssl_object")
        certificate = ssl_object.getpeercert(binary_form=True) if ssl_object is not None else None
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host = name[0] if isinstance(name, tuple) and name else ""
        return Peer(_plain(host), ssl_object is not None, certificate)

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self.limits.sweep_seconds, self._tick, loop)
        self.sweep()

    def _tell_date(self) -> None:
        self.date = b"date: %b\r\n" % formatdate(self._wall(), usegmt=True).encode()


def _plain(host: str) -> str:
    """An address without its zone; IPv4 where it is mapped into IPv6."""
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host.partition("%")[0])
    return str(address.ipv4_mapped or address)
