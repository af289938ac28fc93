from __future__ import annotations

import asyncio

import pytest
from in_memory import DATE, World, answer, echo, ok, post, refused

from proxy.http.application import Intake
from proxy.http.drive import Waiter
from proxy.http.limits import ListenerLimits
from proxy.http.messages import Reply
from proxy.rules import CLIENT_RATE, INTERNAL, NO_ROUTE, Refusal

CHUNKED = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSE = b"connection: close\r\n"


@pytest.fixture
def world():
    world = World()
    world.application.handler = echo
    return world


@pytest.fixture
async def faults():
    """What was reported to the event loop."""
    reported = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    return reported


class Slow:
    """A handler whose answers the test releases one by one."""

    def __init__(self):
        self.waiters = []

    async def __call__(self, exchange):
        waiter = Waiter()
        self.waiters.append(waiter)
        await waiter
        await echo(exchange)


# What an exchange knows


async def test_an_exchange_knows_its_times_and_its_context(world):
    client = world.connect()
    client.feed(post(b"abc")[:20])
    world.clock.advance(1)
    client.feed(post(b"abc")[20:])
    (exchange,) = world.application.handled
    assert (exchange.received, exchange.read) == (1000.0, 1001.0)
    assert exchange.context == "context"
    assert exchange.peer.address == "192.0.2.1"
    assert (exchange.status, exchange.answered) == (200, True)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        (("192.0.2.1", 1), "192.0.2.1"),
        (("::ffff:192.0.2.1", 1, 0, 0), "192.0.2.1"),
        (("2001:db8:0:0::1", 1, 0, 0), "2001:db8::1"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::1"),
        ("", ""),
        (b"", ""),
        (None, ""),
    ],
)
async def test_a_peer_is_an_address(world, name, address):
    client = world.connect(peername=name)
    client.feed(post())
    assert world.application.handled[0].peer.address == address


# Refusals by the application


async def test_a_refusal_when_the_head_is_complete_is_answered_before_the_body(world):
    def refuse(head, peer):
        raise Refusal(NO_ROUTE)

    world.application.opener = refuse
    client = world.connect()
    client.feed(post(b"abc", b"Expect: 100-continue")[:-3])
    assert client.take() == refused(b"404 Not Found", b"BZ-110")
    assert client.eof
    assert not client.closed
    client.feed(b"abc" + post())
    assert client.take() == b""
    assert world.application.refused[0][1].target == "/a"


async def test_a_refusal_out_of_handle_is_answered_and_the_connection_lives(world):
    async def refuse(exchange):
        raise Refusal(CLIENT_RATE)

    world.application.handler = refuse
    client = world.connect()
    client.feed(post() * 2)
    reply = refused(b"429 Too Many Requests", b"BZ-601").replace(CLOSE, b"")
    assert client.take() == reply * 2
    assert world.application.rules == ["BZ-601"] * 2


async def test_a_reply_that_closes(world):
    async def bye(exchange):
        exchange.reply(Reply(200, exchange.body, b"text/plain", close=True))

    world.application.handler = bye
    client = world.connect()
    client.feed(post(b"1") + post(b"2"))
    assert client.take() == ok(b"1", CLOSE)
    assert client.closed


# Defects


async def test_an_exception_is_answered_as_internal_and_reported(world, faults):
    async def fail(exchange):
        raise KeyError("x")

    world.application.handler = fail
    client = world.connect()
    client.feed(post())
    assert client.take() == refused(b"503 Service Unavailable", b"BZ-900").replace(CLOSE, b"")
    assert [type(fault) for fault in faults] == [KeyError]
    assert "KeyError" in world.application.refused[0][0].detail


async def test_no_answer_is_answered_as_internal(world, faults):
    async def forget(exchange):
        pass

    world.application.handler = forget
    client = world.connect()
    client.feed(post())
    assert client.take().startswith(b"HTTP/1.1 503 ")
    assert world.application.rules == [INTERNAL.id]


async def test_an_exception_after_the_answer_is_only_reported(world, faults):
    async def late(exchange):
        await echo(exchange)
        raise KeyError("x")

    world.application.handler = late
    client = world.connect()
    client.feed(post(b"1"))
    assert client.take() == ok(b"1")
    assert len(faults) == 1
    assert world.application.refused == []


