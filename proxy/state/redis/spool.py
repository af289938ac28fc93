"""Deltas that Redis has not acknowledged yet, merged for each key, within a bound.

What was sent and got no answer may have been added: it is sent again as it was, under the same
sequence, by which the server knows it. Until then, what is learnt meanwhile waits behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from detectors.patterns.exchange import Delta, Layout
from proxy.state.deltas import combine, newest

_DROPPED_SHARE = 16
"""One in so many waiting keys is dropped at once, so that a flood does not sort them each time."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A delta under way.

    Attributes:
        sequence: counts up; the server adds each once.
        at: when it was first sent, in monotonic seconds.
        again: whether it was sent before.
    """

    sequence: int
    delta: Delta
    at: float
    again: bool = False


class Waiting:
    """What waits for one key.

    Attributes:
        sent: what is under way or got no answer.
        pending: what was learnt since.
        own: entries that were added, but whose delta's answer the tracker never got: they are not
            told to it as others'.
    """

    __slots__ = ("own", "pending", "sent")

    def __init__(self) -> None:
        self.sent: Sent | None = None
        self.pending: Delta | None = None
        self.own = b""

    def evidence(self) -> float:
        """The most evidence that would be lost with it, in nats."""
        deltas = (self.pending, self.sent.delta if self.sent else None)
        stretches = (stretch for delta in deltas if delta for stretch in delta.stretches)
        return max((stretch.peak for stretch in stretches), default=0.0)


class Spool:
    """What waits, the key that waited longest first.

    Args:
        layout: that of the records.
        most: keys that may wait. Beyond, those with the least evidence are dropped.

    Attributes:
        dropped: deltas that were lost.
    """

    def __init__(self, layout: Layout, most: int) -> None:
        self.layout = layout
        self.dropped = 0
        self._most = most
        self._waiting: dict[str, Waiting] = {}
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[str]:
        return iter(self._waiting)

    def configure(self, layout: Layout) -> None:
        """Lays records out so from now on. Entries of another layout are forgotten."""
        if (layout.entry_bytes, layout.ring, layout.shared_ring) != (
            self.layout.entry_bytes, self.layout.ring, self.layout.shared_ring,
        ):  # fmt: skip
            for waiting in self._waiting.values():
                waiting.own = b""
                if waiting.sent is not None:
                    bare = replace(waiting.sent.delta, entries=b"")
                    waiting.sent = replace(waiting.sent, delta=bare)
                if waiting.pending is not None:
                    waiting.pending = replace(waiting.pending, entries=b"")
        self.layout = layout

    def add(self, delta: Delta) -> None:
        """Lets a delta wait, behind what waits for its key."""
        waiting = self._waiting.get(delta.key)
        if waiting is None:
            if len(self._waiting) >= self._most:
                self._drop()
            waiting = self._waiting[delta.key] = Waiting()
        if waiting.pending is None:
            waiting.pending = delta
        else:
            waiting.pending = combine(waiting.pending, delta, self.layout)

    def next(self, key: str, now: float) -> Sent | None:
        """What is to be sent for a key, which is under way from now on; None if nothing waits."""
        waiting = self._waiting.get(key)
        if waiting is None:
            return None
        if waiting.sent is not None:
            waiting.sent = replace(waiting.sent, again=True)
        elif waiting.pending is not None:
            self._sequence += 1
            waiting.sent = Sent(self._sequence, waiting.pending, now)
            waiting.pending = None
        return waiting.sent

    def acknowledge(self, key: str, sent: Sent, *, counted_before: bool) -> bytes | None:
        """Takes note that the server has dealt with a delta.

        Args:
            counted_before: whether it had been added when it was sent earlier.

        Returns:
            The entries in its answer that are the tracker's own; None if more is to be sent for
            this key before its tracker may be answered.
        """
        waiting = self._waiting.get(key)
        if waiting is None or waiting.sent is None or waiting.sent.sequence != sent.sequence:
            return None  # dropped meanwhile
        waiting.sent = None
        if counted_before or waiting.pending is not None:
            waiting.own = newest(waiting.own + sent.delta.entries, key, self.layout)
        if waiting.pending is not None:
            return None
        del self._waiting[key]
        return waiting.own

    def put_off(self, key: str) -> None:
        """Lets other keys go before this one."""
        waiting = self._waiting.pop(key, None)
        if waiting is not None:
            self._waiting[key] = waiting

    def _drop(self) -> None:
        """Makes room: the keys with the least evidence go, those that waited longest first."""
        waiting = self._waiting
        names = sorted(
            (key for key in waiting if ":" in key), key=lambda key: waiting[key].evidence()
        )
        for key in names[: max(1, self._most // _DROPPED_SHARE)]:
            entry = waiting.pop(key)
            self.dropped += (entry.sent is not None) + (entry.pending is not None)
