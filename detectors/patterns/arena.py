"""Where the state of all keys lives: plain arrays, allocated once, one slot a key.

Nothing here allocates as queries come, and a compiled step can take the arrays as they are. In
memory a coordinate of all entries of a ring lies side by side: that way a ring is searched six
times as fast.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detectors.patterns.layout import BLOCKS, CELLS, EVIDENCE, RETRIES, RING, SKETCH, SUMS

MARKED, TOLD = 1, 2
"""Values of a visited cell's mark."""


class Records:
    """What is kept for each client, subnet or endpoint.

    Attributes:
        levels: (n, 2) the CUSUMs now, in nats.
        totals, peaks: (n, 2) the stretch since it was last handed over.
        sums: (n, 129) over all replicas, as far as is known.
        pending: (n, 129) the part of ``sums`` that was not handed over yet.
        marks: (n, 512) 0 for a cell that was not visited, :data:`MARKED` for one that was, here and
            since it was last handed over, :data:`TOLD` for one that all know of.
        seen, born: (n,) seconds: the last query, and the first of the day.
        coverage: (n,) the mass of the visited cells.
        bases: (n, 2) levels of the shared state, as it last told: what the stretch lies on.
        epochs, cursors: (n,) of the shared state, as it last told.
    """

    def __init__(self, slots: int) -> None:
        self.slots: Final = slots
        self.levels: Final = np.zeros((slots, EVIDENCE))
        self.totals: Final = np.zeros((slots, EVIDENCE))
        self.peaks: Final = np.zeros((slots, EVIDENCE))
        self.sums: Final = np.zeros((slots, SUMS))
        self.pending: Final = np.zeros((slots, SUMS))
        self.marks: Final = np.zeros((slots, CELLS), dtype=np.uint8)
        self.seen: Final = np.zeros(slots)
        self.born: Final = np.zeros(slots)
        self.coverage: Final = np.zeros(slots)
        self.bases: Final = np.zeros((slots, EVIDENCE))
        self.epochs: Final = np.zeros(slots, dtype=np.int64)
        self.cursors: Final = np.zeros(slots, dtype=np.int64)

    def clear(self, slot: int) -> None:
        """Makes a slot that of a key of which nothing is known."""
        for array in self.arrays():
            array[slot] = 0

    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """All arrays, for counting and clearing."""
        return (
            self.levels,
            self.totals,
            self.peaks,
            self.sums,
            self.pending,
            self.marks,
            self.seen,
            self.born,
            self.coverage,
            self.bases,
            self.epochs,
            self.cursors,
        )


class Rings:
    """The last distinct queries of each client.

    Attributes:
        sketch: (n, 64, 32) int16.
        blocks: (n, 64, 32) uint16 hashes.
        content: (n, 256) uint64 hashes of the whole row, 0 where there is none; the ring holds
            those that were added last.
        added: (n,) entries ever added; the next goes to ``added % 64`` and ``added % 256``.
        fresh: (n, 64) 1 for an entry of this replica's own that was not handed over yet.
        told: (n,) entries added when last handed over.
    """

    def __init__(self, slots: int) -> None:
        self.sketch: Final = np.zeros((slots, SKETCH, RING), dtype=np.int16).transpose(0, 2, 1)
        self.blocks: Final = np.zeros((slots, BLOCKS, RING), dtype=np.uint16).transpose(0, 2, 1)
        self.content: Final = np.zeros((slots, RETRIES), dtype=np.uint64)
        self.added: Final = np.zeros(slots, dtype=np.int64)
        self.fresh: Final = np.zeros((slots, RING), dtype=np.uint8)

    def clear(self, slot: int) -> None:
        """Empties a ring."""
        self.content[slot] = 0
        self.added[slot] = 0
        self.fresh[slot] = 0

    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """All arrays, for counting."""
        return (self.sketch, self.blocks, self.content, self.added, self.fresh)


class Shared:
    """Queries of all clients: half the most recent, half those that are kept longer.

    Attributes:
        sketch, blocks, content: as in :class:`Rings`, one row an entry.
        lineage: (n,) uint64 id, 0 for none.
        slot: (n,) int32 where the lineage is kept, if ``Lineages.ids`` there is still its id.
        added: (2,) entries ever added to the recent and to the kept half.
        fresh: (n,) as in :class:`Rings`.
    """

    def __init__(self, size: int) -> None:
        self.half: Final = size // 2
        size = 2 * self.half
        self.sketch: Final = np.zeros((SKETCH, size), dtype=np.int16).T
        self.blocks: Final = np.zeros((BLOCKS, size), dtype=np.uint16).T
        self.content: Final = np.zeros(size, dtype=np.uint64)
        self.lineage: Final = np.zeros(size, dtype=np.uint64)
        self.slot: Final = np.zeros(size, dtype=np.int32)
        self.added: Final = np.zeros(2, dtype=np.int64)
        self.fresh: Final = np.zeros(size, dtype=np.uint8)

    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """All arrays, for counting."""
        return (
            self.sketch,
            self.blocks,
            self.content,
            self.lineage,
            self.slot,
            self.added,
            self.fresh,
        )


class Lineages:
    """The evidence of each lineage.

    Attributes:
        ids: (n,) uint64, 0 for a free slot.
        levels, totals, peaks, seen, bases: (n,) as in :class:`Records`.
        dirty: (n,) 1 where the stretch was not handed over.
        refused: (1,) lineages that found no room so far.
    """

    def __init__(self, slots: int) -> None:
        self.ids: Final = np.zeros(slots, dtype=np.uint64)
        self.levels: Final = np.zeros(slots)
        self.totals: Final = np.zeros(slots)
        self.peaks: Final = np.zeros(slots)
        self.seen: Final = np.zeros(slots)
        self.bases: Final = np.zeros(slots)
        self.dirty: Final = np.zeros(slots, dtype=np.uint8)
        self.refused: Final = np.zeros(1, dtype=np.int64)

    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """All arrays, for counting."""
        return (
            self.ids,
            self.levels,
            self.totals,
            self.peaks,
            self.seen,
            self.bases,
            self.dirty,
        )


def bytes_of(*parts: Records | Rings | Shared | Lineages) -> int:
    """Bytes of the arrays."""
    return sum(array.nbytes for part in parts for array in part.arrays())


def add(records: Records | Lineages, index: Any, increment: float) -> None:
    """Adds an increment to a CUSUM and to its stretch."""
    records.levels[index] = max(records.levels[index] + increment, 0.0)
    records.totals[index] += increment
    records.peaks[index] = max(records.peaks[index] + increment, 0.0)
