"""The open loop: every request is sent at its time, whatever became of those before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

import numpy as np

from loadtest.load.connect import opener
from loadtest.load.count import Count, count_of
from loadtest.load.ledger import Clock, Ledger
from loadtest.load.outcome import TIMEOUT, Outcome
from loadtest.load.pacing import Timer, timer
from loadtest.load.pool import Pool
from loadtest.load.share import Share

MakeTimer = Callable[[Callable[[], None]], Timer]

_SWEEP_SECONDS: Final = 0.25
"""How often requests that are overdue are looked for."""


class OpenLoop:
    """One process's share of a plan.

    Args:
        clock: by which times are kept: seconds, monotonic, the same in all processes.
        make_timer: of a callback; see ``pacing``.
    """

    def __init__(
        self,
        share: Share,
        *,
        clock: Clock = monotonic,
        make_timer: MakeTimer = timer,
    ) -> None:
        self._share = share
        self._clock = clock
        self._ledger = Ledger(share.times, clock)
        self._times = np.ascontiguousarray(share.times).data
        self._which = np.ascontiguousarray(share.which).data
        self._position = 0
        self._finished = asyncio.Event()
        self._fault: BaseException | None = None
        open_one = opener(share)
        turns = np.ascontiguousarray(share.turns).data
        self._pools = [
            Pool(
                open_one, group.messages, turns, self._ledger,
                limit=group.connections, queue=group.queue, sources=group.sources,
                on_idle=self._on_idle, on_fault=self._on_fault,
            )
            for group in share.groups
        ]  # fmt: skip
        self._timer = make_timer(self._tick)
        self._sweeping: asyncio.Handle | None = None

    async def open(self) -> None:
        """Makes the connections.

        Raises:
            OSError: if one cannot be made.
        """
        for pool in self._pools:
            await pool.open()

    async def run(self, start: float) -> Outcome:
        """Sends everything, from a moment of the clock on; ends with the last reply.

        What still waits for a connection ``timeout`` seconds after the last time is dropped.
        """
        self._ledger.start = start
        self._sweep(asyncio.get_running_loop())
        self._timer.set(start - self._clock())
        await self._finished.wait()
        if self._fault is not None:
            raise self._fault
        return self._ledger.outcome()

    async def close(self) -> None:
        """Ends the timers and the connections."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._timer.close()
        for pool in self._pools:
            await pool.close()

    def _tick(self) -> None:
        times, which, pools = self._times, self._which, self._pools
        start, number = self._ledger.start, len(times)
        at = self._position
        now = self._clock() - start
        while at < number and times[at] <= now:
            # Noted first: a request may end while it is being sent.
            self._position = at + 1
            pools[which[at]].due(at)
            at += 1
        if at < number:
            self._timer.set(times[at] - (self._clock() - start))
        else:
            self._on_idle()

    def _on_idle(self) -> None:
        if self._position == len(self._times) and all(pool.quiet for pool in self._pools):
            self._finished.set()

    def _on_fault(self, fault: BaseException) -> None:
        self._fault = self._fault or fault
        self._finished.set()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        timeout = self._share.timeout
        now = self._clock()
        for pool in self._pools:
            pool.give_up(pool.overdue(now - timeout), TIMEOUT)
        times = self._times
        last = times[len(times) - 1] if len(times) else 0.0
        if now > self._ledger.start + last + timeout and self._position == len(times):
            for pool in self._pools:
                pool.forget_waiting()
        self._sweeping = loop.call_later(min(_SWEEP_SECONDS, timeout / 4), self._sweep, loop)

    def count(self) -> Count:
        """How far it is; forgets the latencies that it looked at."""
        ledger = self._ledger
        recent, ledger.recent = ledger.recent, []
        return count_of(
            self._clock() - ledger.start, ledger.counts, offered=self._position,
            busy=sum(pool.busy for pool in self._pools),
            waiting=sum(pool.waiting for pool in self._pools), recent=recent,
        )  # fmt: skip


async def open_loop(
    share: Share, *, clock: Clock = monotonic, make_timer: MakeTimer = timer
) -> Outcome:
    """The whole of it in this process, at once.

    Raises:
        OSError: if the first connections cannot be made.
    """
    loop = OpenLoop(share, clock=clock, make_timer=make_timer)
    try:
        await loop.open()
        return await loop.run(clock())
    finally:
        await loop.close()
