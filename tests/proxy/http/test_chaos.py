"""No answer ever reaches the wrong client: nonces echoed under cancels, resets, and bytes that come
too late or were not asked for.

Late bytes are sent on connections that are idle at that moment. Bytes that an upstream sends after
the next request was sent to it look like the answer to that request: on HTTP/1.1 nothing can tell.
"""

from __future__ import annotations

import asyncio
import select
from collections import Counter
from random import Random
from typing import ClassVar

import pytest
from in_memory import post
from on_loopback import PATIENCE, site

from proxy.http.limits import PoolLimits
from proxy.http.tls import client_context, server_context

REQUESTS = {"plain": 100_000, "tls": 5_000}  # a handshake costs as much as many requests
CLIENTS = 24
STALE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nSTALE"


def later(ticks, action):
    """After some turns of the event loop."""
    loop = asyncio.get_running_loop()
    if ticks:
        loop.call_soon(later, ticks - 1, action)
    else:
        action()


class Upstream:
    """Mostly echoes the body that it is sent."""

    KINDS: ClassVar = {
        "whole": 60,
        "chunked": 6,
        "in parts": 6,
        "after a while": 6,
        "until close": 2,
        "then closes": 3,
        "interim": 2,
        "resets unanswered": 3,
        "resets midway": 3,
        "extra at once": 3,
        "extra behind": 3,
        "extra late": 3,
    }

    def __init__(self, random):
        self.random = random
        self.done = Counter()

    def __call__(self, connection, request):
        random, write = self.random, connection.transport.write
        body = request.partition(b"\r\n\r\n")[2]
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body)
        whole = head + b"\r\n" + body
        (kind,) = random.choices(list(self.KINDS), list(self.KINDS.values()))
        self.done[kind] += 1
        ticks = random.randrange(4)
        if kind == "chunked":
            write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            half = len(body) // 2
            for part in (body[:half], body[half:]):
                write(b"%x\r\n%b\r\n" % (len(part), part))
            write(b"0\r\n\r\n")
        elif kind == "in parts":
            cut = random.randrange(1, len(whole))
            write(whole[:cut])
            later(ticks, lambda: write(whole[cut:]))
        elif kind == "after a while":
            later(ticks, lambda: write(whole))
        elif kind == "until close":
            write(b"HTTP/1.1 200 OK\r\n\r\n" + body)
            connection.transport.close()
        elif kind == "then closes":
            write(head + (b"Connection: close\r\n" if ticks else b"") + b"\r\n" + body)
            later(ticks, connection.transport.close)
        elif kind == "interim":
            write(b"HTTP/1.1 100 Continue\r\n\r\n" + whole)
        elif kind == "resets unanswered":
            later(ticks, connection.transport.abort)
        elif kind == "resets midway":
            write(whole[: random.randrange(1, len(whole))])
            later(ticks, connection.transport.abort)
        elif kind == "extra at once":
            write(whole + random.choice([STALE, STALE[:20], b"\r\n", b"x"]))
        elif kind == "extra behind":
            write(whole)
            write(random.choice([STALE, STALE[:20], b"x"]))
        elif kind == "extra late":
            write(whole)
            served = len(connection.requests)
            later(ticks, lambda: self._extra(connection, served))
        else:
            write(whole)

    def _extra(self, connection, served):
        transport = connection.transport
        if transport.is_closing() or len(connection.requests) != served:
            return
        poll = select.poll()
        poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        if not poll.poll(0):
            self.done["extra while idle"] += 1
            transport.write(STALE)


