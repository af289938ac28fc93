"""Relaying: every way in which an upstream frames an answer, to every kind of client."""

from __future__ import annotations

import asyncio

import pytest
from in_memory import DATE, World, answer, ok, permit, post

from proxy.http.limits import PoolLimits
from proxy.http.messages import Reply
from proxy.rules import Refusal

OK = b"HTTP/1.1 200 OK\r\n"
ID = b"x-request-id: 1\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
CLOSE = b"connection: close\r\n"
POST_1_0 = post(b"q", b"Connection: keep-alive").replace(b"1.1", b"1.0")


@pytest.fixture
def world():
    return World()


async def ask(world, request=None):
    client = world.connect()
    client.feed(post(b"q") if request is None else request)
    await world.settle()
    return client, world.dialer.last


async def test_a_sized_answer_is_streamed_as_it_comes(world):
    client, upstream = await ask(world)
    upstream.feed(OK + b"Content-Length: 6\r\n\r\nab")
    assert client.take() == OK + DATE + ID + b"content-length: 6\r\n\r\nab"
    upstream.feed(b"cd")
    assert client.take() == b"cd"
    assert not world.application.handled[0].answered
    upstream.feed(b"ef")
    assert client.take() == b"ef"
    assert world.application.handled[0].answered
    client.feed(post(b"again"))
    upstream.feed(answer(b"again"))
    assert client.take().endswith(b"\r\n\r\nagain")


