"""What a hostile request costs in memory, beside its own size."""

import pytest
from hostile import HOSTILE, MEBIBYTE, send
from memory import reset_peak, status_bytes

TIMES = 100  # the bound: so many times the request's size
# Below this, the allocator and the interpreter's own work drown what a small request costs.
NOISE = 4 * MEBIBYTE


@pytest.fixture(scope="module")
def warm(guard):
    """A firewall whose pools and caches the first requests have filled."""
    for name in ("shape-lie", "one-byte-chunks"):
        send(guard.address, HOSTILE[name]())
    return guard


@pytest.mark.parametrize("name", HOSTILE)
def test_memory_is_bounded_by_the_requests_size(warm, name):
    request = HOSTILE[name]()
    pid = warm.process.pid
    reset_peak(pid)
    before = status_bytes(pid, "VmRSS")
    status = send(warm.address, request)
    cost = status_bytes(pid, "VmHWM") - before
    assert cost < max(TIMES * len(request), NOISE), (status, cost)
    assert status != 500
    warm.process.check()
