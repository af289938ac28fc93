"""The memory backend: the conformance suite, and what is its own."""

import asyncio
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

from ledger_conformance import NOON, Clock, LedgerConformance

from proxy.state.base import LeaseNeeded, Ledger, Quota, Sketches, State, StateHealth
from proxy.state.memory import MemoryState


class TestMemory(LedgerConformance):
    """The conformance suite, and what a take that needs no lease promises besides."""

    def make(self, clock, most):
        return MemoryState(most, clock.wall)

    def wait(self, coroutine):
        return asyncio.run(coroutine)

    def test_exactly_the_burst_is_admitted_to_many_threads(self):
        class Row(int):
            """Gives other threads a chance in the middle of the arithmetic."""

            def __mul__(self, other):
                for _ in range(2000):
                    pass
                return int(self) * other

        clock = Clock()
        quota = Quota.of(100.0, 500, None)
        ledger = self.ledger(clock, quota, quota, Quota.of(100.0, 700, 650))

        def takes(thread):
            keys = ("a", "s", "*")
            return sum(ledger.take(keys, Row(1), clock.now) is None for _ in range(100))

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(8) as pool:
                assert sum(pool.map(takes, range(8))) == 500
        finally:
            sys.setswitchinterval(interval)

    def test_no_flood_of_newcomers_clears_a_record(self):
        clock = Clock()
        ledger = self.ledger(clock, Quota.of(0.5, 10, 15), most=50)
        assert ledger.take(["attacker"], 10, clock.now) is None
        for number in range(2000):
            ledger.take([f"sybil{number}"], 1, clock.now)
        assert ledger.take(["attacker"], 1, clock.now) is not None
        # The rate's debt is paid after 20 seconds, the day's stays until midnight.
        clock.advance(30)
        for number in range(2000):
            ledger.take([f"other{number}"], 1, clock.now)
        assert ledger.take(["attacker"], 5, clock.now) is None
        assert ledger.take(["attacker"], 1, clock.now).daily

    def test_newcomers_without_room_share_one_quota(self):
        clock = Clock()
        ledger = self.ledger(clock, Quota.of(1.0, 10, None), most=20)
        for number in range(20):
            assert ledger.take([f"early{number}"], 10, clock.now) is None
        admitted = sum(ledger.take([f"late{n}"], 1, clock.now) is None for n in range(500))
        assert admitted == 10
        assert ledger.known()[0] == 20
        clock.advance(10)
        assert ledger.take(["late499"], 10, clock.now) is None

    def test_refused_newcomers_keep_nobody_out(self):
        clock = Clock()
        ledger = self.ledger(clock, Quota.of(1.0, 10, None), Quota.of(1.0, 1, None), most=20)
        assert ledger.take(["first", "flooded"], 1, clock.now) is None
        for number in range(500):
            assert ledger.take([f"sybil{number}", "flooded"], 1, clock.now).scope == 1
        for number in range(19):
            assert ledger.take([f"honest{number}", f"s{number}"], 1, clock.now) is None

    async def test_refilling_may_be_awaited(self):
        clock = Clock()
        state = self.make(clock, most=10)
        ledger = state.ledger("endpoint", [Quota.of(1.0, 1, None)])
        await ledger.refill(LeaseNeeded(["a"], 1))
        assert ledger.take(["a"], 1, clock.now) is None
        await state.close()


def test_it_serves_the_interface():
    state: State = MemoryState(10, lambda: NOON)
    ledger: Ledger = state.ledger("endpoint", [Quota.of(1.0, 1, 1)])
    assert ledger.take(["a"], 1, 0.0) is None
    sketches: Sketches = state.sketches("endpoint")
    assert state.sketches("endpoint") is sketches
    assert state.sketches("other") is not sketches
    assert state.health() == StateHealth()


def test_a_client_costs_little_memory():
    clock = Clock()
    ledger = MemoryState(5000, clock.wall).ledger("endpoint", [Quota.of(1.0, 10, 100)])
    keys = [f"{number:032x}" for number in range(10_000)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for key in keys:
        ledger.take([key], 1, clock.now)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown / 5000 < 400


def test_an_unlimited_scope_keeps_no_keys():
    ledger = MemoryState(10, lambda: NOON).ledger("e", [Quota(), Quota.of(1.0, 5, None)])
    for number in range(100):
        ledger.take([f"k{number}", "s"], 1, float(number))
    assert list(ledger.known()) == [0, 1]


def test_lifting_a_limit_forgets_nobody_else():
    clock = Clock()
    state = MemoryState(10, clock.wall)
    quota = Quota.of(1.0, 5, None)
    ledger = state.ledger("e", [quota, quota])
    assert ledger.take(["a", "s"], 5, clock.now) is None
    assert state.ledger("e", [quota]).take(["a"], 1, clock.now) is not None
    assert state.ledger("e", [Quota()]).take(["a"], 1000, clock.now) is None


def test_the_bound_can_be_changed_while_it_serves():
    clock = Clock()
    state = MemoryState(10, clock.wall)
    ledger = state.ledger("e", [Quota.of(1.0, 5, None)])

    def known_after(newcomers):
        for number in newcomers:
            ledger.take([f"k{number}"], 5, clock.now)
        return ledger.known()[0]

    assert known_after(range(50)) == 10
    state.resize(20)
    assert known_after(range(100, 150)) == 20
    state.resize(5)
    assert known_after(range(200, 250)) == 20
    clock.advance(10)
    assert known_after(range(300, 350)) == 20
