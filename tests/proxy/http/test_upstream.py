from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace

import pytest
from in_memory import World, answer, permit, post

from proxy.decision import ALLOWED, Action, Decision, Permit, UpstreamRequest
from proxy.http.address import Address
from proxy.http.limits import PoolLimits
from proxy.http.upstream import Pool
from proxy.rules import Refusal


@pytest.fixture
def world():
    return World()


def send(world, body=b"q"):
    return asyncio.create_task(world.pool.send(permit(body)))


async def under_way(world, body=b"q"):
    task = send(world, body)
    await world.settle()
    return task


async def served(world, body=b"1"):
    """One request, answered."""
    task = await under_way(world)
    transport = next(each for each in world.dialer.transports if each.written)
    transport.take()
    transport.feed(answer(body))
    assert await (await task).body(100) == body
    return transport


async def refusal(task):
    with pytest.raises(Refusal) as caught:
        await task
    return caught.value.rule.id


# What is sent


@pytest.mark.parametrize(
    "impostor",
    [
        None,
        b"POST / HTTP/1.1\r\n\r\n",
        UpstreamRequest(b"POST", b"/", b""),
        SimpleNamespace(decision=ALLOWED, request=UpstreamRequest(b"POST", b"/", b"")),
    ],
)
async def test_only_a_permit_is_sent(world, impostor):
    with pytest.raises(TypeError):
        await world.pool.send(impostor)
    assert world.dialer.addresses == []


async def test_a_subclass_of_permit_is_not_one(world):
    class Forged(Permit):
        def __post_init__(self):
            pass

    refused = Decision(Action.BLOCK, Action.BLOCK)
    with pytest.raises(TypeError):
        await world.pool.send(Forged(refused, UpstreamRequest(b"POST", b"/", b"")))


@pytest.mark.parametrize(
    "request_",
    [
        UpstreamRequest(b"PUT", b"/", b""),
        UpstreamRequest(b"POST ", b"/", b""),
        UpstreamRequest(b"POST", b"", b""),
        UpstreamRequest(b"POST", b"a", b""),
        UpstreamRequest(b"POST", b"/a b", b""),
        UpstreamRequest(b"POST", b"/a\r\nX: y", b""),
        UpstreamRequest(b"POST", b"/", b"x: y"),
        UpstreamRequest(b"POST", b"/", b"x: y\n"),
        UpstreamRequest(b"POST", b"/", b"\r\n"),
        UpstreamRequest(b"POST", b"/", b"x: y\r\n\r\nGET / HTTP/1.1\r\n"),
    ],
)
async def test_what_is_not_one_request_is_not_sent(world, request_):
    with pytest.raises(ValueError, match="permitted"):
        await world.pool.send(Permit(ALLOWED, request_))
    assert world.dialer.last.take() == b""
    state = world.pool.state().addresses[0]
    assert (state.in_flight, state.idle) == (0, 1)


async def test_a_get_has_no_length(world):
    task = asyncio.create_task(world.pool.send(permit(method=b"GET", target=b"/v2")))
    await world.settle()
    sent = world.dialer.last.take()
    assert sent == b"GET /v2 HTTP/1.1\r\nhost: model0:80\r\nx-test: 1\r\n\r\n"
    world.dialer.last.feed(answer(b""))
    await task


# Connections


async def test_a_connection_is_kept_alive_and_used_again(world):
    first = await served(world)
    assert await served(world) is first
    state = world.pool.state().addresses[0]
    assert (state.connects, state.idle, state.in_flight, state.errors) == (1, 1, 0, 0)


async def test_concurrent_requests_have_a_connection_each(world):
    tasks = [await under_way(world, b"%d" % index) for index in range(3)]
    assert len(world.dialer.transports) == 3
    assert world.pool.state().addresses[0].in_flight == 3
    for index, transport in reversed(list(enumerate(world.dialer.transports))):
        transport.feed(answer(b"%d" % index))
    assert [await (await task).body(9) for task in tasks] == [b"0", b"1", b"2"]


