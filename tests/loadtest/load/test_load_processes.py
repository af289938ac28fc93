"""Loads in processes of their own, against a real server: short, but whole."""

import asyncio
import os
import signal
import threading
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from scripted_http import OK, REFUSED, SILENCE, Scripted, Server, forever, plan_of, pool

from loadtest.load.ceiling import ceiling
from loadtest.load.hdr import Histogram
from loadtest.load.plan import LoadError, Part
from loadtest.load.processes import Workers
from loadtest.load.run import closed, pairs, rate_of, run
from loadtest.load.schedules import mix, poisson


@contextmanager
def serving_beside(script):
    """A scripted server in a thread of its own."""
    server = Server(script)
    loop = asyncio.new_event_loop()
    listening = loop.run_until_complete(
        loop.create_server(lambda: Scripted(server), "127.0.0.1", 0)
    )
    server.address = listening.sockets[0].getsockname()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def end():
        listening.close()
        for connection in tuple(server.open):
            connection.transport.abort()
        loop.call_later(0.01, loop.stop)

    try:
        yield server
    finally:
        loop.call_soon_threadsafe(end)
        thread.join()
        loop.close()


def honest_and_hostile(address, **others):
    times, which = mix([poisson(300, 0.3, 1), poisson(100, 0.3, 2)])
    parts = [
        Part("honest", "honest", pool()),
        Part("hostile", "hostile", [b"GET /hostile HTTP/1.1\r\nHost: t\r\n\r\n"]),
    ]
    settings = {"parts": parts, "connections": 4, "processes": 2} | others
    return plan_of(address, times, which, **settings)


def by_target(connection):
    hostile = b"/hostile" in connection.server.received[-1]
    connection.transport.write(REFUSED if hostile else OK)


def test_two_processes_are_one_load(tmp_path, monkeypatch):
    # The folder that one stands in lends them no modules.
    for name in ("numpy.py", "proxy.py", "loadtest.py", "asyncio.py"):
        (tmp_path / name).write_text("raise SystemExit('of a stranger')")
    monkeypatch.chdir(tmp_path)
    told = []
    with serving_beside(forever(by_target)) as server:
        plan = honest_and_hostile(server.address)
        honest, hostile = run(plan, told.append)
        received = list(server.received)
    number = np.bincount(plan.which)
    assert (honest.offered, hostile.offered) == tuple(number)
    assert honest.said == {"answered": number[0]}
    assert hostile.said == {"refused": number[1]}
    assert len(received) == len(plan.times)
    # All requests of the pool were taken in turn, over both processes.
    counts = [received.count(request) for request in pool()]
    assert max(counts) - min(counts) <= 1
    assert server.connections == 8
    assert Histogram.decode(honest.latency).total == number[0]
    assert Histogram.decode(hostile.refusal_latency).total == number[1]
    assert told[-1].offered == told[-1].sent == len(plan.times)
    assert told[-1].said == {"answered": number[0], "refused": number[1]}


def test_pairs_alternate_and_go_on():
    with serving_beside(forever(OK)) as direct, serving_beside(forever(OK)) as firewall:
        one = plan_of(direct.address, [0.0, 0.0, 0.0])
        found = pairs(one, replace(one, side="firewall", address=firewall.address), 2)
        received = list(firewall.received)
    order = [(result.round, result.side) for result in found]
    assert order == [(0, "direct"), (0, "firewall"), (1, "firewall"), (1, "direct")]
    assert received == pool()[:6]


def test_a_ceiling_is_found_and_confirmed():
    with serving_beside(forever(OK)) as server:
        plan = plan_of(server.address, [])
        found = ceiling(plan, seconds=0.1, most=2)
        one = closed(replace(plan, connections=2, processes=2), 0.05)
    assert found.rate == max(map(rate_of, found.steps)) > 0
    assert found.connections in {1, 2}
    assert {step.arrivals for step in found.steps} == {"closed loop"}
    assert found.confirmed.offered > 0
    assert one.good == one.offered > 0


def test_a_dead_process_is_an_error():
    with serving_beside(forever(SILENCE)) as server:
        plan = plan_of(server.address, [0.0, 1.0], processes=2, connections=2)
        with Workers(plan) as workers, pytest.raises(LoadError, match="died: status -9"):

            def kill(*_):
                os.kill(workers.pids[1], signal.SIGKILL)

            workers.run(kill)


def test_no_server_is_an_error_in_words():
    with pytest.raises(LoadError, match=r"refused|111"):
        run(plan_of(("127.0.0.1", 1), [0.0]))


class Interrupted(BaseException):
    """As a signal raises it."""


def test_an_interrupt_leaves_no_process():
    started = []
    with serving_beside(forever(SILENCE)) as server:
        plan = plan_of(server.address, [0.0, 3600.0])

        def interrupt(*_):
            raise Interrupted

        with pytest.raises(Interrupted), Workers(plan) as workers:
            started += workers.pids
            workers.run(interrupt)
    assert started
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
