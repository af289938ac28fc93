"""Quotas of rows and sketches of clients: the arithmetic, which is pure, and the interface that
every backend serves.

A quota is a rate with a burst, an allowance for a day, or both. The rate is GCRA (ITU-T I.371, the
"virtual scheduling" form of the leaky bucket) in whole nanoseconds, so that it is exact: over any
window of ``w`` seconds at most ``burst + rows_per_second * w`` rows pass. A day runs from midnight
to midnight UTC; over any 24 hours at most twice the day's allowance passes.

A backend may be local or shared. A shared one leases quota ahead and deducts it first, so that a
take is a local operation everywhere: it admits, denies, or says which lease it lacks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from detectors.patterns.exchange import Delta, Layout, Merged

NANOSECONDS: Final = 1_000_000_000
DAY_SECONDS: Final = 86_400
# A clock of float seconds, read later and rounded, may fall this short of the promised moment.
_CLOCK_ROUNDING: Final = 1_000


@dataclass(frozen=True, slots=True)
class Quota:
    """How many rows may pass.

    Attributes:
        interval: nanoseconds from one row to the next at the sustained rate; 0: no rate.
        burst: rows that may come at once; without meaning where there is no rate.
        per_day: rows from midnight to midnight UTC; 0: no daily limit.
    """

    interval: int = 0
    burst: int = 0
    per_day: int = 0

    @classmethod
    def of(cls, rows_per_second: float | None, burst: int, rows_per_day: int | None) -> Quota:
        """The quota of these limits; None: not limited. The rate is rounded down to one row in a
        whole number of nanoseconds.

        Raises:
            ValueError: if a limit is not positive, or a rate comes without a burst.
        """
        interval = 0
        if rows_per_second is not None:
            if not 1e-6 <= rows_per_second <= NANOSECONDS or burst < 1:
                raise ValueError("a rate is from 10^-6 to 10^9, with a burst of at least 1")
            interval = math.ceil(NANOSECONDS / rows_per_second)
        if rows_per_day is not None and rows_per_day < 1:
            raise ValueError("a daily allowance is at least 1")
        return cls(interval, burst if interval else 0, rows_per_day or 0)

    @property
    def is_unlimited(self) -> bool:
        """True if every take passes."""
        return not self.interval and not self.per_day

    def most(self) -> float:
        """The most rows that one take can ever be admitted with."""
        return min(self.burst if self.interval else math.inf, self.per_day or math.inf)


class Bucket:
    """What one key has used of a quota. A fresh one has used nothing.

    Attributes:
        clear: the nanosecond at which the rate's debt is paid (GCRA's theoretical arrival time).
        day: the day (since the epoch) that ``used`` counts for.
        used: rows of that day.
    """

    __slots__ = ("clear", "day", "used")

    def __init__(self) -> None:
        self.clear = 0
        self.day = 0
        self.used = 0

    def is_fresh(self, now: int, day: int) -> bool:
        """True if forgetting it would forgive nothing."""
        return self.clear <= now and not (self.used and same_day(self.day, day))


def same_day(counted: int, today: int) -> bool:
    """Whether rows counted for one day are still counted today.

    A wall clock that is set back over midnight does not open the day anew.
    """
    return counted in (today, today + 1)


def rate_wait(quota: Quota, bucket: Bucket, rows: int, now: int) -> int:
    """Whole seconds until the rate admits ``rows``: 0 if it does now. ``rows`` fits the burst."""
    if not quota.interval:
        return 0
    debt = max(bucket.clear, now) + (rows - quota.burst) * quota.interval - now
    return math.ceil((debt + _CLOCK_ROUNDING) / NANOSECONDS) if debt > 0 else 0


def day_wait(quota: Quota, bucket: Bucket, rows: int, wall: float) -> int:
    """Whole seconds until the day's allowance admits ``rows``: 0 if it does now.

    ``rows`` fits the allowance; ``wall`` is seconds since the epoch.
    """
    today = int(wall // DAY_SECONDS)
    if not quota.per_day or not same_day(bucket.day, today) or bucket.used + rows <= quota.per_day:
        return 0
    return int((bucket.day + 1) * DAY_SECONDS - wall) + 1


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a take was denied.

    Attributes:
        scope: the index of the scope that denies the longest.
        daily: whether its daily allowance denies, rather than its rate.
        retry_after: whole seconds after which the same take passes if nobody else takes; None if it
            never will, as it is more than the quota holds.
    """

    scope: int
    daily: bool
    retry_after: int | None


