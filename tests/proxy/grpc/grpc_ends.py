"""Both ends of gRPC in the test's own loop: clients of a listener, a model server for channels."""

import asyncio
from contextlib import asynccontextmanager

import grpc
from grpc import StatusCode, aio

from proxy.grpc.exchange import Outcome
from proxy.grpc.listener import Listener
from proxy.http.application import Intake
from proxy.http.messages import Reply

SERVICE = "/inference.GRPCInferenceService"
INFER = f"{SERVICE}/ModelInfer"
STREAM = f"{SERVICE}/ModelStreamInfer"
NAMED = b"\x0a\x06digits"
_PATH = INFER.encode()


async def until(holds):
    """Waits until something holds that nobody tells of."""
    while not holds():  # noqa: ASYNC110 - as it says
        await asyncio.sleep(0.01)


class Application:
    """Records what it is asked, and answers as it is told.

    Attributes:
        answer: an async function of the exchange; by default the message is echoed.
        refuses: raised when a call is opened.
    """

    def __init__(self):
        self.opened, self.handled, self.refused = [], [], []
        self.body_limit = 10**6
        self.refuses = None
        self.ended = asyncio.Event()

    async def answer(self, exchange):
        exchange._end(200, _ok(exchange.body))

    def open(self, head, peer):
        self.opened.append((head, peer))
        if self.refuses:
            raise self.refuses
        return Intake(self.body_limit, "context")

    async def handle(self, exchange):
        self.handled.append(exchange)
        try:
            await self.answer(exchange)
        finally:
            self.ended.set()

    def refuse(self, refusal, head, peer, received):
        self.refused.append((refusal, head, peer))
        headers = [(b"x-request-id", b"id")]
        if refusal.retry_after is not None:
            headers.append((b"retry-after", b"%d" % refusal.retry_after))
        return Reply(refusal.rule.status, refusal.message.encode(), b"text/plain", tuple(headers))


def _ok(message):
    return Outcome(StatusCode.OK, "", message, (), (("x-request-id", "id"),))


@asynccontextmanager
async def listening(application, limits=None, **arguments):
    """A listener on a port of its own."""
    listener = Listener(application, "127.0.0.1:0", limits, clock=lambda: 0.0, **arguments)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.close()


@asynccontextmanager
async def client(listener, **options):
    """A channel to it."""
    pairs = [(f"grpc.{name}", value) for name, value in options.items()]
    pairs.append(("grpc.use_local_subchannel_pool", 1))
    async with aio.insecure_channel(f"127.0.0.1:{listener.port}", options=pairs) as channel:
        yield channel


class RawClient:
    """HTTP/2 by hand: what no library lets its users do (RFC 9113).

    Args:
        window: of each stream, in bytes that the server may send.
    """

    def __init__(self, port, window=65535):
        self.port = port
        self.window = window

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        settings = (4).to_bytes(2, "big") + self.window.to_bytes(4, "big")
        self.writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self.frame(4, 0, 0, settings))
        return self

    async def __aexit__(self, *_):
        self.writer.close()

    @staticmethod
    def frame(kind, flags, stream, payload=b""):
        size = len(payload).to_bytes(3, "big")
        return size + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    def call(self, message, *, path=_PATH, metadata=(), whole=True):
        """Begins a call, and sends its message or half of it."""
        pairs = (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", b"x"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            *metadata,
        )
        head = b"".join(
            b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in pairs
        )
        body = b"\0" + len(message).to_bytes(4, "big") + message
        data = self.frame(0, 1, 1, body) if whole else self.frame(0, 0, 1, body[:-1])
        self.writer.write(self.frame(1, 4, 1, head) + data)

    async def answered(self):
        """Waits for the end of the call, or of the connection."""
        while True:
            try:
                head = await self.reader.readexactly(9)
                await self.reader.readexactly(int.from_bytes(head[:3], "big"))
            except asyncio.IncompleteReadError:
                return
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            if kind == 4 and not flags:
                self.writer.write(self.frame(4, 1, 0))
            if stream == 1 and (kind == 3 or (kind < 2 and flags & 1)):
                return


class ModelServer(grpc.GenericRpcHandler):
    """Records calls, and answers by ``answer(method, message, context)``."""

    def __init__(self):
        self.calls = []
        self.port = 0
        self.wanted = 0
        self._server = None

    async def answer(self, method, message, context):
        return b"answer"

    def service(self, details):
        async def unary(message, context):
            self.calls.append((details.method, message, context))
            return await self.answer(details.method, message, context)

        return grpc.unary_unary_rpc_method_handler(unary)

    @asynccontextmanager
    async def running(self, credentials=None):
        """Listens meanwhile."""
        self._server = server = aio.server(handlers=[self], options=[("grpc.so_reuseport", 0)])
        place = f"127.0.0.1:{self.wanted}"
        if credentials is None:
            self.port = server.add_insecure_port(place)
        else:
            self.port = server.add_secure_port(place, credentials)
        await server.start()
        try:
            yield self
        finally:
            await self.stop()

    async def stop(self):
        """Cuts off whatever is under way."""
        await self._server.stop(0)
