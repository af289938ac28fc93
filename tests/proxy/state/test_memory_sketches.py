"""The memory backend: the conformance suite, and what is its own."""

import asyncio

import pytest
from sketches_conformance import DAY, FALLING, HOUR, STILL, SketchesConformance, evidence

from detectors.patterns.exchange import Delta
from proxy.state.base import Sketches
from proxy.state.memory_sketches import MemorySketches


class World:
    """One worker's memory, and a clock that only the test moves."""

    def __init__(self):
        self.now = 1000.0
        self._sketches = {}

    def sketches(self, replica, layout, name="e", most=10_000):
        if name not in self._sketches:
            self._sketches[name] = MemorySketches(
                layout, most=most, clock=lambda: self.now, wall=lambda: 1.7e9 + self.now
            )
        return self._sketches[name]

    def advance(self, seconds):
        self.now += seconds

    def clear(self):
        self._sketches.clear()

    def run(self, coroutine):
        return asyncio.run(coroutine)


@pytest.fixture
def world():
    return World()


class TestMemorySketches(SketchesConformance):
    """The conformance suite."""


def tell(world, sketches, key, nats=0.0):
    (merged,) = world.run(sketches.exchange([Delta(key, evidence(nats))]))
    return merged


def known(world, sketches, *keys):
    return [key for key in keys if world.run(sketches.look(key)) is not None]


def test_it_serves_the_interface(world):
    sketches: Sketches = world.sketches(0, STILL)
    assert tell(world, sketches, "client:a").key == "client:a"


@pytest.mark.parametrize("layout", [STILL, FALLING])
def test_a_flood_of_newcomers_forgets_nobody_with_evidence(world, layout):
    sketches = world.sketches(0, layout, most=20)
    tell(world, sketches, "endpoint")
    tell(world, sketches, "client:attacker", 3.0)
    for number in range(500):
        world.advance(1.0)
        tell(world, sketches, f"client:{number}")
    assert sketches.known() == 20
    assert known(world, sketches, "client:attacker", "endpoint", "client:0", "client:499") == [
        "client:attacker", "endpoint", "client:499",
    ]  # fmt: skip
    assert sketches.forgotten == 0


def test_where_all_have_evidence_the_newcomer_without_is_forgotten(world):
    sketches = world.sketches(0, FALLING, most=3)
    for key, nats in (("client:a", 3.0), ("client:b", 2.0), ("client:c", 5.0)):
        tell(world, sketches, key, nats)
    tell(world, sketches, "client:d")
    assert known(world, sketches, *(f"client:{name}" for name in "abcd")) == [
        "client:a", "client:b", "client:c",
    ]  # fmt: skip
    assert sketches.forgotten == 0
    tell(world, sketches, "client:e", 4.0)
    assert known(world, sketches, *(f"client:{name}" for name in "abce")) == [
        "client:a", "client:c", "client:e",
    ]  # fmt: skip
    assert sketches.forgotten == 1


def test_evidence_that_time_took_away_protects_no_more(world):
    sketches = world.sketches(0, FALLING, most=3)
    tell(world, sketches, "client:old", 3.0)
    world.advance(4 * HOUR)
    tell(world, sketches, "client:a")
    tell(world, sketches, "client:b", 0.5)
    tell(world, sketches, "client:c")
    assert known(world, sketches, *(f"client:{name}" for name in ("old", "a", "b", "c"))) == [
        "client:a", "client:b", "client:c",
    ]  # fmt: skip
    assert sketches.forgotten == 0


def test_levels_are_ranked_anew_when_they_fall_otherwise(world):
    sketches = world.sketches(0, FALLING, most=2)
    tell(world, sketches, "client:a", 5.0)
    world.advance(2 * HOUR)
    tell(world, sketches, "client:b", 4.0)
    sketches.configure(STILL)
    assert list(world.run(sketches.strongest(2))) == [("a", 5.0), ("b", 4.0)]
    tell(world, sketches, "client:c", 4.5)
    assert known(world, sketches, "client:a", "client:b", "client:c") == ["client:a", "client:c"]


def test_touching_a_key_without_end_costs_no_memory(world):
    sketches = world.sketches(0, FALLING)
    for _ in range(2000):
        tell(world, sketches, "client:a", 0.01)
    assert len(sketches._worths) < 100


def test_fewer_keys_can_be_remembered_from_now_on(world):
    sketches = world.sketches(0, STILL, most=10)
    for number in range(10):
        tell(world, sketches, f"client:{number}", number)
    sketches.resize(2)
    assert sketches.known() == 2
    assert known(world, sketches, "client:7", "client:8", "client:9") == ["client:8", "client:9"]
    world.advance(DAY)
    tell(world, sketches, "client:1")
    assert sketches.known() == 1
