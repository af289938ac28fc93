"""State in the worker's own memory: the embedded default, exact for one worker.

The number of known keys is bounded. A key is forgotten only if nothing is forgiven by it, so that
no flood of newcomers clears anyone's record; where no key can be forgotten, newcomers share one
bucket.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from detectors.patterns.exchange import Layout
from proxy.state.base import (
    DAY_SECONDS,
    NANOSECONDS,
    Bucket,
    Denial,
    LeaseNeeded,
    Quota,
    StateHealth,
    day_wait,
    rate_wait,
    same_day,
)
from proxy.state.keyed import Keyed
from proxy.state.memory_sketches import MemorySketches


class _Table(Keyed[Bucket]):
    """The buckets of one scope."""

    __slots__ = ("buckets", "overflow")

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.buckets = self.values
        self.overflow = Bucket()

    def bucket(self, key: str, now: int, day: int) -> Bucket:
        """A bucket for an unknown key: its own, or else the one that newcomers share."""
        return self.newcomer(key, Bucket, lambda old: old.is_fresh(now, day)) or self.overflow


class MemoryLedger:
    """Implements ``base.Ledger``; safe to call from several threads."""

    def __init__(self, most: int, wall: Callable[[], float]) -> None:
        self._most = most
        self._wall = wall
        self._lock = threading.Lock()
        self._tables: tuple[_Table, ...] = ()
        self._quotas: tuple[Quota, ...] = ()
        self._limited: tuple[tuple[int, _Table, int, int, int], ...] = ()
        self._daily = False

    def configure(self, quotas: Sequence[Quota]) -> None:
        """Sets the scopes' quotas; what was used so far is kept."""
        with self._lock:
            added = range(len(self._tables), len(quotas))
            self._tables = (*self._tables, *(_Table(self._most) for _ in added))[: len(quotas)]
            self._quotas = tuple(quotas)
            self._limited = tuple(
                (scope, table, quota.interval, quota.burst * quota.interval, quota.per_day)
                for scope, (table, quota) in enumerate(zip(self._tables, quotas, strict=True))
                if not quota.is_unlimited
            )
            self._daily = any(quota.per_day for quota in quotas)

    def resize(self, most: int) -> None:
        """Changes how many keys each scope keeps apart."""
        with self._lock:
            self._most = most
            for table in self._tables:
                table.most = most

    def take(self, keys: Sequence[str], rows: int, now: float) -> Denial | None:
        """As ``base.Ledger.take``; it never needs a lease."""
        if rows < 1:
            raise ValueError("a take is of at least one row")
        moment = int(now * NANOSECONDS)
        wall, day = 0.0, 0
        if self._daily:
            wall = self._wall()
            day = int(wall) // DAY_SECONDS
        with self._lock:
            for scope, table, interval, burst, per_day in self._limited:
                key = keys[scope]
                if not key:
                    continue
                bucket = table.buckets.get(key)
                if bucket is None:
                    bucket = table.bucket(key, moment, day)
                # The conditions of ``rate_wait`` and ``day_wait``, written out for speed.
                clear = bucket.clear
                if interval:
                    if clear < moment:  # noqa: PLR1730 - max() is a call, and this runs per request
                        clear = moment
                    clear += rows * interval
                    if clear - moment > burst:
                        break
                if per_day:
                    if bucket.day != day and not same_day(bucket.day, day):
                        bucket.day = day
                        bucket.used = 0
                    used = bucket.used + rows
                    if used > per_day:
                        break
                    bucket.used = used
                bucket.clear = clear
            else:
                return None
            self._give_back(keys, rows, before=scope)
            return self._denial(keys, rows, moment, wall)

    def charge(self, keys: Sequence[str], rows: int, now: float) -> None:
        """As ``base.Ledger.charge``; it is told at once."""
        if rows < 1:
            raise ValueError("a charge is of at least one row")
        moment = int(now * NANOSECONDS)
        day = int(self._wall()) // DAY_SECONDS if self._daily else 0
        with self._lock:
            for scope, table, interval, _, per_day in self._limited:
                key = keys[scope]
                if not key:
                    continue
                bucket = table.buckets.get(key) or table.bucket(key, moment, day)
                bucket.clear = max(bucket.clear, moment) + rows * interval
                if per_day:
                    if not same_day(bucket.day, day):
                        bucket.day, bucket.used = day, 0
                    bucket.used += rows

    def _give_back(self, keys: Sequence[str], rows: int, *, before: int) -> None:
        """Undoes a take in the scopes before the one that denied it."""
        for scope, table, interval, _, per_day in self._limited:
            if scope == before:
                return
            if keys[scope]:
                bucket = table.buckets.get(keys[scope], table.overflow)
                bucket.clear -= rows * interval
                if per_day:
                    bucket.used -= rows

    def _denial(self, keys: Sequence[str], rows: int, now: int, wall: float) -> Denial:
        """The scope that denies the longest: after its wait, all admit."""
        waits: list[tuple[int, int, bool]] = []
        for scope, table, *_ in self._limited:
            if not keys[scope]:
                continue
            quota = self._quotas[scope]
            if rows > quota.most():
                return Denial(scope, quota.most() == quota.per_day, None)
            bucket = table.buckets.get(keys[scope], table.overflow)
            waits.append((rate_wait(quota, bucket, rows, now), -scope, False))
            waits.append((day_wait(quota, bucket, rows, wall), -scope, True))
        wait, scope, daily = max(waits)
        return Denial(-scope, daily, wait)

    async def refill(self, needed: LeaseNeeded) -> None:
        """Nothing is leased: never called."""

    def known(self) -> Sequence[int]:
        """How many keys each scope keeps apart now."""
        return [len(table.buckets) for table in self._tables]


class MemoryState:
    """Implements ``base.State``.

    Args:
        most: keys that each scope of each ledger, and each endpoint's sketches, keep apart.
        wall: seconds since the epoch.
        retention: seconds for which sketches remember, where their layout does not say.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        most: int,
        wall: Callable[[], float],
        *,
        retention: float = DAY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._wall = wall
        self._clock = clock
        self._layout = Layout(retention=retention)
        self._ledgers: dict[str, MemoryLedger] = {}
        self._sketches: dict[str, MemorySketches] = {}

    def resize(self, most: int) -> None:
        """Changes how many keys are kept apart. Those known beyond it stay until replaced."""
        self._most = most
        for ledger in self._ledgers.values():
            ledger.resize(most)
        for sketches in self._sketches.values():
            sketches.resize(most)

    def ledger(self, name: str, quotas: Sequence[Quota]) -> MemoryLedger:
        """As ``base.State.ledger``."""
        ledger = self._ledgers.get(name)
        if ledger is None:
            ledger = self._ledgers[name] = MemoryLedger(self._most, self._wall)
        ledger.configure(quotas)
        return ledger

    def sketches(self, name: str, layout: Layout | None = None) -> MemorySketches:
        """As ``base.State.sketches``."""
        sketches = self._sketches.get(name)
        if sketches is None:
            sketches = self._sketches[name] = MemorySketches(
                layout or self._layout, most=self._most, clock=self._clock, wall=self._wall
            )
        elif layout is not None:
            sketches.configure(layout)
        return sketches

    def health(self) -> StateHealth:
        """Memory does not fail."""
        return StateHealth()

    async def start(self) -> None:
        """Nothing is shared."""

    async def close(self) -> None:
        """Nothing is held outside the process."""
