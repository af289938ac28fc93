"""What a request may cost in memory: less than 100 times its size, however it is cut."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from in_memory import World, answer, echo, post

SEGMENT = 65536
CHUNKED = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


class Peak:
    """The most memory that was taken in between, in bytes."""

    def __enter__(self):
        tracemalloc.start()
        self._before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        return self

    def __exit__(self, *_):
        self.bytes = tracemalloc.get_traced_memory()[1] - self._before
        tracemalloc.stop()


def feed(transport, data, step=SEGMENT):
    for start in range(0, len(data), step):
        transport.feed(data[start : start + step])


def world():
    world = World()
    world.application.handler = echo
    world.application.body_limit = 1 << 24
    return world


async def test_a_million_chunks_of_one_byte():
    each = world()
    data = CHUNKED + b"1\r\nx\r\n" * 1_000_000 + b"0\r\n\r\n"
    client = each.connect()
    with Peak() as peak:
        feed(client, data)
    assert each.application.handled[0].body == b"x" * 1_000_000
    assert peak.bytes < 5 * len(data)  # the answer is in it too


async def test_a_large_body():
    each = world()
    body = b"x" * 10_000_000
    data = post(body)
    client = each.connect()
    with Peak() as peak:
        feed(client, data)
    assert peak.bytes < 5 * len(body)  # read, and answered in one piece
    assert each.application.handled[0].body == body


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost:a\r\n\r\n" * 10_000,
        b"GET / HTTP/1.1\r\nHost:a\r\n" + b"a:\r\n" * 60 + b"\r\n",
        b"G" * 300_000,
        b"GET /" + b"a" * 300_000,
        b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 60_000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"a%d:\r\n" % index for index in range(50_000)),
        b"GET / HTTP/1.1\r\nHost:" + b"a" * 300_000,
        CHUNKED + b"1;" + b"x" * 300_000,
        CHUNKED + b"0" * 300_000,
        b"\r\n" * 150_000,
    ],
    ids=lambda data: data[:24].decode() + "...",
)
@pytest.mark.parametrize("step", [SEGMENT, 1])
async def test_whatever_is_sent_costs_little(data, step):
    each = world()
    await each.settle()
    data = data if step > 1 else data[:20_000]
    client = each.connect()
    with Peak() as peak:
        feed(client, data, step)
    assert peak.bytes < 100 * min(len(data), SEGMENT) + 20_000


async def test_a_million_chunks_of_an_answer():
    each = world()
    each.application.handler = None
    client = each.connect()
    client.feed(post(b"q"))
    await each.settle()
    upstream = each.dialer.last
    data = b"1\r\nx\r\n" * 200_000 + b"0\r\n\r\n"
    upstream.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    with Peak() as peak:
        feed(upstream, data)
    assert client.take().endswith(b"0\r\n\r\n")
    assert peak.bytes < 5 * len(data)


async def test_connections_that_ended_leave_nothing_behind():
    each = world()
    each.application.handler = None

    async def visit():
        client = each.connect()
        client.feed(post(b"q"))
        await each.settle()
        upstream = next(each_ for each_ in each.dialer.transports if each_.written)
        upstream.take()
        upstream.feed(answer(b"a"))
        client.lose()
        each.application.opened.clear()
        each.application.handled.clear()

    for _ in range(50):
        await visit()
    with Peak() as peak:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(200):
            await visit()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    assert grown < 200 * 200
    assert peak.bytes < 1_000_000