async def test_an_exception_of_open_is_answered_as_internal(world, faults):
    def fail(head, peer):
        raise KeyError("x")

    world.application.opener = fail
    client = world.connect()
    client.feed(post(b"1"))
    assert client.take().startswith(b"HTTP/1.1 503 ")
    assert client.eof
    assert [type(fault) for fault in faults] == [KeyError]


async def test_an_exception_of_refuse_still_gets_an_answer(world, faults):
    def fail(*_):
        raise KeyError("x")

    world.application.refuse = fail
    client = world.connect()
    client.feed(b"BAD\r\n\r\n")
    assert client.take().startswith(b"HTTP/1.1 503 ")
    assert client.eof


async def test_two_answers_are_a_defect(world, faults):
    async def twice(exchange):
        await echo(exchange)
        await echo(exchange)

    world.application.handler = twice
    client = world.connect()
    client.feed(post(b"1"))
    assert client.take() == ok(b"1")
    assert [type(fault) for fault in faults] == [RuntimeError]


# Pipelining


async def test_answers_keep_the_order_of_requests(world):
    slow = world.application.handler = Slow()
    client = world.connect()
    client.feed(post(b"1") + post(b"2") + b"BAD\r\n\r\n")
    assert client.take() == b""
    assert len(slow.waiters) == 1
    slow.waiters[0].wake()
    assert client.take() == ok(b"1")
    slow.waiters[1].wake()
    assert client.take() == ok(b"2") + refused(b"400 Bad Request", b"BZ-100")


async def test_pipelining_is_bounded():
    world = World(limits=ListenerLimits(pipeline_depth=4))
    slow = world.application.handler = Slow()
    client = world.connect()
    sent = 0
    while not client.paused:
        client.feed(post(b"%d" % sent))
        sent += 1
        assert sent < 10
    assert sent == 5
    for index in range(sent):
        slow.waiters[index].wake()
    await world.settle()
    assert not client.paused
    assert client.take() == b"".join(ok(b"%d" % index) for index in range(sent))


async def test_a_segment_full_of_requests_is_taken_in_parts():
    world = World(limits=ListenerLimits(pipeline_depth=4))
    slow = world.application.handler = Slow()
    client = world.connect()
    count = 2000
    client.feed(b"".join(post(b"%d" % index) for index in range(count)))
    assert client.paused
    assert len(world.application.opened) < 100
    for index in range(count):
        slow.waiters[index].wake()
        if len(slow.waiters) == index + 1:
            await world.settle()
    assert client.take() == b"".join(ok(b"%d" % index) for index in range(count))
    assert not client.paused


async def test_requests_that_are_answered_at_once_leave_others_their_turn():
    world = World(limits=ListenerLimits(pipeline_depth=4))
    world.application.handler = echo
    client = world.connect()
    client.feed(b"".join(post(b"%d" % index) for index in range(2000)))
    assert 0 < len(world.application.handled) < 100
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(world.application.handled) == 2000
    assert client.take() == b"".join(ok(b"%d" % index) for index in range(2000))


async def test_a_request_cut_at_a_segment_behind_a_slow_one(world):
    slow = world.application.handler = Slow()
    client = world.connect()
    client.feed(post(b"1") + post(b"2" * 9000)[:5000])
    client.feed(post(b"2" * 9000)[5000:])
    slow.waiters[0].wake()
    slow.waiters[1].wake()
    assert client.take() == ok(b"1") + ok(b"2" * 9000)


# Bodies


@pytest.mark.parametrize("step", [1000, 4096, 5000, 1 << 20])
async def test_large_bodies_arrive_whole(world, step):
    body = bytes(range(256)) * 400
    data = post(body) + post(b"next")
    client = world.connect()
    for start in range(0, len(data), step):
        client.feed(data[start : start + step])
    assert client.take() == ok(body) + ok(b"next")


async def test_a_body_over_its_limit_is_refused_before_it_is_read(world):
    world.application.body_limit = 10
    client = world.connect()
    client.feed(post(b"x" * 11)[:-11])
    assert client.take() == refused(b"413 Content Too Large", b"BZ-103")
    assert world.application.handled == []


async def test_chunk_framing_is_bounded(world):
    client = world.connect()
    client.feed(CHUNKED + b"1;")
    for _ in range(100):
        client.feed(b"x" * 1024)
    assert client.take() == refused(b"400 Bad Request", b"BZ-101")


