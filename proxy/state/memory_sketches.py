"""Sketches in the worker's own memory: what a single worker remembers of its clients beyond those
that its tracker holds. No copy is made of what is only kept.

The number of keys is bounded. Each is worth its level, which falls with time and goes on falling
below 0; the one worth least is forgotten first. So a key without evidence goes before any with
evidence, and a flood of newcomers without evidence forgets nothing but itself.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Final

from detectors.patterns.exchange import Delta, Layout, Merged
from proxy.state.deltas import add_sums, check, larger_marks, newest

_HOUR: Final = 3600.0
_ROUNDING: Final = 1e-9
"""Nats that a level of 0 may be off by in a record's worth."""


class _Record:
    """What is known of one key. ``levels`` are as of ``touched``."""

    __slots__ = ("born", "count", "epoch", "levels", "marks", "ring", "sums", "touched", "worth")

    def __init__(self, now: float, delta: Delta) -> None:
        self.born = now
        self.touched = now
        self.epoch = delta.epoch
        self.levels = list(delta.levels)
        self.sums = b""
        self.marks = b""
        self.ring = bytearray()
        self.count = delta.cursor
        self.worth = (0.0, 0)

    def age(self, now: float, layout: Layout) -> None:
        """Lets the levels fall to what they are now, and begins a new day if it is time."""
        self.levels = self.levels_at(now, layout)
        self.touched = now
        if self.day_is_over(now, layout):
            self.born = now
            self.sums = self.marks = b""

    def levels_at(self, now: float, layout: Layout) -> list[float]:
        """The levels as they have fallen by now."""
        lost = (now - self.touched) * layout.recovery / _HOUR
        return [max(0.0, level - lost) for level in self.levels] if lost > 0 else self.levels

    def day_is_over(self, now: float, layout: Layout) -> bool:
        """Whether the sums and marks are those of a day that has passed."""
        return now - self.born >= layout.retention

    def rate(self, layout: Layout, serial: int) -> None:
        """Sets what the record is worth. Levels fall alike: with what a level will have fallen by
        ``touched`` added, their order does not change with time."""
        fallen = self.touched * layout.recovery / _HOUR
        self.worth = (max(self.levels, default=0.0) + fallen, serial)

    def add(self, delta: Delta, layout: Layout) -> None:
        """Adds what was learnt on top of this."""
        self.levels += [0.0] * (len(delta.stretches) - len(self.levels))
        for family, stretch in enumerate(delta.stretches):
            self.levels[family] = min(layout.ceiling, stretch.after(self.levels[family]))
        if delta.sums:
            self.sums = add_sums(self.sums, delta.sums)
        if delta.marks:
            self.marks = larger_marks(self.marks, delta.marks)
        if delta.entries:
            ring = self.ring
            added = newest(delta.entries, delta.key, layout)
            ring += added
            excess = len(ring) - layout.ring_of(delta.key) * layout.entry_bytes
            if excess > 0:
                del ring[:excess]
            self.count += len(added) // layout.entry_bytes

    def since(self, cursor: int, layout: Layout) -> bytes:
        """The entries added since a cursor that the ring still holds."""
        size = min(max(0, self.count - cursor) * layout.entry_bytes, len(self.ring))
        return bytes(self.ring[len(self.ring) - size :]) if size else b""

    def merged(self, key: str, entries: bytes) -> Merged:
        """What is known, as it is told."""
        return Merged(
            key, tuple(self.levels), self.sums, self.marks, entries, self.count, self.epoch
        )


