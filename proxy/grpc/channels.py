"""The way to model servers that speak gRPC: channels that send nothing but what is permitted."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Final

import grpc
from grpc import StatusCode, aio

from proxy.decision import Permit
from proxy.grpc.answer import Answer
from proxy.grpc.calls import method_of
from proxy.grpc.metadata import metadata_of, passed_on
from proxy.http.address import Address
from proxy.http.balance import Balance, Standing, bounds
from proxy.http.limits import PoolLimits
from proxy.http.line import Line
from proxy.http.upstream import AddressState, PoolState
from proxy.rules import (
    UPSTREAM_INVALID,
    UPSTREAM_QUEUE,
    UPSTREAM_TIMEOUT,
    UPSTREAM_UNREACHABLE,
    Refusal,
)

_FIRST_BACKOFF_MS: Final = 100
_LAST_BACKOFF_MS: Final = 2000
_LOCAL_CODES: Final = frozenset(
    {
        StatusCode.CANCELLED,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.INTERNAL,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.UNAVAILABLE,
        StatusCode.UNKNOWN,
    }
)
"""Statuses that gRPC itself makes, too."""

_LOCAL: Final = re.compile(
    r"(?:ipv4|ipv6|unix|dns|vsock):|failed to connect|Stream removed|Socket closed|GOAWAY"
    r"|Connection re(?:set|fused)|recvmsg|RST_STREAM|CLIENT: |keepalive|transport"
)
"""Words of gRPC itself, about a server that did not answer: they hold its address."""

_LATE: Final = "Deadline Exceeded"
"""Its words where both ends notice a deadline, and the server's end is the first to say so."""