async def test_an_unreachable_upstream(world):
    world.dialer.unreachable.add("model0:80")
    assert await refusal(send(world)) == "BZ-130"
    assert world.pool.state().addresses[0].errors == 1


async def test_a_connection_that_speaks_first_is_not_used(world):
    original = world.dialer.__call__

    async def greeting(address, factory):
        connection = await original(address, factory)
        world.dialer.last.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        return connection

    world.pool._dial = greeting
    assert await refusal(send(world)) == "BZ-130"


async def test_connecting_has_a_deadline(world):
    world.dialer.hang = True
    task = await under_way(world)
    world.clock.advance(5)
    world.pool.sweep()
    await world.settle()
    assert not task.done()
    world.clock.advance(0.1)
    world.pool.sweep()
    assert await refusal(task) == "BZ-130"
    assert world.pool.state().addresses[0].in_flight == 0


async def test_a_client_that_leaves_while_connecting_leaves_the_connection_to_others(world):
    task = send(world)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await world.settle()
    state = world.pool.state().addresses[0]
    assert (state.connects, state.idle, state.in_flight) == (1, 1, 0)


async def test_a_client_that_leaves_cancels_its_request(world):
    task = await under_way(world)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.dialer.last.aborted
    state = world.pool.state().addresses[0]
    assert (state.idle, state.in_flight, state.errors) == (0, 0, 0)


async def test_an_idle_connection_is_closed_after_a_while(world):
    transport = await served(world)
    world.clock.advance(60)
    world.pool.sweep()
    assert not transport.closed
    world.clock.advance(0.2)
    world.pool.sweep()
    assert transport.closed


# Stale connections


async def test_a_stale_connection_is_replaced_once_by_a_fresh_one(world):
    first, second = await under_way(world), await under_way(world)
    for transport in world.dialer.transports:
        transport.take()
        transport.feed(answer(b"1"))
    await first
    await second
    task = await under_way(world, b"again")
    stale = next(each for each in world.dialer.transports if each.written)
    stale.lose(ConnectionResetError())
    await world.settle()
    assert len(world.dialer.transports) == 3  # a fresh one, though another was idle
    assert world.dialer.last.take() == bytes(stale.written)
    world.dialer.last.feed(answer(b"2"))
    assert await (await task).body(9) == b"2"
    state = world.pool.state().addresses[0]
    assert (state.stale_replaced, state.errors) == (1, 0)


async def test_but_only_once(world):
    await served(world)
    task = await under_way(world)
    world.dialer.last.lose()
    await world.settle()
    world.dialer.last.lose()
    assert await refusal(task) == "BZ-132"
    assert len(world.dialer.transports) == 2


async def test_nothing_is_repeated_after_a_byte_of_the_answer(world):
    await served(world)
    task = await under_way(world)
    world.dialer.last.feed(b"H")
    world.dialer.last.lose()
    assert await refusal(task) == "BZ-132"
    assert len(world.dialer.transports) == 1


async def test_nothing_is_repeated_after_an_interim_answer(world):
    await served(world)
    task = await under_way(world)
    world.dialer.last.feed(b"HTTP/1.1 100 Continue\r\n\r\n")
    world.dialer.last.lose()
    assert await refusal(task) == "BZ-132"
    assert len(world.dialer.transports) == 1


async def test_nothing_is_repeated_on_a_fresh_connection(world):
    task = await under_way(world)
    world.dialer.last.lose()
    assert await refusal(task) == "BZ-132"
    assert len(world.dialer.transports) == 1


