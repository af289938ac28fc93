"""Quotas that replicas share: leased from Redis, spent here.

**Exact.** Rows are deducted in Redis before they are spent here, and a lease is worth no more than
what time has not yet paid back (``quota.lua``). So over any window of ``w`` seconds all replicas
together admit at most ``burst + rows_per_second * w`` rows, and a day's allowance in a day. A row
that a request waits for counts from the moment at which Redis granted it.

**While Redis is away** each replica admits its share: quota / known replicas, but no less than a
row, over all outages together. What it held before stays valid. So with ``R`` replicas, over any
window, at most the quota once more is admitted than the shared count knows of (at most ``R`` rows,
if the quota is less than that), and that is charged when Redis is back. A Redis that forgets (a
flush, a restart without persistence, a failover that loses the last writes) forgives what it
forgot, at most the quota again each time. An answer that is lost leaves rows unused.

**What was spent before it could be asked for** (``charge``) is taken from what is leased here; the
rest is a debt that travels with this replica's next request for a lease of that key, and otherwise
within ``lease_seconds``. Until then other replicas know nothing of it, and spend what they hold and
may be granted meanwhile; this replica, what was granted before. While Redis is away it burdens this
replica's share, and is charged when Redis is back.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from proxy.state.base import NANOSECONDS, Denial, LeaseNeeded, Quota
from proxy.state.redis.client import Call, Failure, NotDone
from proxy.state.redis.connection import Connection, Run
from proxy.state.redis.lease import Lease, LeaseBook
from proxy.state.redis.lease_table import LeaseTable
from proxy.state.redis.overdraft import Overdraft, OverdraftBook, share_of
from proxy.state.redis.quota_calls import Ask, Charge, Grant, Rest, ServerTime, quota_call

# A clock of float seconds, read later and rounded, may fall this short of the promised moment.
_CLOCK_ROUNDING: Final = 1_000
# Calls of one round trip of settling or giving back.
_BATCH: Final = 100
# Late leases in a row, with none in between that came in time, at which Redis counts as away; and
# for how many waits after one of them this replica's shares decide.
_LATE: Final = 4
_SHARED_WAITS: Final = 4
# Rests that wait to be given back; beyond it they are lost to their quotas.
_MOST_RESTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Leasing:
    """How quotas are leased.

    Attributes:
        namespace: what the keys in Redis begin with.
        replica: who leases; unlike any other.
        wait_seconds: the longest that a refill takes.
        lease_seconds: for how long a busy client's lease is meant to last.
        denial_seconds: for how long a denial is believed at the least, as far as the burst allows:
            so often a client over its limit costs a call.
        replicas: how many replicas there are.
        clock, wall: monotonic seconds, and seconds since the epoch.
        server_time: see ``quota_call``.
    """

    namespace: str
    replica: str
    wait_seconds: float
    lease_seconds: float
    denial_seconds: float
    replicas: Callable[[], int]
    clock: Callable[[], float]
    wall: Callable[[], float]
    server_time: ServerTime | None = None


class _Debt(NamedTuple):
    """What one key owes, and the charge that tells it."""

    overdraft: Overdraft
    charge: Charge

    def told(self) -> None:
        """The charge is known to have been made."""
        self.overdraft.made(self.charge)


class _Flight(NamedTuple):
    """A fetch that is under way for one key."""

    key: str
    book: LeaseBook
    lease: Lease
    quota: Quota
    ask: Ask
    rest: Rest
    sent: int
    debt: _Debt | None
    call: Call


class RedisLedger:
    """Implements ``base.Ledger``; ``take`` is safe to call from several threads."""

    def __init__(
        self,
        name: str,
        connection: Connection,
        leasing: Leasing,
        most: int,
        table: LeaseTable | None = None,
    ) -> None:
        self._name = name
        self._connection = connection
        self._leasing = leasing
        self._most = most
        self._table = table
        self._lock = threading.Lock()
        self._books: tuple[LeaseBook, ...] = ()
        self._overdrafts: tuple[OverdraftBook, ...] = ()
        # Of the limited scopes, what a take reads: index, leases, interval, book.
        self._limited: tuple[tuple[int, dict[str, Lease], int, LeaseBook], ...] = ()
        self._rests: list[Call] = []
        self._ids = itertools.count()
        self._late = 0
        self._shares_until = 0
        self._ahead = int(leasing.lease_seconds * NANOSECONDS)
        self._noted: memoryview | None = table.left if table else None

    def configure(self, quotas: Sequence[Quota]) -> None:
        """Sets the scopes' quotas. What was leased under another is given back."""
        with self._lock:
            for scope in range(len(self._books), len(quotas)):
                name = f"{self._name}:{scope}"
                self._books = (*self._books, LeaseBook(name, quotas[scope], self._most))
                self._overdrafts = (*self._overdrafts, OverdraftBook(self._most))
            for scope, book in enumerate(self._books):
                quota = quotas[scope] if scope < len(quotas) else Quota()
                if quota != book.quota:
                    self._rests += self._emptied(book, self._now(), idle=False)
                    book.quota = quota
            self._limited = tuple(
                (scope, book.values, book.quota.interval, book)
                for scope, book in enumerate(self._books)
                if not book.quota.is_unlimited
            )

    def resize(self, most: int) -> None:
        """Changes how many keys each scope keeps apart."""
        with self._lock:
            self._most = most
            for book in self._books:
                book.most = most
            for overdrafts in self._overdrafts:
                overdrafts.most = most

    def known(self) -> Sequence[int]:
        """How many keys each scope keeps apart now."""
        return [0 if book.quota.is_unlimited else len(book.values) for book in self._books]

    def owing(self) -> int:
        """How many keys have rows to be charged."""
        with self._lock:
            return sum(overdraft.is_owing for _, _, overdraft in self._all_overdrafts())

    # Deciding, locally.

    def take(self, keys: Sequence[str], rows: int, now: float) -> Denial | None:
        """As ``base.Ledger.take``."""
        if rows < 1:
            raise ValueError("a take is of at least one row")
        moment = int(now * NANOSECONDS)
        with self._lock:
            for scope, leases, interval, _ in self._limited:
                key = keys[scope]
                if not key:
                    continue
                lease = leases.get(key)
                if lease is None:
                    break
                # ``Lease.covers`` and ``spend``, written out for speed.
                start = lease.start
                if start < moment:  # noqa: PLR1730 - max() is a call, and this runs per request
                    start = moment
                start += rows * interval
                if lease.left < rows or start > lease.until or moment >= lease.midnight:
                    break
                lease.left -= rows
                lease.start = start
                if lease.place >= 0:
                    self._note(lease)
            else:
                return None
            self._put_back(keys, rows, moment, before=scope)
            return self._undecided(keys, rows, moment)

    def _note(self, lease: Lease) -> None:
        if self._noted is not None:
            self._noted[lease.place] = lease.left

    def _spend(self, lease: Lease, rows: int, interval: int, now: int) -> None:
        lease.spend(rows, interval, now)
        if lease.place >= 0:
            self._note(lease)

    def _put_back(self, keys: Sequence[str], rows: int, now: int, *, before: int) -> None:
        """Undoes a take in the scopes before the one that lacked."""
        for scope, leases, interval, _ in self._limited:
            if scope == before:
                return
            if keys[scope]:
                self._spend(leases[keys[scope]], -rows, interval, now)

    def _undecided(self, keys: Sequence[str], rows: int, now: int) -> Denial | None:
        """Decides what the leases by themselves do not."""
        for scope, _, _, book in self._limited:
            if keys[scope] and rows > book.quota.most():
                return Denial(scope, book.quota.most() == book.quota.per_day, None)
        denial = self._remembered(keys, rows, now)
        if denial is not None:
            return denial
        if not self._connection.up or now < self._shares_until:
            return self._take_share(keys, rows, now)
        leases: list[tuple[Lease, int]] = []
        for scope, _, interval, book in self._limited:
            if keys[scope]:
                lease = book.find(keys[scope])
                if lease is None or not lease.covers(rows, interval, now):
                    raise LeaseNeeded(keys, rows)
                leases.append((lease, interval))
        for lease, interval in leases:
            self._spend(lease, rows, interval, now)
        return None

    def _remembered(self, keys: Sequence[str], rows: int, now: int) -> Denial | None:
        """The longest denial that Redis has told of, if it still holds."""
        waits: list[tuple[int, int, bool]] = []
        for scope, _, interval, book in self._limited:
            lease = book.find(keys[scope]) if keys[scope] else None
            if lease is not None and not lease.covers(rows, interval, now):
                rate, daily = lease.wait(rows, interval, now)
                waits += [(rate, -scope, False)] * (rate > 0)
                waits += [(daily, -scope, True)] * (daily > 0)
        if not waits:
            return None
        wait, scope, daily_denies = max(waits)
        seconds = math.ceil((wait + _CLOCK_ROUNDING) / NANOSECONDS)
        return Denial(-scope, daily_denies, max(1, seconds))

    def _take_share(self, keys: Sequence[str], rows: int, now: int) -> Denial | None:
        """Decides by what is held, and else by this replica's share of the quota."""
        wall, replicas = self._leasing.wall(), self._leasing.replicas()
        waits: list[tuple[int, int, bool]] = []
        leases: list[tuple[Lease, int]] = []
        overdrafts: list[tuple[Overdraft, Quota, Lease | None, Quota]] = []
        for scope, _, interval, book in self._limited:
            if not keys[scope]:
                continue
            lease = book.values.get(keys[scope])
            if lease is not None and lease.covers(rows, interval, now):
                leases.append((lease, interval))
                continue
            share = share_of(book.quota, replicas)
            overdraft = self._overdrafts[scope].find(keys[scope], now, wall)
            rate, daily = overdraft.waits(share, rows, now, wall, lease)
            waits += [(rate, -scope, False)] * (rate > 0)
            waits += [(daily, -scope, True)] * (daily > 0)
            overdrafts.append((overdraft, share, lease, book.quota))
        if waits:
            wait, scope, daily_denies = max(waits)
            return Denial(-scope, daily_denies, wait)
        for lease, interval in leases:
            self._spend(lease, rows, interval, now)
        for overdraft, share, lease, quota in overdrafts:
            overdraft.take(share, rows, now)
            if lease is not None:
                lease.draw(rows, quota, replicas, now, overdraft.bucket.day)
        return None

    def charge(self, keys: Sequence[str], rows: int, now: float) -> None:
        """As ``base.Ledger.charge``; see above for when the others are told."""
        if rows < 1:
            raise ValueError("a charge is of at least one row")
        moment = int(now * NANOSECONDS)
        wall, replicas = self._leasing.wall(), self._leasing.replicas()
        with self._lock:
            for scope, _, interval, book in self._limited:
                if not keys[scope]:
                    continue
                key, lease = book.place(keys[scope], moment)
                owed, held = rows, lease.covered(rows, interval, moment)
                if held:
                    self._spend(lease, held, interval, moment)
                    owed -= held
                if owed:
                    overdraft = self._overdrafts[scope].find(key, moment, wall)
                    overdraft.owe(share_of(book.quota, replicas), owed, moment, wall)

    # Fetching.

    async def refill(self, needed: LeaseNeeded) -> None:
        """As ``base.Ledger.refill``: after at most ``wait_seconds`` the take can be decided here,
        if by nothing else by this replica's share."""
        wait = self._leasing.wait_seconds
        deadline = self._leasing.clock() + wait
        graced = False
        while self._connection.up:
            flights = self._fly(needed.keys, needed.rows)
            if not flights:
                return
            left = deadline - self._leasing.clock()
            if left <= 0:
                self._lagged(wait)
                return
            _, pending = await asyncio.wait(flights, timeout=left)
            late = self._leasing.clock() - deadline
            if pending and not graced and late > wait / 2:
                # This process was held up, not Redis, whose answer may well be here.
                graced = True
                deadline += late + wait

    def _lagged(self, wait: float) -> None:
        """A lease did not come in time: for a moment the shares decide, as one slow round trip is
        no outage. Several in a row are."""
        with self._lock:
            self._late += 1
            self._shares_until = self._now() + int(_SHARED_WAITS * wait * NANOSECONDS)
            if self._late < _LATE:
                return
            self._late = 0
        self._connection.suspect(f"no lease within {wait * 1000:g} ms, {_LATE} times in a row")

    def _fly(self, keys: Sequence[str], rows: int) -> set[asyncio.Future[None]]:
        """Sends for the leases that a take lacks: what to wait for, or nothing if it can be decided
        now."""
        with self._lock:
            now = self._now()
            if self._remembered(keys, rows, now) is not None:
                return set()
            flights: set[asyncio.Future[None]] = set()
            departures: list[_Flight] = []
            for scope, _, interval, book in self._limited:
                if not keys[scope]:
                    continue
                key, lease = book.place(keys[scope], now)
                if lease.covers(rows, interval, now):
                    continue
                if lease.flight is None:
                    overdraft = self._overdrafts[scope].values.get(key)
                    debt = self._debt(book, overdraft, now) if overdraft else None
                    departures.append(self._departure(key, book, lease, rows, now, debt=debt))
                else:
                    lease.queued += rows
                    flights.add(lease.flight)
            if departures:
                flight = asyncio.get_running_loop().create_task(self._fetch(departures))
                for departure in departures:
                    departure.lease.flight = flight
                flights.add(flight)
            return flights

    def _departure(
        self, key: str, book: LeaseBook, lease: Lease, rows: int, now: int, *, debt: _Debt | None
    ) -> _Flight:
        """What to ask for; what is left goes back with it, and what is owed is told."""
        ask = lease.ask(rows, book.quota, now, ahead=self._ahead, replicas=self._leasing.replicas())
        lease.queued = 0
        rest = self._handed_over(key, book, lease, now)
        call = quota_call(
            self._key(book, key), book.quota, self._leasing.server_time,
            ask=ask, rest=rest, charge=debt and debt.charge,
        )  # fmt: skip
        return _Flight(key, book, lease, book.quota, ask, rest, now, debt, call)

    async def _fetch(self, flights: Sequence[_Flight]) -> None:
        answers: Sequence[Any] = [NotDone("cancelled")] * len(flights)
        try:
            answers = await self._connection.run([flight.call for flight in flights])
        finally:
            with self._lock:
                received = self._now()
                for flight in flights:
                    flight.lease.flight = None
                for flight, answer in zip(flights, answers, strict=True):
                    self._land(flight, answer, received)

    def _land(self, flight: _Flight, answer: Any, received: int) -> None:
        key, book, lease, quota, ask, rest, sent, debt, _ = flight
        if debt is not None and not isinstance(answer, Failure):
            debt.told()
        if isinstance(answer, NotDone) and book.quota == quota:
            # Nothing was handed over.
            lease.left = rest.rows
            self._held(key, book, lease, rest.day)
        elif not isinstance(answer, Failure):
            self._late = 0
            grant = Grant.of(answer)
            if book.quota == quota:
                pause = self._leasing.denial_seconds * NANOSECONDS
                lease.renew(
                    grant, ask, quota, sent=sent, received=received,
                    pause=int(min(pause, quota.burst * quota.interval / 4)),
                    replicas=self._leasing.replicas(),
                )  # fmt: skip
                self._held(key, book, lease, grant.day)
            elif grant.rows:
                piece = min(grant.rows * quota.interval, grant.lasts)
                rest = Rest(grant.rows, piece, grant.at, grant.lasts, grant.day)
                self._rests.append(
                    quota_call(self._key(book, key), quota, self._leasing.server_time, rest=rest)
                )

    def _held(self, key: str, book: LeaseBook, lease: Lease, day: int) -> None:
        """Notes that a lease holds rows, if it does."""
        if lease.left:
            book.held[key] = lease
            if self._table is not None and book.quota.per_day:
                lease.place = self._table.hold(self._key(book, key), day, lease.left)

    def _handed_over(self, key: str, book: LeaseBook, lease: Lease, now: int) -> Rest:
        """What is left of a lease, which then holds nothing."""
        rest = lease.rest(book.quota.interval, self._leasing.replicas(), now)
        lease.left = 0
        book.held.pop(key, None)
        if lease.place >= 0 and self._table is not None:
            self._table.drop(lease.place)
        lease.place = -1
        return rest

    # Giving back, and settling.

    async def give_back(self, run: Run, *, idle: bool = True) -> None:
        """Gives back the leases that nothing is spent of, or (``idle=False``) all."""
        with self._lock:
            now = self._now()
            calls, self._rests = self._rests, []
            for book in self._books:
                calls += self._emptied(book, now, idle=idle)
        for start in range(0, len(calls), _BATCH):
            batch = calls[start : start + _BATCH]
            answers = await run(batch)
            with self._lock:
                # What may have been done is not done again: those rows stay unused.
                self._rests += [
                    call
                    for call, answer in zip(batch, answers, strict=True)
                    if isinstance(answer, NotDone)
                ][: _MOST_RESTS - len(self._rests)]

    def _emptied(self, book: LeaseBook, now: int, *, idle: bool) -> list[Call]:
        """The calls that give back what is held: all, or what nothing is spent of."""
        calls = []
        for key, lease in list(book.held.items()):
            if idle and lease.left and not lease.is_unused(now):
                continue
            rest = self._handed_over(key, book, lease, now)
            # What time has paid for is worth nothing, unless it is of a day too.
            if rest.piece or (rest.rows and book.quota.per_day):
                calls.append(
                    quota_call(
                        self._key(book, key), book.quota, self._leasing.server_time, rest=rest
                    )
                )
        return calls

    async def settle(self, run: Run) -> None:
        """Charges what was admitted without Redis.

        Raises:
            Failure: if it could not be done. What was charged is not charged again.
        """
        while True:
            with self._lock:
                batch = list(itertools.islice(self._charges(), _BATCH))
            if not batch:
                return
            answers = await run([call for _, call in batch])
            with self._lock:
                for (debt, _), answer in zip(batch, answers, strict=True):
                    if not isinstance(answer, Failure):
                        debt.told()
            for answer in answers:
                if isinstance(answer, Failure):
                    raise answer

    def _charges(self) -> Iterator[tuple[_Debt, Call]]:
        now = self._now()
        for book, key, overdraft in self._all_overdrafts():
            debt = self._debt(book, overdraft, now)
            if debt is not None:
                yield (
                    debt,
                    quota_call(
                        self._key(book, key),
                        book.quota,
                        self._leasing.server_time,
                        charge=debt.charge,
                    ),
                )

    def _debt(self, book: LeaseBook, overdraft: Overdraft, now: int) -> _Debt | None:
        if not overdraft.is_owing:
            return None
        share = share_of(book.quota, self._leasing.replicas())
        new_id = f"{self._leasing.replica}-{next(self._ids)}"
        return _Debt(overdraft, overdraft.charge(book.quota, share, now, new_id))

    def _all_overdrafts(self) -> Iterator[tuple[LeaseBook, str, Overdraft]]:
        for book, overdrafts in zip(self._books, self._overdrafts, strict=True):
            for key, overdraft in overdrafts.values.items():
                yield book, key, overdraft

    def _key(self, book: LeaseBook, key: str) -> str:
        """The quota's name in Redis; in a cluster a quota is where its tag says."""
        return f"{self._leasing.namespace}:{{{book.name}:{key}}}"

    def _now(self) -> int:
        return int(self._leasing.clock() * NANOSECONDS)
