"""A listening address of gRPC, whatever is served there: bound, restarted, drained and closed."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final, NoReturn, TypeAlias

import grpc
from grpc import StatusCode, aio

from proxy.grpc.limits import GrpcLimits
from proxy.grpc.metadata import Metadata
from proxy.grpc.server import Call, Server
from proxy.grpc.tls import ServerTls
from proxy.http.shared_address import refuse_path_in_use

Context: TypeAlias = aio.ServicerContext[bytes, bytes]

_HANDSHAKE_SECONDS: Final = 10
_STRIKES: Final = 2  # pings that come too early, until the connection is cut
_RESTART_SECONDS: Final = 1.0
_UNIX: Final = "unix:"


class Service(ABC):
    """One listening address and its calls. Implements ``proxy.transport.TakesCalls``, but for the
    application, which has its own type in each.

    Args:
        target: where to listen: ``host:port``, ``[ipv6]:port`` or ``unix:/path``, a socket that
            only this user and group can reach.
        tls: None for plain HTTP/2.
        reuse_port: whether other processes listen on the same port.

    Attributes:
        port: the TCP port that is listened on, 0 before and on a unix socket.
        shed: calls refused or given up because there were too many, in total.
    """

    methods: ClassVar[Sequence[str]]
    """The paths that are told apart: all others are unknown."""

    def __init__(
        self, target: str, limits: GrpcLimits, *, tls: ServerTls | None, reuse_port: bool
    ) -> None:
        self.port = 0
        self.shed = 0
        self.limits = limits
        self._target = target
        self._tls = tls
        self._reuse_port = reuse_port
        self._server: Server | None = None
        self._restarting: asyncio.Task[None] | None = None

    @abstractmethod
    def handler(self, call: Call) -> grpc.RpcMethodHandler:
        """What handles a call, as bytes in and bytes out."""

    @property
    def calls(self) -> int:
        """Those under way, from their begin until their answers were taken."""
        return self._server.calls if self._server is not None else 0

    def counts(self) -> tuple[int, int]:
        """Calls under way, and those that were shed."""
        return self.calls, self.shed

    async def start(self) -> None:
        """Listens.

        Raises:
            OSError: if the address cannot be bound.
        """
        server = Server(self.methods, self.handler, self._options(), self._crashed)
        target = self._target.encode()
        if self._target.startswith(_UNIX):  # gRPC would replace any socket
            refuse_path_in_use(self._target.removeprefix(_UNIX))
        with _closed_to_others():
            if self._tls is None:
                port = server.add_insecure_port(target)
            else:
                port = server.add_secure_port(target, self._tls.credentials())
        if not port:
            raise OSError(f"{self._target} cannot be listened on")
        if not self._target.startswith(_UNIX):
            self.port = port
            self._target = f"{self._target.rpartition(':')[0]}:{port}"
        await server.start()
        self._server = server

    def renew(self) -> None:
        """Reads the certificate anew: new connections get what its files hold now.

        Raises:
            OSError: if it cannot be used; the old one goes on then.
        """
        if self._tls is not None:
            self._tls.renew()

    async def drain(self, seconds: float) -> None:
        """Accepts no more, lets what is under way be answered, and closes. What remains after
        ``seconds`` is cut off."""
        server, self._server = self._server, None
        if self._restarting is not None:
            self._restarting.cancel()
        if server is not None:
            await server.end(seconds)

    async def close(self) -> None:
        """Closes at once: whatever is under way is cancelled."""
        await self.drain(0)

    def _crashed(self) -> None:
        """gRPC's server has ended unasked."""
        if self._server is not None:
            self.report(RuntimeError("gRPC's server has ended: it is started anew"))
            self._restarting = asyncio.get_running_loop().create_task(self._restart(self._server))

    async def _restart(self, server: Server) -> None:
        await server.end(None)
        while True:
            try:
                return await self.start()
            except OSError as error:
                self.report(error)
                await asyncio.sleep(_RESTART_SECONDS)

    def report(self, error: BaseException) -> None:
        """Tells the operator of a defect."""
        asyncio.get_running_loop().call_exception_handler(
            {"message": "an exchange failed", "exception": error}
        )

    def _options(self) -> Sequence[tuple[str, Any]]:
        limits = self.limits
        return (
            ("grpc.so_reuseport", int(self._reuse_port)),
            ("grpc.max_receive_message_length", limits.message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", limits.metadata_bytes),
            ("grpc.absolute_max_metadata_size", limits.metadata_bytes),
            ("grpc.max_allowed_incoming_connections", limits.connections),
            ("grpc.max_concurrent_streams", limits.streams),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_SECONDS * 1000),
            ("grpc.max_connection_idle_ms", _milliseconds(limits.idle_seconds)),
            ("grpc.max_connection_age_ms", _milliseconds(limits.age_seconds)),
            ("grpc.max_connection_age_grace_ms", _milliseconds(limits.grace_seconds)),
            (
                "grpc.http2.min_ping_interval_without_data_ms",
                _milliseconds(limits.ping_seconds),
            ),
            (
                "grpc.http2.min_recv_ping_interval_without_data_ms",
                _milliseconds(limits.ping_seconds),
            ),
            ("grpc.http2.max_ping_strikes", _STRIKES),
            ("grpc.keepalive_permit_without_calls", 1),
        )


async def abort(
    context: Context, code: StatusCode, details: str, trailing: Metadata = ()
) -> NoReturn:
    """Ends a call with a status.

    Raises:
        aio.AbortError: which gRPC expects.
        CancelledError: if there is no call any more, or gRPC has ended it itself.
    """
    try:
        await context.abort(code, details, trailing)
    except aio.AbortError:
        raise
    except aio.BaseError as error:
        raise asyncio.CancelledError from error
    raise AssertionError("an aborted call goes on")


@contextmanager
def _closed_to_others() -> Iterator[None]:
    """A unix socket that is made within can be reached by this user and group alone."""
    mask = os.umask(0o117)
    try:
        yield
    finally:
        os.umask(mask)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
