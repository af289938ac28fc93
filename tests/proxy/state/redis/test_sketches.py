"""Sketches shared through real Redis servers: the conformance suite, and whatever can go wrong."""

import asyncio
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_servers import ANY, BINARIES, RedisCluster, RedisServer
from sketches_conformance import (
    DAY,
    STILL,
    Learnt,
    Model,
    SketchesConformance,
    doubles,
    evidence,
)

from detectors.patterns.exchange import Delta, Layout, Stretch
from proxy.state.base import Sketches, StateUnavailable
from proxy.state.redis.address import parse
from proxy.state.redis.client import Client, NotDone, Unknown
from proxy.state.redis.sketches import RedisSketches

pytestmark = pytest.mark.skipif(ANY is None, reason="no redis-server")
FULL = Layout(entry_bytes=144, ring=64, shared_ring=1024)


class World:
    """Replicas of one server, whose clock the test moves ahead."""

    def __init__(self, server, url=None):
        self.server = server
        self.ahead = 0.0
        self._runner = asyncio.Runner()
        self.client = self.run(self._open(url or server.url))
        self._sketches = {}

    @staticmethod
    async def _open(url):
        return Client(parse(url), None, 10.0)

    def sketches(self, replica, layout, name="e", runner=None, spool=10_000):
        place = replica, name
        if place not in self._sketches:
            self._sketches[place] = RedisSketches(
                runner or self.client,
                name,
                layout,
                replica=replica.to_bytes(8, "big"),
                clock=lambda: self.ahead,
                spool=spool,
                ahead=lambda: self.ahead,
            )
        return self._sketches[place]

    def advance(self, seconds):
        self.ahead += seconds

    def clear(self):
        self._sketches.clear()
        self.ahead = 0.0
        self.server.execute("FLUSHALL")

    def run(self, coroutine):
        return self._runner.run(coroutine)

    def keys(self):
        """Every key on the server."""
        with self.server.client() as client:
            return sorted(client.keys())

    def close(self):
        self.run(self.client.close())
        self._runner.close()


@pytest.fixture(scope="module", params=["wheel", "system"])
def server(request):
    if request.param not in BINARIES:
        pytest.skip(f"no redis-server of the {request.param}")
    with tempfile.TemporaryDirectory() as folder:
        running = RedisServer(folder, BINARIES[request.param]).start()
        yield running
        running.stop()


@pytest.fixture
def world(server):
    server.execute("FLUSHALL")
    world = World(server)
    yield world
    world.close()


class TestRedisSketches(SketchesConformance):
    """The conformance suite."""


class Faulty:
    """A runner of which the test says how each round trip goes: ``plan`` is used up, then all is
    well."""

    def __init__(self, runner):
        self._runner = runner
        self.plan = []

    async def run(self, calls):
        how = self.plan.pop(0) if self.plan else "ok"
        if how == "refused":
            return [NotDone("refused")] * len(calls)
        if how == "lost":
            return [Unknown("lost on the way")] * len(calls)
        replies = await self._runner.run(calls)
        if how == "unanswered":
            return [Unknown("no answer")] * len(calls)
        if how == "half":
            return [
                reply if number % 2 else Unknown("no answer")
                for number, reply in enumerate(replies)
            ]
        return replies


@pytest.fixture
def faulty(world):
    return Faulty(world.client)


def test_it_serves_the_interface(world):
    sketches: Sketches = world.sketches(0, STILL)
    assert world.run(sketches.exchange([Delta("client:a")]))


ROUNDS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.lists(st.sampled_from(["ok", "refused", "lost", "unanswered", "half"]), max_size=4),
        st.lists(
            st.tuples(
                st.sampled_from(["client:a", "client:b", "client:c"]),
                st.lists(st.floats(0, 2, width=32), max_size=2),
                st.integers(0, 4),
            ),
            max_size=3,
            unique_by=lambda told: told[0],
        ),
    ),
    max_size=12,
)


