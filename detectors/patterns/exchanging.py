"""The arena's state as what replicas exchange, and back."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats
from detectors.patterns.arena import MARKED, TOLD, Lineages, Records, Rings, Shared
from detectors.patterns.exchange import Delta, Merged, Stretch
from detectors.patterns.layout import CELLS, ENTRY, EVIDENCE, RING, SUMS
from detectors.patterns.reference import Query, enter, share

TOLD_RECENT: Final = 64
"""Entries of the recent half that one exchange hands over at most: other replicas sample a busy
replica's traffic. The kept half is handed over whole."""

Entries = npt.NDArray[Any]


class ExchangeError(ValueError):
    """What another replica or the state sent is not of the agreed form."""


def take_record(records: Records, slot: int, key: str, rings: Rings | None = None) -> Delta:
    """What was learnt of a key since the last call; it counts as handed over."""
    stretches = tuple(
        Stretch(float(records.totals[slot, family]), float(records.peaks[slot, family]))
        for family in range(EVIDENCE)
    )
    pending = records.pending[slot]
    marked = records.marks[slot] == MARKED
    delta = Delta(
        key,
        stretches,
        sums=pending.astype("<f8").tobytes() if pending.any() else b"",
        marks=marked.astype(np.uint8).tobytes() if marked.any() else b"",
        entries=b"" if rings is None else _take_entries(rings, slot),
        cursor=int(records.cursors[slot]),
        epoch=int(records.epochs[slot]),
        levels=tuple(records.bases[slot].tolist()),
    )
    records.marks[slot, marked] = TOLD
    records.totals[slot] = 0.0
    records.peaks[slot] = 0.0
    records.pending[slot] = 0.0
    return delta


def joined(before: Delta, later: Delta) -> Delta:
    """Two deltas of one key as one; the later was learnt after the earlier, in a new slot."""
    sums = [np.frombuffer(data, dtype="<f8") for data in (before.sums, later.sums) if data]
    marks = [np.frombuffer(data, dtype=np.uint8) for data in (before.marks, later.marks) if data]
    pairs = zip(before.stretches, later.stretches, strict=True)
    return Delta(
        later.key,
        tuple(first.then(second) for first, second in pairs),
        np.sum(sums, axis=0).tobytes() if sums else b"",
        np.maximum.reduce(marks).tobytes() if marks else b"",
        (before.entries + later.entries)[-RING * ENTRY.itemsize :],
        before.cursor,
        max(before.epoch, later.epoch),
        before.levels,
    )


def put_record(
    records: Records, slot: int, merged: Merged, mass: Floats, rings: Rings | None = None
) -> bool:
    """What all know of a key, with what was learnt here since on top.

    Returns:
        Whether other replicas learnt of it too since this one last heard.

    Raises:
        ExchangeError: if it is not of the agreed form. Nothing was changed.
    """
    sums = _floats(merged.sums, SUMS)
    marks = _marks(merged.marks)
    entries = unpack(merged.entries)
    if merged.levels and len(merged.levels) != EVIDENCE:
        raise ExchangeError(f"{len(merged.levels)} levels, not {EVIDENCE}")
    if not all(np.isfinite(merged.levels)):
        raise ExchangeError("a level is not finite")
    if merged.epoch > records.epochs[slot]:
        forgive(records, slot, rings)
    records.epochs[slot] = merged.epoch
    records.cursors[slot] = merged.cursor
    for family, level in enumerate(merged.levels):
        local = Stretch(float(records.totals[slot, family]), float(records.peaks[slot, family]))
        records.bases[slot, family] = level
        records.levels[slot, family] = local.after(level)
    others = float(sums[-1] + records.pending[slot, -1]) > float(records.sums[slot, -1])
    # Nothing where nobody sent any since the day began: only what was learnt here since remains.
    records.sums[slot] = sums + records.pending[slot]
    marked = records.marks[slot] == MARKED
    records.marks[slot] = np.where(marked, MARKED, np.where(marks, TOLD, 0))
    records.coverage[slot] = mass[records.marks[slot, : mass.size] != 0].sum()
    if rings is not None:
        for entry in entries:
            if entry["content"] and not (rings.content[slot] == entry["content"]).any():
                enter(rings, slot, _query(entry), fresh=0)
    return others


def forgive(records: Records, slot: int, rings: Rings | None = None) -> None:
    """Clears what is known of a key but where it stands with the shared state."""
    kept = [
        (array, array[slot].copy())
        for array in (records.seen, records.born, records.epochs, records.cursors)
    ]
    records.clear(slot)
    for array, value in kept:
        array[slot] = value
    if rings is not None:
        rings.clear(slot)


