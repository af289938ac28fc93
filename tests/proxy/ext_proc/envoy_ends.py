"""Both ends of external processing in the test's own loop: Envoy's filter, played after what a real
Envoy 1.40 does, and an application that does as it is told."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from envoy.service.ext_proc.v3.external_processor_pb2 import (
    CommonResponse,
    ProcessingRequest,
    ProcessingResponse,
)
from grpc import aio

from proxy.decision import ALLOWED, Permit, UpstreamRequest
from proxy.ext_proc.listener import PROCESS, Listener
from proxy.http.application import Intake
from proxy.http.messages import Reply

BUFFERED, STREAMED, NONE = 2, 1, 0
PATH = "/v2/models/m/infer"
CLIENT = "192.0.2.7:4711"


async def until(holds):
    """Waits until something holds that nobody tells of."""
    while not holds():  # noqa: ASYNC110 - as it says
        await asyncio.sleep(0.01)


def head_message(
    headers, *, end=False, attributes=None, modes=(BUFFERED, BUFFERED), observability=False
):
    """The first message of a stream.

    Args:
        headers: names and values.
        attributes: those of the filter; None: where the client is.
        modes: of the bodies, as configured; None: not told.
    """
    message = ProcessingRequest(observability_mode=observability)
    message.request_headers.end_of_stream = end
    for name, value in headers:
        message.request_headers.headers.headers.add(key=name, raw_value=value)
    given = {"source.address": CLIENT} if attributes is None else attributes
    fields = message.attributes["envoy.filters.http.ext_proc"].fields
    for name, value in given.items():
        if isinstance(value, bool):
            fields[name].bool_value = value
        else:
            fields[name].string_value = value
    if modes is not None:
        message.protocol_config.SetInParent()
        message.protocol_config.request_body_mode = modes[0]
        message.protocol_config.response_body_mode = modes[1]
    return message


def body_message(body, *, end=True, of="request"):
    """A body, whole or in part."""
    message = ProcessingRequest()
    told = getattr(message, f"{of}_body")
    told.body, told.end_of_stream = body, end
    return message


def trailers_message(of="request"):
    message = ProcessingRequest()
    getattr(message, f"{of}_trailers").trailers.headers.add(key="x-t", raw_value=b"1")
    return message


def answer_message(status=200, headers=(), *, end=False, modes=None):
    """The head of an answer."""
    message = ProcessingRequest()
    message.response_headers.end_of_stream = end
    for name, value in ((":status", b"%d" % status), *headers):
        message.response_headers.headers.headers.add(key=name, raw_value=value)
    if modes is not None:
        message.protocol_config.request_body_mode, message.protocol_config.response_body_mode = (
            modes
        )
    return message


def pseudo(method="POST", path=PATH, authority="model.example"):
    return [
        (":authority", authority.encode()),
        (":path", path.encode()),
        (":method", method.encode()),
        (":scheme", b"http"),
    ]


@dataclass
class Answer:
    """What a model server says; in ``pieces`` where it streams."""

    status: int = 200
    headers: list = field(default_factory=lambda: [("content-type", b"application/json")])
    body: bytes = b'{"ok": 1}'
    pieces: tuple = ()


@dataclass
class Seen:
    """What comes of one exchange.

    Attributes:
        forwarded: the head and the body that the model server got, None if none.
        status, headers, body: what the client got.
        immediate: whether that came from the processor alone.
        told: the kinds of message that were sent, in order.
    """

    forwarded: tuple | None = None
    status: int = 0
    headers: dict = field(default_factory=dict)
    body: bytes = b""
    immediate: bool = False
    told: list = field(default_factory=list)
    stream: str = ""


class Mutations:
    """Headers and a body, changed as Envoy changes them: it removes, and then sets."""

    def __init__(self, headers, body):
        self.headers, self.body = list(headers), body

    def apply(self, common: CommonResponse):
        changes = common.header_mutation
        for name in changes.remove_headers:
            assert not name.startswith(":"), name
            assert name != "host"
        gone = set(changes.remove_headers)
        self.headers = [pair for pair in self.headers if pair[0] not in gone]
        for option in changes.set_headers:
            assert option.append_action == 2
            assert not option.header.value
            name = option.header.key
            self.headers = [pair for pair in self.headers if pair[0] != name]
            self.headers.append((name, option.header.raw_value))
        kind = common.body_mutation.WhichOneof("mutation")
        if kind is not None:
            self.body = common.body_mutation.body if kind == "body" else b""
            length = dict(self.headers).get("content-length")
            assert length is None or int(length) == len(self.body)


class Filter:
    """Envoy's filter: one exchange from its request to what the client gets.

    Args:
        model: what the model server answers; None: it never does.
        override: whether the processor may choose the modes of bodies. Where it needs none, it has
            ended the stream then, and the body passes.
    """

    def __init__(self, channel, model=None, *, override=True):
        self._method = channel.stream_stream(
            PROCESS,
            request_serializer=ProcessingRequest.SerializeToString,
            response_deserializer=ProcessingResponse.FromString,
        )
        self.model = model or Answer()
        self.override = override

    async def exchange(self, method="POST", headers=(), body=b"{}", path=PATH, **given):
        """One exchange. What must not happen raises."""
        seen = Seen()
        call = self._method()
        given_headers = [*pseudo(method, path), *headers]
        if body is not None:
            given_headers.append(("content-length", b"%d" % len(body)))
        held = Mutations(given_headers, body)
        told = await self._tell(call, seen, head_message(held.headers, end=body is None, **given))
        if told is None:
            return seen
        held.apply(told)
        if body is not None:
            assert dict(held.headers)[":path"].startswith(b"/.bartizan")
            told = await self._tell(call, seen, body_message(body))
            if told is None:
                return seen
            held.apply(told)
        seen.forwarded = dict(held.headers), held.body
        await self._answered(call, seen)
        return seen

    async def _answered(self, call, seen):
        model = self.model
        whole = b"".join(model.pieces) or model.body
        held = Mutations([(":status", b"%d" % model.status), *model.headers], whole)
        message = answer_message(model.status, model.headers, end=not whole)
        told = await self._tell(call, seen, message)
        if told is None:
            return
        held.apply(told)
        mode = BUFFERED
        if seen.response.HasField("mode_override"):
            mode = seen.response.mode_override.response_body_mode
            if not self.override and mode == STREAMED:
                mode = BUFFERED
        if whole and mode == BUFFERED:
            told = await self._tell(call, seen, body_message(whole, of="response"))
            if told is not None:
                held.apply(told)
        elif whole and mode == STREAMED:
            for piece in model.pieces or (whole,):
                end = piece is (model.pieces or (whole,))[-1]
                message = body_message(piece, end=end, of="response")
                told = await self._tell(call, seen, message)
                assert not told.HasField("body_mutation")
        if not seen.immediate:
            seen.headers, seen.body = dict(held.headers), held.body
            seen.status = int(seen.headers.pop(":status"))
            await call.done_writing()
            assert await call.read() is aio.EOF
            assert (await call.code()).name == "OK"

    async def _tell(self, call, seen, message):
        """Sends a message, and takes its answer; None if that ends the exchange. Once the stream
        has ended well, everything passes."""
        kind = message.WhichOneof("request")
        seen.told.append(kind)
        try:
            await call.write(message)
            response = await call.read()
        except (aio.AioRpcError, asyncio.InvalidStateError):
            response = aio.EOF
        if response is aio.EOF:
            code = await call.code()
            seen.stream = code.name
            if code.name == "OK":
                assert kind.startswith("response"), f"a clean close at {kind}"
                return CommonResponse()
            seen.status, seen.immediate = 503, True  # failure_mode_allow: false
            return None
        seen.response = response
        if response.WhichOneof("response") == "immediate_response":
            told = response.immediate_response
            seen.status, seen.body, seen.immediate = told.status.code, told.body, True
            seen.headers = {
                one.header.key: one.header.raw_value for one in told.headers.set_headers
            }
            seen.grpc = told.grpc_status.status
            return None
        assert response.WhichOneof("response") == kind
        return getattr(response, kind).response


class Application:
    """Records what it is asked, and answers as it is told.

    Attributes:
        answer: an async function of the exchange; by default the request is sent as it came, and
            its answer passes.
        refuses: raised when a request is opened.
        sheds: the answer to one that there is no room for.
    """

    def __init__(self):
        self.opened, self.handled, self.refused = [], [], []
        self.body_limit = 10**6
        self.refuses = self.sheds = None
        self.ended = asyncio.Event()
        self.cancelled = False

    async def answer(self, exchange):
        response = await exchange.upstream.send(permit(exchange.body))
        await exchange.relay(response, b"x-request-id: id\r\n")

    def open(self, head, peer):
        self.opened.append((head, peer))
        if self.refuses:
            raise self.refuses
        return Intake(self.body_limit, "context")

    def shed(self, head):
        return self.sheds

    async def handle(self, exchange):
        self.handled.append(exchange)
        try:
            await self.answer(exchange)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.ended.set()

    def refuse(self, refusal, head, peer, received):
        self.refused.append((refusal, head, peer))
        return Reply(
            refusal.rule.status,
            refusal.message.encode(),
            b"text/plain",
            ((b"x-request-id", b"id"),),
        )


def permit(body, lines=b"content-type: application/json\r\n", method=b"POST", target=PATH):
    return Permit(ALLOWED, UpstreamRequest(method, target.encode(), lines, body))


@asynccontextmanager
async def listening(application, limits=None, wire=None, **arguments):
    """A listener on a port of its own."""
    arguments.setdefault("clock", lambda: 0.0)
    listener = Listener(application, "127.0.0.1:0", limits, wire, **arguments)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.close()


@asynccontextmanager
async def envoy(listener, *args, **arguments):
    """A filter that asks it."""
    pairs = [("grpc.use_local_subchannel_pool", 1)]
    async with aio.insecure_channel(f"127.0.0.1:{listener.port}", options=pairs) as channel:
        yield Filter(channel, *args, **arguments)


class Talk:
    """A stream, message by message.

    Attributes:
        code: how it ended.
    """

    def __init__(self, listener):
        self._listener = listener
        self.code = ""

    async def __aenter__(self):
        pairs = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = aio.insecure_channel(f"127.0.0.1:{self._listener.port}", options=pairs)
        self.call = self._channel.stream_stream(PROCESS)()
        return self

    async def __aexit__(self, *_):
        self.call.cancel()
        await self._channel.close()

    async def tell(self, message):
        """Sends a message, bytes or not; its answer, or None if the stream has ended."""
        data = message if isinstance(message, bytes) else message.SerializeToString()
        try:
            await self.call.write(data)
            return await self.hear()
        except (aio.AioRpcError, asyncio.InvalidStateError):
            self.code = (await self.call.code()).name
            return None

    async def hear(self):
        """What comes next; None if the stream has ended."""
        try:
            response = await self.call.read()
        except aio.AioRpcError:
            response = aio.EOF
        if response is aio.EOF:
            self.code = (await self.call.code()).name
            return None
        return ProcessingResponse.FromString(response)
