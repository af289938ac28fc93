from __future__ import annotations

import heapq
from random import Random
from types import SimpleNamespace

import pytest
from in_memory import Clock, World, answer, permit

from proxy.http.drive import Drive
from proxy.http.limits import PoolLimits
from proxy.http.line import Line
from proxy.http.turns import INTERVAL, TARGET, Turns
from proxy.rules import Refusal

BURST, STANDING = 0.1, 0.02


def paced(pace=0.005):
    line = Line(0.0)
    for turn in range(1, 50):
        line.left(turn * pace)
    line.empty(1.0)
    assert line.pace == pytest.approx(pace)
    return line


def test_a_burst_may_wait_long():
    line = paced()
    assert not line.refuses(18, 1.0, BURST, STANDING)
    assert line.refuses(20, 1.0, BURST, STANDING)


def test_a_standing_queue_may_not():
    line = paced()
    now = 1.0
    for _ in range(20):
        now += 0.005
        line.left(now)
        assert not line.refuses(6, now, BURST, STANDING)
        assert not line.refuses(0, now, BURST, STANDING), "a moment without a queue ends nothing"
    now += 0.01
    assert line.refuses(4, now, BURST, STANDING)
    assert not line.refuses(2, now, BURST, STANDING)
    now += BURST / 4 + 0.001
    line.left(now)
    line.empty(now)
    assert not line.refuses(10, now, BURST, STANDING), "and may again after a lull"


def test_nobody_is_refused_by_an_empty_queue():
    line = paced(10.0)
    assert not line.refuses(0, 100.0, BURST, STANDING)


def test_a_queue_that_stands_still_is_noticed_before_anything_leaves_it():
    line = Line(0.0)
    assert not line.refuses(3, 0.01, BURST, STANDING)
    assert line.refuses(3, 0.2, BURST, STANDING)


def test_several_may_leave_at_once():
    line = Line(0.0)
    line.left(0.1, 10)
    assert line.pace == pytest.approx(0.01)


# The loop's turns


class Connection:
    def __init__(self, clock, cost):
        self.clock, self.cost, self.done = clock, cost, False

    def go_on(self):
        self.clock.advance(self.cost)
        self.done = True


async def turn(turns, clock, seconds, gap=0.0):
    """One turn of the loop, ``gap`` seconds after the one before."""
    clock.advance(gap)
    if clock() > turns.next:
        turns.mark(clock())
    clock.advance(seconds)
    turns.end()


async def test_short_turns_change_nothing():
    clock = Clock()
    turns = Turns(clock)
    for _ in range(1000):
        await turn(turns, clock, TARGET * 0.9)
    assert not turns.overloaded


async def test_long_turns_for_an_interval_are_an_overload():
    clock = Clock()
    turns = Turns(clock)
    for _ in range(int(INTERVAL / 0.01) - 1):
        await turn(turns, clock, 0.01)
        assert not turns.overloaded, "a burst is none"
    for _ in range(4):
        await turn(turns, clock, 0.01)
    assert turns.overloaded
    assert turns.overloads == 1


async def test_a_stall_is_no_overload():
    clock = Clock()
    turns = Turns(clock)
    for _ in range(10):
        await turn(turns, clock, 0.5)
        await turn(turns, clock, 0.001)
    assert not turns.overloaded


async def test_long_turns_with_time_in_between_are_no_overload():
    clock = Clock()
    turns = Turns(clock)
    for _ in range(100):
        await turn(turns, clock, 0.02, gap=0.01)
    assert not turns.overloaded


async def test_a_slice_handles_what_it_can_and_the_rest_waits():
    clock = Clock()
    turns = Turns(clock)
    turns.overloaded = True
    line = [Connection(clock, 0.0005) for _ in range(100)]
    for connection in line:
        turns.defer(connection)
    turns.handle()
    done = sum(connection.done for connection in line)
    assert 4 <= done <= 6
    assert [connection.done for connection in line] == [True] * done + [False] * (100 - done)
    assert turns.refuses
    assert turns.wait == pytest.approx((100 - done + 1) * 0.0005, rel=0.1)
    while turns.waiting:
        turns.handle()
    assert all(connection.done for connection in line)
    assert not turns.refuses


async def test_few_may_always_wait_however_slow_they_are():
    clock = Clock()
    turns = Turns(clock)
    turns.overloaded = True
    for _ in range(32):
        turns.defer(Connection(clock, 0.01))
    turns.handle()
    assert not turns.refuses


async def test_an_overload_ends_once_all_is_done_at_once_for_an_interval():
    clock = Clock()
    turns = Turns(clock)
    turns.overloaded = True
    for _ in range(30):
        assert turns.overloaded
        turns.defer(Connection(clock, 0.001))
        turns.handle()
        clock.advance(INTERVAL / 25)
        if not turns.overloaded:
            break
    assert not turns.overloaded
    assert turns.waiting == 0


async def test_an_overload_by_connections_alone_ends_too():
    clock = Clock()
    turns = Turns(clock)
    turns.overloaded = True
    for _ in range(12):
        await turn(turns, clock, 0.001, gap=0.01)
    assert not turns.overloaded


# The pool


