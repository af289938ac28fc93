"""A model server whose delays and stalls are known beforehand, to measure load generators with.

The n-th request is answered after the n-th delay. In a stall nothing leaves: what arrives in it
begins its delay at the stall's end, and what would be answered in it is answered then. Stalls are
counted from the arrival of the first request. Nothing depends on how many requests there are at
once: what a client who comes at a given time must see is known exactly.

Run as ``python -m loadtest.stalling --listen 127.0.0.1:0 --schedule FILE``.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Final, cast

import numpy as np

from loadtest.echo import CANNED
from loadtest.load.pacing import Timer, timer
from loadtest.load.plan import Times
from loadtest.serving import serve
from loadtest.wire import body_span

LATE: Final = "median lateness "
"""Begins the line that it ends with: the seconds by which its answers left after their time."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is injected.

    Attributes:
        delays: seconds, of each request in turn, over and over.
        stalls: (begin, end) in seconds from the first request, sorted, apart from each other.
    """

    delays: Sequence[float]
    stalls: Sequence[tuple[float, float]]

    @classmethod
    def drawn(cls, seconds: float, seed: int) -> Schedule:
        """Delays of 10 to 50 ms; about every 5 s a stall of 500 ms to 1 s."""
        generator = np.random.default_rng(seed)
        begins = np.arange(2.0, seconds, 5.0)
        begins += generator.uniform(0.0, 2.0, len(begins))
        lengths = generator.uniform(0.5, 1.0, len(begins))
        stalls = [(float(b), float(b + n)) for b, n in zip(begins, lengths, strict=True)]
        return cls(generator.uniform(0.010, 0.050, 4096).tolist(), stalls)

    def truth(self, times: Times) -> Times:
        """(n,) what clients who come at these times must see; seconds from the first of them."""
        at = times - times[0]
        delays = np.resize(np.array(self.delays), len(at))
        left = at
        for begin, end in self.stalls:
            left = np.where((left >= begin) & (left < end), end, left)
        left = left + delays
        for begin, end in self.stalls:
            left = np.where((left >= begin) & (left < end), end, left)
        return np.asarray(left - at, np.float64)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Schedule:
        """As :meth:`write` wrote it."""
        told = json.loads(path.read_text(encoding="utf-8"))
        return cls(told["delays"], [(begin, end) for begin, end in told["stalls"]])


class Stalling:
    """Answers when the schedule says so.

    Args:
        answer: is called with what arrived, when its time has come.

    Attributes:
        late: seconds by which each answer left after its time.
    """

    def __init__(
        self,
        schedule: Schedule,
        answer: Callable[[StallingProtocol], None],
        *,
        clock: Callable[[], float] = monotonic,
        make_timer: Callable[[Callable[[], None]], Timer] = timer,
    ) -> None:
        self._schedule = schedule
        self._answer = answer
        self._clock = clock
        self._begins = [begin for begin, _ in schedule.stalls]
        self._due: list[tuple[float, int, StallingProtocol]] = []
        self._number = 0
        self._begun = 0.0
        self._timer = make_timer(self._tick)
        self.late: list[float] = []

    def arrived(self, who: StallingProtocol) -> None:
        """A request has come."""
        now = self._clock()
        if not self._number:
            self._begun = now
        delay = self._schedule.delays[self._number % len(self._schedule.delays)]
        leaves = self._held(self._held(now - self._begun) + delay) + self._begun
        self._number += 1
        heapq.heappush(self._due, (leaves, self._number, who))
        if self._due[0][0] == leaves:
            self._timer.set(leaves - now)

    def _held(self, at: float) -> float:
        """The end of the stall that this moment is in, or the moment."""
        number = bisect_right(self._begins, at) - 1
        return max(at, self._schedule.stalls[number][1]) if number >= 0 else at

    def _tick(self) -> None:
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            leaves, _, who = heapq.heappop(self._due)
            self._answer(who)
            self.late.append(now - leaves)
        if self._due:
            self._timer.set(self._due[0][0] - self._clock())


class StallingProtocol(asyncio.Protocol):
    """Every POST is a request to the schedule; whatever else comes is answered at once."""

    def __init__(self, stalling: Stalling) -> None:
        self._stalling = stalling
        self._pending = b""
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        data = self._pending + data
        while data:
            head_end = data.find(b"\r\n\r\n")
            end = body_span(data, head_end)[1] if head_end >= 0 else -1
            if end < 0:
                break
            if data.startswith(b"POST "):
                self._stalling.arrived(self)
            else:
                self.answer()
            data = data[end:]
        self._pending = data

    def answer(self) -> None:
        """The same for all; nothing once the client is gone."""
        if not self._transport.is_closing():
            self._transport.write(CANNED)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="loadtest.stalling", description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--schedule", type=Path, required=True, metavar="FILE")
    options = parser.parse_args(arguments)
    schedule = Schedule.read(options.schedule)
    shared: list[Stalling] = []

    def protocol() -> StallingProtocol:
        if not shared:  # the timer needs the running loop
            shared.append(Stalling(schedule, StallingProtocol.answer))
        return StallingProtocol(shared[0])

    serve(options.listen, protocol)
    for stalling in shared:
        sys.stdout.write(f"{LATE}{np.median(stalling.late) if stalling.late else 0.0}\n")


if __name__ == "__main__":
    main()
