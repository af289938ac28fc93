"""Requests that are shed as soon as their head is read, on connections without sockets."""

from __future__ import annotations

import pytest
from in_memory import DATE, World, echo, ok, post

from proxy.http.application import Shed
from proxy.http.drive import Waiter
from proxy.http.messages import Reply
from proxy.rules import BUSY

SHED = (
    b"HTTP/1.1 503 Service Unavailable\r\n%b%bretry-after: 1\r\n"
    b"content-type: text/plain\r\ncontent-length: 4\r\n\r\nshed"
)
REPLY = Reply(503, b"shed", b"text/plain", ((b"retry-after", b"1"),))
ALIVE, LAST = SHED % (DATE, b""), SHED % (DATE, b"connection: close\r\n")


@pytest.fixture
def world():
    one = World()
    one.application.handler = echo
    one.shed = True

    def opener(head, peer):
        if one.shed and head.get(b"x-keep") is None:
            raise Shed(BUSY, REPLY)
        return one.intake

    one.intake = one.application.open.__func__(one.application, None, None)
    one.application.opened.clear()
    one.application.opener = opener
    return one


async def test_a_small_request_is_shed_and_the_connection_lives(world):
    client = world.connect()
    client.feed(post(b"body"))
    assert client.take() == ALIVE
    world.shed = False
    client.feed(post(b"again"))
    assert client.take() == ok(b"again")
    assert world.application.refused == [], "no record is made of it"


async def test_it_is_answered_before_its_body_has_come_and_the_body_is_nobodys(world):
    client = world.connect()
    body = post(b"POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" * 400)
    head, rest = body[:100], body[100:]
    client.feed(head)
    assert client.take() == ALIVE
    world.shed = False
    while rest:
        client.feed(rest[:5000])
        rest = rest[5000:]
    assert client.take() == b""
    client.feed(post(b"next"))
    assert client.take() == ok(b"next")
    assert [exchange.body for exchange in world.application.handled] == [b"next"]


@pytest.mark.parametrize("cut", range(1, 60, 7))
async def test_the_next_request_may_come_with_the_end_of_the_body(world, cut):
    client = world.connect()
    data = post(b"x" * 10_000)
    client.feed(data[:-cut])
    assert client.take() == ALIVE
    world.shed = False
    client.feed(data[-cut:] + post(b"1") + post(b"2"))
    assert client.take() == ok(b"1") + ok(b"2")


async def test_one_large_segment_with_all_of_it(world):
    client = world.connect()
    client.feed(post(b"x" * 300_000) + post(b"kept", b"X-Keep: 1") + post(b"y" * 20_000))
    assert client.take() == ALIVE + ok(b"kept") + ALIVE


async def test_order_is_kept_behind_an_exchange_under_way(world):
    answers = []

    async def slow(exchange):
        waiter = Waiter()
        answers.append(waiter)
        await waiter
        await echo(exchange)

    world.application.handler = slow
    client = world.connect()
    client.feed(post(b"first", b"X-Keep: 1") + post(b"second") + post(b"third", b"X-Keep: 1"))
    assert client.take() == b""
    answers[0].wake()
    assert client.take() == ok(b"first") + ALIVE
    answers[1].wake()
    assert client.take() == ok(b"third")


async def test_http_1_0(world):
    client = world.connect()
    client.feed(b"POST /a HTTP/1.0\r\nContent-Length: 4\r\n\r\nbody")
    assert client.take() == LAST
    assert client.closed
    client = world.connect()
    client.feed(b"POST /a HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nbody")
    assert client.take() == SHED % (DATE, b"connection: keep-alive\r\n")
    assert not client.closed


async def test_a_client_that_waits_for_leave_gets_none_and_is_closed(world):
    client = world.connect()
    client.feed(post(b"", b"Expect: 100-continue", length=b"500"))
    assert client.take() == LAST
    assert client.eof or client.closed


