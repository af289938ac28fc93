"""Servers of one loop for tests of the load: they do what a script says, at once."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np

from loadtest.load.open_loop import open_loop
from loadtest.load.pacing import LoopTimer
from loadtest.load.plan import Part, Plan
from loadtest.load.share import share_of
from loadtest.load.summary import results
from loadtest.wire import render_request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
REFUSED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
CLOSING = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\n\r\n"
RESET = object()
SILENCE = object()


def pool(count=8):
    """Requests that differ."""
    return [render_request("POST", f"/{i}", "t", b"{}") for i in range(count)]


class Scripted(asyncio.Protocol):
    """Answers each request with the next of a script that all connections share.

    A step is the bytes of an answer, ``RESET``, ``SILENCE``, a list of pieces written one turn of
    the loop after the other, or a function that is given the connection.
    """

    def __init__(self, server):
        self.server = server

    def connection_made(self, transport):
        self.transport = transport
        self.server.connections += 1
        self.server.peers.append(transport.get_extra_info("peername"))
        self.server.open.add(self)

    def connection_lost(self, exc):
        self.server.open.discard(self)

    def data_received(self, data):
        self.server.received.append(data)
        self.server.askers.add(self)
        self.server.asked.set()
        self.play(next(self.server.script))

    def play(self, step):
        if step is RESET:
            self.transport.abort()
        elif step is SILENCE:
            pass
        elif isinstance(step, list):
            self.task = asyncio.ensure_future(self._pieces(step))
        elif callable(step):
            step(self)
        else:
            self.transport.write(step)
            if b"\r\nConnection: close" in step:
                self.transport.close()

    async def _pieces(self, pieces):
        for piece in pieces:
            self.transport.write(piece)
            await asyncio.sleep(0)


class Server:
    """What a scripted server saw."""

    def __init__(self, script):
        self.script = iter(script)
        self.received = []
        self.peers = []
        self.askers = set()
        self.connections = 0
        self.open = set()
        self.asked = asyncio.Event()
        self.address = None
        self.listening = None


@asynccontextmanager
async def serving(script, *, unix=None, tls=None):
    """A server that plays the script."""
    server = Server(script)
    loop = asyncio.get_running_loop()
    if unix:
        listening = await loop.create_unix_server(lambda: Scripted(server), unix)
        server.address = unix
    else:
        listening = await loop.create_server(lambda: Scripted(server), "127.0.0.1", 0, ssl=tls)
        server.address = listening.sockets[0].getsockname()
    server.listening = listening
    try:
        yield server
    finally:
        listening.close()
        for connection in tuple(server.open):
            connection.transport.abort()
        await listening.wait_closed()


def forever(*steps):
    """The steps, over and over."""
    while True:
        yield from steps


def plan_of(address, times, which=None, **others):
    """A plan of one part (or of as many as ``which`` names), with few connections."""
    which = np.zeros(len(times), np.int64) if which is None else np.asarray(which, np.int64)
    parts = [Part(f"part {i}", "honest", pool()) for i in range(which.max(initial=0) + 1)]
    settings = {"connections": 1, "timeout": 5.0} | others
    return Plan(
        "load", "direct", address, settings.pop("parts", parts), np.asarray(times, np.float64),
        which, "given", **settings,
    )  # fmt: skip


async def sent(plan, **injected):
    """The results of a plan, all of it in this loop."""
    injected.setdefault("make_timer", LoopTimer)
    return results(plan, await open_loop(share_of(plan, 0), **injected))


class Clock:
    """A clock that only the test moves."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now
