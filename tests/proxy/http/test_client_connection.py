"""What an upstream sends, and what becomes of it: whole, byte by byte, with more behind."""

from __future__ import annotations

import asyncio
import socket

import pytest
from in_memory import MemoryTransport, World, answer, permit

from proxy.http.client_connection import ClientConnection
from proxy.http.limits import PoolLimits
from proxy.rules import Refusal

OK = b"HTTP/1.1 200 OK\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

# name: (sent, status, headers, body, whether the connection is used again)
GOOD = {
    "sized": (answer(b"abc", b"X: y"), 200, [(b"x", b"y")], b"abc", True),
    "empty": (answer(b""), 200, [], b"", True),
    "chunked": (CHUNKED + b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n", 200, [], b"abcd", True),
    "trailers are dropped": (CHUNKED + b"3\r\nabc\r\n0\r\nT: 1\r\n\r\n", 200, [], b"abc", True),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, [], b"", True),
    "304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, [], b"", True),
    "503": (answer(b"abc", status=b"503 Busy"), 503, [], b"abc", True),
    "no reason": (answer(b"abc", status=b"200 "), 200, [], b"abc", True),
    "unknown status": (answer(b"abc", status=b"299 Odd"), 299, [], b"abc", True),
    "close": (answer(b"abc", b"Connection: close"), 200, [], b"abc", False),
    "HTTP/1.0": (answer(b"abc").replace(b"1.1", b"1.0"), 200, [], b"abc", False),
    "HTTP/1.0 kept alive": (
        answer(b"abc", b"Connection: keep-alive").replace(b"1.1", b"1.0"),
        200,
        [],
        b"abc",
        True,
    ),
    "hop-by-hop headers": (
        answer(
            b"abc",
            b"Connection: Keep-Alive, X-Hop",
            b"Keep-Alive: timeout=5",
            b"X-Hop: 1",
            b"Upgrade: h2c",
            b"Proxy-Connection: x",
            b"Trailer: T",
            b"X-Stays: 2",
        ),
        200,
        [(b"x-stays", b"2")],
        b"abc",
        True,
    ),
    "an id of its own": (
        answer(b"abc", b"X-Request-Id: 1", b"X: y"),
        200,
        [(b"x", b"y")],
        b"abc",
        True,
    ),
    "after 100": (b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" + answer(b"abc"), 200, [], b"abc", True),
    "after 103s": (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3 + answer(b"abc"),
        200,
        [],
        b"abc",
        True,
    ),
    "repeated headers": (
        answer(b"", b"Set-Cookie: a", b"Set-Cookie: b"),
        200,
        [(b"set-cookie", b"a"), (b"set-cookie", b"b")],
        b"",
        True,
    ),
}

BAD = {
    "not HTTP": b"SSH-2.0-OpenSSH\r\n",
    "HTTP/2.0": answer(b"", b"Connection: keep-alive").replace(b"1.1", b"2.0"),
    "HTTP/0.9": answer(b"").replace(b"1.1", b"0.9"),
    "bare LF": answer(b"").replace(b"\r\n", b"\n"),
    "obs-fold": answer(b"", b"X: a\r\n b"),
    "NUL": answer(b"", b"X: \0"),
    "status 99": answer(b"", status=b"099 Low"),
    "status 600": answer(b"", status=b"600 High"),
    "status 1000": answer(b"", status=b"1000 Long"),
    "unrequested 101": SWITCH + b"Connection: upgrade\r\nUpgrade: x\r\n\r\n",
    "bare 101": SWITCH + b"\r\n",
    "endless 1xx": b"HTTP/1.1 100 Continue\r\n\r\n" * 17,
    "two lengths": answer(b"", b"Content-Length: 0"),
    "signed length": OK + b"Content-Length: +3\r\n\r\nabc",
    "padded length": OK + b"Content-Length: 03\r\n\r\nabc",
    "length and coding": answer(b"", b"Transfer-Encoding: chunked"),
    "other coding": OK + b"Transfer-Encoding: gzip\r\n\r\n",
    "coded twice": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding repeated": OK
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk": CHUNKED + b"x\r\n",
    "head too large": answer(b"", b"X: " + b"y" * 70_000),
    "too many headers": answer(b"", *[b"X: y"] * 129),
}


@pytest.fixture
def world():
    return World()


async def ask(world, method=b"POST"):
    """A request under way: the task that waits for its answer, and its connection."""
    task = asyncio.create_task(world.pool.send(permit(b"q", method=method)))
    await world.settle()
    return task, world.dialer.last


def feed(transport, data, step):
    for start in range(0, len(data), step or len(data)):
        transport.feed(data[start : start + (step or len(data))])


def test_how_many():
    assert (len(GOOD), len(BAD)) == (17, 22)


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("step", [None, 1, 7])
async def test_good_answers(world, name, step):
    sent, status, headers, body, again = GOOD[name]
    task, transport = await ask(world)
    feed(transport, sent, step)
    response = await task
    assert (response.status, response.headers) == (status, headers)
    assert await response.body(100) == body
    assert response.complete
    assert transport.closed is not again
    assert world.pool.state().addresses[0].idle == again


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize(
    "behind", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nxyz", b"HT"]
)
@pytest.mark.parametrize("together", [True, False])
async def test_what_comes_behind_an_answer_is_for_nobody(world, name, behind, together):
    sent, status, _, body, _ = GOOD[name]
    task, transport = await ask(world)
    if together:
        transport.feed(sent + behind)
    else:
        transport.feed(sent)
        transport.feed(behind)
    response = await task
    assert (response.status, await response.body(100)) == (status, body)
    assert transport.closed
    again, other = await ask(world)
    assert other is not transport
    other.feed(answer(b"next"))
    assert await (await again).body(100) == b"next"


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("step", [None, 1])
async def test_bad_answers(world, name, step):
    task, transport = await ask(world)
    feed(transport, BAD[name], step)
    with pytest.raises(Refusal) as caught:
        await (await task).body(100)
    assert caught.value.rule.id == "BZ-132"
    assert transport.closed
    assert world.pool.state().addresses[0].errors == 1


@pytest.mark.parametrize("name", GOOD)
async def test_every_truncation_is_an_error(world, name):
    sent, *_ = GOOD[name]
    for end in range(1, len(sent) - 1):
        task, transport = await ask(world)
        transport.feed(sent[:end])
        transport.feed_eof()
        transport.lose()
        with pytest.raises(Refusal) as caught:
            await (await task).body(100)
        assert caught.value.rule.id == "BZ-132", sent[:end]


async def test_an_answer_that_ends_with_its_connection(world):
    task, transport = await ask(world)
    transport.feed(OK + b"\r\nabc")
    response = await task
    assert not response.complete
    transport.feed(b"de")
    transport.feed_eof()
    transport.lose()
    assert await response.body(100) == b"abcde"
    assert response.complete


async def test_but_not_with_a_reset(world):
    task, transport = await ask(world)
    transport.feed(OK + b"\r\nabc")
    response = await task
    transport.lose(ConnectionResetError())
    with pytest.raises(Refusal):
        await response.body(100)


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize(
    "sent",
    [
        OK + b"Content-Length: 5\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
        OK + b"Content-Length: 0\r\n\r\n",
    ],
)
async def test_the_answer_to_head_has_no_body(world, sent, step):
    task, transport = await ask(world, b"HEAD")
    assert transport.take().startswith(b"HEAD /model HTTP/1.1\r\nhost: model0:80\r\n")
    feed(transport, sent, step)
    response = await task
    assert response.complete
    assert response.bodiless
    again, other = await ask(world)
    assert other is transport
    other.feed(answer(b"next"))
    assert await (await again).body(100) == b"next"


async def test_a_body_behind_the_answer_to_head_is_for_nobody(world):
    task, transport = await ask(world, b"HEAD")
    transport.feed(OK + b"Content-Length: 5\r\n\r\nabcde")
    response = await task
    assert await response.body(100) == b""
    assert response.length == 5
    assert transport.closed


# Reading slowly


async def test_an_answer_that_nobody_takes_is_not_read_on():
    world = World(pool_limits=PoolLimits(buffer_bytes=100))
    task, transport = await ask(world)
    transport.feed(OK + b"Content-Length: 300\r\n\r\n")
    response = await task
    transport.feed(b"x" * 101)
    assert transport.paused
    assert response.take() == b"x" * 101
    assert not transport.paused
    transport.feed(b"x" * 199)
    assert await response.read() == b"x" * 199
    assert not transport.paused
    assert await response.read() == b""


async def test_a_paused_connection_is_read_again_by_the_next(world):
    world = World(pool_limits=PoolLimits(buffer_bytes=100))
    task, transport = await ask(world)
    transport.feed(OK + b"Content-Length: 300\r\n\r\n" + b"x" * 150)
    assert transport.paused
    response = await task
    assert await response.read() == b"x" * 150
    transport.feed(b"x" * 150)
    assert await response.body(1000) == b"x" * 150
    assert not transport.paused


async def test_a_body_over_the_limit(world):
    for sent in (answer(b"x" * 11), OK + b"\r\n" + b"x" * 11, OK + b"Content-Length: 11\r\n\r\n"):
        task, transport = await ask(world)
        transport.feed(sent)
        response = await task
        with pytest.raises(Refusal) as caught:
            await response.body(10)
        assert caught.value.rule.id == "BZ-132"


async def test_a_body_in_parts(world):
    task, transport = await ask(world)
    transport.feed(OK + b"Content-Length: 6\r\n\r\nab")
    response = await task
    body = asyncio.create_task(response.body(6))
    await world.settle()
    transport.feed(b"cd")
    await world.settle()
    assert not body.done()
    transport.feed(b"ef")
    assert await body == b"abcdef"


async def test_a_discarded_answer_closes_its_connection(world):
    task, transport = await ask(world)
    transport.feed(OK + b"Content-Length: 6\r\n\r\nab")
    response = await task
    response.discard()
    assert transport.aborted
    with pytest.raises(Refusal):
        await response.body(100)


async def test_get_finds_the_first(world):
    task, transport = await ask(world)
    transport.feed(answer(b"", b"A: 1", b"B: 2", b"B: 3"))
    response = await task
    assert (response.get(b"b"), response.get(b"c")) == (b"2", None)


# Idle connections


@pytest.mark.parametrize("what", ["bytes", "end", "reset"])
async def test_whatever_arrives_on_an_idle_connection_ends_it(world, what):
    task, transport = await ask(world)
    transport.feed(answer(b"1"))
    await task
    if what == "bytes":
        transport.feed(b"\r\n")
    elif what == "end":
        transport.feed_eof()
    else:
        transport.lose(ConnectionResetError())
    state = world.pool.state().addresses[0]
    assert (state.idle, state.in_flight) == (0, 0)
    assert state.unsolicited == (what == "bytes")
    assert state.errors == 0
    _, other = await ask(world)
    assert other is not transport


@pytest.mark.parametrize("tls", [object(), None])
async def test_a_session_ticket_may_arrive_before_the_first_answer_only(world, tls):
    (upstream,) = world.pool._balance.upstreams
    connection = ClientConnection(upstream, PoolLimits(), world.clock)
    near, far = socket.socketpair()
    with near, far:
        transport = MemoryTransport(connection, ssl_object=tls, socket=near)
        assert connection.usable()
        far.send(b"ticket")  # the kernel has it; the event loop has not read it
        assert connection.usable() is (tls is not None)
        connection.ask(permit(b"q").request)
        transport.feed(answer(b"1"))
        assert not connection.usable()


async def test_a_request_that_was_not_taken_whole_leaves_no_connection_to_reuse(world):
    task, transport = await ask(world)
    transport.protocol.pause_writing()
    transport.feed(answer(b"early", status=b"413 Content Too Large"))
    response = await task
    assert await response.body(100) == b"early"
    assert transport.closed
