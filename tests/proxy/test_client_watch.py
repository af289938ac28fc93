import asyncio

import numpy as np
import pytest

from detectors.patterns.base import Alarm, Family, Scope, Standing
from detectors.patterns.exchange import Delta, Merged
from proxy.client_watch import ClientWatch
from proxy.identity import Identity
from proxy.state.base import StateUnavailable

ONE = Identity("1" * 32, "ip", "5" * 32)
ROWS = np.zeros((1, 4), np.float32)


class FakeTracker:
    """Notes what it is asked."""

    def __init__(self):
        self.observed, self.merged, self.forgotten = [], [], []
        self.pending = []

    def observe(self, client, subnet, rows, p_values, now):
        self.observed.append((client, subnet, len(rows), now))
        return (Alarm(Family.PROBING, Scope.CLIENT, 20.0, 14.0, client),)

    def drain(self, most):
        pending, self.pending = self.pending[:most], self.pending[most:]
        return pending

    def merge(self, merged):
        self.merged += merged

    def forget(self, client):
        self.forgotten.append(client)

    def standings(self, most):
        return [Standing("1" * 32, {}, {}, 1, 0.0, 0.0)][:most]

    def standing(self, client):
        return None

    def sizes(self):
        return {"clients": 1}


class FakeSketches:
    """A state that can be away."""

    def __init__(self):
        self.given, self.forgiven, self.banned = [], [], {}
        self.away = False
        self.late = []

    async def exchange(self, deltas):
        self.given += deltas
        merged, self.late = self.late, []
        return [] if self.away else [*merged, *(Merged(delta.key, cursor=7) for delta in deltas)]

    async def forgive(self, client):
        if self.away:
            raise StateUnavailable("away")
        self.forgiven.append(client)

    async def ban(self, client, seconds):
        if self.away:
            raise StateUnavailable("away")
        if seconds:
            self.banned[client] = seconds
        else:
            self.banned.pop(client, None)

    async def bans(self):
        return None if self.away else dict(self.banned)


class Bench:
    """A watch, with a clock that only the test moves."""

    def __init__(self, *, tracker=True):
        self.now = 100.0
        self.waits = []
        self.tracker = FakeTracker() if tracker else None
        self.sketches, self.bans = FakeSketches(), FakeSketches()
        self.watch = self.make()

    def make(self):
        return ClientWatch(
            self.tracker,
            self.sketches,
            bans=self.bans,
            throttle_seconds=10.0,
            sync_seconds=0.5,
            clock=lambda: self.now,
            sleep=self.sleep,
        )

    async def sleep(self, seconds):
        self.waits.append(seconds)
        self.now += seconds
        if len(self.waits) >= 6:
            raise asyncio.CancelledError


def test_queries_reach_the_tracker():
    bench = Bench()
    (alarm,) = bench.watch.observe(ONE, ROWS, None, 101.0)
    assert alarm.evidence == 20.0
    assert bench.tracker.observed == [(ONE.client, ONE.subnet, 1, 101.0)]
    assert bench.watch.sizes() == {"clients": 1}
    assert len(bench.watch.standings(5)) == 1


def test_without_a_tracker_there_are_bans_only():
    bench = Bench(tracker=False)
    assert bench.watch.observe(ONE, ROWS, None, 1.0) == ()
    assert bench.watch.standings(5) == []
    assert bench.watch.standing(ONE.client) is None
    assert bench.watch.sizes() == {}


async def test_an_exchange_tells_and_learns():
    bench = Bench()
    bench.tracker.pending = [Delta(f"client:{n}") for n in range(3)]
    await bench.watch.exchange()
    assert [delta.key for delta in bench.sketches.given] == ["client:0", "client:1", "client:2"]
    assert [merged.cursor for merged in bench.tracker.merged] == [7, 7, 7]
    assert bench.watch.exchanged.keys == 3
    bench.sketches.given.clear()
    await bench.watch.exchange()
    assert bench.sketches.given == []  # nothing was learnt: nothing is told
    assert bench.watch.exchanged.keys == 3
    bench.sketches.late = [Merged("client:9")]
    await bench.watch.exchange()
    assert bench.tracker.merged[-1].key == "client:9"  # what waited for the state to be back


