"""A load generator that costs little: prebuilt requests, one protocol object a connection.

The closed loop keeps every connection busy and finds a ceiling. The open loop sends at a given
rate whatever the answers do, and counts latency from the moment at which a request *should* have
been sent, so that a stalled server cannot hide its queue (coordinated omission).
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from time import perf_counter
from typing import cast

import numpy as np
import numpy.typing as npt

from loadtest.wire import response_end

LATE_SECONDS = 0.001
"""An open-loop request that left this much after its time is counted as late."""


@dataclass(slots=True)
class Result:
    """What one run of a load saw.

    Attributes:
        seconds: wall time of the measured part.
        latencies: (n,) seconds of the answers received, in the order of arrival.
        statuses: answers by HTTP status.
        errors: requests that got no valid answer, by kind.
        late: open loop: requests sent more than ``LATE_SECONDS`` after their time.
        dropped: open loop: requests never sent, since too many were waiting for a connection.
    """

    seconds: float
    latencies: npt.NDArray[np.float64]
    statuses: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    late: int = 0
    dropped: int = 0

    @property
    def answered(self) -> int:
        """Answers of any status."""
        return self.statuses.total()

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds if self.seconds > 0 else 0.0

    @property
    def clean(self) -> bool:
        """Whether there were answers, and all of them were 200."""
        return set(self.statuses) == {200} and not self.errors and not self.dropped

    def percentile(self, q: float) -> float:
        """Seconds; NaN if nothing was answered."""
        return float(np.percentile(self.latencies, q)) if self.latencies.size else float("nan")


class _Tally:
    """What all connections of one run write into."""

    __slots__ = ("errors", "latencies", "statuses")

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()

    def result(self, seconds: float, *, late: int = 0, dropped: int = 0) -> Result:
        latencies = np.array(self.latencies, np.float64)
        return Result(seconds, latencies, self.statuses, self.errors, late, dropped)


class _Connection(asyncio.Protocol):
    """One request at a time; asks for the next as soon as it is free.

    ``on_free`` is called with this connection after each answer; ``on_end`` when it is lost.
    """

    __slots__ = ("_tally", "_transport", "busy", "on_end", "on_free", "pending", "started")

    def __init__(
        self,
        tally: _Tally,
        on_free: Callable[[_Connection], None],
        on_end: Callable[[_Connection], None],
    ) -> None:
        self._tally = tally
        self._transport: asyncio.WriteTransport
        self.on_free = on_free
        self.on_end = on_end
        self.busy = False
        self.started = 0.0
        self.pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def send(self, request: bytes, started: float) -> None:
        """Sends a request whose latency counts from ``started``."""
        self.busy = True
        self.started = started
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self.pending:
            data = self.pending + data
        try:
            status, end = response_end(data)
        except ValueError:
            self._fail("invalid")
            return
        if end < 0:
            self.pending = data
            return
        if not self.busy or end != len(data):
            self._fail("unasked")
            return
        self.pending = b""
        self.busy = False
        tally = self._tally
        tally.latencies.append(perf_counter() - self.started)
        tally.statuses[status] += 1
        self.on_free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self.busy:
            self.busy = False
            self._tally.errors["reset"] += 1
        self.on_end(self)

    def close(self) -> None:
        """Ends the connection; a request under way is not an error any more."""
        self.busy = False
        self._transport.close()

    def _fail(self, kind: str) -> None:
        self._tally.errors[kind] += 1
        self.busy = False
        self._transport.abort()


async def _connect(
    address: tuple[str, int],
    count: int,
    tally: _Tally,
    on_free: Callable[[_Connection], None],
    on_end: Callable[[_Connection], None],
) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    connections = []
    for _ in range(count):
        _, connection = await loop.create_connection(
            lambda: _Connection(tally, on_free, on_end), *address
        )
        connections.append(connection)
    return connections


async def closed_loop(
    address: tuple[str, int],
    pool: Sequence[bytes],
    *,
    connections: int,
    seconds: float,
) -> Result:
    """Keeps every connection busy for ``seconds`` with requests taken from ``pool`` in turn.

    The run ends with the last answer to what was sent in that time, so that no work is left behind
    on the server, and none goes uncounted. Connections that the server ends are not opened again.

    Raises:
        OSError: if the first connections cannot be made.
    """
    tally = _Tally()
    requests = cycle(pool)
    finished = asyncio.Event()
    open_connections = connections
    deadline = float("inf")

    def on_free(connection: _Connection) -> None:
        now = perf_counter()
        if now < deadline:
            connection.send(next(requests), now)
        else:
            connection.close()

    def on_end(_: _Connection) -> None:
        nonlocal open_connections
        open_connections -= 1
        if not open_connections:
            finished.set()

    started = perf_counter()
    live = await _connect(address, connections, tally, on_free, on_end)
    started = perf_counter()
    deadline = started + seconds
    for connection in live:
        connection.send(next(requests), perf_counter())
    try:
        # Whatever hangs for as long as the run itself has lost.
        async with asyncio.timeout(seconds * 2 + 10):
            await finished.wait()
    except TimeoutError:
        tally.errors["timeout"] += sum(connection.busy for connection in live)
        for connection in live:
            connection.close()
    return tally.result(perf_counter() - started)


def arrivals(rate: float, seconds: float, seed: int) -> npt.NDArray[np.float64]:
    """Poisson arrival times in [0, seconds), sorted."""
    generator = np.random.default_rng(seed)
    expected = rate * seconds
    gaps = generator.exponential(1 / rate, int(expected + 6 * expected**0.5 + 16))
    times = np.cumsum(gaps)
    return times[times < seconds]


async def open_loop(
    address: tuple[str, int],
    pool: Sequence[bytes],
    *,
    times: Sequence[float],
    connections: int,
    queue: int = 10_000,
    drain_seconds: float = 5.0,
) -> Result:
    """Sends a request at each of ``times`` (seconds from the start, sorted), over ``connections``.

    A request whose time has come while every connection is busy waits in a queue of at most
    ``queue`` requests; its latency counts from its time all the same. What finds the queue full is
    dropped and counted. Connections that the server ends are not opened again.

    Raises:
        OSError: if the first connections cannot be made.
    """
    tally = _Tally()
    requests = cycle(pool)
    finished = asyncio.Event()
    idle: list[_Connection] = []
    waiting: deque[float] = deque()
    loop = asyncio.get_running_loop()
    position = late = dropped = 0
    live: list[_Connection] = []

    def send(connection: _Connection, intended: float) -> None:
        nonlocal late
        if perf_counter() - intended > LATE_SECONDS:
            late += 1
        connection.send(next(requests), intended)

    def on_free(connection: _Connection) -> None:
        if waiting:
            send(connection, waiting.popleft())
            return
        idle.append(connection)
        if position == len(times) and len(idle) == len(live):
            finished.set()

    def on_end(connection: _Connection) -> None:
        if connection in idle:
            idle.remove(connection)
        if connection in live:
            live.remove(connection)
        if not live or (position == len(times) and len(idle) == len(live)):
            finished.set()

    def tick() -> None:
        nonlocal position, dropped
        now = perf_counter()
        while position < len(times) and started + times[position] <= now:
            intended = started + times[position]
            position += 1
            if idle:
                send(idle.pop(), intended)
            elif len(waiting) < queue:
                waiting.append(intended)
            else:
                dropped += 1
        if position < len(times):
            loop.call_later(max(0.0, started + times[position] - perf_counter()), tick)
        elif len(idle) == len(live):
            finished.set()

    live.extend(await _connect(address, connections, tally, on_free, on_end))
    idle.extend(live)
    started = perf_counter()
    tick()
    try:
        async with asyncio.timeout((times[-1] if len(times) else 0.0) + drain_seconds):
            await finished.wait()
    except TimeoutError:
        tally.errors["timeout"] += sum(connection.busy for connection in live) + len(waiting)
    else:
        tally.errors["unsent"] += len(waiting) + len(times) - position
    tally.errors += Counter()  # forgets zeros
    result = tally.result(perf_counter() - started, late=late, dropped=dropped)
    position = len(times)
    waiting.clear()
    for connection in tuple(live):  # closing may shorten it
        connection.close()
    return result