async def test_the_replacement_is_fresh_even_if_the_pool_was_full():
    world = World(pool_limits=PoolLimits(connections=2))
    old, stale = await both_used(world)
    busy = await under_way(world, b"busy")
    again = await under_way(world, b"again")
    waiting = await under_way(world, b"waiting")
    stale, old = (old, stale) if old.written.endswith(b"again") else (stale, old)
    stale.lose()  # its place goes to who waits
    await world.settle()
    assert world.pool.state().waiting == 1
    old.feed(answer(b"1"))
    await busy
    await world.settle()
    assert old.aborted
    third, fourth = world.dialer.transports[2:]
    assert third.take().endswith(b"waiting")
    assert fourth.take().endswith(b"again")
    third.feed(answer(b"2"))
    fourth.feed(answer(b"3"))
    assert await (await waiting).body(9) == b"2"
    assert await (await again).body(9) == b"3"


async def test_the_replacement_takes_the_place_of_an_idle_connection():
    world = World(pool_limits=PoolLimits(connections=2))
    old, stale = await both_used(world)
    again = await under_way(world, b"again")
    stale, old = (old, stale) if old.written else (stale, old)
    (upstream,) = world.pool._balance.upstreams
    upstream.connecting += 1  # somebody else opens the last one
    stale.lose()
    await world.settle()
    assert old.aborted
    upstream.connecting -= 1
    world.dialer.last.feed(answer(b"2"))
    assert await (await again).body(9) == b"2"


async def both_used(world):
    """Two idle connections."""
    tasks = [await under_way(world) for _ in range(2)]
    for transport in world.dialer.transports:
        transport.take()
        transport.feed(answer(b"1"))
    for task in tasks:
        await task
    return world.dialer.transports


# Deadlines


async def test_an_answer_has_a_deadline(world):
    task = await under_way(world)
    world.clock.advance(30)
    world.dialer.last.feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    world.pool.sweep()
    await world.settle()
    assert not task.done()
    world.clock.advance(0.1)
    world.pool.sweep()
    assert await refusal(task) == "BZ-131"
    assert world.dialer.last.aborted


async def test_the_whole_of_an_answer_has_a_deadline(world):
    task = await under_way(world)
    transport = world.dialer.last
    transport.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    response = await task
    body = asyncio.create_task(response.body(1000))
    for _ in range(60):
        world.clock.advance(1)
        transport.feed(b"x")
        world.pool.sweep()
        await world.settle()
    assert not body.done()
    world.clock.advance(0.1)
    world.pool.sweep()
    assert await refusal(body) == "BZ-131"


@pytest.mark.parametrize("slow", ["client", "upstream"])
async def test_a_slow_client_is_not_the_upstreams_fault(slow):
    world = World(pool_limits=PoolLimits(buffer_bytes=100))
    task = await under_way(world)
    transport = world.dialer.last
    transport.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    response = await task
    transport.feed(b"x" * (101 if slow == "client" else 100))
    world.clock.advance(60.1)
    world.pool.sweep()
    assert response.take()
    assert await refusal(asyncio.create_task(response.read())) == "BZ-131"
    assert transport.aborted
    assert world.pool.state().addresses[0].errors == (slow == "upstream")


async def test_sweeps_come_by_themselves():
    world = World(pool_limits=PoolLimits(sweep_seconds=0.001, response_seconds=1))
    task = await under_way(world)
    world.clock.advance(2)
    assert await refusal(task) == "BZ-131"
    await world.pool.close()


# The queue


def narrow(**limits):
    return World(pool_limits=PoolLimits(connections=1, **limits))


async def test_who_finds_no_connection_waits_in_order():
    world = narrow()
    tasks = [await under_way(world, b"%d" % index) for index in range(4)]
    transport = world.dialer.last
    assert world.pool.state().waiting == 3
    for index in range(4):
        assert transport.take().endswith(b"%d" % index)
        transport.feed(answer(b"%d" % index))
        await world.settle()
    assert [await (await task).body(9) for task in tasks] == [b"0", b"1", b"2", b"3"]
    assert len(world.dialer.transports) == 1


async def test_who_waits_gets_to_connect_when_a_connection_ends():
    world = narrow()
    first, second = await under_way(world, b"1"), await under_way(world, b"2")
    world.dialer.last.feed(answer(b"1", b"Connection: close"))
    await world.settle()
    assert len(world.dialer.transports) == 2
    world.dialer.last.feed(answer(b"2"))
    assert await (await first).body(9) == b"1"
    assert await (await second).body(9) == b"2"


