"""The words that ``record.lua`` is called with, and what it answers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np

from detectors.patterns.exchange import Delta, Layout, Merged

_MILLISECONDS: Final = 1000.0
_HOUR_MILLISECONDS: Final = 3_600_000.0
_HEAD: Final = struct.Struct("<BddddII8sIIddBHH")
_MARKS: Final = struct.Struct("<H")
_BLOCK: Final = 16
_BLOCKS: Final = np.dtype([("index", "<u2"), ("marks", "u1", (_BLOCK,))])
_NO_STRETCH: Final = (0.0, 0.0)
_EXCHANGE: Final = 0
_LOOK: Final = 1
_FORGIVE: Final = 2
EVERYTHING: Final = float(1 << 52)
"""A cursor that has seen every entry."""


class Outcome(IntEnum):
    """What became of a delta."""

    APPLIED = 0
    AGAIN = 1
    """It had been added before."""
    FORGIVEN = 2
    """It was learnt before the key was forgiven."""
    DOUBTFUL = 3
    """It may have been added before, so long ago that nobody knows."""


class Answer(NamedTuple):
    """What the record holds now."""

    outcome: int
    merged: Merged
    notable: bool
    """Whether there is evidence worth a place on the board, or was until now."""


@dataclass(frozen=True, slots=True)
class Words:
    """What calls upon the records of one layout say.

    Attributes:
        replica: 8 bytes that are this process's alone.
    """

    layout: Layout
    replica: bytes

    def exchange(
        self, delta: Delta, entries: bytes, sequence: int, waited: int, offset: float
    ) -> bytes:
        """To add a delta; ``entries`` are those of it that the ring holds, ``waited`` the seconds
        since it was first sent, 0 if this is the first time."""
        stretches, levels = delta.stretches, delta.levels
        families = max(len(stretches), len(levels))
        marks = _sparse(delta.marks) if delta.marks else b""
        sums = delta.sums
        head = self._head(
            _EXCHANGE,
            delta.key,
            offset,
            sequence=sequence,
            waited=waited,
            epoch=delta.epoch,
            cursor=delta.cursor,
            families=families,
            sums=len(sums),
            marks=len(marks),
        )
        learnt = b""
        if families:
            none = (_NO_STRETCH,) * (families - len(stretches))
            known = (*levels, *(0.0,) * (families - len(levels)))
            each = zip((*stretches, *none), known, strict=True)
            numbers = [number for (total, peak), level in each for number in (total, peak, level)]
            learnt = _doubles(3 * families).pack(*numbers)
        return b"".join((head, learnt, sums, marks, entries))

    def look(self, key: str, cursor: float, offset: float) -> bytes:
        """To see a record, with the entries since a cursor."""
        return self._head(_LOOK, key, offset, cursor=cursor)

    def forgive(self, key: str, offset: float) -> bytes:
        """To empty a record, for a later epoch."""
        return self._head(_FORGIVE, key, offset)

    def _head(
        self,
        mode: int,
        key: str,
        offset: float,
        *,
        sequence: int = 0,
        waited: int = 0,
        epoch: float = 0.0,
        cursor: float = 0.0,
        families: int = 0,
        sums: int = 0,
        marks: int = 0,
    ) -> bytes:
        """``offset``: seconds by which the server's clock is taken to be ahead."""
        layout = self.layout
        return _HEAD.pack(
            mode,
            round(layout.retention * _MILLISECONDS),
            layout.recovery / _HOUR_MILLISECONDS,
            layout.ceiling,
            round(offset * _MILLISECONDS),
            layout.entry_bytes,
            layout.ring_of(key),
            self.replica,
            sequence,
            waited,
            epoch,
            cursor,
            families,
            sums,
            marks,
        )


def answer(key: str, reply: Sequence[Any], own: bytes, layout: Layout) -> Answer:
    """What the server answered, without the entries that are the tracker's own."""
    outcome, numbers, sums, marks, entries, notable = reply
    epoch, count, *levels = _doubles(len(numbers) // 8).unpack(numbers)
    if own and entries:
        entries = _without(entries, own, layout.entry_bytes)
    merged = Merged(
        key, tuple(levels), sums, _dense(marks) if marks else b"", entries, int(count), int(epoch)
    )
    return Answer(outcome, merged, bool(notable))


@cache
def _doubles(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}d")


def _sparse(marks: bytes) -> bytes:
    """Marks as ``record.lua`` keeps them: without the blocks in which all are 0."""
    blocks = np.frombuffer(marks + bytes(-len(marks) % _BLOCK), "u1").reshape(-1, _BLOCK)
    places = np.flatnonzero(blocks.any(axis=1))
    found = np.empty(len(places), _BLOCKS)
    found["index"] = places
    found["marks"] = blocks[places]
    return _MARKS.pack(len(marks)) + found.tobytes()


def _dense(kept: bytes) -> bytes:
    (count,) = _MARKS.unpack_from(kept)
    found = np.frombuffer(kept, _BLOCKS, offset=_MARKS.size)
    blocks = np.zeros((-(-count // _BLOCK), _BLOCK), "u1")
    blocks[found["index"]] = found["marks"]
    return blocks.tobytes()[:count]


def _without(entries: bytes, own: bytes, size: int) -> bytes:
    """The entries that are not ours: each of ours takes one away."""
    ours = [own[at : at + size] for at in range(0, len(own), size)]
    others = []
    for at in range(0, len(entries), size):
        entry = entries[at : at + size]
        if entry in ours:
            ours.remove(entry)
        else:
            others.append(entry)
    return b"".join(others)