@given(rounds=ROUNDS)
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
def test_whatever_fails_each_delta_counts_once_and_no_entry_comes_back(world, rounds):
    world.clear()
    layout = Layout(entry_bytes=2, ring=40, recovery=0.0, ceiling=1e9)
    runners = [Faulty(world.client), Faulty(world.client)]
    replicas = [world.sketches(number, layout, runner=runners[number]) for number in range(2)]
    cursors, told, seen = {}, {}, {}
    number = 0

    def exchange(replica, deltas):
        for merged in world.run(replicas[replica].exchange(deltas)):
            cursors[replica, merged.key] = merged.cursor
            seen.setdefault((replica, merged.key), []).append(merged.entries)

    for replica, plan, learnt in rounds:
        runners[replica].plan = list(plan)
        deltas = []
        for key, increments, count in learnt:
            entries = [(number + index).to_bytes(2, "little") for index in range(count)]
            number += count
            model = told.setdefault(key, ([], ([], [])))
            model[0].extend(increments)
            model[1][replica].extend(entries)
            learnt_here = Learnt((tuple(increments), ()), np.ones(3), entries=tuple(entries))
            deltas.append(learnt_here.delta(key, cursors.get((replica, key), 0), 0))
        exchange(replica, deltas)
    for runner in runners:
        runner.plan = []
    for _ in range(2):
        for replica in range(2):
            exchange(replica, [Delta(key, cursor=cursors.get((replica, key), 0)) for key in told])
    for key, (increments, entries) in told.items():
        merged = world.run(replicas[0].look(key))
        assert merged.levels[0] == pytest.approx(sum(increments))
        assert merged.cursor == sum(map(len, entries))
        for replica in range(2):
            others = b"".join(seen[replica, key])
            assert others == b"".join(entries[1 - replica])
    assert not any(sketches.spooled or sketches.dropped for sketches in replicas)


def test_while_nothing_answers_deltas_wait_in_order(world, faulty):
    sketches = world.sketches(0, STILL, runner=faulty)
    faulty.plan = ["refused"] * 3
    for nats in (3.0, -5.0, 1.0):
        delta = Delta("client:a", (Stretch(nats, max(0.0, nats)),), doubles(nats), entries=b"aa")
        assert list(world.run(sketches.exchange([delta]))) == []
    assert (sketches.spooled, sketches.dropped) == (1, 0)
    (merged,) = world.run(sketches.exchange([]))
    assert (merged.levels, merged.sums, merged.cursor) == ((1.0,), doubles(-1.0), 3)
    assert (sketches.spooled, merged.entries) == (0, b"")


def test_what_was_added_without_an_answer_does_not_come_back_to_its_sender(world, faulty):
    sketches, other = world.sketches(0, STILL, runner=faulty), world.sketches(1, STILL)
    faulty.plan = ["unanswered"]
    world.run(sketches.exchange([Delta("client:a", entries=b"aabb")]))
    world.run(other.exchange([Delta("client:a", entries=b"cc")]))
    (merged,) = world.run(sketches.exchange([]))
    assert (merged.entries, merged.cursor) == (b"cc", 3)


def test_the_board_is_bounded_and_does_not_keep_who_is_no_longer_accused(world):
    sketches = world.sketches(0, STILL)
    deltas = [Delta(f"client:{number}", evidence(number / 100)) for number in range(1200)]
    world.run(sketches.exchange(deltas))
    assert world.server.execute("ZCARD", "bz:{e}:board") == 1000
    assert world.run(sketches.strongest(1)) == [("1199", 11.99)]
    world.run(sketches.exchange([Delta("client:1199", (Stretch(-99.0, 0.0),))]))
    assert world.server.execute("ZCARD", "bz:{e}:board") == 999


def test_what_was_added_is_not_added_again_days_later(world, faulty):
    sketches = world.sketches(0, Layout(recovery=0.0, retention=10 * DAY), runner=faulty)
    faulty.plan = ["unanswered"]
    world.run(sketches.exchange([Delta("client:a", evidence(3.0))]))
    world.advance(2 * DAY)
    (merged,) = world.run(sketches.exchange([Delta("client:a", evidence(1.0))]))
    assert merged.levels == (4.0,)


