"""A queue that is bounded by time: whether one more may join it."""

from __future__ import annotations

from typing import Final

_WEIGHT: Final = 0.1  # of one departure in the pace
_STALLED: Final = 4  # gaps beyond so many times the pace are the pace


class Line:
    """Foretells the wait of whoever would join a queue, and says no at once if that is too long.

    A burst may wait long; while the queue stands, that is, while it has not been empty for as long
    as a burst may wait, the bound is short. That is CoDel (RFC 8289) in the form used for queues of
    servers (Maurer, Fail at Scale, ACM Queue 13(8)), but decided on arrival: whoever is turned away
    learns it while others could still serve him, and nobody waits for nothing. As nobody joins who
    would wait too long, first come, first served is fair and costs nothing; last come, first served
    helps where queues grow beyond their bounds.

    Attributes:
        pace: seconds from one departure to the next while others wait; 0.0 before the first.
    """

    __slots__ = ("_empty_at", "_left_at", "pace")

    def __init__(self, now: float) -> None:
        self.pace = 0.0
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

    def refuses(self, ahead: int, now: float, burst: float, standing: float) -> bool:
        """Whether that is too long."""
        bound = standing if now - self._empty_at > burst else burst
        return ahead > 0 and self.wait(ahead, now) > bound