class Server(Standing):
    """One address of a model server.

    Attributes:
        calls: under way.
        channel: to it.
    """

    __slots__ = ("_methods", "calls", "channel")

    def __init__(
        self,
        address: Address,
        balance: Balance[Server],
        *,
        credentials: grpc.ChannelCredentials | None,
        options: Sequence[tuple[str, Any]],
    ) -> None:
        super().__init__(address, balance)
        self.calls = 0
        own = [
            *options,
            ("grpc.default_authority", address.authority.decode()),
            ("grpc.enable_http_proxy", 0),  # of the environment: requests go where they are sent
        ]
        if address.server_name:
            own.append(("grpc.ssl_target_name_override", address.server_name))
        if credentials is None:
            self.channel = aio.insecure_channel(_target(address), options=own)
        else:
            self.channel = aio.secure_channel(_target(address), credentials, options=own)
        self._methods: dict[str, aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    @property
    def outstanding(self) -> int:
        """Calls that it has not answered yet."""
        return self.calls

    def method(self, name: str) -> aio.UnaryUnaryMultiCallable[bytes, bytes]:
        """What calls a method of it, bytes in, bytes out."""
        found = self._methods.get(name)
        if found is None:
            self._methods[name] = found = self.channel.unary_unary(name)
        return found


class Channels:
    """The gRPC upstreams of one endpoint. Implements ``proxy.transport.Transport``.

    A call is never repeated. Nothing but ``addresses`` says where they go: neither a proxy of the
    environment nor a service configuration in DNS.

    Args:
        addresses: at least one. Of each, ``server_name`` is what its certificate must name.
        credentials: of each that is reached by TLS, and None for the others; none: all are plain.
        message_bytes: of an answer.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        limits: PoolLimits | None = None,
        *,
        credentials: Sequence[grpc.ChannelCredentials | None] = (),
        message_bytes: int = 16 * 2**20,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._limits = limits = limits or PoolLimits()
        self._clock = clock
        options = (
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0),
            ("grpc.service_config_disable_resolution", 1),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", message_bytes),
            ("grpc.max_send_message_length", -1),
            # The time that a connection gets, and how long it is left alone if it fails.
            ("grpc.min_reconnect_backoff_ms", int(limits.connect_seconds * 1000)),
            ("grpc.initial_reconnect_backoff_ms", _FIRST_BACKOFF_MS),
            ("grpc.max_reconnect_backoff_ms", _LAST_BACKOFF_MS),
        )
        given = iter(credentials or [None] * len(addresses))

        def server(address: Address, balance: Balance[Server]) -> Server:
            return Server(address, balance, credentials=next(given), options=options)

        self._balance = Balance(addresses, limits, clock, server)
        self._queue: deque[asyncio.Future[Server]] = deque()
        self._waiting = 0
        self._line = Line(clock())
        self._queue_timeouts = 0

    async def send(self, permit: Permit) -> Answer:
        """Makes a call and waits for its answer. There is no other way to make one.

        If nobody waits for the answer any more, the call is cancelled.

        Raises:
            TypeError: if it is not a permit.
            Refusal: UPSTREAM_UNREACHABLE, UPSTREAM_TIMEOUT, UPSTREAM_INVALID or UPSTREAM_QUEUE.
        """
        if type(permit) is not Permit:
            raise TypeError("only a permit can be sent")
        request = permit.request
        method, named = method_of(request.target.decode())
        metadata, seconds = metadata_of(request.headers)
        server = self._balance.only or self._balance.choose()
        assert server is not None  # one is always left
        # What is not an inference asks how the server does: it passes by the queue and the limit.
        if request.body and (self._waiting or not server.has_room):
            server = await self._wait(server)
        else:
            server.calls += 1
        among, started = server.calls, self._clock()
        try:
            answer = await self._call(server, method, request.body or named, metadata, seconds)
        finally:
            server.calls -= 1
            if self._queue:
                self._serve(server)
        if request.body and answer.code is StatusCode.OK:
            now = self._clock()
            server.concurrency.answered(now - started, len(request.body), among, now)
        return answer

    @property
    def crowded(self) -> bool:
        """Whether a call that came now would be turned away."""
        waiting = self._waiting
        return waiting > 0 and self._line.refuses(waiting, self._clock(), *self._bounds())

    async def close(self, seconds: float = 0.0) -> None:
        """Ends the channels after ``seconds``, or as soon as this is cancelled."""
        try:
            if seconds > 0:
                await asyncio.sleep(seconds)
        finally:
            await asyncio.gather(*(each.channel.close() for each in self._balance.upstreams))

    def state(self) -> PoolState:
        """What metrics show."""
        now = self._clock()
        return PoolState(
            self._waiting,
            self._queue_timeouts,
            tuple(
                AddressState(
                    str(each.address),
                    each.calls,
                    0,
                    each.ejected_until > now,
                    each.connects,
                    each.errors,
                    each.ejections,
                    0,
                    0,
                    each.concurrency.limit,
                )
                for each in self._balance.upstreams
            ),
            self._line.wait(self._waiting, now) if self._waiting else 0.0,
        )

    async def _call(
        self,
        server: Server,
        method: str,
        message: bytes,
        metadata: Any,
        seconds: float | None,
    ) -> Answer:
        limits = self._limits
        most = min(limits.response_seconds, limits.total_seconds)
        call = server.method(method)(
            message, timeout=most if seconds is None else min(seconds, most), metadata=metadata
        )
        try:
            answer = await call
        except aio.AioRpcError as error:
            return self._failed(server, error, hurried=seconds is not None and seconds < most)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Refusal(UPSTREAM_UNREACHABLE, "the channel was closed") from None
        if answer is None:
            server.failed()
            raise Refusal(UPSTREAM_INVALID, "a status of OK, and no message")
        server.failures = 0
        return Answer(
            StatusCode.OK,
            "",
            answer,
            passed_on(await call.initial_metadata()),
            passed_on(await call.trailing_metadata()),
        )

    def _failed(self, server: Server, error: aio.AioRpcError, *, hurried: bool) -> Answer:
        """A status other than OK: the server's, to be passed on, or gRPC's own.

        Args:
            hurried: whether the deadline was the client's: missing it is no failure of the server.

        Raises:
            Refusal: if the server did not answer.
        """
        code, details = error.code(), error.details() or ""
        answer = Answer(
            code,
            details,
            b"",
            passed_on(error.initial_metadata()),
            passed_on(error.trailing_metadata()),
        )
        late = code is StatusCode.DEADLINE_EXCEEDED
        if answer.status < 500 or code is StatusCode.UNIMPLEMENTED:
            server.failures = 0
        elif not (late and hurried):
            server.failed()
        own = _LOCAL.search(details) is not None or (late and details == _LATE)
        if code not in _LOCAL_CODES or not own:
            return answer
        if late:
            raise Refusal(UPSTREAM_TIMEOUT, details)
        if code is StatusCode.UNAVAILABLE:
            raise Refusal(UPSTREAM_UNREACHABLE, details)
        raise Refusal(UPSTREAM_INVALID, f"{code.name}: {details}")

    async def _wait(self, server: Server) -> Server:
        """Waits until there is room for one call more: the server that has it, the call counted.

        Raises:
            Refusal: UPSTREAM_QUEUE.
        """
        if self.crowded:
            self._queue_timeouts += 1
            raise _turned_away()
        server.concurrency.held(self._clock())
        if not self._waiting:
            self._line.empty(self._clock())
        place: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._limits.queue_seconds):
                return await place
        except BaseException as error:
            if place.done() and not place.cancelled():
                place.result().calls -= 1
                self._serve(place.result())
            else:
                self._waiting -= 1
            if isinstance(error, TimeoutError):
                self._queue_timeouts += 1
                raise _turned_away() from None
            raise

    def _serve(self, server: Server) -> None:
        """Lets those who wait make the calls that the server has room for."""
        queue = self._queue
        while queue and server.has_room:
            place = queue.popleft()
            if not place.done():
                self._waiting -= 1
                self._line.left(self._clock())
                server.calls += 1
                place.set_result(server)

    def _bounds(self) -> tuple[float, float]:
        return bounds(self._limits, self._balance.upstreams)


def _turned_away() -> Refusal:
    return Refusal(UPSTREAM_QUEUE, "the model server has as much as it can do", retry_after=1)


def _target(address: Address) -> str:
    """An address in gRPC's words."""
    if address.path:
        return f"unix:{address.path}"
    host = address.host
    if ":" in host:
        return f"ipv6:[{host}]:{address.port}"
    if host.replace(".", "").isdigit():
        return f"ipv4:{host}:{address.port}"
    return f"dns:///{host}:{address.port}"
