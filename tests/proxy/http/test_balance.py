from __future__ import annotations

import asyncio
from functools import partial

import pytest
from in_memory import Clock, World, answer, permit

from proxy.http.address import Address
from proxy.http.balance import Balance, Upstream
from proxy.http.limits import PoolLimits


@pytest.fixture
def clock():
    return Clock()


def balance(count, clock):
    addresses = [Address.parse(f"http://model{index}") for index in range(count)]
    return Balance(addresses, PoolLimits(), clock, partial(Upstream, freed=lambda *_: None))


def fail(upstream, times=5):
    for _ in range(times):
        upstream.failed()


def test_ties_take_turns(clock):
    upstreams = balance(3, clock)
    assert len({upstreams.choose() for _ in range(3)}) == 3


def test_five_consecutive_failures_eject(clock):
    upstreams = balance(2, clock)
    first, second = upstreams.upstreams
    fail(first, 4)
    assert len(upstreams.sound()) == 2
    fail(first, 1)
    assert list(upstreams.sound()) == [second]
    assert {upstreams.choose() for _ in range(4)} == {second}
    clock.advance(29.9)
    assert list(upstreams.sound()) == [second]
    clock.advance(0.2)
    assert len(upstreams.sound()) == 2


def test_ejections_grow_to_a_cap_and_are_forgiven(clock):
    upstreams = balance(2, clock)
    first = upstreams.upstreams[0]
    lengths = []
    for _ in range(12):
        fail(first)
        lengths.append(first.ejected_until - clock.now)
        clock.now = first.ejected_until + 1
    assert lengths == [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]
    clock.advance(300)
    fail(first)
    assert first.ejected_until - clock.now == 30
    assert first.ejections == 13


def test_the_only_upstream_is_never_ejected(clock):
    upstreams = balance(1, clock)
    fail(upstreams.upstreams[0], 50)
    assert upstreams.choose() is upstreams.upstreams[0]
    assert upstreams.upstreams[0].ejections == 0


def test_nor_is_the_last_that_remains(clock):
    upstreams = balance(3, clock)
    for upstream in upstreams.upstreams:
        fail(upstream, 50)
    assert list(upstreams.sound()) == [upstreams.upstreams[2]]
    assert [each.ejections for each in upstreams.upstreams] == [1, 1, 0]


def test_nothing_is_left_to_try(clock):
    upstreams = balance(2, clock)
    assert upstreams.choose(upstreams.upstreams) is None


async def send(world, status):
    task = asyncio.create_task(world.pool.send(permit()))
    await world.settle()
    transport = next(each for each in world.dialer.transports if each.written)
    transport.take()
    transport.feed(answer(b"", status=status))
    await task
    return transport


async def test_statuses_of_500_and_more_count_and_a_success_forgives():
    world = World(upstreams=2)
    for _ in range(30):
        for status in (b"503 Busy",) * 2 + (b"200 OK",):
            await send(world, status)
    states = world.pool.state().addresses
    assert not any(state.ejected for state in states)
    assert sum(state.errors for state in states) == 60
    for _ in range(10):
        await send(world, b"500 Oops")
    assert sum(state.ejected for state in world.pool.state().addresses) == 1
    for _ in range(10):
        await send(world, b"500 Oops")
    assert sum(state.ejected for state in world.pool.state().addresses) == 1


async def test_a_client_that_leaves_is_no_failure():
    world = World(upstreams=2)
    for _ in range(20):
        task = asyncio.create_task(world.pool.send(permit()))
        await world.settle()
        task.cancel()
        await world.settle()
    assert not any(state.ejected or state.errors for state in world.pool.state().addresses)
