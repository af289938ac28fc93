"""Turns of the event loop: how long they take, and who waits while they take too long.

What a turn reads late has waited in the kernel since the turn began, unseen. As long as turns are
short nothing is done about it. Once they have been long for an interval without a break, requests
are only read and checked as they come, so that a refusal costs its sender no time, and are handled
in slices in between, in their order. Who would wait too long for that is shed.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from proxy.http.line import Line

TARGET: Final = 0.005
"""Seconds that a turn, and the wait of a request that is read, may take."""
INTERVAL: Final = 0.1
"""Seconds for which turns must be long, or short again, to be believed: a burst is none."""
_LONG: Final = 3  # turns in a row, at least: one alone is a stall
_SLICE: Final = 0.002
_RESOLUTION: Final = 0.001  # turns that begin sooner after another are part of it
_LEAST: Final = 32  # requests that may wait, however slowly they are handled
_ACCEPTED: Final = 8  # connections a slice, once the loop is overloaded


class Deferred(Protocol):
    """Whose requests wait to be handled."""

    def go_on(self) -> None:
        """Handles them now."""


class Turns:
    """The turns of one loop, and the line of connections whose requests were read.

    Args:
        clock: monotonic seconds.

    Attributes:
        next: clock from which on a turn is to be marked: the one test at normal load.
        overloaded: whether requests wait in the line instead of being handled as they are read.
        overloads: times that this began.
    """

    __slots__ = (
        "_accepted", "_began", "_clock", "_ended_at", "_line", "_long", "_since", "_tidy",
        "_waiting", "next", "overloaded", "overloads",
    )  # fmt: skip

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.next = -math.inf
        self.overloaded = False
        self.overloads = 0
        self._began = 0.0
        self._ended_at = -math.inf
        self._since = math.inf  # since when turns are long
        self._tidy = math.inf  # since when the line is emptied by each slice
        self._waiting: deque[Deferred] = deque()
        self._line = Line(clock())
        self._long = 0  # turns in a row
        self._accepted = 0

    @property
    def waiting(self) -> int:
        """Connections in the line."""
        return len(self._waiting)

    @property
    def wait(self) -> float:
        """Seconds that the next one in the line would wait."""
        return self._line.wait(len(self._waiting), self._clock()) if self._waiting else 0.0

    @property
    def refuses(self) -> bool:
        """Whether a request that was just read is to be shed."""
        count = len(self._waiting)
        return count >= _LEAST and self._line.pace * (count + 1) > TARGET

    def accepts(self) -> bool:
        """Counts a connection, and tells whether there is time for it."""
        now = self._clock()
        if now > self.next:
            self.mark(now)
        self._accepted += 1
        return not self.overloaded or self._accepted <= _ACCEPTED

    def mark(self, now: float) -> None:
        """Something was read in a turn that was not marked yet."""
        self.next = math.inf
        self._began = now
        asyncio.get_running_loop().call_soon(self.end)

    def end(self) -> None:
        """The marked turn is over. Called by the loop."""
        now = self._clock()
        self.next = self._began + _RESOLUTION
        began, before = self._began, self._ended_at
        self._ended_at = now
        self._accepted = 0
        if self.overloaded and not self._waiting:
            self._calm(now - began <= TARGET, now)
        if now - began <= TARGET:
            self._long, self._since = 0, math.inf
            return
        if began - before > TARGET:  # the loop had time in between
            self._long, self._since = 0, math.inf
        self._long += 1
        self._since = min(self._since, began)
        if self._long >= _LONG and now - self._since > INTERVAL and not self.overloaded:
            self.overloaded = True
            self.overloads += 1
            self._tidy = math.inf
            self._line.empty(now)

    def defer(self, connection: Deferred) -> None:
        """Handles a connection's requests in a later slice."""
        if not self._waiting:
            self._line.empty(self._clock())
            self._schedule()
        self._waiting.append(connection)

    def _schedule(self) -> None:
        asyncio.get_running_loop().call_soon(self.handle)

    def handle(self) -> None:
        """One slice. Called by the loop."""
        waiting, clock = self._waiting, self._clock
        end = clock() + _SLICE
        self._accepted = 0
        count = 0
        now = end
        while waiting:
            waiting.popleft().go_on()
            count += 1
            now = clock()
            if now > end:
                break
        self._line.left(now, max(count, 1))
        if waiting:
            self._schedule()
        self._calm(not waiting, now)

    def _calm(self, tidy: bool, now: float) -> None:
        """Ends the overload once everything was done at once for an interval."""
        self._tidy = min(self._tidy, now) if tidy else math.inf
        if now - self._tidy > INTERVAL:
            self.overloaded = False
            self._long, self._since = 0, math.inf
