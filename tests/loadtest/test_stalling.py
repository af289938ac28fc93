"""The server of known delays keeps to its schedule, and the schedule's truth is that of clients."""

import asyncio
import math

import numpy as np
import pytest

from loadtest.load.schedules import poisson
from loadtest.stalling import Schedule, Stalling, StallingProtocol


class Wire(asyncio.Transport):
    """Takes what is written to it."""

    def __init__(self):
        super().__init__()
        self.written = b""
        self.gone = False

    def write(self, data):
        self.written += data

    def is_closing(self):
        return self.gone


class Timer:
    """Keeps what it was set to; the test decides when it is over."""

    def __init__(self, callback):
        self.callback = callback
        self.seconds = None

    def set(self, seconds):
        self.seconds = seconds

    def close(self):
        """Nothing to do."""


def play(schedule, times):
    """What clients at these times see of the server itself, on a clock of our own."""
    now, left, timers = [100.0], {}, []

    def make_timer(callback):
        timers.append(Timer(callback))
        return timers[0]

    stalling = Stalling(
        schedule, lambda who: left.setdefault(who, now[0]), clock=lambda: now[0],
        make_timer=make_timer,
    )  # fmt: skip
    (timer,) = timers
    at = math.inf  # the moment that the timer is set to

    def run_to(moment):
        nonlocal at
        while at <= moment:
            now[0], at, timer.seconds = max(now[0], at), math.inf, None
            timer.callback()
            if timer.seconds is not None:
                at = now[0] + timer.seconds

    for number, time in enumerate(times):
        run_to(100.0 + time)
        now[0] = 100.0 + time
        timer.seconds = None
        stalling.arrived(number)
        if timer.seconds is not None:
            at = now[0] + timer.seconds
    run_to(1e9)
    return np.array([left[n] - 100.0 - times[n] for n in range(len(times))])


@pytest.mark.parametrize("seed", [1, 2])
def test_the_server_does_what_the_truth_says(seed):
    schedule = Schedule.drawn(12, seed)
    times = poisson(200, 12, seed)
    truth = schedule.truth(times)
    seen = play(schedule, times - times[0])
    assert seen == pytest.approx(truth, abs=1e-9)
    assert truth.min() >= 0.010
    assert 0.5 < truth.max() < 1.1


def test_the_truth_by_hand():
    schedule = Schedule([0.1, 0.2], [(1.0, 2.0)])
    times = np.array([5.0, 5.95, 6.25, 7.0])  # from the first: 0, 0.95, 1.25, 2.0
    # Undisturbed; would be answered in the stall; comes in it; comes as it ends.
    assert schedule.truth(times) == pytest.approx([0.1, 1.05, 0.85, 0.2])


def test_a_schedule_comes_back_from_its_file(tmp_path):
    schedule = Schedule.drawn(30, 3)
    schedule.write(tmp_path / "s.json")
    assert Schedule.read(tmp_path / "s.json") == schedule
    lengths = [end - begin for begin, end in schedule.stalls]
    assert len(lengths) == 6
    assert all(0.5 <= length <= 1.0 for length in lengths)
    assert Schedule.drawn(30, 4) != schedule


def test_requests_are_told_from_probes_and_clients_may_go():
    arrived = []

    class Recording:
        def arrived(self, who):
            arrived.append(who)

    protocol, wire = StallingProtocol(Recording()), Wire()
    protocol.connection_made(wire)
    request = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
    protocol.data_received(b"GET / HTTP/1.1\r\n\r\n" + request[:9])
    assert (wire.written.count(b"HTTP/1.1 200"), len(arrived)) == (1, 0)
    protocol.data_received(request[9:])
    assert (wire.written.count(b"HTTP/1.1 200"), len(arrived)) == (1, 1)
    protocol.answer()
    wire.gone = True
    protocol.answer()
    assert wire.written.count(b"HTTP/1.1 200") == 2
