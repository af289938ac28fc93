"""The leases that outlive a worker."""

import pytest

from proxy.state.redis.lease_table import LEASE_TABLE_BYTES, HeldLease, LeaseTable, clear


def table(slots=4):
    memory = memoryview(bytearray(256 * slots))
    return memory, LeaseTable(memory)


def test_what_is_held_can_be_read_once():
    memory, leases = table()
    first, second = leases.hold("k1", 20_000, 7), leases.hold("schlüssel", 20_001, 9)
    leases.left[first] -= 3
    assert sorted(clear(memory)) == [
        HeldLease("k1", 20_000, 4),
        HeldLease("schlüssel", 20_001, 9),
    ]
    assert second != first
    assert clear(memory) == []


def test_what_was_dropped_or_spent_is_not_held():
    memory, leases = table()
    leases.drop(leases.hold("dropped", 1, 7))
    leases.left[leases.hold("spent", 1, 7)] = 0
    assert clear(memory) == []


def test_a_place_is_used_again_and_a_full_table_holds_no_more():
    memory, leases = table(2)
    places = [leases.hold(f"k{number}", 1, 1) for number in range(3)]
    assert -1 not in places[:2]
    assert places[2] == -1
    leases.drop(places[0])
    assert leases.hold("again", 2, 5) == places[0]
    assert sorted(clear(memory)) == [HeldLease("again", 2, 5), HeldLease("k1", 1, 1)]


def test_a_key_that_is_too_long_is_not_noted():
    memory, leases = table()
    assert leases.hold("k" * 239, 1, 5) == -1
    assert leases.hold("k" * 238, 1, 5) >= 0
    assert clear(memory) == [HeldLease("k" * 238, 1, 5)]


def test_a_new_worker_finds_an_empty_table():
    memory, leases = table()
    leases.hold("k", 1, 5)
    LeaseTable(memory)
    assert clear(memory) == []


@pytest.mark.parametrize("memory", [bytearray(255), bytes(256)])
def test_memory_that_is_no_table(memory):
    with pytest.raises(ValueError, match="256 bytes"):
        LeaseTable(memoryview(memory))


def test_garbage_is_no_lease():
    assert clear(memoryview(bytearray(b"\xff" * 1000))) == []
    assert LEASE_TABLE_BYTES % 256 == 0
