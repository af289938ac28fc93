"""The listening side of gRPC: its calls go the way of every exchange.

Every method is served as bytes in, bytes out. A call is read by hand (as a stream of one message),
since gRPC itself would wait for a slow message for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

import grpc
from grpc import StatusCode

from proxy import protobuf
from proxy.grpc.application import Application
from proxy.grpc.calls import METHODS, STREAM, names_model, target_of
from proxy.grpc.exchange import Exchange, Outcome
from proxy.grpc.limits import GrpcLimits
from proxy.grpc.metadata import headers_of, timeout_line
from proxy.grpc.server import Call
from proxy.grpc.service import Context, Service, abort
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

_ADDRESSES: Final = 4096  # that are remembered, to save work
_LAST_RESORT: Final = Reply(503, b"internal fault")


class Listener(Service):
    """One listening address and its calls: see :class:`proxy.grpc.service.Service`.

    Args:
        application: decides; may be swapped at any time. A call keeps the one that saw it.
        clock: monotonic seconds.
        guarded: lower-case names of metadata that decide something, such as the one that carries
            API keys: they may be there once only.
    """

    methods = METHODS

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
        super().__init__(target, limits or GrpcLimits(), tls=tls, reuse_port=reuse_port)
        self.application = application
        self._clock = clock
        self._guarded = frozenset(guarded)
        self._addresses: dict[str, str] = {}
        self._silent: dict[Call, None] = {}  # that wait for a message, the longest first

    def handler(self, call: Call) -> grpc.RpcMethodHandler:
        """As ``Service``."""
        if call.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(partial(self._stream, call))
        return grpc.stream_unary_rpc_method_handler(partial(self._unary, call))

    async def _unary(self, call: Call, _: Any, context: Context) -> bytes:
        """Answers a call of one message."""
        call.handled()
        outcome = await self._once(call, context)
        call.answering(self.limits.send_seconds)
        if outcome.initial:
            await context.send_initial_metadata(outcome.initial)
        if outcome.code is not StatusCode.OK:
            await abort(context, outcome.code, outcome.details, outcome.trailing)
        context.set_trailing_metadata(outcome.trailing)
        return outcome.message

    async def _stream(self, call: Call, _: Any, context: Context) -> AsyncIterator[bytes]:
        """Answers each message of a stream, one after the other, as if it were a call of its own.

        As Triton does it, what is wrong with one message is said in its answer, and the stream goes
        on: a status would end it, and the client would not know for which message.
        """
        call.handled()
        seconds = self.limits.message_seconds  # for the first, and then it may rest
        while True:
            try:
                message = await self._message(call, context, seconds)
            except Refusal as refusal:
                outcome = self._refused(refusal, STREAM, None, context)
                await abort(context, outcome.code, outcome.details, outcome.trailing)
            if message is None:
                return
            seconds = self.limits.idle_seconds
            outcome = await self._answered(STREAM, message, context)
            call.answering(self.limits.send_seconds)
            if outcome.code is StatusCode.OK:
                yield protobuf.span(2, outcome.message)
            else:
                yield protobuf.span(1, (outcome.details or outcome.code.name).encode())
            call.taken()

    async def _once(self, call: Call, context: Context) -> Outcome:
        try:
            message = await self._message(call, context, self.limits.message_seconds)
        except Refusal as refusal:
            return self._refused(refusal, call.method, None, context)
        if message is None:  # or one that is too large, which gRPC has refused itself
            return self._refused(Refusal(SYNTAX, "no whole message"), call.method, None, context)
        return await self._answered(call.method, message, context)

    async def _message(self, call: Call, context: Context, seconds: float) -> bytes | None:
        """The next message of a call, None if there is none.

        Raises:
            Refusal: BODY_DEADLINE or BUSY.
        """
        if self.calls > self.limits.calls:
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

    async def _answered(self, method: str, message: bytes, context: Context) -> Outcome:
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
            self.report(error)
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
        context: Context,
        application: Application | None = None,
    ) -> Outcome:
        """What never reached the application, or what it left open."""
        head = head or Head("RPC", method, {}, keep_alive=True)
        try:
            reply = (application or self.application).refuse(
                refusal, head, self._peer(context), self._clock()
            )
        except Exception as error:  # the client gets an answer, whatever fails
            self.report(error)
            reply = _LAST_RESORT
        outcome = Outcome.of(reply)
        if outcome.code is StatusCode.UNIMPLEMENTED and names_model(method):
            return outcome._replace(code=StatusCode.NOT_FOUND)  # the method is there, no such model
        return outcome

    def _peer(self, context: Context) -> Peer:
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


def _check_size(message: bytes, limit: int) -> None:
    if len(message) > limit:
        raise Refusal(BODY_TOO_LARGE, f"at most {limit} bytes")


def _address(name: str) -> str:
    """The IP address of a peer as gRPC writes it: ``ipv4:192.0.2.1:50051``,
    ``ipv6:%5B2001:db8::1%5D:50051``; "" for a unix socket."""
    kind, _, rest = name.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    host = unquote(rest).rpartition(":")[0].strip("[]").partition("%")[0]
    return host.removeprefix("::ffff:") if "." in host else host
