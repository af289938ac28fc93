"""The Redis backend: the conformance suite over every server that there is, with clocks that only
the test moves, for Redis too.
"""

import asyncio
import itertools
import threading
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_conformance import NOON, QUOTAS, STEPS, Clock, Decided, LedgerConformance, Model
from redis_servers import BINARIES, RedisServer

from proxy.state.base import DAY_SECONDS, NANOSECONDS, Quota
from proxy.state.redis.state import RedisState

PATIENCE = 30.0


class CoarseClock(Clock):
    """Whole 1/64 s, which are whole microseconds too: Redis counts in those."""

    def advance(self, seconds):
        super().advance(round(seconds * 64) / 64)


class Replicas:
    """States that share one server and one pair of clocks, on a loop in a thread."""

    def __init__(self, url):
        self._url = url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._numbers = itertools.count()
        self._states = []
        self._clock = CoarseClock()

    def wait(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def state(self, number, clock, most):
        """The state of one replica, with ``clock`` from now on, and room for ``most`` keys."""
        self._clock = clock
        while len(self._states) <= number:
            state = RedisState(
                self._url,
                clock=lambda: self._clock.now,
                wall=lambda: self._clock.time,
                server_time=lambda: int(Fraction(self._clock.time) * 10**6),
                timeout_seconds=PATIENCE,
                wait_seconds=PATIENCE,
                denial_seconds=0.0,
                replicas=3,
            )
            self.wait(state.start())
            self._states.append(state)
        state = self._states[number]
        assert state.connection.up
        # Ledgers of earlier cases must not give back what they hold in the middle of this one.
        state._ledgers.clear()
        state.resize(most)
        return state

    def name(self):
        """A name that no case has used yet."""
        return f"case{next(self._numbers)}"

    def close(self):
        for state in self._states:
            self.wait(state.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(
    scope="class",
    params=list(BINARIES)
    or [pytest.param("none", marks=pytest.mark.skip(reason="no redis-server is installed"))],
)
def replicas(request, tmp_path_factory):
    server = RedisServer(tmp_path_factory.mktemp("redis"), BINARIES[request.param]).start()
    shared = Replicas(server.url)
    request.cls.replicas = shared
    yield shared
    shared.close()
    server.stop()


class Named:
    """A state whose ledgers' names are of one case alone."""

    def __init__(self, state, prefix):
        self._state = state
        self._prefix = prefix
        self.run = state.connection.run

    def ledger(self, name, quotas):
        return self._state.ledger(f"{self._prefix}-{name}", quotas)


@pytest.mark.usefixtures("replicas")
class TestRedis(LedgerConformance):
    """The conformance suite, and what holds for several replicas."""

    Clock = CoarseClock
    TICK = 1 / 64

    def make(self, clock, most):
        return Named(self.replicas.state(0, clock, most), self.replicas.name())

    def wait(self, coroutine):
        return self.replicas.wait(coroutine)

    def decided(self, state, quotas, name="endpoint"):
        ledger = super().decided(state, quotas, name)
        ledger.run = state.run
        return ledger

    @given(QUOTAS, STEPS, st.integers(0, 10**9))
    def test_a_retry_after_the_wait_passes(self, quota, steps, start):
        # Of one scope: what another would say once this one admits is not asked while it denies.
        clock = CoarseClock(now=float(start), wall=NOON + start)
        ledger = self.ledger(clock, quota)
        for keys, rows, seconds in steps:
            clock.advance(seconds)
            denial = ledger.take(keys[:1], rows, clock.now)
            if denial is None:
                continue
            if denial.retry_after is None:
                assert rows > quota.most()
                continue
            assert denial.retry_after >= 1
            clock.advance(denial.retry_after)
            assert ledger.take(keys[:1], rows, clock.now) is None

    @settings(max_examples=300)
    @given(
        QUOTAS,
        st.lists(
            st.tuples(st.integers(0, 2), st.integers(0, 12), st.integers(0, 128)), max_size=80
        ),
        st.sampled_from([1 / 64, 1.0, 600.0]),
    )
    def test_no_window_of_three_replicas_holds_more_than_the_quota(self, quota, steps, tick):
        clock = CoarseClock()
        name = self.replicas.name()
        states = [self.replicas.state(number, clock, 1000) for number in range(3)]
        ledgers = [state.ledger(name, [quota]) for state in states]
        decided = [Decided(ledger, self.wait) for ledger in ledgers]
        taken = []
        for replica, rows, ticks in steps:
            clock.advance(ticks * tick)
            if not rows:
                self.wait(ledgers[replica].give_back(states[replica].connection.run, idle=False))
            elif decided[replica].take(["a"], rows, clock.now) is None:
                taken.append((Fraction(clock.now), int(clock.time // DAY_SECONDS), rows))
        for first in range(len(taken)):
            total = 0
            for then, _, rows in taken[first:]:
                total += rows
                if quota.interval:
                    window = then - taken[first][0]
                    assert total <= quota.burst + window * NANOSECONDS / quota.interval
        if quota.per_day:
            for day in {day for _, day, _ in taken}:
                assert sum(rows for _, that, rows in taken if that == day) <= quota.per_day

    @given(QUOTAS, STEPS)
    def test_what_a_replica_gives_back_the_next_has(self, quota, steps):
        """One replica after another, each giving all back: as one alone, but for merged rests."""
        clock = CoarseClock()
        name = self.replicas.name()
        states = [self.replicas.state(number, clock, 1000) for number in range(3)]
        ledgers = [state.ledger(name, [quota]) for state in states]
        model = Model([quota])
        for (_, rows, seconds), turn in zip(steps, itertools.count(), strict=False):
            clock.advance(seconds)
            ledger = ledgers[turn % 3]
            denial = Decided(ledger, self.wait).take(["a"], rows, clock.now)
            assert (denial is None) == model.take(["a"], rows, clock)
            self.wait(ledger.give_back(states[turn % 3].connection.run, idle=False))

    def test_a_lease_of_yesterday_is_worth_nothing_today(self):
        clock = CoarseClock()
        ledger = self.ledger(clock, Quota.of(None, 1, 1000))
        for _ in range(20):
            assert ledger.take(["a"], 1, clock.now) is None
        clock.advance(DAY_SECONDS)
        assert sum(ledger.take(["a"], 1, clock.now) is None for _ in range(1500)) == 1000
