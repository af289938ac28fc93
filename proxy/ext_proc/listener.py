"""The listening side of Envoy's external processing: each stream goes the way of every exchange.

Envoy lets an exchange pass whose stream is closed without an error. So no stream ends well here
before the verdict on it was sent; whatever is not foreseen is refused, or ends it with an error,
and the filter's ``failure_mode_allow: false`` does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import grpc
import structlog
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest
from grpc import StatusCode

from proxy.ext_proc import messages
from proxy.ext_proc.application import Application
from proxy.ext_proc.exchange import Exchange
from proxy.ext_proc.heads import HeadLimits, request_head, status_of
from proxy.ext_proc.limits import ExtProcLimits
from proxy.ext_proc.source import UNKNOWN, peer_of
from proxy.ext_proc.stream import Gone, Stream
from proxy.grpc.limits import GrpcLimits
from proxy.grpc.server import UNKNOWN as UNKNOWN_METHOD
from proxy.grpc.server import Call
from proxy.grpc.service import Context, Service, abort
from proxy.grpc.tls import ServerTls
from proxy.http.application import Shed
from proxy.http.messages import Head, Peer, Reply
from proxy.rules import (
    BODY_DEADLINE,
    BODY_TOO_LARGE,
    BUSY,
    FRAMING,
    HEAD_DEADLINE,
    INTERNAL,
    Refusal,
)

_log = structlog.get_logger("bartizan.ext_proc")

PROCESS: Final = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"

_BUFFERED: Final = ProcessingMode.BUFFERED
_ERROR: Final = 400
_FAULT: Final = 500
_OWN: Final = {408: BODY_DEADLINE, 413: BODY_TOO_LARGE}  # what Envoy refuses itself
_LAST_RESORT: Final = Reply(503, b"internal fault", b"text/plain")


class Listener(Service):
    """One listening address and its streams: see :class:`proxy.grpc.service.Service`.

    Args:
        application: decides; may be swapped at any time. A stream keeps the one that saw it.
        limits: of exchanges.
        wire: of connections.
        clock: monotonic seconds.
        guarded: lower-case names of headers that decide something, such as the one that carries API
            keys: protected as Authorization is.
        forwarded: whether proxies in front of Envoy are configured to be believed.
    """

    methods = (PROCESS,)

    def __init__(
        self,
        application: Application,
        target: str,
        limits: ExtProcLimits | None = None,
        wire: GrpcLimits | None = None,
        *,
        tls: ServerTls | None = None,
        clock: Callable[[], float],
        guarded: Iterable[bytes] = (),
        forwarded: bool = False,
        reuse_port: bool = False,
    ) -> None:
        super().__init__(target, wire or GrpcLimits(), tls=tls, reuse_port=reuse_port)
        self.application = application
        self._exchanges = limits or ExtProcLimits()
        self._heads = HeadLimits(self._exchanges.head_bytes, self._exchanges.header_count)
        self._clock = clock
        self._guarded = frozenset(guarded)
        self._forwarded = forwarded
        self._admitted = 0  # calls that wait to be looked at keep nobody out
        self._incomplete: dict[Stream, None] = {}  # whose bodies come, the longest first

    def handler(self, call: Call) -> grpc.RpcMethodHandler:
        """As ``Service``."""
        return grpc.stream_stream_rpc_method_handler(partial(self._process, call))

    async def _process(self, call: Call, _: Any, context: Context) -> None:
        """One stream, from its begin to its verdict."""
        call.handled()
        if call.method == UNKNOWN_METHOD:
            await abort(context, StatusCode.UNIMPLEMENTED, "only external processing is served")
        stream, seen = Stream(call, context, self._exchanges), _Seen(self._clock())
        try:
            await self._answered(stream, context, seen)
        finally:
            self._admitted -= seen.admitted

    async def _answered(self, stream: Stream, context: Context, seen: _Seen) -> None:
        """Tells Envoy the verdict, or ends the stream with an error."""
        try:
            verdict = await self._verdict(stream, seen)
        except Gone:
            await abort(context, StatusCode.CANCELLED, "Envoy has left")
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise  # gRPC has ended the stream, or we have dropped it
            verdict = None  # something that was awaited was cancelled: Envoy still waits
        if verdict is None:
            await abort(context, StatusCode.INTERNAL, "there is no verdict")
        await stream.send(verdict)

    async def _verdict(self, stream: Stream, seen: _Seen) -> bytes | None:
        """What Envoy is told last; None: nothing that it could be told would count."""
        application = self.application
        try:
            return await self._judged(stream, application, seen)
        except Shed as shed:
            return messages.immediate(shed.reply)
        except Refusal as refusal:
            refused = refusal
            if refusal.rule is INTERNAL:  # Envoy is not what it should be: its operator's affair
                _log.error("envoy", fault=refusal.detail)
        except Exception as error:
            self.report(error)
            refused = Refusal(INTERNAL, f"{type(error).__name__}: {error}")
        reply = self._refused(application, refused, seen)
        if seen.passing or isinstance(refused, _Unheeded):
            return None  # a part never looks like the whole
        return messages.immediate(reply)

    async def _judged(self, stream: Stream, application: Application, seen: _Seen) -> bytes | None:
        """The verdict of the application.

        Raises:
            Refusal: for what it has not seen.
            Gone: if Envoy leaves.
        """
        limits = self._exchanges
        message = await stream.next(
            limits.message_seconds,
            HEAD_DEADLINE,
            messages.REQUEST_HEADERS,
            messages.RESPONSE_HEADERS,
        )
        seen.received = self._clock()
        _check_modes(message)
        if stream.pending == messages.RESPONSE_HEADERS:
            return _unasked(stream, message)
        told = peer_of(message, forwarded=self._forwarded)
        if type(told) is Peer:
            seen.peer = told
        request = request_head(message.request_headers.headers, self._heads, self._guarded)
        seen.head = head = request.head
        if type(told) is Refusal:
            raise told
        if self._admitted >= limits.exchanges and (reply := self._crowded(application, head)):
            return messages.immediate(reply)
        self._admitted += 1
        seen.admitted = True
        intake = application.open(head, seen.peer)
        body = b""
        if not message.request_headers.end_of_stream:
            body = await self._body(stream, head, intake.body_limit, request.removed)
        seen.exchange = exchange = Exchange(
            stream,
            request,
            body,
            seen.peer,
            intake.context,
            received=seen.received,
            read=self._clock(),
        )
        del message, body  # the exchange has them, and lets go of them
        await application.handle(exchange)
        return exchange.verdict

    async def _body(self, stream: Stream, head: Head, limit: int, removed: list[str]) -> bytes:
        """The body of a request, of which the head was seen.

        Raises:
            Refusal: BODY_TOO_LARGE, BODY_DEADLINE, FRAMING or BUSY.
            Gone: if Envoy leaves.
        """
        length = head.headers.get(b"content-length")
        if length is not None and int(length) > limit:
            raise Refusal(BODY_TOO_LARGE, f"more than {limit} bytes")
        await stream.send(messages.wait(removed))
        self._incomplete[stream] = None
        try:
            message = await stream.next(
                self._exchanges.body_seconds,
                BODY_DEADLINE,
                messages.REQUEST_BODY,
                messages.REQUEST_TRAILERS,
                messages.RESPONSE_HEADERS,
            )
        finally:
            self._incomplete.pop(stream, None)
        if stream.pending == messages.RESPONSE_HEADERS:
            raise _instead_of_body(message)
        if not message.request_body.end_of_stream:
            raise Refusal(FRAMING, "trailers are not supported")
        body: bytes = message.request_body.body
        if len(body) > limit:
            raise Refusal(BODY_TOO_LARGE, f"more than {limit} bytes")
        return body

    def _crowded(self, application: Application, head: Head) -> Reply | None:
        """There are too many: the one whose body has been coming longest is given up, so that
        whoever begins requests and sends nothing keeps out nobody but himself; if there is none,
        the new one is shed."""
        self.shed += 1
        longest = next(iter(self._incomplete), None)
        if longest is None:
            return application.shed(head)
        del self._incomplete[longest]
        longest.give_up()
        return None

    def _refused(self, application: Application, refusal: Refusal, seen: _Seen) -> Reply:
        """What never reached the application's ``handle``, or what that left open."""
        try:
            return application.refuse(refusal, seen.head, seen.peer, seen.received)
        except Exception as error:  # there is an answer, whatever fails
            self.report(error)
            return _LAST_RESORT