def test_what_may_have_been_added_before_the_record_forgot_is_dropped(world, faulty):
    sketches = world.sketches(0, STILL, runner=faulty)
    faulty.plan = ["unanswered"]
    world.run(sketches.exchange([Delta("client:a", evidence(3.0))]))
    for replica in range(1, 131):
        world.run(world.sketches(replica, STILL).exchange([Delta("client:a", evidence(0.1))]))
    (merged,) = world.run(sketches.exchange([]))
    assert merged.levels == (pytest.approx(16.0),)
    assert sketches.dropped == 1
    # Who comes for the first time is not in doubt, nor is one who was refused later than that.
    world.advance(10)
    late = Faulty(world.client)
    newcomer = world.sketches(200, STILL, runner=late)
    late.plan = ["refused"]
    world.run(newcomer.exchange([Delta("client:a", evidence(1.0))]))
    (merged,) = world.run(newcomer.exchange([]))
    assert (merged.levels, newcomer.dropped) == ((pytest.approx(17.0),), 0)


def test_replicas_that_are_gone_leave_no_trace_in_a_record(world):
    for replica in range(40):
        world.run(world.sketches(replica, STILL).exchange([Delta("client:a", evidence(0.1))]))
        world.advance(600)
    with world.server.client() as client:
        assert client.strlen("bz:{e:client:a}") < 48 + 8 + 8 * 16


def test_a_full_spool_drops_those_with_the_least_evidence(world, faulty):
    sketches = world.sketches(0, STILL, runner=faulty, spool=50)
    faulty.plan = ["refused"] * 1000
    world.run(sketches.exchange([Delta("shared", entries=b"aa")]))
    world.run(sketches.exchange([Delta("client:attacker", evidence(5.0))]))
    for number in range(300):
        world.run(sketches.exchange([Delta(f"client:{number}", evidence(0.1))]))
    assert sketches.spooled <= 50
    assert sketches.dropped >= 250
    faulty.plan = []
    merged = world.run(sketches.exchange([]))
    assert len(merged) + sketches.dropped == 302
    assert {"shared", "client:attacker", "client:299"} <= {known.key for known in merged}


def test_a_forgiven_client_is_not_accused_by_what_waited(world, faulty):
    sketches = world.sketches(0, STILL, runner=faulty)
    faulty.plan = ["unanswered"]
    world.run(sketches.exchange([Delta("client:a", evidence(9.0))]))
    faulty.plan = ["refused"]
    world.run(sketches.exchange([Delta("client:a", evidence(9.0))]))
    world.run(world.sketches(1, STILL).forgive("a"))
    (merged,) = world.run(sketches.exchange([]))
    assert merged.levels == (0.0,)
    assert merged.epoch > 0
    assert sketches.dropped == 0


def test_an_operator_hears_of_it_if_nothing_could_be_done(world, faulty):
    sketches = world.sketches(0, STILL, runner=faulty)
    for action in (
        lambda: sketches.forgive("a"),
        lambda: sketches.ban("a", 5.0),
        lambda: sketches.look("client:a"),
        lambda: sketches.strongest(3),
    ):
        for how in ("refused", "lost"):
            faulty.plan = [how]
            with pytest.raises(StateUnavailable):
                world.run(action())
    faulty.plan = ["lost"]
    assert world.run(sketches.bans()) is None
    for client, seconds in (("", 5.0), ("a", float("nan")), ("a", float("inf"))):
        with pytest.raises(ValueError, match="a ban is"):
            world.run(sketches.ban(client, seconds))


def test_the_board_fails_alone(world, faulty):
    sketches = world.sketches(0, STILL, runner=faulty)
    faulty.plan = ["ok", "lost"]
    assert len(world.run(sketches.exchange([Delta("client:a", evidence(3.0))]))) == 1
    assert list(world.run(sketches.strongest(5))) == []
    world.run(sketches.exchange([Delta("client:a")]))
    assert list(world.run(sketches.strongest(5))) == [("a", 3.0)]


