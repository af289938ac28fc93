"""Sketches over a real connection, while its server is paused, killed, read-only or full."""

import asyncio

import pytest
from redis_servers import ANY, RedisServer
from sketches_conformance import STILL, doubles, evidence

from detectors.patterns.exchange import Delta
from proxy.state.base import StateUnavailable
from proxy.state.redis.state import RedisState

pytestmark = pytest.mark.skipif(ANY is None, reason="no redis-server is installed")


@pytest.fixture
def server(tmp_path):
    one = RedisServer(tmp_path)
    yield one.start()
    one.stop()


@pytest.fixture
async def replicas(server):
    states = [RedisState(server.url, timeout_seconds=0.3, beat_seconds=0.05) for _ in range(2)]
    for state in states:
        await state.start()
    yield states
    for state in states:
        await state.close()


async def until(condition, seconds=20.0):
    """Waits for a condition."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - of what another process does
            await asyncio.sleep(0.005)


class Replica:
    """One worker's part, with as much of a tracker as matters here."""

    def __init__(self, state):
        self.state = state
        self.sketches = state.sketches("e", STILL)
        self.cursor = 0
        self.levels = ()
        self.told = 0
        self.others = b""

    async def learn(self, number):
        """Learns one nat and one entry of a client, and tells."""
        self.told += 1
        entry = number.to_bytes(2, "little")
        delta = Delta(
            "client:a", evidence(1.0), doubles(1.0), b"", entry, self.cursor, 0, self.levels
        )
        await self.exchange([delta])

    async def exchange(self, deltas):
        for merged in await self.sketches.exchange(deltas):
            self.cursor, self.levels = merged.cursor, merged.levels
            self.others += merged.entries

    async def settle(self):
        """Waits until everything is told."""
        await until(lambda: not self.state.health().degraded)
        while self.sketches.spooled:
            await self.exchange([])
            await until(lambda: not self.state.health().degraded)


FAULTS = {
    "paused": (lambda server: server.pause(), lambda server: server.resume()),
    "read-only": (
        lambda server: server.execute("REPLICAOF", "127.0.0.1", "1"),
        lambda server: server.execute("REPLICAOF", "NO", "ONE"),
    ),
    "full": (
        lambda server: server.execute("CONFIG", "SET", "maxmemory", "1"),
        lambda server: server.execute("CONFIG", "SET", "maxmemory", "0"),
    ),
    "scripts flushed": (lambda server: server.execute("SCRIPT", "FLUSH"), lambda _: None),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_was_learnt_meanwhile_is_added_once(server, replicas, fault):
    begin, end = FAULTS[fault]
    here, there = map(Replica, replicas)
    number = 0
    for _ in range(3):
        for replica in (here, there, here):
            await replica.learn(number := number + 1)
        begin(server)
        for replica in (here, there, here):
            await replica.learn(number := number + 1)
        end(server)
        for replica in (here, there):
            await replica.settle()
    merged = await here.sketches.look("client:a")
    assert merged.levels == (18.0,)
    assert merged.sums == doubles(18.0)
    assert merged.cursor == 18
    assert here.told + there.told == 18
    assert not any(state.health().dropped for state in replicas)
    mine = {entry.to_bytes(2, "little") for entry in range(1, 19) if entry % 3 != 2}
    got = {here.others[at : at + 2] for at in range(0, len(here.others), 2)}
    assert not got & mine


async def test_a_killed_server_comes_back_with_the_evidence(server, replicas):
    here, there = map(Replica, replicas)
    for number in range(1, 10):
        await here.learn(number)
        await there.learn(100 + number)
    await here.exchange([Delta("client:a", cursor=here.cursor)])
    assert here.levels == (18.0,)
    server.kill()
    await here.learn(10)
    assert here.state.health().degraded
    with pytest.raises(StateUnavailable):
        await here.sketches.look("client:a")
    assert await here.sketches.bans() is None
    server.start()
    await here.settle()
    assert here.levels == (19.0,)
    assert (await there.sketches.look("client:a")).levels == (19.0,)