async def test_a_chunked_body_is_thrown_away_and_the_connection_ended(world):
    client = world.connect()
    client.feed(b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello")
    assert client.take() == LAST
    client.feed(b"\r\n0\r\n\r\n" + post(b"smuggled", b"X-Keep: 1"))
    assert client.take() == b""
    assert world.application.handled == []


async def test_a_whole_chunked_body_in_one_segment(world):
    client = world.connect()
    client.feed(
        b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        + post(b"smuggled", b"X-Keep: 1")
    )
    assert client.take() == LAST
    assert world.application.handled == []


@pytest.mark.parametrize("junk", [b"zz\r\n", b"5;" + b"x" * 40_000])
async def test_a_body_that_is_wrong_is_shed_all_the_same(world, junk):
    client = world.connect()
    client.feed(b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + junk)
    assert client.take() == LAST
    assert world.application.refused == []


async def test_head_and_get_have_no_body_to_wait_for(world):
    client = world.connect()
    client.feed(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.take() == ALIVE
    client.feed(b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.take() == ALIVE.removesuffix(b"shed")


async def test_draining_ends_the_connection(world):
    client = world.connect()
    world.listener.draining = True
    client.feed(post(b"body"))
    assert client.take() == LAST
    assert client.closed


async def test_a_body_that_never_comes_is_not_waited_for(world):
    client = world.connect()
    client.feed(post(b"", length=b"1000"))
    assert client.take() == ALIVE
    world.clock.advance(5.1)
    world.listener.sweep()
    assert client.aborted


async def test_the_end_of_input_in_the_middle_of_a_shed_body_ends_it(world):
    client = world.connect()
    client.feed(post(b"", length=b"1000"))
    client.feed_eof()
    assert client.take() == ALIVE
    assert client.closed
    assert world.application.refused == []


async def test_a_flood_on_one_connection_leaves_others_their_turn(world):
    client = world.connect()
    client.feed(post(b"") * 200)
    first = client.take().count(b"503")
    assert first <= 4096 // len(post(b"")) + 1, "those of one slice"
    assert client.paused
    for _ in range(20):
        await world.settle()
    assert client.take().count(b"503") == 200 - first
    assert not client.paused


async def test_many_that_miss_their_deadline_together_cost_nobody_else_his_time(world):
    clients = [world.connect() for _ in range(100)]
    for client in clients:
        client.feed(b"POST")
    world.clock.advance(11)
    checked = []

    def refuse(refusal, head, peer, received):
        checked.append(refusal.rule.id)
        world.clock.advance(0.001)
        return REPLY

    world.application.refuse = refuse
    world.listener.sweep()
    assert 2 <= len(checked) <= 4, "a slice of a few milliseconds"
    for _ in range(10):
        await world.settle()
    assert checked == ["BZ-104"] * 100


# The loop


async def test_an_overloaded_loop_answers_later_and_in_order(world):
    world.shed = False
    turns = world.listener.turns
    turns.overloaded = True
    clients = [world.connect() for _ in range(3)]
    for number, client in enumerate(clients):
        client.feed(post(b"%d" % number))
    assert [client.take() for client in clients] == [b""] * 3
    assert turns.waiting == 3
    turns.handle()
    assert [client.take() for client in clients] == [ok(b"0"), ok(b"1"), ok(b"2")]
    assert turns.waiting == 0


async def test_a_connection_waits_once_however_often_it_sends(world):
    world.shed = False
    turns = world.listener.turns
    turns.overloaded = True
    client = world.connect()
    client.feed(post(b"1"))
    client.feed(post(b"2"))
    assert turns.waiting == 1
    turns.handle()
    assert client.take() == ok(b"1") + ok(b"2")


async def test_a_client_that_leaves_the_line_is_not_handled(world):
    world.shed = False
    turns = world.listener.turns
    turns.overloaded = True
    client = world.connect()
    client.feed(post(b"1"))
    client.lose()
    turns.handle()
    assert world.application.handled == []


async def test_a_full_line_sheds_but_for_what_asks_how_it_does(world, monkeypatch):
    world.shed = False
    turns = world.listener.turns
    turns.overloaded = True
    monkeypatch.setattr(type(turns), "refuses", True)
    client = world.connect()
    client.feed(post(b"1"))
    assert client.take() == (
        b"HTTP/1.1 503 Service Unavailable\r\n" + DATE + b"content-type: text/plain\r\n"
        b"content-length: 4\r\n\r\nshed"
    )
    client.feed(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
    turns.handle()
    assert client.take() == ok(b"")
    assert [head.method for head in world.application.shed_heads] == ["POST", "GET"]


async def test_an_overloaded_loop_takes_in_few_connections_a_slice(world):
    turns = world.listener.turns
    turns.overloaded = True
    clients = [world.connect() for _ in range(20)]
    answers = [client.take() for client in clients]
    turned_away = [answer for answer in answers if answer]
    assert len(turned_away) == 12
    assert all(b"503" in answer and b"retry-after: 1" in answer for answer in turned_away)
    assert all(client.closed for client, answer in zip(clients, answers, strict=True) if answer)
    assert world.listener.shed == 12
    assert len(world.listener.connections) == 8
    turns.end()
    assert world.connect().take() == b""
