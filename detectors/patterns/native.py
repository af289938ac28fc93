"""The whole step of a query in one compiled call: what :mod:`detectors.patterns.reference` does,
without numpy's overhead, and equal to it."""

# ruff: noqa: PLR0917 - kernels take their arguments by position: numba binds no keywords cheaply
from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import numba
import numpy as np
from numba import types

from detectors.arrays import Floats, Singles
from detectors.base import Rows
from detectors.patterns import native_evidence, native_kernels, native_table
from detectors.patterns import native_table as at
from detectors.patterns.layout import (
    BLOCKS,
    DISCREPANCY,
    EVIDENCE,
    FEATURES,
    OUTLIER,
    PROBING,
    RESIDUE,
    RETRIES,
    SKETCH,
)
from detectors.patterns.native_evidence import (
    COUNT,
    ENDPOINT,
    EXPONENT,
    STAKE,
    charge,
    descend,
    excess,
    highest,
    increment_of,
    knot_of,
    recover,
    witness,
)
from detectors.patterns.native_kernels import (
    against_all,
    against_ring,
    closest,
    enter,
    fourier,
    locate,
    project,
    resembles,
)
from detectors.patterns.native_table import OPTIONS, Whole, f8, i4, i8, table_of, u2, u8
from detectors.patterns.reference import Arena

Step: TypeAlias = Callable[[int, int, Rows, float, float], float]

_PARTS: Final = (native_table, native_kernels, native_evidence)


def _stamp() -> float:
    """Of the sources and the constants: numba's cache looks at this file alone."""
    constants = [
        (name, value) for part in _PARTS for name, value in vars(part).items() if name.isupper()
    ]
    sources = b"".join(Path(str(part.__file__)).read_bytes() for part in _PARTS)
    return float(zlib.crc32(sources + repr(constants).encode()))


STAMP: Final = _stamp()
"""A kernel says what it was made of."""


