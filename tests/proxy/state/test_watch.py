import asyncio

import pytest

from proxy.state.base import StateHealth
from proxy.state.watch import tell_health


async def tell(*healths):
    """The events that these healths, one a second, lead to."""
    events, left = [], list(healths)

    async def sleep(seconds):
        assert seconds == 1.0
        if not left:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await tell_health(
            lambda: left.pop(0), lambda kind, **fields: events.append((kind, fields)), sleep
        )
    return events


WELL = StateHealth(replicas=2)
AWAY = StateHealth(degraded=True, problem="refused", replicas=2)
WARNS = StateHealth(problem="maxmemory-policy is allkeys-lru")


async def test_each_outage_is_told_once_and_so_is_its_end():
    events = await tell(WELL, AWAY, AWAY, WELL, WELL, AWAY)
    assert events == [
        ("state degraded", {"problem": "refused"}),
        ("state recovered", {"replicas": 2}),
        ("state degraded", {"problem": "refused"}),
    ]


async def test_a_state_that_is_away_from_the_start_is_told_of():
    assert await tell(AWAY) == [("state degraded", {"problem": "refused"})]


async def test_a_warning_is_told_while_the_state_serves():
    events = await tell(WARNS, WARNS, WELL, WARNS)
    assert events == [("state warning", {"problem": WARNS.problem})] * 2