class Client(asyncio.Protocol):
    """Sends nonces, and compares what comes back. Leaves in many ways."""

    def __init__(self, run):
        self.run = run
        self.read = b""
        self.expected = []
        self.shut = False

    def connection_made(self, transport):
        self.transport = transport
        self.send()

    def send(self):
        run, random = self.run, self.run.random
        count = 2 if random.random() < 0.05 else 1
        data = b""
        for _ in range(count):
            nonce = run.nonce()
            self.expected.append(nonce)
            data += post(nonce)
        self.transport.write(data)
        how = random.random()
        if how < 0.03:
            run.done["left"] += 1
            later(random.randrange(4), self.transport.abort)
        elif how < 0.05:
            run.done["shut its end"] += 1
            self.transport.write_eof()
            self.shut = True

    def data_received(self, data):
        run = self.run
        self.read += data
        if run.random.random() < 0.005:
            run.done["left midway"] += 1
            self.transport.abort()
            return
        while self.expected and (answer := self.one()) is not None:
            nonce = self.expected.pop(0)
            status, body = answer
            if status == 200 and body == nonce:
                run.done["right"] += 1
            elif status == 200:
                run.wrong.append((nonce[:40], body[:40]))
            else:
                run.done[status] += 1
        if self.read and not self.expected:
            run.wrong.append((b"nothing", self.read[:40]))
        if not self.expected:
            if run.left > 0 and not self.shut:
                self.send()
            else:
                self.transport.close()

    def one(self):
        """The next whole answer, or None."""
        head, separator, rest = self.read.partition(b"\r\n\r\n")
        if not separator:
            return None
        status = int(head[9:12])
        lines = head.lower().split(b"\r\n")
        if b"transfer-encoding: chunked" in lines:
            body = b""
            while True:
                size, separator, rest = rest.partition(b"\r\n")
                length = int(size or b"0", 16)
                if not separator or len(rest) < length + 2:
                    return None
                body, rest = body + rest[:length], rest[length + 2 :]
                if not length:
                    break
        else:
            (length,) = [int(line[16:]) for line in lines if line.startswith(b"content-length: ")]
            if len(rest) < length:
                return None
            body, rest = rest[:length], rest[length:]
        self.read = rest
        return status, body

    def connection_lost(self, error):
        self.run.done["cut"] += len(self.expected)
        self.run.ended()


class Run:
    """All of it, until enough requests were sent."""

    def __init__(self, random, port, requests):
        self.random = random
        self.port = port
        self.left = requests
        self.done = Counter()
        self.wrong = []
        self.over = asyncio.get_running_loop().create_future()
        self.clients = 0
        self.tasks = set()

    def nonce(self):
        self.left -= 1
        size = self.random.choice((1, 1, 1, 1, 5, 200) if self.left % 50 else (20_000,))
        return (b"%d," % self.left) * size

    def start(self):
        self.clients += 1
        task = asyncio.ensure_future(
            asyncio.get_running_loop().create_connection(
                lambda: Client(self), "127.0.0.1", self.port
            )
        )
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def ended(self):
        self.clients -= 1
        if self.left > 0:
            self.start()
        elif not self.clients and not self.over.done():
            self.over.set_result(None)


@pytest.mark.parametrize("wire", REQUESTS)
async def test_no_answer_reaches_the_wrong_client(wire, authority):
    requests = REQUESTS[wire]
    few = requests // 1000
    tls = server_context(*authority.issue("server")), client_context(authority.path)
    upstream = Upstream(Random("upstream"))
    # More clients than connections: the queue takes part.
    limits = PoolLimits(connections=CLIENTS * 3 // 4, queue_seconds=30, queue_target_seconds=30)
    async with site(
        upstream, pool_limits=limits, upstream_tls=tls if wire == "tls" else (None, None)
    ) as running:
        run = Run(Random("clients"), running.listener.port, requests)
        for _ in range(CLIENTS):
            run.start()
        async with asyncio.timeout(PATIENCE * 15):
            await run.over
        state = running.application.pool.state().addresses[0]
        raised = running.application.raised
        assert {type(error).__name__ for error in raised} <= {"CancelledError", "Refusal"}
    assert run.wrong == []
    assert run.done["right"] > requests * 0.8
    for what in ("left", "left midway", "shut its end", "cut", 502):
        assert run.done[what] > few, run.done
    for kind in Upstream.KINDS:
        assert upstream.done[kind] > few, kind
    assert upstream.done["extra while idle"] > few
    assert state.unsolicited > 10 * few
    assert state.stale_replaced > 0
