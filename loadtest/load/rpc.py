"""One gRPC channel of a load: a ready-made message out, a status back, one call at a time."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final, cast

import grpc
import grpc.aio

from loadtest.load.http import Connection, Owner
from loadtest.load.outcome import CONNECT, GRPC, RESET, TIMEOUT
from loadtest.load.plan import Call, Tls
from loadtest.load.pool import Opener
from loadtest.load.share import Share

# A connection of its own for each channel, as separate clients have; answers of any size.
_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)
# The library gives its own failures the statuses that a server may send: only its words differ.
_UNREACHABLE: Final = re.compile(r"failed to connect|name resolution|DNS", re.IGNORECASE)
_BROKEN: Final = re.compile(
    r"socket closed|connection reset|broken pipe|stream removed|goaway|endpoint closing|recvmsg"
    r"|sendmsg|rst_stream",
    re.IGNORECASE,
)


def grpc_opener(share: Share) -> Opener:
    """Over gRPC.

    Raises:
        OSError: if a certificate cannot be read.
    """
    address = share.address
    target = f"unix:{address}" if isinstance(address, str) else "{}:{}".format(*address)
    credentials = None if share.tls is None else _credentials(share.tls)
    options: list[tuple[str, Any]] = list(_OPTIONS)
    if share.tls is not None and share.tls.name:
        options.append(("grpc.ssl_target_name_override", share.tls.name))

    async def connect(owner: Owner, source: str) -> Connection:
        del source  # the plan has none: the library cannot choose it
        if credentials is None:
            channel = grpc.aio.insecure_channel(target, options=options)
        else:
            channel = grpc.aio.secure_channel(target, credentials, options=options)
        try:
            async with asyncio.timeout(share.timeout):
                await channel.channel_ready()
        except TimeoutError:
            await channel.close()
            raise OSError(f"no gRPC at {target} in {share.timeout:g} s") from None
        except BaseException:
            await channel.close()
            raise
        return GrpcConnection(owner, channel, share.method, share.timeout)

    return connect


def _credentials(tls: Tls) -> Any:
    if not tls.verify:
        raise ValueError("gRPC always verifies certificates")
    parts = (tls.authority, tls.key, tls.certificate)
    return grpc.ssl_channel_credentials(*(None if p is None else p.read_bytes() for p in parts))


def status_of(error: grpc.aio.AioRpcError) -> int:
    """What became of a call that failed: a server's status, or one of ``outcome.ERRORS``."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TIMEOUT
    if code is grpc.StatusCode.UNAVAILABLE and _UNREACHABLE.search(details):
        return CONNECT
    broken = code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
    if broken and _BROKEN.search(details):
        return RESET
    return GRPC + int(code.value[0])


class GrpcConnection:
    """As ``Connection``."""

    __slots__ = ("_channel", "_infer", "_owner", "_task", "_timeout", "index", "usable")

    def __init__(self, owner: Owner, channel: Any, method: str, timeout: float) -> None:
        self._owner = owner
        self._channel = channel
        self._infer = channel.unary_unary(method)
        self._timeout = timeout
        self._task: asyncio.Task[None] | None = None
        self.index = -1
        self.usable = True

    def send(self, index: int, message: object) -> None:
        """As ``Connection``."""
        self.index = index
        self._task = asyncio.ensure_future(self._call(index, cast("Call", message)))

    async def _call(self, index: int, message: Call) -> None:
        metadata, body = message
        try:
            await self._infer(body, metadata=metadata, timeout=self._timeout)
            status = GRPC
        except grpc.aio.AioRpcError as error:
            status = status_of(error)
        self.index = -1
        if status < 0:
            # A client that has lost its connection makes another at once; a channel waits.
            self.usable = False
        self._owner.ended(self, index, status)
        if status < 0:
            await self._channel.close()
            self._owner.lost(self)

    def give_up(self, status: int = TIMEOUT) -> None:
        """As ``Connection``; the channel can go on."""
        index, self.index = self.index, -1
        if self._task is not None:
            self._task.cancel()
        self._owner.ended(self, index, status)

    async def close(self) -> None:
        """As ``Connection``."""
        self.index = -1
        self.usable = False
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()
