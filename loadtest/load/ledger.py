"""What one process notes of each of its requests, as cheaply as can be."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from time import monotonic

import numpy as np

from loadtest.load.outcome import UNSENT, Outcome
from loadtest.load.plan import Times

Clock = Callable[[], float]


class Ledger:
    """Of n requests that are known beforehand.

    Attributes:
        sent, done: by request, by the clock; NaN: not yet.
        status: by request; see ``outcome``.
        counts: of what has ended so far, by status.
        recent: seconds since its time of each that has ended since somebody last looked.
        start: the moment, by the clock, from which ``times`` count.
    """

    __slots__ = ("_clock", "_times", "counts", "done", "recent", "sent", "start", "status")

    def __init__(self, times: Times, clock: Clock = monotonic) -> None:
        never = np.full(len(times), np.nan)
        self._clock = clock
        self._times = np.ascontiguousarray(times).data
        self.sent = array("d", never.tobytes())
        self.done = array("d", never.tobytes())
        self.status = array("h", bytes(2 * len(times)))
        self.counts: Counter[int] = Counter()
        self.recent: list[float] = []
        self.start = 0.0

    def sending(self, index: int) -> None:
        """A request is sent just now."""
        self.sent[index] = self._clock()

    def ended(self, index: int, status: int) -> None:
        """A request has come to its end."""
        now = self._clock()
        self.done[index] = now
        self.status[index] = status
        self.counts[status] += 1
        if status > 0:
            self.recent.append(now - self.start - self._times[index])

    def outcome(self) -> Outcome:
        """What was noted, with times from the start."""
        status = np.array(self.status, np.int16)
        sent, done = (np.array(times, np.float64) - self.start for times in (self.sent, self.done))
        sent[status == UNSENT] = np.nan
        return Outcome(np.array(self._times, np.float64), sent, done, status)
