"""The closed loop: every connection busy, every answer counted, and the search for a ceiling."""

from collections import Counter

import numpy as np
import pytest
from scripted_http import (
    CHUNKED,
    CLOSING,
    OK,
    REFUSED,
    RESET,
    SILENCE,
    forever,
    plan_of,
    pool,
    serving,
)

from loadtest.evidence.results import LoadResult
from loadtest.load.ceiling import search
from loadtest.load.closed import ClosedLoop, Result, closed_loop
from loadtest.load.plan import LoadError
from loadtest.load.share import share_of


async def test_every_answer_is_counted_and_the_whole_pool_used():
    async with serving(forever(OK, CHUNKED)) as server:
        result = await closed_loop(server.address, pool(), connections=3, seconds=0.05)
    assert result.clean
    assert result.answered == result.latencies.size == len(server.received)
    assert (result.latencies > 0).all()
    assert len(set(server.received)) == min(8, result.answered)


async def test_statuses_are_counted_apart():
    async with serving(forever(OK, REFUSED)) as server:
        result = await closed_loop(server.address, pool(), connections=1, seconds=0.05)
    assert set(result.statuses) == {200, 403}
    assert abs(result.statuses[200] - result.statuses[403]) <= 1
    assert not result.clean


@pytest.mark.parametrize(
    ("step", "kind"), [(RESET, "reset"), (b"nonsense\r\n\r\n", "invalid"), (OK + OK, "invalid")]
)
async def test_broken_answers_are_counted_and_a_benchmark_ends(step, kind):
    async with serving(forever(step)) as server:
        result = await closed_loop(server.address, pool(), connections=2, seconds=5)
    assert result.errors == {kind: 2}
    assert not result.clean


async def test_nothing_listens():
    with pytest.raises(OSError, match=r".+"):
        await closed_loop(("127.0.0.1", 1), pool(), connections=1, seconds=0.1)


async def _outcome(server, **others):
    loop = ClosedLoop(share_of(plan_of(server.address, [], **others), 0), 0.05)
    try:
        await loop.open()
        return await loop.run(loop._clock()), loop.count()
    finally:
        await loop.close()


async def test_a_load_meets_a_server_that_closes_again():
    async with serving(forever(CLOSING)) as server:
        outcome, count = await _outcome(server, connections=2)
    assert set(outcome.status.tolist()) == {403}
    assert len(outcome.status) == len(server.received) > 2
    assert (np.diff(outcome.sent) >= 0).all()
    assert count.said == {"refused": len(outcome.status)}
    assert count.offered == count.sent == len(outcome.status)


async def test_a_load_gives_up_on_silence():
    async with serving(forever(SILENCE)) as server:
        outcome, _ = await _outcome(server, connections=2, timeout=0.01)
    assert Counter(outcome.status.tolist()) == {-5: 2}


async def test_a_server_that_dies_is_told_by_its_errors():
    def die(connection):
        connection.server.listening.close()
        connection.transport.abort()

    async with serving([OK, die]) as server:
        outcome, _ = await _outcome(server)
    assert outcome.status.tolist()[:3] == [200, -2, -1]


def test_percentiles_and_rate():
    result = Result(2.0, np.arange(1, 101) / 100)
    result.statuses[200] = 100
    assert result.rate == 50
    assert result.percentile(50) == pytest.approx(0.505)
    empty = Result(0.0, np.array([]))
    assert empty.rate == 0
    assert np.isnan(empty.percentile(50))
    assert not empty.clean


def _server_of(most, capacity, seen):
    """One that does ``capacity`` a second a connection, and ``most`` in all."""

    def closed(plan):
        seen.append(plan.connections)
        good = int(min(most, capacity * plan.connections))
        return LoadResult(
            "l", "p", "honest", "direct", "", 0, 1.0, good, good, 0, 0, {}, {}, {}, good
        )

    return closed


@pytest.mark.parametrize(
    ("capacity", "most", "tried", "connections"),
    [
        (100, 1000, [1, 2, 4, 8, 16, 32, 64], 16),
        (1000, 1000, [1, 2, 4], 1),
        (100, 10**9, [1, 2, 4, 8, 16, 32, 64], 64),
    ],
)
def test_the_search_doubles_until_nothing_grows(capacity, most, tried, connections):
    seen = []
    plan = plan_of(("127.0.0.1", 1), [])
    rate, found, steps = search(plan, _server_of(most, capacity, seen), 64)
    assert seen == tried
    assert found == connections
    assert rate == max(step.good for step in steps)


def test_a_server_that_answers_nothing_has_no_ceiling():
    with pytest.raises(LoadError, match="no good answer"):
        search(plan_of(("127.0.0.1", 1), []), _server_of(0, 0, []), 64)