async def test_the_queue_is_bounded_by_time():
    world = narrow()
    tasks = [await under_way(world) for _ in range(3)]
    world.clock.advance(1.0)
    world.pool.sweep()
    await world.settle()
    assert not any(task.done() for task in tasks)
    world.clock.advance(0.1)
    world.pool.sweep()
    for task in tasks[1:]:
        assert await refusal(task) == "BZ-133"
    assert world.pool.state().queue_timeouts == 2
    world.dialer.last.feed(answer(b"1"))
    await tasks[0]


async def test_a_standing_queue_is_shed_fast_a_burst_is_not():
    world = narrow(queue_seconds=1.0, queue_target_seconds=0.1)
    await under_way(world)
    early = await under_way(world)
    world.clock.advance(0.9)
    late = await under_way(world)
    world.clock.advance(0.15)
    world.pool.sweep()
    # The queue has stood for more than a second: those who came late are no better off.
    assert await refusal(early) == "BZ-133"
    assert await refusal(late) == "BZ-133"
    burst = await under_way(world)  # the queue was empty a moment ago
    world.clock.advance(0.9)
    world.pool.sweep()
    await world.settle()
    assert not burst.done()


async def test_who_waited_too_long_is_not_served_even_if_a_connection_comes_free():
    world = narrow()
    first, late, last = [await under_way(world, b"%d" % index) for index in range(3)]
    world.clock.advance(1.1)
    world.dialer.last.take()
    world.dialer.last.feed(answer(b"1"))
    await first
    assert await refusal(late) == "BZ-133"
    assert await refusal(last) == "BZ-133"
    assert world.dialer.last.take() == b""
    assert world.pool.state().addresses[0].idle == 1


async def test_a_client_that_leaves_the_queue_leaves_its_place():
    world = narrow()
    first, second, third = [await under_way(world, b"%d" % index) for index in range(3)]
    second.cancel()
    await world.settle()
    assert world.pool.state().waiting == 1
    transport = world.dialer.last
    transport.take()
    transport.feed(answer(b"0"))
    await world.settle()
    assert transport.take().endswith(b"2")
    transport.feed(answer(b"2"))
    await first
    assert await (await third).body(9) == b"2"


async def test_a_client_that_leaves_as_it_is_served_passes_the_connection_on():
    world = narrow()
    first, second, third = [await under_way(world, b"%d" % index) for index in range(3)]
    world.dialer.last.take()
    world.dialer.last.feed(answer(b"0"))  # wakes the second, whose task has not run yet
    second.cancel()
    await world.settle()
    assert world.dialer.last.take().endswith(b"2")
    world.dialer.last.feed(answer(b"2"))
    await first
    assert await (await third).body(9) == b"2"


# Several upstreams


async def test_the_least_outstanding_is_asked():
    world = World(upstreams=3)
    for _ in range(6):
        await under_way(world)
    assert [state.in_flight for state in world.pool.state().addresses] == [2, 2, 2]
    world.dialer.transports[0].feed(answer(b""))
    await world.settle()
    await under_way(world)
    assert [state.in_flight for state in world.pool.state().addresses] == [2, 2, 2]


async def test_another_address_is_tried_if_one_cannot_be_reached():
    world = World(upstreams=3)
    world.dialer.unreachable = {"model0:80", "model1:80"}
    for _ in range(3):
        task = await under_way(world)
        transport = world.dialer.last
        transport.take()
        transport.feed(answer(b"1"))
        assert (await task).status == 200
    assert {str(address) for address in world.dialer.addresses} >= {"model2:80"}


