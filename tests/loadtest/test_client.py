"""The load generator against real servers on loopback: every answer and every fault is counted."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest

from loadtest.client import Result, arrivals, closed_loop, open_loop
from loadtest.echo import CANNED, EchoProtocol
from loadtest.payloads import infer_request, infer_target
from loadtest.wire import render_request


def _pool(count=8):
    rows = np.random.default_rng(0).normal(size=(count, 1, 4)).astype(np.float32)
    return [infer_request(row, "t", infer_target("f4")) for row in rows]


@asynccontextmanager
async def serving(factory):
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()
        await server.wait_closed()


class Scripted(asyncio.Protocol):
    """Answers each request with the next of a script; None aborts the connection."""

    def __init__(self, script):
        self._script = script
        self.received = []

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        self.received.append(data)
        answer = next(self._script)
        if answer is None:
            self._transport.abort()
        else:
            self._transport.write(answer)


def forever(*answers):
    while True:
        yield from answers


REFUSED = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"


async def test_closed_loop_counts_every_answer_and_uses_the_whole_pool():
    seen = set()

    class Counting(EchoProtocol):
        def data_received(self, data):
            seen.add(data)
            super().data_received(data)

    pool = _pool()
    async with serving(lambda: Counting({}, digest=False)) as address:
        result = await closed_loop(address, pool, connections=3, seconds=0.05)
    assert result.clean
    assert result.answered == result.latencies.size > 0
    assert (result.latencies > 0).all()
    assert len(seen) == min(len(pool), result.answered)


async def test_closed_loop_counts_statuses_apart():
    async with serving(lambda: Scripted(forever(CANNED, REFUSED))) as address:
        result = await closed_loop(address, _pool(), connections=1, seconds=0.05)
    assert set(result.statuses) == {200, 429}
    assert abs(result.statuses[200] - result.statuses[429]) <= 1
    assert not result.clean


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(None, "reset"), (b"nonsense\r\n\r\n", "invalid"), (CANNED + CANNED, "unasked")],
)
async def test_closed_loop_counts_broken_answers_and_ends(answer, kind):
    async with serving(lambda: Scripted(forever(answer))) as address:
        result = await closed_loop(address, _pool(), connections=2, seconds=5)
    assert result.errors == {kind: 2}
    assert not result.clean


async def test_answers_in_pieces_are_put_together():
    class Dribbling(Scripted):
        def data_received(self, data):
            loop = asyncio.get_running_loop()
            for i in range(len(CANNED)):
                loop.call_soon(self._transport.write, CANNED[i : i + 1])

    async with serving(lambda: Dribbling(None)) as address:
        result = await closed_loop(address, _pool(), connections=1, seconds=0.02)
    assert result.clean


async def test_open_loop_counts_latency_from_the_intended_time():
    # All are due at once, but one connection takes them in turn: each waits for those before it.
    async with serving(lambda: EchoProtocol({}, digest=False)) as address:
        result = await open_loop(address, _pool(), times=[0.0] * 20, connections=1)
    assert result.clean
    assert result.answered == 20
    assert (np.diff(result.latencies) > 0).all()


async def test_open_loop_drops_what_the_queue_cannot_hold():
    async with serving(lambda: EchoProtocol({}, digest=False)) as address:
        result = await open_loop(address, _pool(), times=[0.0] * 20, connections=1, queue=5)
    assert (result.answered, result.dropped) == (6, 14)
    assert not result.clean


async def test_open_loop_sends_at_every_time():
    times = list(arrivals(2000, 0.1, seed=1))
    async with serving(lambda: EchoProtocol({}, digest=False)) as address:
        result = await open_loop(address, _pool(), times=times, connections=4)
    assert result.answered == len(times)


async def test_open_loop_counts_what_lost_connections_leave_unsent():
    script = iter([CANNED, None])
    async with serving(lambda: Scripted(script)) as address:
        result = await open_loop(address, _pool(), times=[0.0] * 5, connections=1)
    assert result.answered == 1
    assert result.errors == {"reset": 1, "unsent": 3}


async def test_open_loop_gives_up_on_a_silent_server():
    async with serving(lambda: Scripted(forever(b""))) as address:
        result = await open_loop(
            address, _pool(), times=[0.0] * 3, connections=1, drain_seconds=0.05
        )
    assert result.answered == 0
    assert result.errors == {"timeout": 3}


async def test_nothing_listens():
    with pytest.raises(OSError, match=r".+"):
        await closed_loop(("127.0.0.1", 1), _pool(), connections=1, seconds=0.1)


def test_arrivals_are_sorted_within_the_time_and_at_the_rate():
    times = arrivals(1000, 5, seed=3)
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0
    assert times[-1] < 5
    assert abs(len(times) - 5000) < 5 * 5000**0.5
    assert not np.array_equal(times, arrivals(1000, 5, seed=4))


def test_percentiles_and_rate():
    result = Result(2.0, np.arange(1, 101) / 100)
    result.statuses[200] = 100
    assert result.rate == 50
    assert result.percentile(50) == pytest.approx(0.505)
    empty = Result(0.0, np.array([]))
    assert empty.rate == 0
    assert np.isnan(empty.percentile(50))
    assert not empty.clean


async def test_the_echo_answers_pages_and_unknown_paths():
    pages = {b"/v2": CANNED}
    async with serving(lambda: EchoProtocol(pages, digest=False)) as address:
        known = [render_request("GET", "/v2", "t")]
        unknown = [render_request("GET", "/v3", "t")]
        good = await closed_loop(address, known, connections=1, seconds=0.01)
        bad = await closed_loop(address, unknown, connections=1, seconds=0.01)
    assert good.clean
    assert set(bad.statuses) == {404}
