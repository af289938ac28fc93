"""The leases of daily allowances that a worker holds, in memory that outlives it.

A lease of a rate comes back by itself as time passes; one of a day does not. So a worker notes what
it holds of days in memory that its supervisor shares, and what a killed worker held is given back.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

# left, day, length of the key, the key.
_SLOT: Final = struct.Struct("<qqH238s")
_KEY: Final = struct.Struct("<qH238s")
_WORDS: Final = _SLOT.size // 8
_SLOTS: Final = 4096

LEASE_TABLE_BYTES: Final = _SLOT.size * _SLOTS
"""Bytes of one worker's table: 4096 leases at once; what exceeds them is lost with the worker."""


class HeldLease(NamedTuple):
    """Rows of a day that a worker held.

    Attributes:
        key: the quota's, in Redis.
        day: since the epoch.
        rows: how many.
    """

    key: str
    day: int
    rows: int


class LeaseTable:
    """One worker's table.

    Args:
        memory: at least one slot of 256 bytes, writable; a table of zeros is empty.

    Attributes:
        left: the rows left of every lease, by the place that ``hold`` gave: written at each take.

    Raises:
        ValueError: if the memory holds no slot.
    """

    def __init__(self, memory: memoryview) -> None:
        slots = memory.nbytes // _SLOT.size
        if slots < 1 or memory.readonly:
            raise ValueError(f"a table of leases needs {_SLOT.size} bytes that can be written")
        self._memory = memory.cast("B")[: slots * _SLOT.size]
        self._memory[:] = bytes(len(self._memory))
        self.left = self._memory.cast("q")
        self._free = list(range(0, slots * _WORDS, _WORDS))

    def hold(self, key: str, day: int, rows: int) -> int:
        """Notes a lease. Its place, or -1 if it cannot be noted."""
        name = key.encode()
        if not self._free or len(name) > 238:
            return -1
        place = self._free.pop()
        # The rows last: a worker that is killed in between held none.
        _KEY.pack_into(self._memory, place * 8 + 8, day, len(name), name)
        self.left[place] = rows
        return place

    def drop(self, place: int) -> None:
        """Forgets a lease."""
        self.left[place] = 0
        self._free.append(place)


def clear(memory: memoryview) -> Sequence[HeldLease]:
    """What the table of a dead worker says that it held. The table is empty afterwards."""
    octets = memory.cast("B")
    held = []
    for start in range(0, len(octets) - _SLOT.size + 1, _SLOT.size):
        rows, day, length, name = _SLOT.unpack_from(octets, start)
        if rows > 0 and length <= 238:
            held.append(HeldLease(name[:length].decode(errors="replace"), day, rows))
    octets[:] = bytes(len(octets))
    return held
