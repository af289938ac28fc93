"""The listening side of gRPC: its calls go the way of every exchange.

Every method is served as bytes in, bytes out. A call is read by hand (as a stream of one message),
since gRPC itself would wait for a slow message for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import grpc
from grpc import StatusCode, aio

from proxy import protobuf
from proxy.grpc.application import Application
from proxy.grpc.calls import STREAM, names_model, plain_target, target_of
from proxy.grpc.exchange import Exchange, Outcome
from proxy.grpc.limits import GrpcLimits
from proxy.grpc.metadata import headers_of, timeout_line
from proxy.grpc.tls import ServerTls
from proxy.http.messages import Head, Peer, Reply
from proxy.rules import (
    BODY_DEADLINE,
    BODY_TOO_LARGE,
    INTERNAL,
    OVERLOADED,
    SYNTAX,
    Refusal,
)

_Context: TypeAlias = aio.ServicerContext[bytes, bytes]

_HANDSHAKE_SECONDS: Final = 10
_STRIKES: Final = 2  # pings that come too early, until the connection is cut
_ADDRESSES: Final = 4096  # that are remembered, to save work
_LAST_RESORT: Final = Reply(503, b"internal fault")


class Listener:
    """One listening address and its calls.

    Args:
        application: decides; may be swapped at any time. A call keeps the one that saw it.
        target: where to listen: ``host:port``, ``[ipv6]:port`` or ``unix:/path``.
        tls: None for plain HTTP/2.
        clock: monotonic seconds.
        guarded: lower-case names of metadata that decide something, such as the one that carries
            API keys: they may be there once only.
        reuse_port: whether other processes listen on the same port.

    Attributes:
        port: the TCP port that is listened on, 0 before and on a unix socket.
        calls: those under way.
        shed: calls refused because there were too many, in total.
    """

    def __init__(
        self,
        application: Application,
        target: str,
        limits: GrpcLimits | None = None,
        *,
        tls: ServerTls | None = None,
        clock: Callable[[], float],
        guarded: Iterable[str] = (),
        reuse_port: bool = False,
    ) -> None:
        self.application = application
        self.port = 0
        self.calls = 0
        self.shed = 0
        self._target = target
        self._limits = limits or GrpcLimits()
        self._tls = tls
        self._clock = clock
        self._guarded = frozenset(guarded)
        self._reuse_port = reuse_port
        self._addresses: dict[str, str] = {}
        self._server: aio.Server | None = None

    async def start(self) -> None:
        """Listens.

        Raises:
            OSError: if the address cannot be bound.
        """
        server = aio.server(handlers=[_Handlers(self)], options=self._options())
        try:
            if self._tls is None:
                self.port = server.add_insecure_port(self._target)
            else:
                self.port = server.add_secure_port(self._target, self._tls.credentials())
        except RuntimeError as error:
            raise OSError(f"{self._target}: {error}") from error
        if self._target.startswith("unix:"):
            self.port = 0
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
        if server is not None:
            await server.stop(seconds)

    async def close(self) -> None:
        """Closes at once: whatever is under way is cancelled."""
        await self.drain(0)

    # For the handlers:

    async def unary(self, method: str, context: _Context) -> bytes:
        """Answers a call of one message."""
        outcome = await self._once(method, context)
        if outcome.initial:
            await context.send_initial_metadata(outcome.initial)
        if outcome.code is not StatusCode.OK:
            await context.abort(outcome.code, outcome.details, outcome.trailing)
        context.set_trailing_metadata(outcome.trailing)
        return outcome.message

    async def stream(self, context: _Context) -> AsyncIterator[bytes]:
        """Answers each message of a stream, one after the other, as if it were a call of its own.

        As Triton does it, what is wrong with one message is said in its answer, and the stream goes
        on: a status would end it, and the client would not know for which message.
        """
        while True:
            received = await self._message(context, self._limits.idle_seconds)
            if received is None:
                return
            outcome = await self._counted(STREAM, received, context)
            if outcome.code is StatusCode.OK:
                yield protobuf.span(2, outcome.message)
            else:
                yield protobuf.span(1, (outcome.details or outcome.code.name).encode())

    async def _once(self, method: str, context: _Context) -> Outcome:
        received = await self._message(context, self._limits.message_seconds)
        if received is None:
            return self._refused(Refusal(SYNTAX, "no message"), method, None, context)
        return await self._counted(method, received, context)

    async def _message(self, context: _Context, seconds: float) -> bytes | None:
        """The next message; None at the end, or if it takes too long."""
        try:
            async with asyncio.timeout(seconds):
                message = await context.read()
        except TimeoutError:
            await context.abort(StatusCode.DEADLINE_EXCEEDED, BODY_DEADLINE.message)
        return message if type(message) is bytes else None

    async def _counted(self, method: str, message: bytes, context: _Context) -> Outcome:
        if self.calls >= self._limits.calls:
            self.shed += 1
            return self._refused(Refusal(OVERLOADED), method, None, context)
        self.calls += 1
        try:
            return await self._answered(method, message, context)
        finally:
            self.calls -= 1

    async def _answered(self, method: str, message: bytes, context: _Context) -> Outcome:
        received = self._clock()
        application, head = self.application, None
        try:
            peer = self._peer(context)
            headers = headers_of(context.invocation_metadata(), self._guarded)
            head = Head("RPC", plain_target(method), headers, keep_alive=True)
            head.target = target_of(method, message)
            remaining = context.time_remaining()
            if remaining is not None:
                headers[b"grpc-timeout"] = timeout_line(remaining)
            intake = application.open(head, peer)
            _check_size(message, intake.body_limit)
            exchange = Exchange(head, message, peer, intake.context, received)
            await application.handle(exchange)
        except Refusal as refusal:
            return self._refused(refusal, method, head, context, application)
        except Exception as error:
            self._report(error)
            fault = Refusal(INTERNAL, f"{type(error).__name__}: {error}")
            return self._refused(fault, method, head, context, application)
        if exchange.outcome is None:
            return self._refused(Refusal(INTERNAL, "no answer"), method, head, context, application)
        return exchange.outcome

    def _refused(
        self,
        refusal: Refusal,
        method: str,
        head: Head | None,
        context: _Context,
        application: Application | None = None,
    ) -> Outcome:
        """What never reached the application, or what it left open."""
        head = head or Head("RPC", plain_target(method), {}, keep_alive=True)
        try:
            reply = (application or self.application).refuse(
                refusal, head, self._peer(context), self._clock()
            )
        except Exception as error:  # the client gets an answer, whatever fails
            self._report(error)
            reply = _LAST_RESORT
        outcome = Outcome.of(reply)
        if outcome.code is StatusCode.UNIMPLEMENTED and names_model(method):
            return outcome._replace(code=StatusCode.NOT_FOUND)  # the method is there, no such model
        return outcome

    def _peer(self, context: _Context) -> Peer:
        """Who is at the other end. An address, with its port, may be another client's the next
        time: what is remembered of it is how it reads."""
        name = context.peer()
        address = self._addresses.get(name)
        if address is None:
            address = _address(name)
            if len(self._addresses) >= _ADDRESSES:
                self._addresses.clear()
            self._addresses[name] = address
        if self._tls is None:
            return Peer(address)
        return Peer(address, True, self._tls.client(context.auth_context()))

    def _report(self, error: BaseException) -> None:
        asyncio.get_running_loop().call_exception_handler(
            {"message": "an exchange failed", "exception": error}
        )

    def _options(self) -> Sequence[tuple[str, Any]]:
        limits = self._limits
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


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC ships no types
    """Every method there is, and is not: what passes, the application knows."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._known: dict[str, Any] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a call."""
        method = handler_call_details.method
        handler = self._known.get(method)
        if handler is None:
            handler = self._made(method)
            if names_model(method):
                self._known[method] = handler
        return handler

    def _made(self, method: str) -> Any:
        listener = self._listener
        if method == STREAM:

            async def stream(_: Any, context: _Context) -> AsyncIterator[bytes]:
                async for message in listener.stream(context):
                    yield message

            return grpc.stream_stream_rpc_method_handler(stream)

        async def unary(_: Any, context: _Context) -> bytes:
            return await listener.unary(method, context)

        return grpc.stream_unary_rpc_method_handler(unary)


def _check_size(message: bytes, limit: int) -> None:
    if len(message) > limit:
        raise Refusal(BODY_TOO_LARGE, f"at most {limit} bytes")


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _address(name: str) -> str:
    """The IP address of a peer as gRPC writes it: ``ipv4:192.0.2.1:50051``,
    ``ipv6:%5B2001:db8::1%5D:50051``; "" for a unix socket."""
    kind, _, rest = name.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    host = unquote(rest).rpartition(":")[0].strip("[]").partition("%")[0]
    return host.removeprefix("::ffff:") if "." in host else host