async def test_many_small_chunks_are_no_abuse(world):
    client = world.connect()
    client.feed(CHUNKED)
    for _ in range(100):
        client.feed(b"1\r\nx\r\n" * 500)
    client.feed(b"0\r\n\r\n")
    assert client.take() == ok(b"x" * 50_000)


async def test_continue_is_said_once_the_head_was_accepted(world):
    client = world.connect()
    client.feed(post(b"abc", b"Expect: 100-continue")[:-3])
    assert client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.feed(b"a")
    assert client.take() == b""
    client.feed(b"bc")
    assert client.take() == ok(b"abc")


async def test_continue_is_not_said_when_the_body_is_there_already_or_to_1_0(world):
    client = world.connect()
    client.feed(post(b"abc", b"Expect: 100-continue"))
    assert client.take() == ok(b"abc")
    client.feed(post(b"abc", b"Expect: 100-continue")[:-2])
    assert client.take() == b""
    client.feed(b"bc")
    assert client.take() == ok(b"abc")
    client.feed(post(b"abc", b"Expect: 100-continue").replace(b"1.1", b"1.0")[:-3])
    assert client.take() == b""


async def test_continue_is_not_said_behind_a_refusal(world):
    client = world.connect()
    expect = CHUNKED.removesuffix(b"\r\n") + b"Expect: 100-continue\r\n\r\n"
    client.feed(expect + b"x\r\n")
    assert client.take() == refused(b"400 Bad Request", b"BZ-101")


async def test_continue_waits_for_the_answer_before_it(world):
    slow = world.application.handler = Slow()
    client = world.connect()
    client.feed(post(b"1") + post(b"2", b"Expect: 100-continue")[:-1])
    assert client.take() == b""
    slow.waiters[0].wake()
    assert client.take() == ok(b"1") + b"HTTP/1.1 100 Continue\r\n\r\n"


async def test_a_new_application_gets_the_next_request(world):
    slow = world.application.handler = Slow()
    client = world.connect()
    client.feed(post(b"1") + post(b"2")[:-1])
    other = World().application
    other.handler = echo
    world.listener.application = other
    client.feed(b"2" + post(b"3"))
    slow.waiters[0].wake()
    slow.waiters[1].wake()
    assert client.take() == ok(b"1") + ok(b"2") + ok(b"3")
    assert [exchange.body for exchange in other.handled] == [b"3"]


# Ends


async def test_a_half_closed_client_gets_its_answers(world):
    slow = world.application.handler = Slow()
    client = world.connect()
    client.feed(post(b"1") + post(b"2"))
    client.feed_eof()
    assert not client.closed
    slow.waiters[0].wake()
    assert client.take() == ok(b"1")
    slow.waiters[1].wake()
    assert client.take() == ok(b"2", CLOSE)
    assert client.closed


@pytest.mark.parametrize("part", [5, 30, -1])
async def test_half_a_request_and_no_more(world, part):
    client = world.connect()
    client.feed(post(b"abc")[:part])
    client.feed_eof()
    assert client.take() == refused(b"400 Bad Request", b"BZ-100")
    assert client.closed


async def test_an_idle_client_that_shuts_its_end_is_closed(world):
    client = world.connect()
    client.feed(post(b"1") + b"\r\n")
    client.feed_eof()
    assert client.take() == ok(b"1")
    assert client.closed


async def test_a_client_that_leaves_cancels_its_exchange(world):
    slow = world.application.handler = Slow()
    client = world.connect()
    client.feed(post(b"1") + post(b"2"))
    client.lose(ConnectionResetError())
    assert [type(error) for error in world.application.raised] == [asyncio.CancelledError]
    assert len(slow.waiters) == 1
    assert world.listener.connections == set()
    assert world.application.refused == []


async def test_a_client_that_leaves_does_not_break_who_answers_all_the_same(world):
    async def stubborn(exchange):
        try:
            await Waiter()
        except asyncio.CancelledError:
            await echo(exchange)

    world.application.handler = stubborn
    client = world.connect()
    client.feed(post(b"1"))
    client.lose()
    assert client.take() == b""


async def test_nothing_is_answered_after_the_loss(world):
    slow = world.application.handler = Slow()
    client = world.connect()
    client.feed(post(b"1"))
    client.lose()
    slow.waiters[0].wake()
    assert client.take() == b""


