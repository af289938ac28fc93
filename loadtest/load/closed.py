"""The closed loop: every connection is always busy. It finds a ceiling, and nothing else.

Its latencies say little: a stalled server is asked less, and so hides its queue.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from time import monotonic
from typing import Final

import numpy as np
import numpy.typing as npt

from loadtest.grpc_messages import INFER
from loadtest.load.connect import opener
from loadtest.load.count import Count, count_of
from loadtest.load.http import Connection
from loadtest.load.ledger import Clock
from loadtest.load.outcome import CONNECT, ERRORS, GRPC, TIMEOUT, Outcome, text_of
from loadtest.load.plan import Address, Call, Wire
from loadtest.load.pool import Opener
from loadtest.load.share import Group, Share

_OK: Final = 200
_PATIENCE_SECONDS: Final = 10.0


class ClosedLoop:
    """One process's share of a plan: the requests of its first part, in turn.

    Args:
        seconds: for which requests are sent; the last of them are waited for.
        reopen: whether a connection that is lost is made anew.
    """

    def __init__(
        self, share: Share, seconds: float, *, clock: Clock = monotonic, reopen: bool = True
    ) -> None:
        self._group = share.groups[0]
        self._opener: Opener = opener(share)
        self._timeout = share.timeout
        self._seconds = seconds
        self._reopen = reopen
        self._clock = clock
        self._start = self._until = float("inf")
        self._requests = cycle(self._group.messages)
        self._live: list[Connection | None] = []
        self._begun: list[float] = []  # by slot of connection
        self._sent: list[float] = []
        self._done: list[float] = []
        self._status: list[int] = []
        self._seen = 0
        self._open = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._finished = asyncio.Event()
        self._fault: BaseException | None = None

    async def open(self) -> None:
        """Makes the connections.

        Raises:
            OSError: if one cannot be made.
        """
        sources = self._group.sources or ("",)
        for slot in range(self._group.connections):
            self._live.append(await self._opener(self, sources[slot % len(sources)]))
            self._begun.append(0.0)
            self._open += 1

    async def run(self, start: float) -> Outcome:
        """Keeps every connection busy; the run ends with the last answer to what was sent."""
        await asyncio.sleep(max(0.0, start - self._clock()))
        self._start = self._clock()
        self._until = self._start + self._seconds
        for slot, connection in enumerate(self._live):
            if connection is not None:
                self._send(connection, slot, self._clock())
        try:
            async with asyncio.timeout(self._seconds + self._timeout):
                await self._finished.wait()
        except TimeoutError:
            for one in tuple(self._live):
                if one is not None and one.index >= 0:
                    one.give_up(TIMEOUT)
        if self._fault is not None:
            raise self._fault
        sent, done = (np.array(times) - self._start for times in (self._sent, self._done))
        order = np.argsort(sent, kind="stable")
        return Outcome(
            sent[order], sent[order], done[order], np.array(self._status, np.int16)[order]
        )

    async def close(self) -> None:
        """Ends the connections."""
        self._until = -float("inf")
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        await asyncio.gather(*(one.close() for one in self._live if one is not None))

    def count(self) -> Count:
        """How far it is."""
        begin, self._seen = self._seen, len(self._done)
        recent = [
            done - sent for done, sent in zip(self._done[begin:], self._sent[begin:], strict=True)
        ]
        busy = sum(one is not None and one.index >= 0 for one in self._live)
        return count_of(
            self._clock() - self._start, Counter(self._status),
            offered=len(self._done) + busy, busy=busy, waiting=0, recent=recent,
        )  # fmt: skip

    def ended(self, connection: Connection, index: int, status: int) -> None:
        """As ``Owner``; requests are told apart by their connection's slot."""
        now = self._clock()
        self._sent.append(self._begun[index])
        self._done.append(now)
        self._status.append(status)
        if connection.usable:
            if now < self._until:
                self._send(connection, index, now)
            else:
                self._rest()

    def lost(self, connection: Connection) -> None:
        """As ``Owner``."""
        if connection not in self._live:
            return
        slot = self._live.index(connection)
        self._live[slot] = None
        if self._reopen and self._clock() < self._until:
            self._open_again(slot)
        else:
            self._rest()

    def _send(self, connection: Connection, slot: int, now: float) -> None:
        self._begun[slot] = now
        connection.send(slot, next(self._requests))

    def _rest(self) -> None:
        """A connection has no more to do."""
        self._open -= 1
        if not self._open:
            self._finished.set()

    def _open_again(self, slot: int) -> None:
        task = asyncio.ensure_future(self._connect(slot))
        self._opening.add(task)
        task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._fault = fault
            self._finished.set()

    async def _connect(self, slot: int) -> None:
        sources = self._group.sources or ("",)
        while (now := self._clock()) < self._until:
            try:
                connection = await self._opener(self, sources[slot % len(sources)])
            except OSError:
                self._sent.append(now)
                self._done.append(self._clock())
                self._status.append(CONNECT)
                await asyncio.sleep(0)
                continue
            if connection.usable:
                self._live[slot] = connection
                self._send(connection, slot, self._clock())
                return
        self._rest()


@dataclass(slots=True)
class Result:
    """What one run of a closed loop in this process saw.

    Attributes:
        seconds: wall time of the measured part.
        latencies: (n,) seconds of the answers received.
        statuses: answers by HTTP status; a gRPC call that is answered counts as 200.
        errors: requests that got no valid answer, by kind; gRPC calls that failed, by status.
    """

    seconds: float
    latencies: npt.NDArray[np.float64]
    statuses: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

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
        return set(self.statuses) == {_OK} and not self.errors

    def percentile(self, q: float) -> float:
        """Seconds; NaN if nothing was answered."""
        return float(np.percentile(self.latencies, q)) if self.latencies.size else float("nan")


async def closed_loop(
    address: Address,
    pool: Sequence[bytes] | Sequence[Call],
    *,
    connections: int,
    seconds: float,
    wire: Wire = "http",
) -> Result:
    """Keeps every connection busy for ``seconds`` with requests taken from ``pool`` in turn.

    In this process and event loop: what benchmarks of other things drive their load with. The run
    ends with the last answer to what was sent in that time, so that no work is left behind on the
    server. Connections that the server ends are not opened again.

    Raises:
        OSError: if the first connections cannot be made.
    """
    nothing = np.empty(0, np.int64)
    group = Group(pool, connections, 0, ())
    share = Share(
        address, wire, None, _PATIENCE_SECONDS, INFER, [group], np.empty(0), nothing, nothing
    )
    loop = ClosedLoop(share, seconds, reopen=False)
    try:
        await loop.open()
        outcome = await loop.run(monotonic())
    finally:
        await loop.close()
    answered = np.isin(outcome.status, [s for s in np.unique(outcome.status) if 0 < s <= GRPC])
    ended = Counter(outcome.status.tolist())
    good = Counter({_OK if s == GRPC else s: n for s, n in ended.items() if 0 < s <= GRPC})
    bad = Counter({_error(s): n for s, n in ended.items() if not 0 < s <= GRPC})
    took = float(np.max(outcome.done, initial=0.0))
    return Result(took, (outcome.done - outcome.sent)[answered], good, bad)


def _error(status: int) -> str:
    return ERRORS[status] if status < 0 else text_of(status)