def half_there(**limits):
    """Two upstreams of which the first one refuses, on a clock that moves as it is read."""
    world = World()
    looks = itertools.count()
    addresses = [Address.parse(f"http://model{index}:80") for index in range(2)]
    world.dialer.unreachable = {"model0:80"}
    world.pool = world.application.pool = Pool(
        addresses,
        PoolLimits(connections=1, **limits),
        clock=lambda: world.clock() + 1e-4 * next(looks),
        dial=world.dialer,
    )
    return world, looks


async def all_served(world, clients):
    """The statuses of the clients, as the one upstream that is there answers one after another."""
    for _ in clients:
        world.dialer.last.feed(answer(b"1"))
        await world.settle()
    return [client.take()[9:12] for client in clients]


async def test_who_waits_is_given_leave_for_the_address_that_has_room():
    world, looks = half_there(failures=100)
    clients = [world.connect() for _ in range(5)]
    for client in clients:
        client.feed(post(b"q"))
        await world.settle()
    assert world.pool.state().waiting == 4
    before = next(looks)
    # A sweep finds room at the address that refuses: who waits is given leave to try it, and does.
    world.pool.sweep()
    await world.settle()
    assert next(looks) - before < 100, "it goes round and round"
    assert world.dialer.addresses.count(Address.parse("http://model0:80")) > 1
    assert await all_served(world, clients) == [b"200"] * 5


async def test_who_waits_is_not_sent_to_an_ejected_address():
    world, looks = half_there(failures=1)
    clients = [world.connect() for _ in range(5)]
    for client in clients:
        client.feed(post(b"q"))
        await world.settle()
    assert [state.ejected for state in world.pool.state().addresses] == [True, False]
    before, dialled = next(looks), len(world.dialer.addresses)
    world.pool.sweep()
    await world.settle()
    assert next(looks) - before < 100, "it goes round and round"
    assert len(world.dialer.addresses) == dialled
    assert await all_served(world, clients) == [b"200"] * 5


async def test_all_unreachable():
    world = World(upstreams=2)
    world.dialer.unreachable = {"model0:80", "model1:80"}
    assert await refusal(send(world)) == "BZ-130"
    assert len(world.dialer.addresses) == 2


# Ends


async def test_closing_a_pool_fails_what_is_under_way():
    world = narrow()
    idle = World()
    transport = await served(idle)
    await idle.pool.close()
    assert transport.closed
    asked, waiting = await under_way(world), await under_way(world)
    await world.pool.close()
    assert await refusal(asked) == "BZ-132"
    assert await refusal(waiting) == "BZ-130"
    assert world.dialer.last.aborted


async def test_closing_a_pool_ends_what_connects(world):
    world.dialer.hang = True
    task = await under_way(world)
    await world.pool.close()
    assert await refusal(task) == "BZ-130"


async def test_a_pool_may_close_gently(world):
    idle = await served(world)
    task = await under_way(world)
    closing = asyncio.create_task(world.pool.close(60))
    await world.settle()
    late = await under_way(world, b"late")
    assert not closing.done()
    idle.feed(answer(b"1"))
    world.dialer.last.feed(answer(b"2"))
    assert await (await task).body(9) == b"1"
    assert await (await late).body(9) == b"2"
    assert all(transport.closed for transport in world.dialer.transports)
    # A request whose body was under way all the while.
    last = await under_way(world, b"last")
    assert not closing.done()
    world.dialer.last.feed(answer(b"3"))
    assert await (await last).body(9) == b"3"
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    over = await under_way(world)
    assert over.done()
    assert await refusal(over) == "BZ-130"


@pytest.mark.parametrize("told", [True, False])
async def test_a_gentle_close_ends_in_time_or_when_it_is_told_to(world, told):
    task = await under_way(world)
    closing = asyncio.create_task(world.pool.close(60 if told else 0.001))
    await asyncio.sleep(0)
    if told:
        closing.cancel()
    await asyncio.wait([closing])
    assert world.dialer.last.aborted
    assert await refusal(task) == "BZ-132"


def test_a_pool_needs_an_address():
    with pytest.raises(ValueError, match="upstream"):
        Pool([])