# Lingering


@pytest.mark.parametrize("together", [True, False])
async def test_what_follows_the_last_request_is_thrown_away(world, together):
    slow = world.application.handler = Slow()
    client = world.connect()
    if together:
        client.feed(post(b"1", b"Connection: close") + post(b"2"))
    else:
        client.feed(post(b"1", b"Connection: close"))
        client.feed(post(b"2"))
    slow.waiters[0].wake()
    assert client.take() == ok(b"1", CLOSE)
    assert client.eof
    assert not client.closed  # else the unread bytes might reset the connection under the answer
    assert len(world.application.handled) == 1
    assert world.application.refused == []


async def test_a_refused_client_may_go_on_sending_for_a_while(world):
    world.application.body_limit = 10
    client = world.connect()
    client.feed(post(b"", length=b"1000000"))
    assert client.take() == refused(b"413 Content Too Large", b"BZ-103")
    assert client.eof
    for _ in range(10):
        client.feed(b"x" * 1000)
    assert not client.closed
    client.feed_eof()
    assert client.closed
    assert not client.aborted


async def test_but_not_for_ever():
    limits = ListenerLimits(linger_seconds=5, linger_bytes=5000)
    for what in ("time", "bytes"):
        world = World(limits=limits)
        client = world.connect()
        client.feed(b"BAD\r\n\r\n")
        assert client.eof
        if what == "time":
            world.clock.advance(5.1)
            world.listener.sweep()
        else:
            for _ in range(6):
                client.feed(b"x" * 1000)
        assert client.aborted


# Deadlines


async def test_a_head_has_a_deadline(world):
    client = world.connect()
    world.clock.advance(5)
    client.feed(b"GET /a HTTP/1.1\r\n")
    world.clock.advance(9)
    client.feed(b"Host: a\r\n")
    world.listener.sweep()
    assert client.take() == b""
    world.clock.advance(1.1)
    client.feed(b"X: y\r\n")
    world.listener.sweep()
    assert client.take() == refused(b"408 Request Timeout", b"BZ-104")
    assert client.closed  # at once: nothing is unread
    assert not client.aborted


async def test_a_method_byte_by_byte_is_a_head_too(world):
    client = world.connect()
    client.feed(b"G")
    world.clock.advance(10.1)
    world.listener.sweep()
    assert client.take() == refused(b"408 Request Timeout", b"BZ-104")


async def test_a_second_head_has_its_own_deadline(world):
    client = world.connect()
    client.feed(post(b"1"))
    client.take()
    world.clock.advance(20)
    client.feed(b"GET")
    world.clock.advance(9.9)
    world.listener.sweep()
    assert client.take() == b""
    world.clock.advance(0.2)
    world.listener.sweep()
    assert client.take() == refused(b"408 Request Timeout", b"BZ-104")


async def test_a_body_has_a_deadline(world):
    client = world.connect()
    client.feed(post(b"", length=b"1000000"))
    for _ in range(29):
        world.clock.advance(1)
        client.feed(b"x" * 2000)
        world.listener.sweep()
    assert client.take() == b""
    world.clock.advance(1.1)
    client.feed(b"x" * 2000)
    world.listener.sweep()
    assert client.take() == refused(b"408 Request Timeout", b"BZ-105")


async def test_a_body_has_a_least_rate(world):
    client = world.connect()
    client.feed(post(b"", length=b"1000000"))
    for _ in range(5):
        world.clock.advance(1)
        client.feed(b"x")
        world.listener.sweep()
    assert client.take() == b""
    world.clock.advance(1)
    world.listener.sweep()
    assert client.take() == refused(b"408 Request Timeout", b"BZ-105")


async def test_an_idle_connection_is_closed(world):
    client = world.connect()
    client.feed(post(b"1"))
    client.take()
    world.clock.advance(75)
    world.listener.sweep()
    assert not client.closed
    world.clock.advance(0.1)
    world.listener.sweep()
    assert client.closed
    assert client.take() == b""


async def test_a_connection_that_never_says_anything_is_closed_sooner(world):
    client = world.connect()
    world.clock.advance(10.1)
    world.listener.sweep()
    assert client.closed
    assert client.take() == b""