class LeaseNeeded(Exception):  # noqa: N818 - an answer, not an error: quota has to be fetched
    """A take that a shared backend cannot decide locally: ``refill``, then take again.

    Attributes:
        keys, rows: those of the take.
    """

    def __init__(self, keys: Sequence[str], rows: int) -> None:
        super().__init__(keys, rows)
        self.keys = keys
        self.rows = rows


class Ledger(Protocol):
    """The quotas of one endpoint. Each scope (client, subnet …) holds a quota for every key."""

    def take(self, keys: Sequence[str], rows: int, now: float) -> Denial | None:
        """Takes rows from every scope, or from none.

        Args:
            keys: one a scope, in order; "" is not counted in that scope.
            rows: at least 1.
            now: monotonic seconds.

        Returns:
            None if admitted.

        Raises:
            LeaseNeeded: if a shared quota has to be fetched first. Nothing was taken.
        """

    async def refill(self, needed: LeaseNeeded) -> None:
        """Fetches what a take lacked. It returns when the take can be decided, within a bound."""

    def charge(self, keys: Sequence[str], rows: int, now: float) -> None:
        """Takes rows from every scope, whether they are there or not: what was spent already.

        What is not there is a debt, as large as it may be: nothing passes until time has paid it.
        A shared backend tells the others soon, not at once.

        Args:
            keys, rows, now: as of ``take``.
        """

    def known(self) -> Sequence[int]:
        """How many keys each scope keeps apart now."""


class Sketches(Protocol):
    """What is learnt about the clients of one endpoint, and what the operator said of them.

    The truth of all replicas; what a worker decides on is its own copy, as of the last exchange.
    """

    async def exchange(self, deltas: Sequence[Delta]) -> Sequence[Merged]:
        """Adds what was learnt here, each delta once whatever fails, and gives what all know.

        While the state cannot be reached, deltas are kept within a bound and added later; then the
        answer holds fewer keys than were given, or none. It raises nothing on that account.
        """

    async def look(self, key: str) -> Merged | None:
        """What all know of one key, or None if nobody learnt anything.

        Raises:
            StateUnavailable: if it cannot be told.
        """

    async def strongest(self, most: int) -> Sequence[tuple[str, float]]:
        """The clients with the most evidence against them and its nats, the strongest first.

        Raises:
            StateUnavailable: if it cannot be told.
        """

    async def forgive(self, client: str) -> None:
        """Forgets what was learnt about a client, here and, at their next exchange, everywhere.

        Raises:
            StateUnavailable: if it could not be done.
        """

    async def ban(self, client: str, seconds: float) -> None:
        """Bans a client for so long; 0 lifts a ban.

        Raises:
            StateUnavailable: if it could not be done.
        """

    async def bans(self) -> Mapping[str, float] | None:
        """Seconds left of every ban, by client; None if it cannot be told now."""


class StateUnavailable(Exception):  # noqa: N818 - the condition's name
    """The shared state cannot be reached, so what the operator asked for was not done."""


@dataclass(frozen=True, slots=True)
class StateHealth:
    """How the shared state stands.

    Attributes:
        degraded: local limits hold, because the state cannot be reached or cannot be written.
        problem: why, or "".
        replicas: workers that share it, this one included.
        spooled: keys whose deltas wait to be added.
        dropped: deltas lost so far because the spool was full.
        calls: commands sent so far.
        failures: commands that failed so far.
    """

    degraded: bool = False
    problem: str = ""
    replicas: int = 1
    spooled: int = 0
    dropped: int = 0
    calls: int = 0
    failures: int = 0


class State(Protocol):
    """Where quotas and sketches are kept. It outlives a reload, which thus forgives nobody."""

    def ledger(self, name: str, quotas: Sequence[Quota]) -> Ledger:
        """The ledger of this name, with these quotas from now on, what was used so far kept."""

    def sketches(self, name: str, layout: Layout = Layout()) -> Sketches:  # noqa: B008 - a value
        """The sketches of this name, laid out so from now on."""

    def health(self) -> StateHealth:
        """How it stands now."""

    def resize(self, most: int) -> None:
        """Keeps ``most`` keys of each scope apart from now on."""

    async def start(self) -> None:
        """Begins to share. A state that cannot be reached yet is a degraded one, not an error."""

    async def close(self) -> None:
        """Gives back what is held."""
