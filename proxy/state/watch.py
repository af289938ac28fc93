"""Tells the operator when the shared state goes and comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from proxy.state.base import StateHealth

_log = structlog.get_logger("bartizan.state")

_SECONDS: Final = 1.0


async def tell_health(
    health: Callable[[], StateHealth],
    event: Callable[..., Any],
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Looks every second, for ever, and says what has changed.

    Args:
        health: how the state stands.
        event: writes an event with its fields to the audit log.
        sleep: waits so many seconds.
    """
    told = StateHealth()
    while True:
        now = health()
        if now.degraded and not told.degraded:
            event("state degraded", problem=now.problem)
            _log.error("state degraded: local limits hold", problem=now.problem)
        elif told.degraded and not now.degraded:
            event("state recovered", replicas=now.replicas)
            _log.warning("state recovered", replicas=now.replicas)
        if now.problem and not now.degraded and now.problem != told.problem:
            event("state warning", problem=now.problem)
            _log.warning("state warning", problem=now.problem)
        told = now
        await sleep(_SECONDS)
