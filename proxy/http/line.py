"""A queue that is bounded by time: whether one more may join it."""

from __future__ import annotations

import math
from typing import Final

_WEIGHT: Final = 0.1  # of one departure in the pace
_STALLED: Final = 4  # gaps beyond so many times the pace are the pace


class Line:
    """Foretells the wait of whoever would join a queue, and says no at once if that is too long.

    A burst may wait long; while the queue stands, that is, once those who came over an interval
    have met waits beyond the short bound, with no gap of a quarter of it, that bound holds. This is
    CoDel (RFC 8289; for queues of servers: Maurer, Fail at Scale, ACM Queue 13(8)), but for the gap
    (a server that finishes several at once empties a short queue in the midst of an overload), and
    for being decided on arrival: whoever is turned away
    learns it while others could still serve him, and nobody waits for nothing. As nobody joins who
    would wait too long, first come, first served is fair and costs nothing; last come, first served
    helps where queues grow beyond their bounds.

    Attributes:
        pace: seconds from one departure to the next while others wait; 0.0 before the first.
    """

    __slots__ = ("_above_at", "_above_since", "_empty_at", "_left_at", "pace")

    def __init__(self, now: float) -> None:
        self.pace = 0.0
        self._above_since = self._above_at = -math.inf  # clock: waits were beyond the short bound
        self._empty_at = self._left_at = now

    def empty(self, now: float) -> None:
        """Nobody waits."""
        self._empty_at = self._left_at = now

    def left(self, now: float, count: int = 1) -> None:
        """So many were served since the last time, and somebody has waited all the while."""
        pace = (now - self._left_at) / count
        self._left_at = now
        self.pace += (pace - self.pace) * (_WEIGHT if self.pace else 1.0)

    def stands(self, now: float, burst: float) -> bool:
        """Whether it has not been empty for ``burst`` seconds."""
        return now - self._empty_at > burst

    def wait(self, ahead: int, now: float) -> float:
        """Seconds until the one behind ``ahead`` others is served, as things go."""
        return (ahead + 1) * max(self.pace, (now - self._left_at) / _STALLED)

    def refuses(
        self, ahead: int, now: float, burst: float, standing: float, interval: float = 0.0
    ) -> bool:
        """Whether that is too long.

        Args:
            burst, standing: the bounds, in seconds.
            interval: after which a queue stands; 0: after as long as a burst may wait.
        """
        wait = self.wait(ahead, now) if ahead > 0 else 0.0
        if wait <= standing:
            return False
        interval = interval or burst
        if now - self._above_at > interval / 4:
            self._above_since = now
        self._above_at = now
        return wait > burst or now - self._above_since > interval
