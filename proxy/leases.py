"""What workers have leased of daily quotas: noted in memory that outlives them, and given back."""

from __future__ import annotations

import mmap
import os
import tempfile
import time

import structlog

from proxy.settings.models import Settings
from proxy.state.base import StateUnavailable
from proxy.state.opening import open_redis
from proxy.state.redis.lease_table import LEASE_TABLE_BYTES

_log = structlog.get_logger("bartizan")


class Leases:
    """One table of leases for each worker, in a file without a name, and the way to Redis.

    Raises:
        StateError: if the state cannot be opened as it is configured.
        OSError: if there is no room for the tables.
    """

    def __init__(self, settings: Settings) -> None:
        self._state = open_redis(settings, clock=time.perf_counter, wall=time.time, observer=True)
        size = settings.workers * LEASE_TABLE_BYTES
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
            self._descriptor = os.dup(file.fileno())

    async def __aenter__(self) -> Leases:
        await self._state.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        os.close(self._descriptor)
        await self._state.close()

    def place(self, worker: int) -> tuple[int, int, int]:
        """Where a worker finds its table: descriptor, offset and bytes."""
        return self._descriptor, (worker - 1) * LEASE_TABLE_BYTES, LEASE_TABLE_BYTES

    async def give_back(self, worker: int) -> None:
        """Gives back what a worker held as it ended, and empties its table."""
        _, start, size = self.place(worker)
        try:
            rows = await self._state.return_leases(memoryview(self._map)[start : start + size])
        except StateUnavailable as error:
            _log.error("leases are not returned: their rows are lost for the day", why=str(error))
        else:
            if rows:
                _log.info("leases returned", worker=worker, rows=rows)
