"""Limits while the shared state cannot be reached: each replica's share of the quota.

What is admitted meanwhile is an overdraft, which is charged once the state is back. So is what was
spent without asking, as its amount was known only afterwards.
"""

from __future__ import annotations

from typing import Final

from proxy.state.base import DAY_SECONDS, NANOSECONDS, Bucket, Quota, day_wait, rate_wait, same_day
from proxy.state.keyed import Keyed
from proxy.state.redis.lease import Lease
from proxy.state.redis.quota_calls import Charge


def share_of(quota: Quota, replicas: int) -> Quota:
    """One replica's share of a quota. No share of a burst or of a day is less than a row."""
    return Quota(
        quota.interval * replicas,
        max(1, quota.burst // replicas) if quota.interval else 0,
        max(1, quota.per_day // replicas) if quota.per_day else 0,
    )


class Overdraft:
    """What one key used of this replica's share, over all outages, and what of it is not charged.

    Attributes:
        bucket: of the share.
        owed: rows not charged yet.
        owed_today: those of them that are of ``bucket.day``.
        pending: a charge that was sent, or is to be, and when it was made; it is sent again as it
            is, until it is known to have been made.
    """

    __slots__ = ("bucket", "owed", "owed_today", "pending")

    def __init__(self) -> None:
        self.bucket = Bucket()
        self.owed = 0
        self.owed_today = 0
        self.pending: tuple[Charge, int] | None = None

    @property
    def is_owing(self) -> bool:
        """Whether something waits to be charged."""
        return self.owed > 0 or self.pending is not None

    def is_free(self, now: int, day: int) -> bool:
        """Whether forgetting it would forgive nothing."""
        return not self.is_owing and self.bucket.is_fresh(now, day)

    def waits(
        self, share: Quota, rows: int, now: int, wall: float, lease: Lease | None = None
    ) -> tuple[int, int]:
        """Whole seconds until the rate, and until the day, admit these rows; 0: now.

        What was leased counts too: who had the share, or more, before the outage has none left.

        More than the share holds waits until all of it is there: the outage may be over by then.
        """
        day = self._turned(share, wall)
        used = Bucket()
        used.clear, used.used = self.bucket.clear, self.bucket.used
        used.day = self.bucket.day if share.per_day else day
        if lease is not None:
            used.clear = max(used.clear, lease.drawn)
            used.used = max(used.used, lease.drawn_rows if lease.drawn_day == day else 0)
        rate = daily = 0
        if share.interval and rows > share.burst:
            rate = max(1, share.burst * share.interval // NANOSECONDS)
        elif share.interval:
            rate = rate_wait(share, used, rows, now)
        if share.per_day and rows > share.per_day:
            daily = int((day + 1) * DAY_SECONDS - wall) + 1
        elif share.per_day:
            daily = day_wait(share, used, rows, wall)
        return rate, daily

    def take(self, share: Quota, rows: int, now: int) -> None:
        """Admits rows, which ``waits`` has found to pass."""
        self.bucket.clear = max(self.bucket.clear, now) + rows * share.interval
        self.owed += rows
        if share.per_day:
            self.bucket.used += rows
            self.owed_today += rows

    def owe(self, share: Quota, rows: int, now: int, wall: float) -> None:
        """Counts rows that were spent, whether the share holds them or not."""
        self._turned(share, wall)
        self.take(share, rows, now)

    def _turned(self, share: Quota, wall: float) -> int:
        """Today, and what was used counts for it from now on."""
        day = int(wall) // DAY_SECONDS
        if share.per_day and not same_day(self.bucket.day, day):
            self.bucket.day, self.bucket.used, self.owed_today = day, 0, 0
        return day

    def charge(self, quota: Quota, share: Quota, now: int, new_id: str) -> Charge:
        """What to charge now: what was pending, or else all that is owed.

        Of a rate that is no more than what time has not paid meanwhile.
        """
        if self.pending is None:
            rate_rows = 0
            if quota.interval:
                unpaid = max(0, self.bucket.clear - now)
                rate_rows = min(self.owed, -(-unpaid // share.interval))
            charge = Charge(new_id, rate_rows * quota.interval, self.owed_today, self.bucket.day)
            self.pending = charge, now
            self.owed = self.owed_today = 0
        charge, made = self.pending
        return Charge(charge.id, max(0, charge.debt - (now - made)), charge.rows, charge.day)

    def made(self, charge: Charge) -> None:
        """A charge is known to have been made. Several calls may have carried it."""
        if self.pending is not None and self.pending[0].id == charge.id:
            self.pending = None


class OverdraftBook(Keyed[Overdraft]):
    """The overdrafts of one scope. One that still counts is not forgotten; where none can be,
    newcomers share one."""

    OVERFLOW: Final = "*overflow"

    __slots__ = ()

    def find(self, key: str, now: int, wall: float) -> Overdraft:
        """The overdraft of a key, known or new."""
        found = self.values.get(key)
        if found is None:
            day = int(wall) // DAY_SECONDS
            found = self.newcomer(key, Overdraft, lambda old: old.is_free(now, day))
        return found or self.values.setdefault(self.OVERFLOW, Overdraft())