def test_scripts_that_the_server_forgot_are_given_again(world):
    sketches = world.sketches(0, STILL)
    for expected in (1.0, 2.0):
        world.server.execute("SCRIPT", "FLUSH")
        (merged,) = world.run(sketches.exchange([Delta("client:a", evidence(1.0))]))
        assert merged.levels == (expected,)


def test_bans_that_have_not_changed_are_not_sent_again(world):
    sketches = world.sketches(0, STILL)
    world.run(sketches.ban("a", 100.0))
    asked = []

    class Watched:
        async def run(self, calls):
            replies = await world.client.run(calls)
            asked.extend(replies)
            return replies

    other = world.sketches(1, STILL, runner=Watched())
    for _ in range(3):
        assert list(world.run(other.bans())) == ["a"]
    assert [len(reply) for reply in asked] == [6, 2, 2]


def test_everything_on_the_server_expires(world):
    sketches = world.sketches(0, Layout(2, 5, 9, retention=500.0))
    for entries in (b"aa", b"bb"):
        parts = [Delta("client:a", evidence(3.0), entries=entries), Delta("shared")]
        world.run(sketches.exchange(parts))
    world.run(sketches.forgive("b"))
    world.run(sketches.ban("a", 300.0))
    world.run(sketches.ban("b", 200.0))
    keys = world.keys()
    assert len(keys) == 5
    with world.server.client() as client:
        left = {key: client.pttl(key) for key in keys}
    # What is exact is the script's own; the server's comes within ten minutes of it.
    week = 7 * 86_400_000  # for which it is known that there were bans
    assert week + 200_000 < left.pop(b"bz:{e}:bans") <= week + 300_000
    assert all(0 < milliseconds <= 500_000 + 600_000 for milliseconds in left.values()), left


def test_bans_outlive_a_server_that_lost_them(world):
    one, other = world.sketches(0, STILL), world.sketches(1, STILL)
    world.run(one.ban("a", 300.0))
    world.run(one.ban("b", 300.0))
    assert set(world.run(other.bans())) == {"a", "b"}
    world.run(one.ban("b", 0.0))
    assert set(world.run(other.bans())) == {"a"}
    world.server.execute("FLUSHALL")
    assert set(world.run(other.bans())) == {"a"}
    assert set(world.run(one.bans())) == {"a"}
    world.run(one.ban("a", 0.0))
    for sketches in (one, other):
        assert not world.run(sketches.bans())
        assert not world.run(sketches.bans())


def test_a_full_client_takes_at_most_16_kilobytes(world):
    random = np.random.default_rng(0)
    for replica in range(130):
        sketches = world.sketches(replica, FULL)
        delta = Delta(
            "client:" + "f" * 32,
            evidence(1.0, 1.0),
            random.random(129).tobytes(),
            random.integers(1, 256, 512, "u1").tobytes(),
            random.bytes(144 * 10),
        )
        world.run(sketches.exchange([delta]))
    with world.server.client() as client:
        (key,) = client.keys("bz:{e:client*")
        assert 12_000 < client.memory_usage(key) <= 16_384


def test_an_ordinary_ring_is_held_without_spare_room(world):
    sketches = world.sketches(0, FULL)
    for _ in range(30):
        world.run(sketches.exchange([Delta("client:a", entries=bytes(144))]))
    with world.server.client() as client:
        key = "bz:{e:client:a}"
        assert client.memory_usage(key) < 1.3 * client.strlen(key) + 200


def test_a_full_server_takes_nothing_and_loses_nothing(world):
    sketches = world.sketches(0, FULL)
    whole = Delta("client:a", evidence(1.0), doubles(1), b"\1", bytes(144))
    world.run(sketches.exchange([whole]))
    world.server.execute("CONFIG", "SET", "maxmemory", "1")
    try:
        assert list(world.run(sketches.exchange([whole, Delta("client:b", evidence(1.0))]))) == []
        with pytest.raises(StateUnavailable):
            world.run(sketches.forgive("a"))
        with pytest.raises(StateUnavailable):
            world.run(sketches.ban("a", 9.0))
        assert world.run(sketches.look("client:a")).levels == pytest.approx((1.0,), abs=0.01)
        assert sketches.spooled == 2
    finally:
        world.server.execute("CONFIG", "SET", "maxmemory", "0")
    assert len(world.run(sketches.exchange([]))) == 2
    merged = world.run(sketches.look("client:a"))
    assert merged.levels == pytest.approx((2.0,), abs=0.01)
    assert (merged.sums, merged.cursor, sketches.spooled) == (doubles(2), 2, 0)


