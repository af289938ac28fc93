"""The words that ``record.lua`` is called with, and what it answers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from functools import cache
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np

from detectors.patterns.exchange import Delta, Layout, Merged

_MILLISECONDS: Final = 1000.0
_HOUR_MILLISECONDS: Final = 3_600_000.0
_LAYOUT: Final = struct.Struct("<ddddII")
_SENT: Final = struct.Struct("<8sIIddB")
_MARKS: Final = struct.Struct("<H")
_MARK: Final = np.dtype([("index", "<u2"), ("value", "u1")])
_NO_STRETCH: Final = (0.0, 0.0)
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
    """Whether there is evidence, or was until now."""


def layout_words(layout: Layout, key: str, offset: float) -> bytes:
    """The layout for one key. ``offset``: seconds by which the server's clock is taken to be
    ahead."""
    return _LAYOUT.pack(
        round(layout.retention * _MILLISECONDS),
        layout.recovery / _HOUR_MILLISECONDS,
        layout.ceiling,
        round(offset * _MILLISECONDS),
        layout.entry_bytes,
        layout.ring_of(key),
    )


def look_words(cursor: float) -> bytes:
    """To see the record, with the entries since a cursor."""
    return _SENT.pack(b"", 0, 0, 0.0, cursor, 0)


def delta_words(
    delta: Delta, entries: bytes, replica: bytes, sequence: int, waited: int
) -> tuple[bytes, bytes, bytes, bytes]:
    """A delta to be added; ``entries`` are those of it that the ring holds."""
    stretches, levels = delta.stretches, delta.levels
    families = max(len(stretches), len(levels))
    head = _SENT.pack(replica, sequence, waited, delta.epoch, delta.cursor, families)
    if families:
        each = (
            (
                *(stretches[family] if family < len(stretches) else _NO_STRETCH),
                levels[family] if family < len(levels) else 0.0,
            )
            for family in range(families)
        )
        head += _doubles(3 * families).pack(*chain.from_iterable(each))
    return head, delta.sums, _sparse(delta.marks) if delta.marks else b"", entries


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
    """Marks as ``record.lua`` keeps them: most are 0."""
    values = np.frombuffer(marks, "u1")
    places = values.nonzero()[0]
    found = np.empty(len(places), _MARK)
    found["index"] = places
    found["value"] = values[places]
    return _MARKS.pack(len(marks)) + found.tobytes()


def _dense(kept: bytes) -> bytes:
    found = np.frombuffer(kept, _MARK, offset=_MARKS.size)
    marks = np.zeros(_MARKS.unpack_from(kept)[0], "u1")
    marks[found["index"]] = found["value"]
    return marks.tobytes()


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
