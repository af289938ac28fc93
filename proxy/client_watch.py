"""Keeps what is known of an endpoint's clients: the tracker in the worker's own memory, on which
decisions are made, and its exchange with the state, by which all workers come to know the same.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import structlog

from detectors.arrays import Floats
from detectors.base import Rows
from detectors.patterns.base import Alarm, Standing, Tracker
from proxy.state.base import NANOSECONDS, Bucket, Quota, Sketches, rate_wait

_log = structlog.get_logger("bartizan.clients")

_KEYS: Final = 256
"""Keys told to the state in one exchange; the others wait for the next."""
_PACED: Final = 100_000
"""Clients whose pace is kept; beyond it those that may send now are forgotten first."""
_BANS_SECONDS: Final = 1.0


class Client(Protocol):
    """What of an identity is watched: two pseudonyms."""

    @property
    def client(self) -> str:
        """The client."""

    @property
    def subnet(self) -> str:
        """Its subnet, or "" if it has none."""


@dataclass(frozen=True, slots=True)
class Exchanged:
    """How the exchange with the state goes.

    Attributes:
        seconds: how long the last one took.
        at: when it ended, on the monotonic clock; 0.0 before the first.
        keys: how many keys it told.
        failures: how many exchanges failed by a defect, as by news that do not merge.
    """

    seconds: float = 0.0
    at: float = 0.0
    keys: int = 0
    failures: int = 0


class ClientWatch:
    """Watches the clients of one endpoint.

    Args:
        tracker: recognises patterns; None: only the operator's bans are kept.
        sketches: where what is learnt with this tracker is shared.
        bans: where the operator's bans are kept, whatever the tracker.
        throttle_seconds: from one row to the next of a throttled client.
        sync_seconds: from one exchange to the next.
        clock: monotonic seconds.
        sleep: waits so many seconds.
        happened: told of what decisions depend on, where they are to be replayed: each exchange,
            whom the operator forgave, and who is banned.
        alone: whether nobody shares the sketches: then there is no exchange without news.

    Attributes:
        clock: as given.
        turn: held by whatever is to be replayed in the order in which it came: a request that is
            inspected on the loop, what a thread takes from quotas or adds to patterns, an exchange.
    """

    def __init__(
        self,
        tracker: Tracker | None,
        sketches: Sketches,
        *,
        bans: Sketches,
        throttle_seconds: float,
        sync_seconds: float,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        happened: Callable[..., None] | None = None,
        alone: bool = False,
    ) -> None:
        self.tracker = tracker
        self.clock = clock
        self.turn = threading.Lock()
        self._happened = happened
        self._alone = alone
        self._news = False
        self.sketches = sketches
        self._bans = bans
        self.exchanged = Exchanged()
        self.throttle(throttle_seconds)
        self._paced: dict[str, Bucket] = {}
        self._banned: Mapping[str, float] = {}
        self._sync_seconds = sync_seconds
        self._sleep = sleep
        self._lock = threading.Lock()

    def throttle(self, seconds: float) -> None:
        """Sets the time from one row to the next of a throttled client."""
        self._pace = Quota(interval=int(seconds * NANOSECONDS), burst=1)

    def banned(self, client: str, now: float) -> int | None:
        """Whole seconds until the ban of a client ends, or None if it is not banned."""
        if not self._banned:
            return None
        until = self._banned.get(client, 0.0)
        return int(until - now) + 1 if until > now else None

    def observe(
        self, identity: Client, rows: Rows, p_values: Floats | None, now: float
    ) -> Sequence[Alarm]:
        """What the client's queries, these among them, amount to; mostly nothing.

        Raises:
            ScoreFault: if a statistic is not finite.
        """
        if self.tracker is None:
            return ()
        with self._lock:  # large requests are inspected in threads
            self._news = True
            return self.tracker.observe(identity.client, identity.subnet, rows, p_values, now)

    def pace(self, client: str, rows: int, now: float) -> int:
        """Takes rows from a throttled client's pace: 0 if they may pass, else the whole seconds
        until a request may. One of many rows passes when one row would, and is paid for after."""
        moment = int(now * NANOSECONDS)
        with self._lock:
            bucket = self._paced.get(client)
            if bucket is None:
                bucket = self._newly_paced(client, moment)
            wait = rate_wait(self._pace, bucket, 1, moment)
            if not wait:
                bucket.clear = max(bucket.clear, moment) + max(rows, 1) * self._pace.interval
            return wait

    def _newly_paced(self, client: str, moment: int) -> Bucket:
        if len(self._paced) >= _PACED:
            self._paced = {
                known: bucket for known, bucket in self._paced.items() if bucket.clear > moment
            }
        bucket = Bucket()
        if len(self._paced) < _PACED:
            self._paced[client] = bucket
        else:
            bucket.clear = moment + self._pace.interval  # all wait: so does the newcomer
        return bucket

    def keep_bans_of(self, former: ClientWatch) -> None:
        """Holds the bans that another watch knew, until they are learnt anew."""
        self._banned = former._banned

    def hold_bans(self, until: Mapping[str, float]) -> None:
        """Holds these bans: the moment at which each ends, on the monotonic clock."""
        self._banned = until

    async def run(self) -> None:
        """Exchanges with the state, for ever."""
        due = 0.0
        while True:
            await self._attempt(self.exchange)
            if self.clock() >= due:
                due = self.clock() + _BANS_SECONDS
                await self._attempt(self.learn_bans)
            await self._sleep(self._sync_seconds)

    async def _attempt(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except Exception:
            _log.exception("exchange failed")  # a defect: a state that is away raises nothing
            self.exchanged = replace(self.exchanged, failures=self.exchanged.failures + 1)

    async def exchange(self) -> None:
        """Tells the state what was learnt here, and learns what all know."""
        if self.tracker is None or (self._alone and not self._news):
            return
        if self._alone:
            with self.turn:  # what nobody shares is there at once
                await self._exchange(self.tracker)
        else:
            await self._exchange(self.tracker)

    async def _exchange(self, tracker: Tracker) -> None:
        begun = self.clock()
        with self._lock:
            deltas = tracker.drain(_KEYS)
            self._news = len(deltas) >= _KEYS  # what found no room is told the next time
        # Without anything new it may still hold what could not be told before.
        merged = await self.sketches.exchange(deltas)
        if self._happened is not None:
            # What is kept in memory is as of a moment of its own: a replay has to know that one.
            self._happened("exchange", at=getattr(self.sketches, "exchanged_at", begun))
        with self._lock:
            tracker.merge(merged)
        if deltas:
            ended = self.clock()
            self.exchanged = Exchanged(ended - begun, ended, len(deltas), self.exchanged.failures)

    async def learn_bans(self) -> None:
        """Learns whom the operator banned; while nobody can tell, the bans known so far hold."""
        left = await self._bans.bans()
        if left is not None:
            now, before = self.clock(), self._banned
            self._banned = {client: now + seconds for client, seconds in left.items()}
            if self._happened is not None and self._banned != before:
                self._happened("bans", at=now, until=self._banned)

    async def forgive(self, client: str) -> None:
        """Forgets what was learnt about a client, and lifts its ban.

        Raises:
            StateUnavailable: if it could not be done, or not all of it: to be asked again.
        """
        await self.sketches.forgive(client)
        await self._bans.ban(client, 0)
        with self._lock:
            self._news = True
            if self.tracker is not None:
                self.tracker.forget(client)
            self._paced.pop(client, None)
        if self._happened is not None:
            self._happened("forgiven", client=client)
        await self.learn_bans()

    async def ban(self, client: str, seconds: float) -> None:
        """Bans a client for so long; 0 lifts the ban.

        Raises:
            StateUnavailable: if it could not be done.
        """
        await self._bans.ban(client, seconds)
        await self.learn_bans()

    def standings(self, most: int) -> list[Standing]:
        """The clients with the most evidence against them, as known here."""
        if self.tracker is None:
            return []
        with self._lock:
            return self.tracker.standings(most)

    def standing(self, client: str) -> Standing | None:
        """One client as known here, or None."""
        if self.tracker is None:
            return None
        with self._lock:
            return self.tracker.standing(client)

    def banned_clients(self, now: float) -> dict[str, float]:
        """Seconds left of every ban."""
        return {client: until - now for client, until in self._banned.items() if until > now}

    def sizes(self) -> Mapping[str, Any]:
        """What the tracker holds, for the metrics."""
        if self.tracker is None:
            return {}
        with self._lock:
            return self.tracker.sizes()