async def test_a_chunked_answer_is_chunked_anew(world):
    client, upstream = await ask(world)
    upstream.feed(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    assert client.take() == OK + DATE + ID + CHUNKED + b"\r\n"
    upstream.feed(b"2;ext=1\r\nab\r\n1\r\nc\r\n")
    assert client.take() == b"3\r\nabc\r\n"
    upstream.feed(b"10")
    upstream.feed(b"\r\n0123456789abcdef\r\n")
    assert client.take() == b"10\r\n0123456789abcdef\r\n"
    upstream.feed(b"0\r\nTrailer: x\r\n\r\n")
    assert client.take() == b"0\r\n\r\n"
    assert not client.closed


async def test_a_chunked_answer_that_is_there_is_sent_with_its_length(world):
    client, upstream = await ask(world)
    upstream.feed(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n")
    assert client.take() == OK + DATE + ID + b"content-length: 2\r\n\r\nab"
    assert client.writes == 1


async def test_an_answer_until_close_is_chunked(world):
    client, upstream = await ask(world)
    upstream.feed(OK + b"\r\nab")
    assert client.take() == OK + DATE + ID + CHUNKED + b"\r\n2\r\nab\r\n"
    upstream.feed(b"c")
    upstream.feed_eof()
    upstream.lose()
    assert client.take() == b"1\r\nc\r\n0\r\n\r\n"
    assert not client.closed


async def test_http_1_0_gets_no_chunks(world):
    client, upstream = await ask(world, POST_1_0)
    upstream.feed(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
    assert client.take() == OK + DATE + ID + CLOSE + b"\r\nab"
    upstream.feed(b"1\r\nc\r\n0\r\n\r\n")
    assert client.take() == b"c"
    assert client.closed


async def test_http_1_0_is_kept_alive_if_the_length_is_known(world):
    client, upstream = await ask(world, POST_1_0)
    upstream.feed(OK + b"Content-Length: 2\r\n\r\na")
    upstream.feed(b"b")
    kept = b"connection: keep-alive\r\n"
    assert client.take() == OK + DATE + ID + kept + b"content-length: 2\r\n\r\nab"
    assert not client.closed


@pytest.mark.parametrize("parts", [(b"abcde",), (b"", b"abcde"), (b"ab", b"cde")])
async def test_a_client_that_asked_for_the_head_gets_no_body(world, parts):
    client, upstream = await ask(world, b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n")
    upstream.feed(OK + b"Content-Length: 5\r\n\r\n" + parts[0])
    for part in parts[1:]:
        upstream.feed(part)
    assert client.take() == OK + DATE + ID + b"content-length: 5\r\n\r\n"
    assert not client.closed
    assert upstream.closed is (len(parts) > 1)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 204 No Content\r\n" + DATE + ID + b"\r\n"),
        (
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\n" + DATE + ID + b"content-length: 5\r\n\r\n",
        ),
        (
            b"HTTP/1.1 304 Not Modified\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\n" + DATE + ID + b"\r\n",
        ),
        (
            b"HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 299 \r\n" + DATE + ID + b"content-length: 0\r\n\r\n",
        ),
    ],
)
async def test_answers_without_a_body(world, sent, read):
    client, upstream = await ask(world)
    upstream.feed(sent)
    assert client.take() == read
    assert not client.closed


async def test_the_date_of_the_upstream_stays(world):
    client, upstream = await ask(world)
    upstream.feed(answer(b"", b"Date: yesterday"))
    assert client.take() == OK + b"date: yesterday\r\n" + ID + b"content-length: 0\r\n\r\n"


async def test_relay_tells_how_much_it_sent(world):
    sent = []

    async def relay(exchange):
        sent.append(await exchange.relay(await world.pool.send(permit())))

    world.application.handler = relay
    _, upstream = await ask(world, post() * 2)
    upstream.feed(answer(b"abc"))
    upstream.feed(OK + b"Content-Length: 6\r\n\r\nab")
    upstream.feed(b"cdef")
    assert sent == [3, 6]


# Faults


@pytest.mark.parametrize(
    "head", [b"Content-Length: 6\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3\r\n"]
)
@pytest.mark.parametrize("clean", [True, False])
async def test_an_upstream_that_dies_midway_ends_the_clients_connection(world, head, clean):
    client, upstream = await ask(world, post(b"1") + post(b"2"))
    upstream.feed(OK + head + b"ab")
    if clean:
        upstream.feed_eof()
    upstream.lose(None if clean else ConnectionResetError())
    assert client.aborted
    assert not client.take().endswith(b"0\r\n\r\n")
    assert [error.rule.id for error in world.application.raised] == ["BZ-132"]
    assert world.application.refused == []
    assert len(world.application.handled) == 1


async def test_the_connection_ends_at_once_even_if_the_application_goes_on(world):
    seen, reported = [], []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def relay(exchange):
        response = await world.pool.send(permit())
        with pytest.raises(Refusal):
            await exchange.relay(response)
        seen.append(client.aborted)

    world.application.handler = relay
    client, upstream = await ask(world)
    upstream.feed(OK + b"Content-Length: 6\r\n\r\nab")
    upstream.lose()
    assert seen == [True]
    assert reported == []  # the application knows


async def test_a_defect_after_the_answer_was_begun_ends_the_connection(world):
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def relay(exchange):
        await exchange.relay(await world.pool.send(permit()), "text, not bytes")

    world.application.handler = relay
    client, upstream = await ask(world)
    upstream.feed(answer(b"abc"))
    assert client.take() == b""
    assert client.aborted
    assert len(reported) == 1


async def test_an_upstream_that_dies_before_its_head_is_a_502(world):
    client, upstream = await ask(world)
    upstream.feed(OK)
    upstream.lose()
    assert client.take().startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert world.application.rules == ["BZ-132"]
    client.feed(post())
    assert len(world.application.handled) == 2


async def test_an_upstream_that_is_too_slow_midway_ends_the_clients_connection(world):
    client, upstream = await ask(world)
    upstream.feed(OK + b"Content-Length: 6\r\n\r\nab")
    world.clock.advance(60.1)
    world.pool.sweep()
    assert client.aborted
    assert upstream.aborted
    assert [error.rule.id for error in world.application.raised] == ["BZ-131"]


async def test_a_client_that_leaves_midway_closes_the_upstream(world):
    client, upstream = await ask(world)
    upstream.feed(OK + b"Content-Length: 6\r\n\r\nab")
    client.lose(ConnectionResetError())
    assert upstream.aborted
    assert isinstance(world.application.raised[0], asyncio.CancelledError)
    upstream.feed(b"cdef")
    assert world.pool.state().addresses[0].in_flight == 0


async def test_a_client_that_leaves_before_the_head_closes_the_upstream(world):
    client, upstream = await ask(world)
    client.lose(ConnectionResetError())
    assert upstream.aborted


async def test_an_answer_that_was_buffered_may_be_replaced(world):
    async def check(exchange):
        response = await world.pool.send(permit(exchange.body))
        body = await response.body(100)
        exchange.reply(Reply(200, body.upper(), b"text/plain"))

    world.application.handler = check
    client, upstream = await ask(world)
    upstream.feed(OK + b"Content-Length: 6\r\n\r\nab")
    upstream.feed(b"cdef")
    assert client.take() == ok(b"ABCDEF")


LINES = b"content-type: text/plain\r\n"


def replacing(world, fresh=bytes.upper):
    """Lets the application send every answer's body otherwise; what it sent is in the result."""
    sent = []

    async def replace(exchange):
        response = await world.pool.send(permit(exchange.body))
        body = fresh(await response.whole(100))
        sent.append(exchange.replace(response, LINES, body, ID))

    world.application.handler = replace
    return sent


async def test_a_body_is_replaced_and_other_headers_stay(world):
    sent = replacing(world, lambda body: body * 2)
    client, upstream = await ask(world, post(b"1") + post(b"2"))
    upstream.feed(answer(b"abc", b"X-Stays: 1", b"Cache-Control: no-store", b"Connection: X-Hop"))
    stay = b"x-stays: 1\r\ncache-control: no-store\r\n"
    assert client.take() == OK + stay + DATE + LINES + ID + b"content-length: 6\r\n\r\nabcabc"
    upstream.feed(OK + b"Content-Length: 6\r\nDate: yesterday\r\n\r\nab")
    assert client.take() == b""  # nothing before all is there
    upstream.feed(b"cdef")
    head = OK + b"date: yesterday\r\n" + LINES + ID + b"content-length: 12\r\n\r\n"
    assert client.take() == head + b"abcdef" * 2
    assert sent == [6, 12]
    assert all(exchange.answered for exchange in world.application.handled)
    assert not client.closed
    assert world.pool.state().addresses[0].in_flight == 0


DESCRIBING = [
    b"Content-Type: application/json",
    b"Content-Encoding: gzip",
    b"Content-MD5: x",
    b"Content-Digest: x",
    b"Content-Range: bytes 0-1/2",
    b"Accept-Ranges: bytes",
    b"Digest: x",
    b"Repr-Digest: x",
    b"ETag: x",
    b"Last-Modified: x",
    b"Inference-Header-Content-Length: 1",
    b"Signature: x",
    b"Signature-Input: x",
]


@pytest.mark.parametrize("header", DESCRIBING)
async def test_what_described_the_body_does_not_outlive_it(world, header):
    replacing(world)
    client, upstream = await ask(world)
    upstream.feed(answer(b"abc", header))
    assert client.take() == OK + DATE + LINES + ID + b"content-length: 3\r\n\r\nABC"


async def test_the_status_of_a_replaced_answer_and_a_client_of_http_1_0(world):
    replacing(world)
    client, upstream = await ask(world, POST_1_0)
    upstream.feed(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n")
    kept = b"connection: keep-alive\r\n"
    head = b"HTTP/1.1 201 Created\r\n" + DATE + LINES + ID + kept + b"content-length: 1\r\n\r\n"
    assert client.take() == head + b"A"


async def test_there_is_one_answer_only(world):
    failed = []

    async def twice(exchange):
        response = await world.pool.send(permit())
        exchange.replace(response, LINES, b"1")
        with pytest.raises(RuntimeError):
            exchange.replace(response, LINES, b"2")
        failed.append(True)

    world.application.handler = twice
    client, upstream = await ask(world)
    upstream.feed(answer(b"abc"))
    assert failed
    assert client.take().endswith(b"content-length: 1\r\n\r\n1")


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_an_answer_without_a_body_cannot_get_one(world, status):
    async def replace(exchange):
        response = await world.pool.send(permit())
        assert await response.whole(10) == b""  # the length is that of the answer to GET
        with pytest.raises(ValueError, match="no body"):
            exchange.replace(response, LINES, b"1")
        await exchange.relay(response)

    world.application.handler = replace
    client, upstream = await ask(world)
    upstream.feed(b"HTTP/1.1 " + status + b"\r\nContent-Length: 500\r\n\r\n")
    assert world.application.raised == []
    assert client.take().startswith(b"HTTP/1.1 " + status)
    assert world.application.handled[0].answered


async def test_an_answer_that_was_read_whole_can_still_be_relayed(world):
    seen = []

    async def look(exchange):
        response = await world.pool.send(permit())
        seen.extend([await response.whole(6), await response.whole(6)])
        seen.append(await exchange.relay(response, ID))

    world.application.handler = look
    client, upstream = await ask(world)
    upstream.feed(OK + b"Content-Length: 6\r\nETag: x\r\n\r\nab")
    upstream.feed(b"cdef")
    head = OK + b"etag: x\r\n" + DATE + ID + b"content-length: 6\r\n\r\n"
    assert client.take() == head + b"abcdef"
    assert seen == [b"abcdef", b"abcdef", 6]


async def test_reading_the_whole_takes_what_has_paused_the_upstream():
    world = World(pool_limits=PoolLimits(buffer_bytes=10))
    sent = replacing(world)
    client, upstream = await ask(world)
    upstream.feed(OK + b"Content-Length: 90\r\n\r\n" + b"x" * 30)
    assert not upstream.paused
    upstream.feed(b"x" * 30)
    assert not upstream.paused
    upstream.feed(b"x" * 30)
    assert sent == [90]
    assert client.take().endswith(b"\r\n\r\n" + b"X" * 90)


@pytest.mark.parametrize(
    "head", [b"Content-Length: 101\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n65\r\n"]
)
async def test_nothing_is_sent_of_an_answer_that_cannot_be_read_whole(world, head):
    replacing(world)
    client, upstream = await ask(world)
    upstream.feed(OK + head)
    upstream.feed(b"x" * 101)
    assert client.take().startswith(b"HTTP/1.1 502 ")
    assert upstream.aborted


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (b"Content-Length: 120\r\n\r\n", b"content-length: 120\r\n"),
        (b"Transfer-Encoding: chunked\r\n\r\n78\r\n", b"transfer-encoding: chunked\r\n"),
    ],
)
async def test_an_answer_too_large_to_be_gathered_is_relayed_as_it_comes(head, told):
    world = World(pool_limits=PoolLimits(buffer_bytes=10))
    seen = []

    async def look(exchange):
        response = await world.pool.send(permit())
        seen.append(await response.gathered(50))
        seen.append(await exchange.relay(response, ID))

    world.application.handler = look
    client, upstream = await ask(world)
    upstream.feed(OK + head)
    for _ in range(3):
        upstream.feed(b"x" * 40)
    if b"chunked" in told:
        upstream.feed(b"\r\n0\r\n\r\n")
    answer = client.take()
    assert told in answer
    assert answer.count(b"x") == 120 + ID.count(b"x")
    assert seen == [None, 120]
    assert not upstream.aborted


async def test_what_was_gathered_stays():
    world = World()
    seen = []

    async def look(exchange):
        response = await world.pool.send(permit())
        seen.extend([await response.gathered(3), await response.gathered(4)])
        seen.append(await exchange.relay(response))

    world.application.handler = look
    client, upstream = await ask(world)
    upstream.feed(OK + b"Content-Length: 4\r\n\r\nab")
    upstream.feed(b"cd")
    assert seen == [None, b"abcd", 4]
    assert client.take().endswith(b"\r\n\r\nabcd")


@pytest.mark.parametrize("clean", [True, False])
async def test_nothing_is_sent_of_an_answer_that_ends_midway(world, clean):
    replacing(world)
    client, upstream = await ask(world)
    upstream.feed(OK + b"Content-Length: 6\r\n\r\nabc")
    if clean:
        upstream.feed_eof()
    upstream.lose(None if clean else ConnectionResetError())
    assert client.take().startswith(b"HTTP/1.1 502 ")
    assert not client.aborted


async def test_a_refusal_instead_of_an_answer_too_large(world):
    async def check(exchange):
        response = await world.pool.send(permit(exchange.body))
        await response.body(5)

    world.application.handler = check
    client, upstream = await ask(world)
    upstream.feed(OK + b"Content-Length: 6\r\n\r\nab")
    assert client.take().startswith(b"HTTP/1.1 502 ")
    assert upstream.aborted
    assert isinstance(world.application.raised[0], Refusal)


# Backpressure


async def test_a_slow_client_slows_the_upstream_down():
    world = World(pool_limits=PoolLimits(buffer_bytes=1000))
    client, upstream = await ask(world)
    upstream.feed(OK + b"Content-Length: 100000\r\n\r\n")
    client.take()
    client.protocol.pause_writing()
    fed = 0
    while not upstream.paused:
        upstream.feed(b"x" * 500)
        fed += 500
        assert fed <= 5000
    written = len(client.take())
    assert fed - written <= 2000
    client.protocol.resume_writing()
    assert not upstream.paused
    assert written + len(client.take()) == fed
    while fed < 100_000:
        upstream.feed(b"x" * 500)
        fed += 500
    assert written + len(client.take()) + 1500 >= 100_000 - 5000
    assert world.application.handled[0].answered


async def test_a_slow_client_of_a_whole_large_answer_is_waited_for(world):
    client, upstream = await ask(world, post(b"1") + post(b"2"))
    client.protocol.pause_writing()
    upstream.feed(answer(b"x" * 100_000))
    assert len(world.application.handled) == 1
    client.protocol.resume_writing()
    assert len(world.application.handled) == 2


@pytest.mark.parametrize("taken", [True, False])
async def test_an_application_may_wait_until_its_answer_was_taken(world, taken):
    steps = []

    async def answered(exchange):
        exchange.reply(Reply(200, b"x" * 100_000))
        await exchange.drained()  # nothing is in the way yet
        client.protocol.pause_writing()
        steps.append("written")
        try:
            await exchange.drained()
            steps.append("taken")
        finally:
            steps.append("over")

    world.application.handler = answered
    client = world.connect()
    client.feed(post(b"q"))
    assert steps == ["written"]
    if taken:
        client.protocol.resume_writing()
        assert steps == ["written", "taken", "over"]
        client.feed(post(b"again"))
        assert steps[3:] == ["written"], "the connection goes on"
    else:
        world.clock.advance(30.1)
        world.listener.sweep()
        assert client.aborted
        client.lose()
        await world.settle()
        assert steps == ["written", "over"]


async def test_a_reply_that_cannot_be_rendered_ends_the_connection(world):
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def bad(exchange):
        exchange.reply(Reply(200, "text, not bytes"))

    world.application.handler = bad
    client = world.connect()
    client.feed(post())
    assert client.aborted
    assert len(reported) == 1


@pytest.mark.parametrize(
    ("head", "pieces"),
    [
        (b"Content-Length: 6\r\n\r\n", [b"abcdef"]),
        (b"Content-Length: 6\r\n\r\n", [b"ab", b"c", b"def"]),
        (b"Transfer-Encoding: chunked\r\n\r\n", [b"3\r\nabc\r\n", b"3\r\ndef\r\n", b"0\r\n\r\n"]),
    ],
)
async def test_a_tap_sees_each_part_once_it_was_sent(world, head, pieces):
    seen = []

    async def look(exchange):
        def tap(piece):
            assert client.take().endswith((piece, piece + b"\r\n"))
            seen.append(piece)

        await exchange.relay(await world.pool.send(permit()), ID, tap)

    world.application.handler = look
    client, upstream = await ask(world)
    upstream.feed(OK + head + pieces[0])
    for piece in pieces[1:]:
        upstream.feed(piece)
    assert b"".join(seen) == b"abcdef"
    assert world.application.handled[0].answered
    assert not world.application.raised


async def test_a_tap_has_seen_what_came_before_the_client_left(world):
    seen = []

    async def look(exchange):
        await exchange.relay(await world.pool.send(permit()), ID, seen.append)

    world.application.handler = look
    client, upstream = await ask(world)
    upstream.feed(OK + b"Content-Length: 6\r\n\r\nab")
    upstream.feed(b"cd")
    client.lose()
    await world.settle()
    assert b"".join(seen) == b"abcd"
    assert upstream.closed
