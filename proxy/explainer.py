"""Explains kept exchanges off the hot path: one at a time, in a thread, and no more than asked."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, Final

import structlog

from detectors.bundle import Bundle
from proxy.admin.explanations import Busy
from proxy.explain import explained
from proxy.explanations import Explanations, Kept
from proxy.protocols.contract import Contract
from proxy.telemetry.audit import Audit

_log = structlog.get_logger("bartizan.explain")

MOST_ASKED: Final = 4
"""Explanations that operators may wait for at once."""
MOST_WAITING: Final = 64
"""Explanations for the audit log that may wait. Beyond it the newest is dropped, and counted."""
_YIELD_SECONDS: Final = 2e-4
_REST: Final = 9.0
"""For so many times what one for the audit log took, nothing is done: a tenth of a processor."""


class Explainer:
    """Explains what ``kept`` still holds.

    Args:
        bundle: what scores at an endpoint now, by the endpoint's name.
        executor: one thread, for nothing else.
        contract: what an endpoint's model takes, by the endpoint's name.
        clock: monotonic seconds.
        wall: seconds since the epoch.
        audit: takes an ``explanation`` of each exchange that was kept with a row; None: none does.
        values: whether that holds rows' values. They may be personal data.

    Attributes:
        dropped: explanations that the audit log did not get, as too many waited.
    """

    def __init__(
        self,
        kept: Explanations,
        *,
        bundle: Callable[[str], Bundle | None],
        executor: Executor,
        contract: Callable[[str], Contract | None] = lambda _: None,
        clock: Callable[[], float],
        wall: Callable[[], float],
        audit: Audit | None = None,
        values: bool = False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.dropped = 0
        self._kept = kept
        self._bundle = bundle
        self._executor = executor
        self._contract = contract
        self._clock = clock
        self._wall = wall
        self._audit = audit
        self._values = values
        self._sleep = sleep
        self._asked = 0
        self._untold = 0
        self._waiting: deque[Kept] = deque()
        self._arrived = asyncio.Event()
        if audit is not None:
            kept.heard = self._hear

    async def explanation(self, exchange: str) -> dict[str, Any] | None:
        """The exchange explained; None if it is not kept, or not any more.

        Raises:
            Busy: if too many are asked for at once.
        """
        kept = self._kept.find(exchange)
        if kept is None:
            return None
        if self._asked >= MOST_ASKED:
            raise Busy(f"{MOST_ASKED} explanations are being made: try again in a moment")
        self._asked += 1
        try:
            return await self._explain(kept)
        finally:
            self._asked -= 1

    async def run(self) -> None:
        """Explains for the audit log, for ever; returns at once if there is none."""
        audit = self._audit
        while audit is not None:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                kept = self._waiting.popleft()
                begun = self._clock()
                try:
                    told = await self._explain(kept)
                except Exception:
                    _log.exception("an exchange could not be explained", request=kept.id)
                else:
                    dropped, self._untold = self._untold, 0
                    audit.event("explanation", **_for_audit(told, self._values), dropped=dropped)
                await self._sleep(_REST * (self._clock() - begun))

    def _hear(self, kept: Kept) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self.dropped += 1
            self._untold += 1
            return
        self._waiting.append(kept)
        self._arrived.set()

    async def _explain(self, kept: Kept) -> dict[str, Any]:
        bundle, contract = self._bundle(kept.endpoint), self._contract(kept.endpoint)
        loop = asyncio.get_running_loop()
        work = partial(
            explained, kept, bundle, now=self._wall(), contract=contract, pause=_make_way
        )
        return await loop.run_in_executor(self._executor, work)


def _make_way() -> None:
    """Lets the loop's thread have the interpreter: else it waits until this one must give it up."""
    time.sleep(_YIELD_SECONDS)


def _for_audit(told: dict[str, Any], values: bool) -> dict[str, Any]:
    """What the exchange's own record does not say already."""
    wanted = ("id", "endpoint", "client", "input", "answer", "notes")
    kept = {name: told[name] for name in wanted}
    return kept if values else {name: _without_values(value) for name, value in kept.items()}


def _without_values(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_values(inner)
            for name, inner in value.items()
            if name not in {"value", "values", "usual", "expected"}
        }
    if isinstance(value, list):
        return [_without_values(inner) for inner in value]
    return value
