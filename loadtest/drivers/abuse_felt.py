"""Attacks on availability: one kind after the other, with honest requests beside each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtest.drivers.abuse_probe import (
    Probes,
    alive,
    honest_requests,
    probe,
    slower,
    suffered,
)
from loadtest.drivers.abuse_wire import Raw
from loadtest.drivers.base import Asked, Means, Outcome, Try
from loadtest.evidence.results import Estimate
from loadtest.targets.http_oracle import said_of

MEASURE = "honest p99 during the worst kind, times that of before"


@dataclass(slots=True)
class Felt:
    """One endpoint under attack, and what honest clients felt so far.

    Args:
        requests: honest ones that are answered.
        rate: honest ones a second.
        recovery: seconds that the endpoint may be gone for after a kind.

    Attributes:
        worst: the largest ratio of honest p99 during to before, of all kinds.
        gone: whether it stayed so for longer: there is no point in going on.
        note: what a reader must know.
    """

    oracle: Asked
    raw: Raw
    attacker: str
    honest: str
    rate: float
    recovery: float
    requests: list[bytes] = field(default_factory=list)
    before: Probes | None = None
    worst: Estimate | None = None
    gone: bool = False
    note: str = ""
    _tries: list[Try] = field(default_factory=list)
    _kinds: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    async def begin(self, means: Means, seconds: float) -> None:
        """Asks honest requests for so long, with nothing beside them.

        Raises:
            ValueError: if none is answered.
        """
        self.requests = await honest_requests(self.raw, self.honest, means.own)
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, stop.set)
        self.before = await self._probe(stop)

    def count(self, status: int) -> None:
        """One request of the attack was sent, and answered so (0: not).

        Raises:
            Spent: if the budget is used up.
        """
        self.oracle.count(said_of(status))

    async def during(self, kind: str, attack: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        """Runs one kind of attack, which returns what the report is to say of it.

        Raises:
            Spent: if the budget is used up; the kind is noted all the same.
        """
        assert self.before is not None  # see begin
        sent = self.oracle.queries
        over = asyncio.Event()
        probing = asyncio.ensure_future(self._probe(over))
        more: Mapping[str, Any] = {"cut short": True}
        try:
            more = await attack()
        finally:
            over.set()
            during = await probing
            again = await alive(self.raw, self.honest, self.requests, self.recovery)
            self._add(kind, during, again, self.oracle.queries - sent, more)

    async def _probe(self, stop: asyncio.Event) -> Probes:
        return await probe(self.raw, self.honest, self.requests, rate=self.rate, stop=stop)

    def _add(
        self,
        kind: str,
        during: Probes,
        again: float | None,
        queries: int,
        more: Mapping[str, Any],
    ) -> None:
        assert self.before is not None
        ratio = slower(self.before, during)
        self.gone = again is None
        felt = self.gone or suffered(self.before, during)
        if ratio is not None and (self.worst is None or ratio.value > self.worst.value):
            self.worst = ratio
        self._tries.append(Try(felt, queries))
        self._kinds[kind] = {
            "felt": felt,
            "honest": during.words(),
            "p99 times": None if ratio is None else round(ratio.value, 2),
            "seconds until it answered again": None if again is None else round(again, 3),
            **more,
        }

    def outcome(self) -> Outcome:
        """As the driver leaves it."""
        details: dict[str, Any] = {
            "honest before": None if self.before is None else self.before.words(),
            "kinds": self._kinds,
        }
        if self.note:
            details["note"] = self.note
        return Outcome(
            tuple(self._tries), measure=MEASURE, value=self.worst, baseline=1.0, details=details
        )
