"""Time that is told."""

from __future__ import annotations


class Clock:
    """Stands still until it is set.

    Attributes:
        now: seconds on the monotonic clock.
        epoch: that clock's zero, in seconds since 1970.
    """

    __slots__ = ("epoch", "now")

    def __init__(self, now: float = 0.0, epoch: float = 0.0) -> None:
        self.now = now
        self.epoch = epoch

    def monotonic(self) -> float:
        """Monotonic seconds."""
        return self.now

    def wall(self) -> float:
        """Seconds since 1970."""
        return self.epoch + self.now
