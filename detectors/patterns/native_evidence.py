"""Compiled parts of a step: from values to bets, evidence and lineages."""

# ruff: noqa: PLR0917 - kernels take their arguments by position: numba binds no keywords cheaply
from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from detectors.arrays import Floats
from detectors.patterns import discrepancy, evidence, reference
from detectors.patterns import native_table as at
from detectors.patterns.arena import MARKED
from detectors.patterns.layout import (
    BLOCKS,
    CELLS,
    DISCREPANCY,
    EVIDENCE,
    EXTRACTION,
    FEATURES,
    LINEAGE,
    PROBING,
    SHARED_EQUAL,
    SHARED_NEAR,
    SKETCH,
    STATISTICS,
)
from detectors.patterns.native_table import Whole, f8, i2, i4, i8, jit, u1, u2, u8

COUNT: Final = len(STATISTICS)
ENDPOINT, SAMPLED = reference.ENDPOINT, reference.SAMPLED
STAKE, LINEAGE_STAKE = evidence.STAKE, evidence.LINEAGE_STAKE
HEADROOM, NEGLIGIBLE = evidence.HEADROOM, evidence.NEGLIGIBLE
EXPONENT, TIE, CLOSE = evidence.EXPONENT, evidence.TIE, evidence.CLOSE
SMALLEST_VOLUME: Final = float(evidence.SMALLEST_VOLUME)
PRIOR: Final = discrepancy.PRIOR


@jit
def threshold(volume: float, budget: float) -> float:
    count = max(volume, SMALLEST_VOLUME)
    return math.log(count * (1.0 + math.log2(count / SMALLEST_VOLUME)) / budget)


@jit
def knot_of(table: Whole, statistic: int, regime: int, value: float) -> int:
    """The highest knot that is not above the value, in the flat tables, or -1."""
    levels = table[at.LEVELS]
    knots = f8(table[at.KNOTS], COUNT * levels)
    offsets = f8(table[at.OFFSETS], (COUNT, table[at.CLASSES]))
    value -= offsets[statistic, regime] + TIE
    first = statistic * levels
    low, high = first, first + levels
    while low < high:
        middle = (low + high) >> 1
        if knots[middle] <= value:
            low = middle + 1
        else:
            high = middle
    return low - 1 if low > first else -1


@jit
def increment_of(mix: Floats, bets: Floats, stake: float) -> float:
    on, mean = False, 0.0
    for i in range(COUNT):
        on = on or mix[i] != 0.0
        mean += mix[i] * bets[i]
    return math.log(1.0 - stake + stake * mean) if on else 0.0


@jit
def recover(table: Whole, record: int, index: int, recovery: float, now: float) -> None:
    levels = f8(table[record + at.R_LEVELS] + index * (8 * EVIDENCE), EVIDENCE)
    seen = f8(table[record + at.R_SEEN] + index * 8, 1)
    fall = max(now - seen[0], 0.0) * recovery
    for family in range(EVIDENCE):
        levels[family] = max(levels[family] - fall, 0.0)
    seen[0] = now


@jit
def excess(table: Whole, record: int, index: int, family: int) -> Any:
    """Nats above the threshold of a family."""
    scope = 0 if record == at.CLIENTS else 2 if index == ENDPOINT else 1
    volume = f8(table[record + at.R_SUMS] + index * (8 * (FEATURES + 1)), FEATURES + 1)
    budget = f8(table[at.BUDGETS], 3 * EVIDENCE)[scope * EVIDENCE + family]
    level = f8(table[record + at.R_LEVELS] + index * (8 * EVIDENCE), EVIDENCE)[family]
    return level - threshold(volume[FEATURES], budget)


@jit
def add(table: Whole, record: int, index: int, family: int, increment: float) -> None:
    # What others have added may stand above it already: each taking it back would fall too far.
    increment = min(increment, max(HEADROOM - excess(table, record, index, family), 0.0))
    offset = index * EVIDENCE + family
    levels = f8(table[record + at.R_LEVELS], offset + 1)
    totals = f8(table[record + at.R_TOTALS], offset + 1)
    peaks = f8(table[record + at.R_PEAKS], offset + 1)
    levels[offset] = max(levels[offset] + increment, 0.0)
    totals[offset] += increment
    peaks[offset] = max(peaks[offset] + increment, 0.0)


@jit
def witness(table: Whole, record: int, index: int, features: Floats) -> float:
    """How far the features lie in the direction of the sums of the queries before."""
    sums = f8(table[record + at.R_SUMS] + index * (8 * (FEATURES + 1)), FEATURES + 1)
    length, product = PRIOR * FEATURES, 0.0
    for f in range(FEATURES):
        length += sums[f] * sums[f]
        product += sums[f] * features[f]
    return product / math.sqrt(length)


@jit
def charge(
    table: Whole, record: int, index: int, regime: int, cell: int, features: Floats,
    bets: Floats, probing: float,
) -> None:  # fmt: skip
    """Adds a query to the record of a client, a subnet or the endpoint."""
    offset = index * (8 * (FEATURES + 1))
    sums = f8(table[record + at.R_SUMS] + offset, FEATURES + 1)
    pending = f8(table[record + at.R_PENDING] + offset, FEATURES + 1)
    level = knot_of(table, DISCREPANCY, regime, witness(table, record, index, features))
    count = COUNT * table[at.LEVELS]
    bets[DISCREPANCY] = f8(table[at.BETS], count)[level] if level >= 0 else EXPONENT
    mix = f8(table[at.MIX], (3, COUNT))
    extraction = increment_of(mix[EXTRACTION], bets, STAKE)
    add(table, record, index, PROBING, probing)
    add(table, record, index, EXTRACTION, extraction)
    for f in range(FEATURES):
        sums[f] += features[f]
        pending[f] += features[f]
    sums[FEATURES] += 1.0
    pending[FEATURES] += 1.0
    marks = u1(table[record + at.R_MARKS] + index * CELLS, CELLS)
    if marks[cell] == 0:
        marks[cell] = np.uint8(MARKED)
        coverage = f8(table[record + at.R_COVERAGE], index + 1)
        coverage[index] += f8(table[at.MASS], cell + 1)[cell]


