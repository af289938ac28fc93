"""The state that a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.settings.models import Settings
from proxy.settings.shared_state import MEMORY
from proxy.state.base import State
from proxy.state.memory import MemoryState

if TYPE_CHECKING:
    from proxy.state.redis.state import RedisState


class StateError(ValueError):
    """The state cannot be opened as it is configured: the message says why."""


def open_state(
    settings: Settings,
    *,
    clock: Callable[[], float],
    wall: Callable[[], float],
    lease_table: memoryview | None = None,
) -> State:
    """Where quotas and sketches are kept. Opens no connection.

    Args:
        lease_table: memory that outlives the process, in which it notes what it has leased.

    Raises:
        StateError: if the Redis client is not installed, or a certificate cannot be used.
    """
    if settings.state == MEMORY:
        retention = settings.sharing.retention_seconds
        return MemoryState(settings.client.max_known, wall, retention=retention, clock=clock)
    return open_redis(settings, clock=clock, wall=wall, lease_table=lease_table)


def open_redis(
    settings: Settings,
    *,
    clock: Callable[[], float],
    wall: Callable[[], float],
    lease_table: memoryview | None = None,
    observer: bool = False,
) -> RedisState:
    """The Redis state, as of :func:`open_state`.

    Args:
        observer: whether it serves no requests, and is thus no replica.

    Raises:
        StateError: if the Redis client is not installed, or a certificate cannot be used.
    """
    try:
        from proxy.state.redis.state import RedisState  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise StateError(
            f"a Redis state needs the extra redis, pip install '.[redis]' in a checkout ({error})"
        ) from error
    sharing, tls = settings.sharing, settings.sharing.tls
    try:
        return RedisState(
            settings.state,
            username=sharing.username,
            password=sharing.password.get_secret_value() if sharing.password else None,
            tls=(tls.ca, tls.certificate, tls.key) if tls else None,
            wait_seconds=sharing.wait_seconds,
            lease_seconds=sharing.lease_seconds,
            retention_seconds=sharing.retention_seconds,
            most=settings.client.max_known,
            clock=clock,
            wall=wall,
            lease_table=lease_table,
            replicas=settings.workers,
            observer=observer,
        )
    except (OSError, ValueError) as error:
        raise StateError(f"state: {error}") from error
