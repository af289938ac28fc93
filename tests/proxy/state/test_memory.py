"""The memory backend: the conformance suite, and what is its own."""

import tracemalloc

from ledger_conformance import NOON, Clock, LedgerConformance

from proxy.state.base import Ledger, Quota, State
from proxy.state.memory import MemoryState


class TestMemory(LedgerConformance):
    """The conformance suite."""

    def make(self, wall, most):
        return MemoryState(most, wall)


def test_it_serves_the_interface():
    state: State = MemoryState(10, lambda: NOON)
    ledger: Ledger = state.ledger("endpoint", [Quota.of(1.0, 1, 1)])
    assert ledger.take(["a"], 1, 0.0) is None


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