async def test_it_goes_on_whatever_fails():
    bench = Bench()

    async def broken(deltas):
        raise ValueError("a defect")

    bench.sketches.exchange = broken
    bench.tracker.pending = [Delta("client:1")]
    bench.bans.banned = {ONE.client: 60.0}
    with pytest.raises(asyncio.CancelledError):
        await bench.watch.run()
    assert bench.waits == [0.5] * 6
    assert bench.watch.banned(ONE.client, bench.now) is not None  # learnt all the same
    assert bench.watch.exchanged.failures == 6


async def test_a_ban_ends_by_itself():
    bench = Bench()
    assert bench.watch.banned(ONE.client, bench.now) is None
    await bench.watch.ban(ONE.client, 60.0)
    assert bench.watch.banned(ONE.client, 100.0) == 61
    assert bench.watch.banned("2" * 32, 100.0) is None
    assert bench.watch.banned_clients(130.0) == {ONE.client: 30.0}
    assert bench.watch.banned(ONE.client, 160.0) is None
    assert bench.watch.banned_clients(160.0) == {}


async def test_bans_hold_while_nobody_can_tell_and_over_a_reload():
    bench = Bench()
    await bench.watch.ban(ONE.client, 60.0)
    bench.bans.away = True
    await bench.watch.learn_bans()
    assert bench.watch.banned(ONE.client, 100.0)
    with pytest.raises(StateUnavailable):
        await bench.watch.ban("2" * 32, 60.0)
    later = bench.make()
    later.keep_bans_of(bench.watch)
    assert later.banned(ONE.client, 100.0)


async def test_forgiveness_is_whole_or_not_at_all():
    bench = Bench()
    await bench.watch.ban(ONE.client, 60.0)
    assert bench.watch.pace(ONE.client, 1, 100.0) == 0
    bench.sketches.away = True
    with pytest.raises(StateUnavailable):
        await bench.watch.forgive(ONE.client)
    assert bench.tracker.forgotten == []
    assert bench.watch.banned(ONE.client, 100.0)
    bench.sketches.away = False
    await bench.watch.forgive(ONE.client)
    assert bench.sketches.forgiven == bench.tracker.forgotten == [ONE.client]
    assert bench.watch.banned(ONE.client, 100.0) is None
    assert bench.watch.pace(ONE.client, 1, 100.0) == 0


def test_a_throttled_client_passes_now_and_then():
    watch = Bench().watch
    assert watch.pace(ONE.client, 1, 100.0) == 0
    assert watch.pace(ONE.client, 1, 100.0) == 11  # rounded up, so that a retry then passes
    assert watch.pace("2" * 32, 1, 100.0) == 0
    assert watch.pace(ONE.client, 1, 109.0) == 2
    assert watch.pace(ONE.client, 1, 111.0) == 0


def test_many_rows_in_one_request_are_paid_for():
    watch = Bench().watch
    assert watch.pace(ONE.client, 64, 100.0) == 0
    assert watch.pace(ONE.client, 1, 700.0) > 30
    assert watch.pace(ONE.client, 1, 741.0) == 0


def test_a_flood_of_throttled_clients_clears_nobodys_pace(monkeypatch):
    monkeypatch.setattr("proxy.client_watch._PACED", 8)
    watch = Bench().watch
    assert watch.pace(ONE.client, 1, 100.0) == 0
    for n in range(50):
        watch.pace(f"{n:032x}", 1, 100.0)
    assert watch.pace(ONE.client, 1, 100.0) > 0
    assert watch.pace("f" * 32, 1, 100.0) > 0  # no room: the newcomer waits as all do
    assert watch.pace("f" * 32, 1, 120.0) == 0  # those that may send again were forgotten