class MemorySketches:
    """Implements ``base.Sketches`` for one worker.

    Args:
        layout: that of the tracker.
        most: keys that are remembered, at most.
        clock: monotonic seconds.
        wall: seconds since the epoch.

    Attributes:
        forgotten: keys with evidence that were forgotten because there was no room.
        exchanged_at: the moment of the last exchange, on the monotonic clock.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        most: int,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.forgotten = 0
        self.exchanged_at = 0.0
        self._layout = layout
        self._most = most
        self._clock = clock
        self._wall = wall
        self._records: OrderedDict[str, _Record] = OrderedDict()  # touched longest ago: first
        self._worths: list[tuple[float, int, str]] = []  # a heap; what is no record's own is old
        self._serial = 0
        self._bans: dict[str, float] = {}

    def configure(self, layout: Layout) -> None:
        """Lays records out so from now on. Rings of another layout are forgotten."""
        old, self._layout = self._layout, layout
        for key, record in self._records.items():
            if (old.entry_bytes, old.ring_of(key)) != (layout.entry_bytes, layout.ring_of(key)):
                record.ring.clear()
            record.rate(layout, record.worth[1])
        self._rank()

    def resize(self, most: int) -> None:
        """Remembers so many keys from now on."""
        self._most = most
        self._make_room(self._clock())

    def known(self) -> int:
        """How many keys are remembered now."""
        return len(self._records)

    async def exchange(self, deltas: Sequence[Delta]) -> Sequence[Merged]:
        """As ``base.Sketches.exchange``; it answers every delta.

        Raises:
            ValueError: if a delta does not fit the layout, or is not finite; none was added.
        """
        layout = self._layout
        for delta in deltas:
            check(delta, layout)
        self.exchanged_at = now = self._clock()
        self._expire(now)
        return [self._exchange(delta, now, layout) for delta in deltas]

    def _exchange(self, delta: Delta, now: float, layout: Layout) -> Merged:
        key = delta.key
        record = self._records.get(key)
        if record is None or record.epoch < delta.epoch:
            count = record.count if record else 0
            record = _Record(now, delta)
            record.count = max(record.count, count)
        record.age(now, layout)
        record.count = max(record.count, delta.cursor)
        entries = record.since(delta.cursor, layout)
        if delta.epoch == record.epoch:
            record.add(delta, layout)
        self._keep(key, record, now)
        return record.merged(key, entries)

    async def look(self, key: str) -> Merged | None:
        """As ``base.Sketches.look``."""
        now = self._clock()
        self._expire(now)
        record = self._records.get(key)
        if record is None:
            return None
        over = record.day_is_over(now, self._layout)
        return Merged(
            key,
            tuple(record.levels_at(now, self._layout)),
            b"" if over else record.sums,
            b"" if over else record.marks,
            bytes(record.ring),
            record.count,
            record.epoch,
        )

    async def strongest(self, most: int) -> Sequence[tuple[str, float]]:
        """As ``base.Sketches.strongest``."""
        now = self._clock()
        self._expire(now)
        fallen = now * self._layout.recovery / _HOUR
        ranked = (
            (record.worth[0] - fallen, key[len("client:") :])
            for key, record in self._records.items()
            if key.startswith("client:")
        )
        found = heapq.nlargest(most, (pair for pair in ranked if pair[0] > _ROUNDING))
        return [(client, level) for level, client in found]

    async def forgive(self, client: str) -> None:
        """As ``base.Sketches.forgive``."""
        key = f"client:{client}"
        now = self._clock()
        old = self._records.get(key)
        # Later than any epoch that this key ever had, even if its record was forgotten meanwhile.
        epoch = int(self._wall())
        clean = Delta(key, epoch=epoch)
        if old is not None:
            clean = Delta(
                key,
                cursor=old.count,
                epoch=max(epoch, old.epoch + 1),
                levels=(0.0,) * len(old.levels),
            )
        self._keep(key, _Record(now, clean), now)

    async def ban(self, client: str, seconds: float) -> None:
        """As ``base.Sketches.ban``."""
        if seconds > 0:
            self._bans[client] = self._clock() + seconds
        else:
            self._bans.pop(client, None)

    async def bans(self) -> Mapping[str, float]:
        """As ``base.Sketches.bans``."""
        if not self._bans:
            return {}
        now = self._clock()
        self._bans = {client: until for client, until in self._bans.items() if until > now}
        return {client: until - now for client, until in self._bans.items()}

    def _keep(self, key: str, record: _Record, now: float) -> None:
        """Puts a record touched now in its place."""
        records = self._records
        records[key] = record
        records.move_to_end(key)
        self._serial += 1
        record.rate(self._layout, self._serial)
        if ":" in key:  # ``endpoint`` and ``shared`` are never forgotten for want of room
            heapq.heappush(self._worths, (*record.worth, key))
        if len(records) > self._most:
            self._make_room(now)
        elif len(self._worths) > 2 * len(records) + 64:
            self._rank()

    def _make_room(self, now: float) -> None:
        """Forgets the keys worth least until those left fit."""
        records = self._records
        fallen = now * self._layout.recovery / _HOUR
        while len(records) > self._most and self._worths:
            level, serial, key = heapq.heappop(self._worths)
            record = records.get(key)
            if record is not None and record.worth == (level, serial):
                del records[key]
                self.forgotten += level - fallen > _ROUNDING

    def _rank(self) -> None:
        """Makes the heap of worths anew."""
        self._worths = [(*known.worth, key) for key, known in self._records.items() if ":" in key]
        heapq.heapify(self._worths)

    def _expire(self, now: float) -> None:
        """Forgets what was untouched for as long as anything is retained."""
        past = now - self._layout.retention
        records = self._records
        for key in list(takewhile(lambda key: records[key].touched <= past, records)):
            del records[key]
