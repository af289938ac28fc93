"""The open loop against scripted servers: what is late, lost, dropped or slow is told."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from scripted_http import (
    CHUNKED,
    CLOSING,
    OK,
    REFUSED,
    RESET,
    SILENCE,
    Clock,
    forever,
    plan_of,
    pool,
    sent,
    serving,
)

from loadtest.load.hdr import Histogram
from loadtest.load.plan import Part
from loadtest.load.schedules import poisson


def balanced(one):
    """Nothing vanishes: whatever was offered is found again."""
    assert one.offered == one.sent + one.dropped
    assert one.sent == sum(one.statuses.values()) + sum(one.errors.values())
    assert sum(one.statuses.values()) == sum(one.said.values())
    assert sum(s.offered for s in one.series) == one.offered
    answered = one.said.get("answered", 0)
    assert Histogram.decode(one.latency).total == answered
    return one


async def test_every_request_is_sent_in_turn_and_answered():
    times = poisson(2000, 0.1, seed=1)
    async with serving(forever(OK)) as server:
        (one,) = await sent(plan_of(server.address, times, connections=4))
    balanced(one)
    assert one.good == one.offered == len(times)
    assert one.statuses == {"200": len(times)}
    assert server.connections == 4
    assert set(server.received) == set(pool()), "the requests in turn"


async def test_a_stall_is_told_by_everything_that_was_due_in_it():
    # The first answer takes a second of the clock; the rest are due in it, and answered at once.
    clock = Clock()

    def stall(connection):
        clock.now += 1.0
        connection.transport.write(OK)

    times = np.arange(10) / 10
    async with serving([stall, *[OK] * 9]) as server:
        (one,) = await sent(plan_of(server.address, times), clock=clock)
    balanced(one)
    expected = Histogram(1.0 - times)
    assert Histogram.decode(one.latency) == expected
    assert one.late == 9
    assert one.percentiles["50"] == expected.percentile(50) == pytest.approx(0.5, abs=0.11)


async def test_refusals_count_from_when_they_were_sent():
    clock = Clock()

    def slow(answer, seconds):
        def step(connection):
            clock.now += seconds
            connection.transport.write(answer)

        return step

    script = [slow(OK, 1.0), slow(REFUSED, 0.25)]
    async with serving(script) as server:
        (one,) = await sent(plan_of(server.address, [0.0, 0.0]), clock=clock)
    assert one.said == {"answered": 1, "refused": 1}
    assert Histogram.decode(one.refusal_latency) == Histogram([0.25])
    assert Histogram.decode(one.latency) == Histogram([1.0])


async def test_what_the_queue_cannot_hold_is_dropped_and_counted():
    async with serving(forever(OK)) as server:
        (one,) = await sent(plan_of(server.address, [0.0] * 20, queue=5))
    balanced(one)
    assert (one.sent, one.dropped) == (6, 14)


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (RESET, "reset"),
        (b"nonsense\r\n\r\n", "invalid"),
        (OK + OK, "invalid"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{", "truncated"),
        (CHUNKED[:-5].replace(b"\r\n", b"\r\nConnection: close\r\n", 1), "truncated"),
    ],
)  # fmt: skip
async def test_a_broken_answer_is_an_error_and_the_connection_made_anew(step, error):
    async with serving([step, OK, step, OK]) as server:
        (one,) = await sent(plan_of(server.address, [0.0] * 4))
    balanced(one)
    assert one.errors == {error: 2}
    assert one.good == 2
    assert server.connections == 3


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        CHUNKED,
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\n{}",
    ],
)
async def test_answers_byte_by_byte_are_put_together(answer):
    pieces = [answer[i : i + 1] for i in range(len(answer))]
    async with serving(forever(pieces)) as server:
        (one,) = await sent(plan_of(server.address, [0.0] * 3))
    assert balanced(one).good == 3
    assert server.connections == 1


async def test_a_server_that_closes_is_met_again():
    async with serving(forever(CLOSING)) as server:
        (one,) = await sent(plan_of(server.address, [0.0] * 7, connections=2))
    balanced(one)
    assert one.said == {"refused": 7}
    assert not one.errors
    assert server.connections == 7


async def test_an_answer_that_the_end_completes():
    answer = b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n{}"
    async with serving(forever(answer)) as server:
        (one,) = await sent(plan_of(server.address, [0.0] * 3))
    assert balanced(one).good == 3


async def test_an_idle_connection_that_was_closed_costs_no_request():
    def close_the_others(connection):
        for other in tuple(connection.server.open - {connection}):
            other.transport.abort()
        connection.transport.write(OK)

    async with serving([close_the_others, *[OK] * 3]) as server:
        plan = plan_of(server.address, [0.0, 0.02, 0.02, 0.02], connections=3)
        (one,) = await sent(replace(plan, timeout=1.0))
    balanced(one)
    assert one.good == 4
    assert server.connections >= 4


async def test_a_server_that_dies_leaves_errors_and_no_hang():
    def die(connection):
        connection.server.listening.close()
        connection.transport.abort()

    async with serving([OK, die]) as server:
        (one,) = await sent(plan_of(server.address, [0.0] * 5))
    balanced(one)
    assert one.good == 1
    assert one.errors == {"reset": 1, "connect": 3}


async def test_what_is_never_answered_is_an_error():
    async with serving(forever(SILENCE)) as server:
        plan = plan_of(server.address, [0.0] * 4, connections=2, timeout=0.02)
        (one,) = await sent(plan)
    balanced(one)
    assert one.errors["timeout"] >= 2
    assert not one.percentiles
    assert one.good == 0


async def test_nothing_is_cut_off_while_its_time_is_not_over():
    clock = Clock()
    async with serving([SILENCE]) as server:
        plan = plan_of(server.address, [0.0], timeout=0.02)

        async def later():
            await server.asked.wait()
            for _ in range(200):
                await asyncio.sleep(0)
            (connection,) = server.open
            connection.play(OK)

        (one,), _ = await asyncio.gather(sent(plan, clock=clock), later())
    assert one.good == 1


async def test_what_waits_when_all_is_over_is_dropped():
    clock = Clock()

    def never(connection):
        clock.now += 100.0

    async with serving(forever(never)) as server:
        plan = plan_of(server.address, [0.0] * 3, timeout=0.05)
        (one,) = await sent(plan, clock=clock)
    balanced(one)
    assert one.sent >= 1
    assert one.errors == {"timeout": one.sent}
    assert one.dropped == 3 - one.sent


async def test_no_server_at_the_beginning_is_said_at_once():
    with pytest.raises(OSError, match=r".+"):
        await sent(plan_of(("127.0.0.1", 1), [0.0]))


async def test_parts_have_connections_of_their_own():
    # The hostile one's only connection hangs: the honest one never notices.
    def by_part(connection):
        if b"/hostile" not in connection.server.received[-1]:
            connection.transport.write(OK)

    parts = [
        Part("honest", "honest", pool()),
        Part("hostile", "hostile", [b"GET /hostile HTTP/1.1\r\nHost: t\r\n\r\n"]),
    ]
    async with serving(forever(by_part)) as server:
        plan = plan_of(server.address, [0.0] * 6, [0, 1] * 3, parts=parts, timeout=0.05, queue=2)
        honest, hostile = await sent(plan)
    assert honest.good == 3
    assert (honest.kind, hostile.kind) == ("honest", "hostile")
    assert hostile.good == 0
    balanced(honest)
    balanced(hostile)


async def test_the_deadline_makes_good():
    clock = Clock()

    def slow(connection):
        clock.now += 0.5
        connection.transport.write(OK)

    async with serving(forever(slow)) as server:
        (one,) = await sent(plan_of(server.address, [0.0] * 3, deadline=1.0), clock=clock)
    assert one.said == {"answered": 3}
    assert one.good == 2
    assert one.series[0].good == 2


async def test_sources_are_taken_in_turn():
    sources = ("127.0.0.2", "127.0.0.3")
    async with serving(forever(OK)) as server:
        plan = plan_of(server.address, [0.0] * 4, connections=4, sources=sources)
        (one,) = await sent(plan)
    assert one.good == 4
    assert sorted(host for host, _ in server.peers) == sorted(sources * 2)


async def test_connections_are_taken_in_turn():
    async with serving(forever(OK)) as server:
        (one,) = await sent(plan_of(server.address, [0.0, 0.005, 0.01, 0.015], connections=4))
    assert one.good == 4
    assert len(server.askers) == 4


async def test_unix_sockets(tmp_path):
    async with serving(forever(OK), unix=str(tmp_path / "s")) as server:
        (one,) = await sent(plan_of(server.address, [0.0] * 3))
    assert one.good == 3


async def test_slices_tell_each_second():
    clock = Clock()

    def step(connection):
        number = len(connection.server.received)
        clock.now += 3.0 if number == 1 else 1.0
        connection.transport.write(REFUSED if number == 2 else OK)

    async with serving(forever(step)) as server:
        plan = plan_of(server.address, [0.0, 0.5, 1.0, 2.9])
        (one,) = await sent(plan, clock=clock)
    told = [(s.at, s.offered, s.good, s.refused, s.p50) for s in one.series]
    assert told == [(0.0, 2, 1, 1, 3.0), (1.0, 1, 1, 0, 4.0), (2.0, 1, 1, 0, pytest.approx(3.1))]
    assert one.seconds == 6.0
