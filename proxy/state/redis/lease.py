"""What one replica holds of one key's quota, and what it remembers of being denied."""

from __future__ import annotations

import asyncio
import math
from typing import Final

from proxy.state.base import NANOSECONDS, Quota
from proxy.state.keyed import Keyed
from proxy.state.redis.quota_calls import Ask, Grant, Rest

# A client whose spending is measured over less than this is not taken for that fast.
_SHORTEST_NS: Final = NANOSECONDS // 20
# How long a denial is believed at the longest: another replica may give back what it holds.
_BELIEVED_NS: Final = NANOSECONDS
_LONG_AGO: Final = -(1 << 62)
_FOREVER: Final = 1 << 62


class Lease:
    """Rows that were deducted from a shared quota and are spent here. Times are nanoseconds of the
    local clock.

    Attributes:
        left: rows unspent.
        start, until: the piece of the rate's debt that they are, as far as it is unspent. What of
            it lies in the past is worth nothing, so that a take of rows spends from the later of
            ``start`` and now, and ``until`` is as far as it can.
        midnight: from when they are worth nothing, as they are of another day.
        drawn: when this replica's share of the rate has paid for what was leased and overdrawn
            here; and of ``drawn_day``, ``drawn_rows``. They say what a share has left in an outage.
        place: where the table of held leases notes ``left``, or -1.
        flight: the fetch that is under way, if any; its rest was handed over with it.
        queued: rows of takes that wait for a fetch after that one.
        seen: ``left`` at the last look for idle leases.
    """

    __slots__ = (
        "_asks_again", "_at", "_closed", "_day", "_denied", "_ends", "_granted", "_lasts", "_opens",
        "_since", "drawn", "drawn_day", "drawn_rows", "flight", "left", "midnight", "place",
        "queued", "seen", "start", "until",
    )  # fmt: skip

    def __init__(self) -> None:
        self.left = 0
        self.start = 0
        self.until = 0
        self.midnight = 0
        self.drawn = self.drawn_day = self.drawn_rows = 0
        self.place = -1
        self.flight: asyncio.Future[None] | None = None
        self.queued = 0
        self.seen = 0
        self._granted = 0
        self._since = _LONG_AGO
        self._at = self._lasts = self._day = self._ends = 0
        self._denied = 0  # rows of the take that was denied; 0: none was
        self._opens = self._closed = 0  # when the rate, and the day, admit it
        self._asks_again = _LONG_AGO

    def covers(self, rows: int, interval: int, now: int) -> bool:
        """Whether these rows can be spent."""
        return (
            self.left >= rows
            and max(self.start, now) + rows * interval <= self.until
            and now < self.midnight
        )

    def covered(self, rows: int, interval: int, now: int) -> int:
        """How many of these rows can be spent."""
        if now >= self.midnight:
            return 0
        if interval:
            rows = min(rows, max(0, self.until - max(self.start, now)) // interval)
        return min(rows, self.left)

    def spend(self, rows: int, interval: int, now: int) -> None:
        """Spends rows that it covers; a negative number undoes that."""
        self.left -= rows
        self.start = max(self.start, now) + rows * interval

    def wait(self, rows: int, interval: int, now: int) -> tuple[int, int]:
        """Nanoseconds until the rate, and until the day, admit these rows, as far as it is known
        from a denial; (0, 0) if it is not."""
        if not self._denied or now >= self._asks_again:
            return 0, 0
        rate = daily = 0
        if self._opens:
            # What the rate had when it denied says when it has fewer rows, too.
            opens = self._opens + (rows - self._denied) * interval
            rate = max(opens, self._asks_again if rows >= self._denied else opens) - now
        if self._closed and rows >= self._denied:
            daily = max(self._closed, self._asks_again) - now
        return max(rate, 0), daily

    def is_limited(self, now: int) -> bool:
        """Whether it was denied just now."""
        return now < self._asks_again + _BELIEVED_NS

    def is_idle(self, now: int) -> bool:
        """Whether forgetting it would lose nothing."""
        return self.left == 0 and self.flight is None and now >= self._asks_again

    def is_unused(self, now: int) -> bool:
        """Whether nothing was spent of it since the last look, and it is a second old."""
        unspent = self.left == self.seen
        self.seen = self.left
        return unspent and now - self._since >= NANOSECONDS

    def draw(self, rows: int, quota: Quota, replicas: int, now: int, day: int) -> None:
        """Counts rows against this replica's share, as far as the share goes."""
        drawn = max(self.drawn, now) + rows * quota.interval * replicas
        self.drawn = min(drawn, now + quota.burst * quota.interval)
        if self.drawn_day != day:
            self.drawn_day, self.drawn_rows = day, 0
        self.drawn_rows += rows

    def rest(self, interval: int, replicas: int, now: int) -> Rest:
        """What is left of it, for handing it over."""
        if not self.left:
            return Rest()
        self.drawn -= self.left * interval * replicas
        self.drawn_rows -= self.left
        piece = min(self.left * interval, self._ends - max(self.start, now))
        return Rest(self.left, max(0, piece), self._at, self._lasts, self._day)

    def ask(self, rows: int, quota: Quota, now: int, *, ahead: int, replicas: int) -> Ask:
        """What to ask for when a take of ``rows`` lacks some.

        A client that is seen for the first time, or seldom, gets what it needs. One that is busy
        gets what it spends in ``ahead`` nanoseconds, and at least what its rate earns meanwhile,
        as a lease is worth nothing once time has paid for it. Of what there is, this is a small
        part, so that other replicas find some: near the limit single rows. One that was denied may
        have all that came since, or a flood would cost a call for every row.
        """
        asked = rows + self.queued
        elapsed = now - self._since
        wanted = asked
        if elapsed < 2 * ahead:
            rate = (self._granted - self.left) / max(elapsed, _SHORTEST_NS)
            if quota.interval:
                rate = max(rate, 1 / quota.interval)
            wanted = max(asked, math.ceil(ahead * rate))
        return Ask(rows, asked, wanted, 1 if self.is_limited(now) else 2 * replicas)

    def renew(
        self,
        grant: Grant,
        ask: Ask,
        quota: Quota,
        *,
        sent: int,
        received: int,
        pause: int,
        replicas: int,
    ) -> None:
        """Takes over what was granted.

        The server granted it after ``sent``, so that it ends no earlier than this reckons. Rows
        that a take waits for count from their grant, or a quota whose burst is paid sooner than a
        round trip could never be spent: they may pass until the take resumes.

        Args:
            sent, received: when the call was sent, and when its answer came.
            pause: how long to believe a denial by the rate at the least.
        """
        self.draw(grant.rows, quota, replicas, received, grant.day)
        self._granted = self.left = self.seen = grant.rows
        self._since = sent
        self._at, self._lasts, self._day = grant.at, grant.lasts, grant.day
        self.midnight = sent + grant.midnight * 1000 if quota.per_day else _FOREVER
        self._ends = self.until = _FOREVER
        if quota.interval:
            self._ends = sent + grant.lasts
            self.until = max(self._ends, received + ask.asked * quota.interval)
        self.start = self.until - grant.rows * quota.interval
        self._denied = 0
        if not grant.rows:
            day_wait = grant.day_wait * 1000
            self._denied = ask.need
            self._opens = received + grant.rate_wait if grant.rate_wait else 0
            self._closed = received + day_wait if day_wait else 0
            believed = max(grant.rate_wait, day_wait, pause)
            self._asks_again = received + min(believed, _BELIEVED_NS)


class LeaseBook(Keyed[Lease]):
    """The leases of one scope. One that holds something is not forgotten; where none can be,
    newcomers share one key.

    Attributes:
        name: of the ledger and the scope.
        quota: that of each key.
        held: the leases that hold rows, by key.
    """

    OVERFLOW: Final = "*overflow"

    __slots__ = ("_overflow", "held", "name", "quota")

    def __init__(self, name: str, quota: Quota, most: int) -> None:
        super().__init__(most)
        self.name = name
        self.quota = quota
        self.held: dict[str, Lease] = {}
        self._overflow = Lease()

    def find(self, key: str) -> Lease | None:
        """The lease of a key, as far as one is known."""
        lease = self.values.get(key)
        return self._overflow if lease is None and self.is_full else lease

    def place(self, key: str, now: int) -> tuple[str, Lease]:
        """The lease of a key, known or new, and the key that it counts for."""
        lease = self.values.get(key) or self.newcomer(key, Lease, lambda old: old.is_idle(now))
        return (key, lease) if lease else (self.OVERFLOW, self._overflow)
