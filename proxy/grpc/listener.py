"""The listening side of gRPC: its calls go the way of every exchange.

Every method is served as bytes in, bytes out. A call is read by hand (as a stream of one message),
since gRPC itself would wait for a slow message for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import grpc
from grpc import StatusCode, aio

from proxy import protobuf
from proxy.grpc.application import Application
from proxy.grpc.calls import METHODS, STREAM, names_model, target_of
from proxy.grpc.exchange import Exchange, Outcome
from proxy.grpc.limits import GrpcLimits
from proxy.grpc.metadata import headers_of, timeout_line
from proxy.grpc.server import Call, Server
from proxy.grpc.tls import ServerTls
from proxy.http.messages import Head, Peer, Reply
from proxy.rules import (
    BODY_DEADLINE,
    BODY_TOO_LARGE,
    BUSY,
    INTERNAL,
    SYNTAX,
    Refusal,
)

_Context: TypeAlias = aio.ServicerContext[bytes, bytes]

_HANDSHAKE_SECONDS: Final = 10
_STRIKES: Final = 2  # pings that come too early, until the connection is cut
_ADDRESSES: Final = 4096  # that are remembered, to save work
_RESTART_SECONDS: Final = 1.0
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
        shed: calls refused or given up because there were too many, in total.
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
        self.shed = 0
        self._target = target
        self._limits = limits or GrpcLimits()
        self._tls = tls
        self._clock = clock
        self._guarded = frozenset(guarded)
        self._reuse_port = reuse_port
        self._addresses: dict[str, str] = {}
        self._server: Server | None = None
        self._restarting: asyncio.Task[None] | None = None
        self._silent: dict[Call, None] = {}  # that wait for a message, the longest first

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
        server = Server(METHODS, self._handler, self._options(), self._crashed)
        target = self._target.encode()
        if self._tls is None:
            port = server.add_insecure_port(target)
        else:
            port = server.add_secure_port(target, self._tls.credentials())
        if not port:
            raise OSError(f"{self._target} cannot be listened on")
        if not self._target.startswith("unix:"):
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
            self._report(RuntimeError("gRPC's server has ended: it is started anew"))
            self._restarting = asyncio.get_running_loop().create_task(self._restart(self._server))

    async def _restart(self, server: Server) -> None:
        await server.end(None)
        while True:
            try:
                return await self.start()
            except OSError as error:
                self._report(error)
                await asyncio.sleep(_RESTART_SECONDS)

    def _handler(self, call: Call) -> grpc.RpcMethodHandler:
        if call.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(partial(self._stream, call))
        return grpc.stream_unary_rpc_method_handler(partial(self._unary, call))

    async def _unary(self, call: Call, _: Any, context: _Context) -> bytes:
        """Answers a call of one message."""
        call.handled()
        outcome = await self._once(call, context)
        call.answering(self._limits.send_seconds)
        if outcome.initial:
            await context.send_initial_metadata(outcome.initial)
        if outcome.code is not StatusCode.OK:
            await _end(context, outcome)
        context.set_trailing_metadata(outcome.trailing)
        return outcome.message

    async def _stream(self, call: Call, _: Any, context: _Context) -> AsyncIterator[bytes]:
        """Answers each message of a stream, one after the other, as if it were a call of its own.

        As Triton does it, what is wrong with one message is said in its answer, and the stream goes
        on: a status would end it, and the client would not know for which message.
        """
        call.handled()
        seconds = self._limits.message_seconds  # for the first, and then it may rest
        while True:
            try:
                message = await self._message(call, context, seconds)
            except Refusal as refusal:
                await _end(context, self._refused(refusal, STREAM, None, context))
            if message is None:
                return
            seconds = self._limits.idle_seconds
            outcome = await self._answered(STREAM, message, context)
            call.answering(self._limits.send_seconds)
            if outcome.code is StatusCode.OK:
                yield protobuf.span(2, outcome.message)
            else:
                yield protobuf.span(1, (outcome.details or outcome.code.name).encode())
            call.taken()

    async def _once(self, call: Call, context: _Context) -> Outcome:
        try:
            message = await self._message(call, context, self._limits.message_seconds)
        except Refusal as refusal:
            return self._refused(refusal, call.method, None, context)
        if message is None:  # or one that is too large, which gRPC has refused itself
            return self._refused(Refusal(SYNTAX, "no whole message"), call.method, None, context)
        return await self._answered(call.method, message, context)

    async def _message(self, call: Call, context: _Context, seconds: float) -> bytes | None:
        """The next message of a call, None if there is none.

        Raises:
            Refusal: BODY_DEADLINE or BUSY.
        """
        if self.calls > self._limits.calls:
            self._make_room(call)
        self._silent[call] = None
        try:
            async with asyncio.timeout(seconds):
                message = await context.read()
        except TimeoutError:
            raise Refusal(BODY_DEADLINE) from None
        finally:
            self._silent.pop(call, None)
        return message if type(message) is bytes else None

    def _make_room(self, call: Call) -> None:
        """Gives up the call that has been waiting for a message longest: whoever begins calls and
        sends nothing keeps out nobody but himself.

        Raises:
            Refusal: BUSY if none waits.
        """
        self.shed += 1
        longest = next(iter(self._silent), None)
        if longest is None:
            raise Refusal(BUSY, "too many calls are under way")
        del self._silent[longest]
        longest.drop()

    async def _answered(self, method: str, message: bytes, context: _Context) -> Outcome:
        received = self._clock()
        application, head = self.application, None
        try:
            peer = self._peer(context)
            headers = headers_of(context.invocation_metadata(), self._guarded)
            head = Head("RPC", method, headers, keep_alive=True)
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
        head = head or Head("RPC", method, {}, keep_alive=True)
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


async def _end(context: _Context, outcome: Outcome) -> None:
    """Ends a call with a status.

    Raises:
        aio.AbortError: which gRPC expects.
        CancelledError: if there is no call any more, or gRPC has ended it itself.
    """
    try:
        await context.abort(outcome.code, outcome.details, outcome.trailing)
    except aio.AbortError:
        raise
    except aio.BaseError as error:
        raise asyncio.CancelledError from error


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
