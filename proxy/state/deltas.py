"""What a delta must be, and how two of one key become one: arithmetic only."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detectors.patterns.exchange import Delta, Layout, Stretch

MOST_FAMILIES: Final = 16
MOST_SUMS: Final = 4096
MOST_MARKS: Final = 16_384
_COUNT: Final = 1 << 48
_LARGEST: Final = 1e15


def check(delta: Delta, layout: Layout) -> None:
    """Raises:
    ValueError: if the delta does not fit the layout, or a number in it is not finite.
    """
    problem = _problem(delta, layout)
    if problem:
        raise ValueError(f"the delta of {delta.key!r} {problem}")


def _problem(delta: Delta, layout: Layout) -> str:
    if not delta.key:
        return "has no key"
    stretches = delta.stretches
    if max(len(stretches), len(delta.levels)) > MOST_FAMILIES:
        return f"has more than {MOST_FAMILIES} families"
    for total, peak in stretches:
        if not (math.isfinite(total) and math.isfinite(peak) and peak >= 0):
            return "has a stretch that is not finite, or whose peak is below 0"
    for level in delta.levels:
        if not (math.isfinite(level) and level >= 0):
            return "has a level that is not finite, or below 0"
    if len(delta.sums) % 8 or len(delta.sums) > 8 * MOST_SUMS:
        return f"has sums that are not up to {MOST_SUMS} float64"
    # Neither NaN nor what could add up to infinity: NaN is not at most anything.
    if delta.sums and not np.abs(np.frombuffer(delta.sums, "<f8")).max() <= _LARGEST:
        return f"has a sum that is not finite, or beyond {_LARGEST:g}"
    if len(delta.marks) > MOST_MARKS:
        return f"has more than {MOST_MARKS} marks"
    if delta.entries:
        if not layout.ring_of(delta.key):
            return "has entries, but the layout no ring"
        if len(delta.entries) % layout.entry_bytes:
            return f"has entries that are not whole multiples of {layout.entry_bytes} bytes"
    if not (0 <= delta.cursor < _COUNT and 0 <= delta.epoch < _COUNT):
        return "has a cursor or an epoch out of range"
    return ""


def combine(earlier: Delta, later: Delta, layout: Layout) -> Delta:
    """Two deltas of one key as one: what was learnt before the key was forgiven counts no more."""
    if earlier.epoch != later.epoch:
        return max(earlier, later, key=lambda delta: delta.epoch)
    return Delta(
        key=later.key,
        stretches=combine_stretches(earlier.stretches, later.stretches),
        sums=add_sums(earlier.sums, later.sums),
        marks=larger_marks(earlier.marks, later.marks),
        entries=newest(earlier.entries + later.entries, later.key, layout),
        cursor=later.cursor,
        epoch=later.epoch,
        levels=earlier.levels,
    )


def combine_stretches(
    earlier: tuple[Stretch, ...], later: tuple[Stretch, ...]
) -> tuple[Stretch, ...]:
    """The stretches of each family as one; a family that lacks on one side had none."""
    families = max(len(earlier), len(later))
    none = Stretch()
    padded = (
        (*stretches, *(none for _ in range(families - len(stretches))))
        for stretches in (earlier, later)
    )
    return tuple(first.then(second) for first, second in zip(*padded, strict=True))


def add_sums(known: bytes, added: bytes) -> bytes:
    """Element by element; of another length than before, the later ones alone."""
    if len(known) != len(added):
        return added or known
    return (np.frombuffer(known, "<f8") + np.frombuffer(added, "<f8")).tobytes() if known else b""


def larger_marks(known: bytes, added: bytes) -> bytes:
    """Element by element the larger; of another length than before, the later ones alone."""
    if len(known) != len(added):
        return added or known
    larger: NDArray[np.uint8] = np.maximum(np.frombuffer(known, "u1"), np.frombuffer(added, "u1"))
    return larger.tobytes()


def newest(entries: bytes, key: str, layout: Layout) -> bytes:
    """As many of the last entries as the key's ring holds."""
    most = layout.ring_of(key) * layout.entry_bytes
    return entries[-most:] if len(entries) > most else entries