@pytest.mark.parametrize("seed", range(8))
async def test_in_flight_never_passes_the_limit_and_nobody_waits_beyond_the_bound(seed):
    """Random arrivals, costs, cancels, lost connections and errors against a real pool."""
    random = Random(seed)
    limits = PoolLimits(connections=16, queue_seconds=1.0, queue_target_seconds=0.1)
    world = World(pool_limits=limits)
    pool, clock = world.pool, world.clock
    (upstream,) = pool._balance.upstreams
    ended = []
    under_way = {}

    async def one(number):
        since = clock()
        try:
            response = await pool.send(permit(b"%d" % number))
            response.discard() if random.random() < 0.1 else await response.body(100)
            ended.append(("answered", clock() - since))
        except Refusal as refusal:
            ended.append((refusal.rule.id, clock() - since))

    answers = []
    drives = []
    for number in range(1500):
        clock.advance(random.expovariate(400 if number % 500 > 200 else 100))
        pool.sweep()
        drive = Drive(one(number), lambda error: None)
        drives.append(drive)
        drive.step()
        if random.random() < 0.02:
            random.choice(drives[-30:]).cancel()
        await world.settle()
        for transport in world.dialer.transports:
            if transport.written and not transport.closed and id(transport) not in under_way:
                under_way[id(transport)] = transport
                heapq.heappush(answers, (clock() + random.uniform(0.01, 0.08), id(transport)))
        while answers and answers[0][0] <= clock():
            transport = under_way.pop(heapq.heappop(answers)[1])
            transport.take()
            if transport.closed:
                continue
            if random.random() < 0.02:
                transport.lose()
            else:
                transport.feed(
                    answer(b"x", b"Connection: close" if random.random() < 0.1 else b"X: 1")
                )
        assert upstream.outstanding <= max(upstream.concurrency.limit, 16)
        assert len(upstream.connections) + upstream.connecting <= 16
        assert pool.state().waiting == sum(not place.left for place in pool._queue)
        assert upstream.connecting >= 0
    for rule, waited in ended:
        if rule == "BZ-133":
            assert waited <= limits.queue_seconds + 0.1
    assert {"answered", "BZ-133"} <= {rule for rule, _ in ended}
    await pool.close()
    assert pool.state().waiting == 0


async def flooded(world, count):
    """So many requests under way, and the transports that have them."""
    made = []
    for number in range(count):
        drive = Drive(world.pool.send(permit(b"%d" % number)), lambda error: None)
        drive.step()
        await world.settle()
        made.append(drive)
    return made


async def test_a_limit_that_falls_is_kept_by_not_handing_on():
    world = World(pool_limits=PoolLimits(connections=8))
    await flooded(world, 12)
    (upstream,) = world.pool._balance.upstreams
    assert world.pool.state().waiting == 4
    upstream.concurrency.limit = 4
    for transport in world.dialer.transports[:4]:
        transport.take()
        transport.feed(answer(b"x"))
    assert upstream.outstanding == 4
    assert world.pool.state().waiting == 4
    world.dialer.transports[4].take()
    world.dialer.transports[4].feed(answer(b"x"))
    assert upstream.outstanding == 4
    assert world.pool.state().waiting == 3
    upstream.concurrency.limit = 8
    world.pool.sweep()
    assert world.pool.state().waiting == 0
    await world.pool.close()


async def test_what_asks_how_the_server_does_passes_by_the_queue():
    world = World(pool_limits=PoolLimits(connections=8))
    (upstream,) = world.pool._balance.upstreams
    upstream.concurrency.limit = 2
    await flooded(world, 5)
    assert len(world.dialer.transports) == 2
    probe = Drive(world.pool.send(permit(method=b"GET", target=b"/v2")), lambda error: None)
    probe.step()
    await world.settle()
    assert bytes(world.dialer.last.written).startswith(b"GET /v2")
    await world.pool.close()


async def test_a_driven_client_that_leaves_the_queue_frees_its_place():
    world = World(pool_limits=PoolLimits(connections=1))
    _, second, _ = await flooded(world, 3)
    second.cancel()
    assert world.pool.state().waiting == 1
    transport = world.dialer.last
    transport.take()
    transport.feed(answer(b"0"))
    assert transport.take().endswith(b"2")
    await world.pool.close()


async def test_whoever_would_wait_too_long_is_told_at_once():
    world = World(pool_limits=PoolLimits(connections=4))
    (upstream,) = world.pool._balance.upstreams
    upstream.concurrency = SimpleNamespace(
        limit=4,
        baseline=0.02,
        lag=0.0,
        held=lambda now: None,
        check=lambda now: None,
        answered=lambda *_: None,
        missed=lambda *_: None,
    )
    await flooded(world, 4)
    deepest = []
    for _ in range(80):
        world.clock.advance(0.005)
        transport = next(each for each in world.dialer.transports if each.written)
        transport.take()
        transport.feed(answer(b"x"))
        await flooded(world, 3)
        deepest.append(world.pool.state().waiting)
    assert 8 <= max(deepest) <= 12, "a burst may wait three times as long as the server takes"
    assert deepest[-1] <= 4, "as many as are served within 20 ms, once the queue stands"
    turned_away = world.pool.state().queue_timeouts
    assert turned_away == 80 * 3 + 4 - (80 + 4 + deepest[-1])
    await flooded(world, 10)
    assert world.pool.crowded
    assert world.pool.state().queue_timeouts >= turned_away + 9, "at once"
    await world.pool.close()