@jit
def lineage_threshold(table: Whole, numbers: Floats) -> float:
    offset = table[at.GROUPS + at.R_SUMS] + ENDPOINT * (8 * (FEATURES + 1))
    tracked = max(i8(table[at.TRACKED], 1)[0], 1)
    volume = f8(offset, FEATURES + 1)[FEATURES] / tracked
    return threshold(volume, numbers[at.LINEAGE_BUDGET])


@jit
def found(table: Whole, ident: Any, now: float) -> int:
    count = table[at.LINEAGES]
    ids = u8(table[at.IDS], count)
    levels, seen = f8(table[at.LINEAGE_LEVELS], count), f8(table[at.LINEAGE_SEEN], count)
    index, oldest = -1, np.inf
    for k in range(count):
        if ids[k] == ident:
            return k
        if levels[k] <= NEGLIGIBLE and (index < 0 or seen[k] < oldest):
            index, oldest = k, seen[k]
    if index < 0:
        i8(table[at.REFUSED], 1)[0] += 1
        return -1
    ids[index] = ident
    levels[index] = 0.0
    f8(table[at.LINEAGE_TOTALS], count)[index] = 0.0
    f8(table[at.LINEAGE_PEAKS], count)[index] = 0.0
    f8(table[at.LINEAGE_BASES], count)[index] = 0.0
    seen[index] = now
    u1(table[at.DIRTY], count)[index] = np.uint8(0)
    return index


@jit
def descend(
    table: Whole, numbers: Floats, neighbour: int, content: Any, position: Floats, blocks: Any,
    bets: Floats, now: float,
) -> int:  # fmt: skip
    """The slot of the lineage that the query answers for, or -1."""
    half, count = table[at.HALF], table[at.LINEAGES]
    size = 2 * half
    lineage = u8(table[at.SHARED_LINEAGE], size)
    slots = i4(table[at.SHARED_SLOT], size)
    contents = u8(table[at.SHARED_CONTENT], size)
    ids = u8(table[at.IDS], count)
    mix = f8(table[at.MIX], (3, COUNT))[LINEAGE]
    on = False
    for i in range(COUNT):
        on |= mix[i] != 0.0
    close, alike = bets[SHARED_NEAR], bets[SHARED_EQUAL]
    bet = 0.5 * (close + math.sqrt(close * alike)) if on else 1.0
    descends = bet > 1.0 and neighbour < size
    index: Any = -1
    if neighbour < size:
        index = np.int64(slots[neighbour])
        if lineage[neighbour] == 0 or ids[index] != lineage[neighbour]:
            index = found(table, contents[neighbour], now) if descends else -1
            if index >= 0:
                lineage[neighbour] = ids[index]
                slots[neighbour] = np.int32(index)
    if index >= 0:
        levels, seen = f8(table[at.LINEAGE_LEVELS], count), f8(table[at.LINEAGE_SEEN], count)
        totals = f8(table[at.LINEAGE_TOTALS], count)
        peaks = f8(table[at.LINEAGE_PEAKS], count)
        level = max(levels[index] - max(now - seen[index], 0.0) * numbers[at.RECOVERY], 0.0)
        seen[index] = now
        increment = math.log(1.0 - LINEAGE_STAKE + LINEAGE_STAKE * bet)
        increment = min(increment, max(lineage_threshold(table, numbers) + HEADROOM - level, 0.0))
        levels[index] = max(level + increment, 0.0)
        totals[index] += increment
        peaks[index] = max(peaks[index] + increment, 0.0)
        u1(table[at.DIRTY], count)[index] = np.uint8(1)
    inherits = descends and index >= 0
    kept = 1 if inherits or content % np.uint64(SAMPLED) == 0 else 0
    added = i8(table[at.SHARED_ADDED], 2)
    place = kept * half + added[kept] % half
    sketch = i2(table[at.SHARED_SKETCH], (SKETCH, size))
    hashes = u2(table[at.SHARED_BLOCKS], (BLOCKS, size))
    for i in range(SKETCH):
        sketch[i, place] = np.int16(position[i])
    for b in range(BLOCKS):
        hashes[b, place] = blocks[b]
    contents[place] = content
    lineage[place] = ids[index] if inherits else np.uint64(0)
    slots[place] = np.int32(max(index, 0))
    u1(table[at.SHARED_FRESH], size)[place] = np.uint8(1)
    added[kept] += 1
    return index if inherits and bet > CLOSE else -1


@jit
def highest(table: Whole, numbers: Floats, slot: int, group: int, lineage: int) -> float:
    """The most that any evidence concerned lies above its threshold."""
    most = -np.inf
    for family in range(EVIDENCE):
        most = max(most, excess(table, at.CLIENTS, slot, family))
        most = max(most, excess(table, at.GROUPS, ENDPOINT, family))
        if group >= 0:
            most = max(most, excess(table, at.GROUPS, group, family))
    if lineage >= 0:
        level = f8(table[at.LINEAGE_LEVELS], lineage + 1)[lineage]
        most = max(most, level - lineage_threshold(table, numbers))
    return most