def begin_day(records: Records, slot: int, now: float) -> None:
    """What is counted by the day starts anew: distinct queries, features, visited cells. Evidence
    does not, or an attacker would wait for midnight."""
    for array in (records.sums, records.pending, records.marks, records.coverage):
        array[slot] = 0
    records.born[slot] = now


def take_lineage(lineages: Lineages, slot: int) -> Delta:
    """What was learnt of a lineage since the last call."""
    stretch = Stretch(float(lineages.totals[slot]), float(lineages.peaks[slot]))
    lineages.totals[slot] = lineages.peaks[slot] = 0.0
    lineages.dirty[slot] = 0
    base = float(lineages.bases[slot])
    return Delta(lineage_key(int(lineages.ids[slot])), (stretch,), levels=(base,))


def put_lineage(lineages: Lineages, slot: int, merged: Merged) -> None:
    """What all know of a lineage.

    Raises:
        ExchangeError: if it is not of the agreed form.
    """
    if len(merged.levels) > 1 or not all(np.isfinite(merged.levels)):
        raise ExchangeError("a lineage has one finite level")
    local = Stretch(float(lineages.totals[slot]), float(lineages.peaks[slot]))
    for level in merged.levels:
        lineages.bases[slot] = level
        lineages.levels[slot] = local.after(level)


def lineage_key(ident: int) -> str:
    """The key of a lineage."""
    return f"lineage:{ident:016x}"


def take_shared(shared: Shared) -> bytes:
    """Entries of the shared ring that were added here since the last call, oldest first."""
    positions: list[int] = []
    for half in (0, 1):
        count = min(int(shared.added[half]), shared.half)
        last = int(shared.added[half])
        rising = [half * shared.half + i % shared.half for i in range(last - count, last)]
        fresh = [position for position in rising if shared.fresh[position]]
        positions += fresh[-TOLD_RECENT:] if half == 0 else fresh
    shared.fresh[:] = 0
    return _pack(
        shared.sketch[positions],
        shared.blocks[positions],
        shared.content[positions],
        shared.lineage[positions],
    )


def put_shared(shared: Shared, lineages: Lineages, data: bytes) -> None:
    """Enters what other replicas added to the shared ring.

    Raises:
        ExchangeError: if it is not of the agreed form.
    """
    for entry in unpack(data)[-2 * shared.half :]:
        if not entry["content"] or (shared.content == entry["content"]).any():
            continue
        known = np.flatnonzero(lineages.ids == entry["lineage"])
        slot = int(known[0]) if entry["lineage"] and known.size else 0
        share(shared, _query(entry), entry["lineage"], slot, fresh=0)


def unpack(data: bytes) -> Entries:
    """Ring entries.

    Raises:
        ExchangeError: if these are not whole entries.
    """
    if len(data) % ENTRY.itemsize:
        raise ExchangeError(f"{len(data)} bytes are no whole entries of {ENTRY.itemsize}")
    return np.frombuffer(data, dtype=ENTRY)


def _take_entries(rings: Rings, slot: int) -> bytes:
    last = int(rings.added[slot])
    rising = np.arange(max(last - RING, 0), last)
    fresh = rising[rings.fresh[slot, rising % RING] != 0]
    rings.fresh[slot] = 0
    return _pack(
        rings.sketch[slot, fresh % RING],
        rings.blocks[slot, fresh % RING],
        rings.content[slot, fresh % rings.content.shape[1]],
        np.zeros(fresh.size, dtype=np.uint64),
    )


def _pack(sketch: Any, blocks: Any, content: Any, lineage: Any) -> bytes:
    entries = np.zeros(len(content), dtype=ENTRY)
    entries["sketch"] = sketch
    entries["blocks"] = blocks
    entries["content"] = content
    entries["lineage"] = lineage
    return entries.tobytes()


def _query(entry: Any) -> Query:
    return Query(entry["sketch"].astype(np.float64), entry["blocks"], entry["content"])


def _floats(data: bytes, count: int) -> Floats:
    if not data:
        return np.zeros(count)
    if len(data) != 8 * count:
        raise ExchangeError(f"{len(data)} bytes are not {count} sums")
    values = np.frombuffer(data, dtype="<f8").astype(np.float64)
    if not bool(np.isfinite(values).all()):
        raise ExchangeError("a sum is not finite")
    return values


def _marks(data: bytes) -> npt.NDArray[np.bool_]:
    if not data:
        return np.zeros(CELLS, dtype=np.bool_)
    if len(data) != CELLS:
        raise ExchangeError(f"{len(data)} bytes are not {CELLS} marks")
    marked: npt.NDArray[np.bool_] = np.frombuffer(data, dtype=np.uint8) != 0
    return marked
