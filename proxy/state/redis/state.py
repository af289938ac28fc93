"""The state that replicas share: one connection, its ledgers and its sketches."""

from __future__ import annotations

import asyncio
import contextlib
import random as randomness
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from detectors.patterns.exchange import Layout
from proxy.state.base import DAY_SECONDS, Quota, StateHealth, StateUnavailable
from proxy.state.redis.address import parse
from proxy.state.redis.client import Call, Failure, Script, Tls
from proxy.state.redis.connection import Connection, Run, end
from proxy.state.redis.lease_table import LeaseTable, clear
from proxy.state.redis.ledger import Leasing, RedisLedger
from proxy.state.redis.quota_calls import Rest, ServerTime, quota_call
from proxy.state.redis.sketches import RedisSketches

_BEAT: Final = Script.load("beat.lua")
# Beats over which the most replicas count: a Redis that forgot them is not told at once by all.
_BEATS: Final = 5
_DAILY: Final = Quota(per_day=1)


class RedisState:
    """Implements ``base.State``. It connects when it is started.

    Args:
        url: see ``address.parse``.
        username, password: in place of those in the URL.
        tls: files of PEM: the CA, our certificate, our key; each may be None.
        wait_seconds: the longest that a request waits for a lease.
        lease_seconds: for how long a busy client's lease is meant to last.
        retention_seconds: for which sketches remember, where their layout does not say.
        most: keys that each scope of each ledger keeps apart here.
        clock, wall: monotonic seconds, as ``take`` is given them, and seconds since the epoch.
        lease_table: memory that outlives this process, see ``lease_table.py``.
        timeout_seconds: the longest that a round trip may take.
        beat_seconds: between signs of life.
        denial_seconds: for how long a denial is believed, see ``Leasing``.
        replicas: how many there are at the least.
        observer: whether it is not to be counted among them.
        namespace: what every key begins with.
        random: numbers from 0 to 1.
        server_time: the server's microseconds of the epoch in place of its own, for tests.

    Raises:
        ValueError: if the URL is none.
        OSError: if a certificate cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        username: str | None = None,
        password: str | None = None,
        tls: tuple[Path | None, Path | None, Path | None] | None = None,
        wait_seconds: float = 0.02,
        lease_seconds: float = 0.5,
        retention_seconds: float = DAY_SECONDS,
        most: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        lease_table: memoryview | None = None,
        timeout_seconds: float = 0.1,
        beat_seconds: float = 1.0,
        denial_seconds: float = 0.25,
        replicas: int = 1,
        observer: bool = False,
        namespace: str = "bartizan",
        random: Callable[[], float] = randomness.random,
        server_time: ServerTime | None = None,
    ) -> None:
        address = parse(url)
        address = replace(
            address, username=username or address.username, password=password or address.password
        )
        self._replica = secrets.token_bytes(8)
        self._namespace = namespace
        self._server_time = server_time
        self._clock = clock
        self._most = most
        self._table = LeaseTable(lease_table) if lease_table is not None else None
        self._observer = observer
        self._least = replicas
        self._lives_ms = int(5 * beat_seconds * 1000)
        self._lease_seconds = lease_seconds
        self._layout = Layout(retention=retention_seconds)
        self._counts: deque[int] = deque(maxlen=_BEATS)
        self._ledgers: dict[str, RedisLedger] = {}
        self._sketches: dict[str, RedisSketches] = {}
        self._tending: asyncio.Task[None] | None = None
        self._leasing = Leasing(
            namespace=namespace,
            replica=self._replica.hex(),
            wait_seconds=wait_seconds,
            lease_seconds=lease_seconds,
            denial_seconds=denial_seconds,
            replicas=self.replicas,
            clock=clock,
            wall=wall,
            server_time=server_time,
        )
        self.connection = Connection(
            address,
            beat=self._beat,
            beaten=self._beaten,
            recover=self._recover,
            tls=Tls(*tls) if tls else None,
            timeout_seconds=timeout_seconds,
            beat_seconds=beat_seconds,
            clock=clock,
            random=random,
        )

    def replicas(self) -> int:
        """How many replicas there are, as far as is known."""
        return max(self._least, *self._counts, 1)

    def ledger(self, name: str, quotas: Sequence[Quota]) -> RedisLedger:
        """As ``base.State.ledger``."""
        ledger = self._ledgers.get(name)
        if ledger is None:
            ledger = self._ledgers[name] = RedisLedger(
                name, self.connection, self._leasing, self._most, self._table
            )
        ledger.configure(quotas)
        return ledger

    def sketches(self, name: str, layout: Layout | None = None) -> RedisSketches:
        """As ``base.State.sketches``."""
        sketches = self._sketches.get(name)
        if sketches is None:
            sketches = self._sketches[name] = RedisSketches(
                self.connection.background,
                name,
                layout or self._layout,
                replica=self._replica,
                clock=self._clock,
            )
        elif layout is not None:
            sketches.configure(layout)
        return sketches

    def health(self) -> StateHealth:
        """As ``base.State.health``."""
        sketches = self._sketches.values()
        return StateHealth(
            degraded=not self.connection.up,
            problem=self.connection.problem,
            replicas=self.replicas(),
            spooled=sum(one.spooled for one in sketches)
            + sum(ledger.owing() for ledger in self._ledgers.values()),
            dropped=sum(one.dropped for one in sketches),
            calls=self.connection.calls,
            failures=self.connection.failures,
        )

    def resize(self, most: int) -> None:
        """As ``base.State.resize``."""
        self._most = most
        for ledger in self._ledgers.values():
            ledger.resize(most)

    async def start(self) -> None:
        """As ``base.State.start``: it returns after the first try to connect."""
        await self.connection.start()
        if self._tending is None:
            self._tending = asyncio.create_task(self._tend())

    async def close(self) -> None:
        """Gives back what is held, charges what is owed, as far as Redis is there, and
        disconnects."""
        if self._tending is not None:
            await end(self._tending)
            self._tending = None
        for ledger in self._ledgers.values():
            await ledger.give_back(self.connection.background.run, idle=False)
            if ledger.owing():
                with contextlib.suppress(Failure):  # there is nobody left to charge it
                    await ledger.settle(self.connection.background.run)
        if self.connection.up and not self._observer:
            await self.connection.background.run([self._beat(lives_ms=0)])
        await self.connection.close()

    async def tend(self) -> None:
        """Gives back what lies idle, and charges what is owed."""
        for ledger in list(self._ledgers.values()):
            await ledger.give_back(self.connection.background.run)
            if ledger.owing():
                with contextlib.suppress(Failure):  # it is charged later
                    await ledger.settle(self.connection.background.run)

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds)
            if self.connection.up:
                await self.tend()

    async def _recover(self, run: Run) -> None:
        for ledger in list(self._ledgers.values()):
            await ledger.settle(run)

    def _beat(self, lives_ms: int | None = None) -> Call:
        lives = self._lives_ms if lives_ms is None else lives_ms
        member = b"" if self._observer else self._replica
        return Call(_BEAT, f"{self._namespace}:replicas", (member, lives))

    def _beaten(self, count: Any) -> None:
        self._counts.append(int(count))

    async def return_leases(self, table: memoryview) -> int:
        """Gives back the daily rows that a dead worker held, and empties its table at once, before
        it first waits.

        Returns:
            the rows that were given back.

        Raises:
            StateUnavailable: if some could not be: they stay unused for the day.
        """
        held = clear(table)
        calls = [
            quota_call(
                lease.key, _DAILY, self._server_time, rest=Rest(rows=lease.rows, day=lease.day)
            )
            for lease in held
        ]
        answers = await self.connection.background.run(calls)
        failed = [answer for answer in answers if isinstance(answer, Failure)]
        if failed:
            raise StateUnavailable(str(failed[0]))
        return sum(lease.rows for lease in held)