async def test_an_exchange_under_way_is_not_idle(world):
    slow = world.application.handler = Slow()
    client = world.connect()
    client.feed(post(b"1"))
    world.clock.advance(1000)
    world.listener.sweep()
    slow.waiters[0].wake()
    assert client.take() == ok(b"1")


async def test_a_pause_of_ours_is_not_the_clients_fault():
    world = World(limits=ListenerLimits(pipeline_depth=2))
    slow = world.application.handler = Slow()
    client = world.connect()
    client.feed(post(b"1") + post(b"2") + post(b"3") + post(b"4444")[:-3])
    assert client.paused
    world.clock.advance(1000)
    world.listener.sweep()
    for index in range(3):
        slow.waiters[index].wake()
    await world.settle()
    world.listener.sweep()
    client.feed(b"444")
    slow.waiters[3].wake()
    assert client.take() == ok(b"1") + ok(b"2") + ok(b"3") + ok(b"4444")


async def test_a_client_that_reads_nothing_is_cut_off(world):
    client = world.connect()
    client.feed(post(b"1"))
    client.protocol.pause_writing()
    client.feed(post(b"2"))
    assert client.take() == ok(b"1")
    assert len(world.application.handled) == 1
    world.clock.advance(30.1)
    world.listener.sweep()
    assert client.aborted


async def test_a_client_that_reads_again_gets_the_rest(world):
    client = world.connect()
    client.protocol.pause_writing()
    client.feed(post(b"1"))
    assert world.application.handled == []
    client.protocol.resume_writing()
    assert client.take() == ok(b"1")


# How many


async def test_connections_beyond_the_limit_are_shed():
    world = World(limits=ListenerLimits(connections=4))
    world.application.handler = echo
    clients = [world.connect() for _ in range(6)]
    for client in clients[:4]:
        client.feed(post(b"1"))
        assert client.take() == ok(b"1")
    assert clients[4].take() == refused(b"503 Service Unavailable", b"BZ-106")
    assert clients[4].eof
    assert clients[5].closed  # too many even to linger
    assert world.listener.shed == 2
    clients[4].feed(post(b"1"))
    assert clients[4].take() == b""
    for client in clients[3:]:
        client.lose()
    late = world.connect()
    late.feed(post(b"1"))
    assert late.take() == ok(b"1")


# Draining


async def test_draining_answers_what_is_under_way_and_what_crosses(world):
    slow = world.application.handler = Slow()
    busy, idle = world.connect(), world.connect()
    busy.feed(post(b"1"))
    draining = asyncio.create_task(world.listener.drain(60))
    await world.settle()
    idle.feed(post(b"2"))
    for waiter in slow.waiters:
        waiter.wake()
    assert busy.take() == ok(b"1", CLOSE)
    assert idle.take() == ok(b"2", CLOSE)
    assert busy.closed
    assert idle.closed
    busy.lose()
    idle.lose()
    await draining


async def test_draining_closes_who_stays_idle(world):
    client = world.connect()
    client.feed(post(b"1"))
    draining = asyncio.create_task(world.listener.drain(60))
    await world.settle()
    world.clock.advance(1.1)
    world.listener.sweep()
    assert client.closed
    client.lose()
    await draining


async def test_draining_ends(world):
    world.application.handler = Slow()
    client = world.connect()
    client.feed(post(b"1"))
    draining = asyncio.create_task(world.listener.drain(0.001))
    while not client.aborted:  # noqa: ASYNC110 - a deadline of the event loop's own clock
        await asyncio.sleep(0)
    client.lose()
    await draining
    assert [type(error) for error in world.application.raised] == [asyncio.CancelledError]


# The whole way, in memory


async def test_one_write_for_a_small_answer(world):
    world.application.handler = None
    client = world.connect()
    client.feed(post(b"abc"))
    await world.settle()
    upstream = world.dialer.last
    assert upstream.take() == (
        b"POST /model HTTP/1.1\r\nhost: model0:80\r\nx-test: 1\r\ncontent-length: 3\r\n\r\nabc"
    )
    upstream.feed(answer(b"hello", b"X: y"))
    assert client.take() == (
        b"HTTP/1.1 200 OK\r\nx: y\r\n" + DATE + b"x-request-id: 1\r\ncontent-length: 5\r\n\r\nhello"
    )
    assert client.writes == 1


def test_intake_has_a_default_context():
    assert Intake(5).context is None