class _Seen:
    """What is known of a request so far."""

    __slots__ = ("admitted", "exchange", "head", "peer", "received")

    def __init__(self, received: float) -> None:
        self.admitted = False
        self.received = received
        self.head: Head | None = None
        self.peer = UNKNOWN
        self.exchange: Exchange | None = None

    @property
    def passing(self) -> bool:
        """Whether some of the answer is on its way already."""
        return self.exchange is not None and self.exchange.status > 0


class _Unheeded(Refusal):
    """A refusal that Envoy would not heed."""


def _check_modes(message: ProcessingRequest) -> None:
    """Checks that the filter is configured so that a verdict counts, and is about all there is.

    Raises:
        Refusal: INTERNAL.
    """
    if message.observability_mode:
        raise _Unheeded(INTERNAL, "the filter's observability_mode lets everything pass")
    if not message.HasField("protocol_config"):
        raise Refusal(INTERNAL, "Envoy does not tell the filter's processing_mode: it is too old")
    told = message.protocol_config
    for name, mode in (
        ("request_body_mode", told.request_body_mode),
        ("response_body_mode", told.response_body_mode),
    ):
        if mode != _BUFFERED:
            raise Refusal(INTERNAL, f"the filter's processing_mode.{name} is not BUFFERED")
    if told.send_body_without_waiting_for_header_response:
        raise Refusal(INTERNAL, "the filter sends bodies without waiting for an answer")


def _unasked(stream: Stream, message: ProcessingRequest) -> bytes:
    """An answer to a request that was never shown. Envoy has made it itself, of a request that it
    does not let in; an error says nothing of a model.

    Raises:
        Refusal: INTERNAL, if it may be a model's.
    """
    status = status_of(message.response_headers.headers)
    if status < _ERROR:
        raise Refusal(INTERNAL, f"Envoy answered {status} to a request that it did not show")
    return messages.read(stream.pending)


def _instead_of_body(message: ProcessingRequest) -> Refusal:
    """Envoy has an answer before there was a body. It made it itself, or, if there are trailers
    and no body, the model server did: to a request for nothing."""
    status = status_of(message.response_headers.headers)
    rule = _OWN.get(status, BUSY if status >= _FAULT else FRAMING)
    return Refusal(rule, f"Envoy answered {status} before the body was there")
