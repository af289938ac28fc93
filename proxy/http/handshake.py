"""The TLS handshake of a client's connection, so that it counts as a connection from the start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxy.http.downstream import Listener


class Handshake(asyncio.Protocol):
    """Shakes hands on an accepted socket, or closes it if there are too many connections.

    A server with a TLS context tells its protocols of a connection only once the handshake is
    complete, so that silent clients would neither be counted nor shed. This one accepts plain
    connections, and hands their sockets on.
    """

    def __init__(self, listener: Listener, context: ssl.SSLContext) -> None:
        self._listener = listener
        self._context = context
        self._sock: socket.socket
        self._task: asyncio.Task[None]

    def connection_made(self, transport: Any) -> None:
        listener = self._listener
        try:
            sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        finally:
            transport.abort()  # closes its own descriptor only; nothing has been read
        listener.handshakes.add(self)
        crowded = listener.crowded
        if crowded or not listener.has_time():
            listener.shed += crowded
            listener.handshakes.discard(self)
            sock.close()
            return
        sock.setblocking(False)
        self._sock = sock
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(self._ended)

    async def cancel(self) -> None:
        """Ends it at once."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        with contextlib.suppress(OSError):  # the client left, took too long, or is not trusted
            await asyncio.get_running_loop().connect_accepted_socket(
                self._listener.accept,
                self._sock,
                ssl=self._context,
                ssl_handshake_timeout=self._listener.limits.head_seconds,
            )

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._listener.handshakes.discard(self)
        if task.cancelled():  # perhaps before it began
            self._sock.close()
