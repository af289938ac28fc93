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