def test_a_server_that_was_killed_begins_from_what_replicas_know(tmp_path_factory):
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(folder).start()
        world = World(server)
        try:
            sketches = world.sketches(0, STILL)
            (merged,) = world.run(sketches.exchange([Delta("client:a", evidence(9.0))]))
            server.kill()
            late = Delta("client:a", evidence(1.0), levels=merged.levels, cursor=merged.cursor)
            assert list(world.run(sketches.exchange([late]))) == []
            assert world.run(sketches.bans()) is None
            server.start()
            (merged,) = world.run(sketches.exchange([]))
            assert merged.levels == (10.0,)
        finally:
            world.close()
            server.stop()


def test_what_waits_for_another_layout_loses_its_entries_only(world, faulty):
    sketches = world.sketches(0, STILL, runner=faulty)
    faulty.plan = ["unanswered", "refused"]
    world.run(sketches.exchange([Delta("client:a", evidence(1.0), entries=b"aa")]))
    world.run(sketches.exchange([Delta("client:a", evidence(1.0), entries=b"bb")]))
    world.run(sketches.exchange([Delta("client:b", evidence(1.0), entries=b"cc")]))
    sketches.configure(Layout(entry_bytes=3, ring=4, shared_ring=4, recovery=0.0))
    world.run(sketches.exchange([Delta("client:a", entries=b"dddeee")]))
    assert world.run(sketches.look("client:a")).levels == (2.0,)
    assert world.run(sketches.look("client:a")).entries == b"dddeee"
    assert world.run(sketches.look("client:b")).levels == (1.0,)


def test_exchanges_at_the_same_time_do_not_mix(world):
    sketches = world.sketches(0, STILL)

    async def at_once():
        return await asyncio.gather(
            *(sketches.exchange([Delta("client:a", evidence(1.0))]) for _ in range(20))
        )

    world.run(at_once())
    assert world.run(sketches.look("client:a")).levels == (20.0,)


def test_a_cancelled_exchange_is_finished_later(world):
    reached, release = asyncio.Event(), asyncio.Event()

    class Slow:
        async def run(self, calls):
            replies = await world.client.run(calls)
            reached.set()
            await release.wait()
            return replies

    sketches = world.sketches(0, STILL, runner=Slow())

    async def cancelled():
        exchange = asyncio.create_task(sketches.exchange([Delta("client:a", evidence(1.0))]))
        await reached.wait()
        exchange.cancel()
        await asyncio.wait([exchange])
        assert exchange.cancelled()
        release.set()
        return await sketches.exchange([])

    (merged,) = world.run(cancelled())
    assert merged.levels == (1.0,)


@pytest.mark.parametrize("which", [pytest.param(name, id=name) for name in BINARIES])
def test_in_a_cluster_records_lie_on_all_masters(which):
    with tempfile.TemporaryDirectory() as folder:
        cluster = RedisCluster(folder, BINARIES[which], replicas=0).start()
        try:
            world = World(cluster.nodes[0], cluster.url)
            sketches = world.sketches(0, STILL)
            models = {f"client:{number}": Model(5) for number in range(60)}
            deltas = [Delta(key, evidence(number)) for number, key in enumerate(models)]
            assert len(world.run(sketches.exchange(deltas))) == 60
            world.run(sketches.ban("a", 60))
            assert list(world.run(sketches.bans())) == ["a"]
            assert world.run(sketches.strongest(1)) == [("59", 59.0)]
            assert all(node.execute("DBSIZE") > 5 for node in cluster.nodes)
            world.close()
        finally:
            cluster.stop()