def _step(
    table: Whole, numbers: Floats, slot: int, group: int, rows: Singles, p_value: float, now: float
) -> float:
    if slot < 0:
        return STAMP
    told, p_values = i8(table[at.TOLD], 2), f8(table[at.P_VALUES], COUNT)
    told[0], told[1] = 0, -1
    for i in range(COUNT):
        p_values[i] = 1.0
    sums = u8(table[at.SUMS], BLOCKS)
    components = f8(table[at.COMPONENTS], table[at.RANK])
    position = f8(table[at.POSITION], SKETCH)
    content, norm = project(rows[0], table, sums, components)
    residue = locate(table, numbers, norm, components, position)
    if not math.isfinite(residue):
        return np.nan
    recovery = numbers[at.RECOVERY]
    recover(table, at.CLIENTS, slot, recovery, now)
    recover(table, at.GROUPS, ENDPOINT, recovery, now)
    if group >= 0:
        recover(table, at.GROUPS, group, recovery, now)
    retries = u8(table[at.RING_CONTENT] + slot * (8 * RETRIES), RETRIES)
    known = False
    for k in range(RETRIES):
        known |= retries[k] == content
    if known:
        return highest(table, numbers, slot, group, -1)
    told[0] = 1
    blocks = u2(table[at.HASHES], BLOCKS)
    modes, weighed = i4(table[at.MODES], BLOCKS), i4(table[at.WEIGHED], BLOCKS)
    weights = i4(table[at.BLOCK_WEIGHTS], (2, BLOCKS))
    for b in range(BLOCKS):
        blocks[b] = np.uint16(sums[b] >> np.uint64(48))
        weighed[b] = weights[0, b] if np.int32(blocks[b]) == modes[b] else weights[1, b]
    classes = table[at.CLASSES]
    centroids = f8(table[at.CENTROIDS], (classes, SKETCH))
    norms = f8(table[at.CENTROID_NORMS], classes)
    regime = closest(centroids, norms, position, 0, classes)
    starts = i4(table[at.CELL_STARTS], classes + 1)
    cells = starts[classes]
    cell = closest(
        f8(table[at.CELLS], (cells, SKETCH)), f8(table[at.CELL_NORMS], cells),
        position, starts[regime], starts[regime + 1],
    )  # fmt: skip
    if table[at.ONCE_A_SCENE] and resembles(table, slot, position, blocks, regime):
        enter(table, slot, content, position, blocks)
        return highest(table, numbers, slot, group, -1)
    features = f8(table[at.FOURIER], FEATURES)
    fourier(table, position, regime, features)

    values, bets = f8(table[at.VALUES], COUNT), f8(table[at.E_VALUES], COUNT)
    for i in range(COUNT):
        values[i], bets[i] = -np.inf, 1.0
    values[RESIDUE] = residue
    if table[at.HAS_OUTLIER] and p_value == p_value:  # noqa: PLR0124 - not NaN
        values[OUTLIER] = -math.log(p_value)
    against_ring(table, slot, position, blocks, weighed, values)
    neighbour = against_all(table, content, position, blocks, weighed, values)
    values[DISCREPANCY] = witness(table, at.CLIENTS, slot, features)
    levels = COUNT * table[at.LEVELS]
    e_values, tails = f8(table[at.BETS], levels), f8(table[at.TAILS], levels)
    for i in range(COUNT):
        if values[i] > -np.inf:
            level = knot_of(table, i, regime, values[i])
            bets[i] = e_values[level] if level >= 0 else EXPONENT
            p_values[i] = tails[level] if level >= 0 else 1.0
    probing = increment_of(f8(table[at.MIX], (3, COUNT))[PROBING], bets, STAKE)
    alarms = False
    for family in range(EVIDENCE):
        alarms |= excess(table, at.CLIENTS, slot, family) >= 0
    charge(table, at.CLIENTS, slot, regime, cell, features, bets, probing)
    if not alarms:  # a client that alarms is dealt with itself
        charge(table, at.GROUPS, ENDPOINT, regime, cell, features, bets, probing)
        if group >= 0:
            charge(table, at.GROUPS, group, regime, cell, features, bets, probing)
    if neighbour >= 0:
        told[1] = descend(table, numbers, neighbour, content, position, blocks, bets, now)
    enter(table, slot, content, position, blocks)
    return highest(table, numbers, slot, group, told[1])


def bind(arena: Arena) -> Step:
    """:func:`detectors.patterns.reference.step` on this arena: (slot, group, row, p-value, now)."""
    table, numbers, arrays = table_of(arena)
    step = load()

    def bound(slot: int, group: int, row: Rows, p_value: float, now: float) -> float:
        return step(table, numbers, slot, group, row, p_value, now)

    bound.__dict__["arrays"] = (*arrays, arena)  # whose addresses are in the table
    return bound


@cache
def load() -> Callable[..., float]:
    """Compiles the kernel, or reads it from numba's cache; several seconds at most, once.

    The cache lies beside this file, in ``NUMBA_CACHE_DIR`` or in the user's cache directory. Where
    none can be written, or what lies there cannot be read or is of other sources, the kernel is
    compiled afresh.
    """
    try:
        step = _compile(cached=True)
    except Exception:  # numba raises what it likes; the retry speaks for itself
        return _compile(cached=False)
    table, numbers = np.zeros(1, dtype=np.int64), np.zeros(1)
    row = np.zeros((1, 1), dtype=np.float32)
    if step(table, numbers, -1, -1, row, 0.0, 0.0) == STAMP:
        return step
    return _compile(cached=False)


def _compile(*, cached: bool) -> Callable[..., float]:
    def array(kind: Any, rank: int, *, readonly: bool = False) -> Any:
        return types.Array(kind, rank, "C", readonly=readonly)

    signature = types.float64(
        array(types.int64, 1), array(types.float64, 1), types.int64, types.int64,
        array(types.float32, 2, readonly=True), types.float64, types.float64,
    )  # fmt: skip
    jit = numba.njit(signature, cache=cached, **OPTIONS)
    return cast(Callable[..., float], jit(_step))
