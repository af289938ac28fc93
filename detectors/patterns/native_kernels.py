"""Compiled parts of a step: from a row to the values of its statistics.

Sketches are whole numbers and their distances are exact, so both engines store the same and compare
the same; sums of floats may be reordered, which moves evidence in its last digits. Features that
are 0 are skipped: they add nothing to a hash, nor to a component. In rings a coordinate of all
entries lies side by side, so that lanes run over the entries.
"""

# ruff: noqa: PLR0917 - kernels take their arguments by position: numba binds no keywords cheaply
from __future__ import annotations

import math
from typing import Any

import numpy as np

from detectors.arrays import Floats, Singles
from detectors.patterns import native_table as at
from detectors.patterns import reference, space, statistics
from detectors.patterns.layout import (
    BLOCKS,
    EQUAL,
    FEATURES,
    NEAR,
    RETRIES,
    RING,
    SEGMENT,
    SHARED_EQUAL,
    SHARED_NEAR,
    SKETCH,
    SKETCH_LIMIT,
)
from detectors.patterns.native_evidence import COUNT, knot_of
from detectors.patterns.native_table import UNIT, Whole, exact, f4, f8, i2, i4, i8, jit, u1, u2, u8

FAR, ANCHORS, NEIGHBOUR = statistics.FAR, statistics.ANCHORS, statistics.NEIGHBOUR
TINY = space._TINY
CHANGED = reference.CHANGED
ROUNDING, DEGENERATE = statistics.ROUNDING, statistics.DEGENERATE


@jit
def squared_distances(entries: Any, position: Any, out: Floats) -> None:
    """(n,) exact squared distances of (32, n) entries, in steps."""
    count = entries.shape[1]
    for k in range(count):
        out[k] = 0.0
    for i in range(0, entries.shape[0], 4):
        one, two, three, four = entries[i], entries[i + 1], entries[i + 2], entries[i + 3]
        a, b = np.int32(position[i]), np.int32(position[i + 1])
        c, d = np.int32(position[i + 2]), np.int32(position[i + 3])
        for k in range(count):
            p = np.float64(np.int32(np.int32(one[k]) - a))
            q = np.float64(np.int32(np.int32(two[k]) - b))
            r = np.float64(np.int32(np.int32(three[k]) - c))
            s = np.float64(np.int32(np.int32(four[k]) - d))
            out[k] += p * p + q * q + r * r + s * s


@jit
def agreement(entries: Any, blocks: Any, weights: Any, out: Any) -> None:
    """(n,) sums of the weights of the (32, n) blocks that are equal, in 1/1024."""
    count = entries.shape[1]
    none = np.int32(0)
    for k in range(count):
        out[k] = none
    for i in range(0, entries.shape[0], 4):
        one, two, three, four = entries[i], entries[i + 1], entries[i + 2], entries[i + 3]
        a, b, c, d = blocks[i], blocks[i + 1], blocks[i + 2], blocks[i + 3]
        p, q, r, s = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        for k in range(count):
            left = np.int32((p if one[k] == a else none) + (q if two[k] == b else none))
            right = np.int32((r if three[k] == c else none) + (s if four[k] == d else none))
            out[k] = np.int32(out[k] + np.int32(left + right))


@jit
def nearest_four(squared: Floats, places: Any) -> Any:
    """Places of the four smallest, rising, the first of equals first; how many there are."""
    count = min(squared.shape[0], ANCHORS)
    held = 0
    worst = np.inf
    for k in range(squared.shape[0]):
        value = squared[k]
        if held == count and not value < worst:
            continue
        spot = held if held < count else count - 1
        while spot > 0 and squared[places[spot - 1]] > value:
            places[spot] = places[spot - 1]
            spot -= 1
        places[spot] = k
        held = min(held + 1, count)
        worst = squared[places[held - 1]]
    return count


@jit
def third_largest(values: Any) -> Any:
    first, second, third = np.int32(-1), np.int32(-1), np.int32(-1)
    for k in range(values.shape[0]):
        value = values[k]
        if value > third:
            if value <= second:
                third = value
            else:
                third = second
                if value <= first:
                    second = value
                else:
                    second, first = first, value
    return third


@exact
def line(squared: Floats, own: float, between: Floats) -> float:
    """The least relative squared distance to the lines through an anchor and the entries."""
    least = 1.0
    for k in range(squared.shape[0]):
        b, c = squared[k], between[k]
        nearest = min(own, b)
        if c > DEGENERATE * nearest and nearest > DEGENERATE * c and c > 0:
            along = own + c - b
            beside = max(own - along * along / (4.0 * c), 0.0)
            least = min(least, (beside + ROUNDING) / (nearest + ROUNDING))
    return least


@jit
def cosines(angles: Floats) -> None:
    """Cosines in place, to 1e-14, in lanes: where all angles are moderate."""
    large = 0.0
    for i in range(angles.shape[0]):
        large = max(large, abs(angles[i]))
    if not large < 1e5:
        for i in range(angles.shape[0]):
            angles[i] = math.cos(angles[i])
        return
    for i in range(angles.shape[0]):
        turns = np.floor(angles[i] * 0.15915494309189535 + 0.5)
        # 2 pi in two parts; then cos 2u = 2 cos^2 u - 1 and Taylor's series for |u| <= pi / 2.
        angle = (angles[i] - turns * 6.283185307179586) - turns * 2.4492935982947064e-16
        y = 0.25 * angle * angle
        c = 1 / 20922789888000.0 - y / 6402373705728000.0
        c = 1 / 479001600 + y * (-1 / 87178291200 + y * c)
        c = 1 / 40320 + y * (-1 / 3628800 + y * c)
        c = 1.0 + y * (-1 / 2 + y * (1 / 24 + y * (-1 / 720 + y * c)))
        angles[i] = 2.0 * c * c - 1.0


@jit
def closest(centres: Floats, norms: Floats, position: Floats, first: int, last: int) -> int:
    best, place = np.inf, first
    for c in range(first, last):
        centre = centres[c]
        product = 0.0
        for i in range(position.shape[0]):
            product += centre[i] * position[i]
        distance = norms[c] - 2.0 * product
        if distance < best:
            best, place = distance, c
    return place


@jit
def project(row: Singles, table: Whole, sums: Any, components: Floats) -> tuple[Any, float]:
    """The content hash; sums of the blocks' hashes and components are filled in; the rest's norm.

    Four features at a time, so that a component is loaded and stored a quarter as often.
    """
    features, rank = table[at.FEATURES], table[at.RANK]
    basis = f4(table[at.BASIS], (features, rank))
    keys, block_of = u8(table[at.KEYS], features), i4(table[at.BLOCK_OF], features)
    squares, cross = f8(table[at.SQUARES], features), f8(table[at.CROSS], features)
    words = row.view(np.uint32)
    for b in range(BLOCKS):
        sums[b] = np.uint64(0)
    for i in range(rank):
        components[i] = 0.0
    norm: Any = 0.0
    held = 0
    j0, j1, j2 = 0, 0, 0
    for j in range(features):
        value = np.float64(row[j])
        if value == 0.0:
            continue
        sums[block_of[j]] += np.uint64(words[j]) * keys[j]
        norm += value * (value * squares[j] - 2.0 * cross[j])
        if held == 0:
            j0 = j
        elif held == 1:
            j1 = j
        elif held == 2:
            j2 = j
        else:
            p, q, r = np.float64(row[j0]), np.float64(row[j1]), np.float64(row[j2])
            one, two, three, four = basis[j0], basis[j1], basis[j2], basis[j]
            for i in range(rank):
                components[i] += p * one[i] + q * two[i] + r * three[i] + value * four[i]
            held = -1
        held += 1
    for h in range(held):
        left = j0 if h == 0 else j1 if h == 1 else j2
        p, one = np.float64(row[left]), basis[left]
        for i in range(rank):
            components[i] += p * one[i]
    content = np.uint64(0)
    for b in range(BLOCKS):
        content += sums[b]
    if content == 0:
        content = np.uint64(1)
    return content, norm


@jit
def locate(
    table: Whole, numbers: Floats, norm: float, components: Floats, position: Floats
) -> float:
    """The residue, or NaN for a fault; the sketch (32,) is filled in."""
    rank, signal = table[at.RANK], table[at.SIGNAL]
    centre, weights = f8(table[at.CENTRE], rank), f8(table[at.WEIGHTS], rank)
    sketch = f8(table[at.SKETCH], (signal, SKETCH))
    inside, residue = 0.0, 0.0
    for i in range(rank):
        components[i] -= centre[i]
        square = components[i] * components[i]
        inside += square
        residue += weights[i] * square
    if numbers[at.REST] != 0.0:
        rest = norm + numbers[at.NORM] - inside
        residue += numbers[at.REST] * (0.0 if rest < 0.0 else rest)
    residue = math.log(residue + TINY)
    for i in range(SKETCH):
        position[i] = 0.0
    for c in range(signal):
        component, direction = components[c], sketch[c]
        for i in range(SKETCH):
            position[i] += component * direction[i]
    fault = residue * 0.0
    for i in range(SKETCH):
        fault += position[i] * 0.0
        position[i] = np.rint(min(max(position[i], -SKETCH_LIMIT), SKETCH_LIMIT))
    return residue if fault == 0.0 else np.nan


@jit
def fourier(table: Whole, position: Floats, regime: int, features: Floats) -> None:
    frequencies = f8(table[at.FREQUENCIES], (SKETCH, FEATURES))
    phases = f8(table[at.PHASES], FEATURES)
    means = f8(table[at.MEANS], (table[at.CLASSES], FEATURES))[regime]
    scales = f8(table[at.SCALES], (table[at.CLASSES], FEATURES))[regime]
    for f in range(FEATURES):
        features[f] = phases[f]
    for i in range(0, SKETCH, 4):
        one, two = frequencies[i], frequencies[i + 1]
        three, four = frequencies[i + 2], frequencies[i + 3]
        a, b, c, d = position[i], position[i + 1], position[i + 2], position[i + 3]
        for f in range(FEATURES):
            features[f] += a * one[f] + b * two[f] + c * three[f] + d * four[f]
    cosines(features)
    for f in range(FEATURES):
        features[f] = (features[f] - means[f]) / scales[f]


@jit
def against_ring(
    table: Whole, slot: int, position: Floats, blocks: Any, weights: Any, values: Floats
) -> None:
    held = min(i8(table[at.RING_ADDED], slot + 1)[slot], RING)
    if held < NEIGHBOUR:
        return
    offset = table[at.RING_SKETCH] + slot * (2 * SKETCH * RING)
    entries = i2(offset, (SKETCH, RING))
    squared, between = f8(table[at.SQUARED], RING), f8(table[at.BETWEEN], RING)
    squared_distances(entries, position, squared)
    places = i8(table[at.PLACES], ANCHORS)
    anchors = nearest_four(squared[:held], places)
    values[NEAR] = -0.5 * math.log(squared[places[NEIGHBOUR - 1]] + 1.0)
    same = i4(table[at.SAME], RING)
    offset = table[at.RING_BLOCKS] + slot * (2 * BLOCKS * RING)
    agreement(u2(offset, (BLOCKS, RING)), blocks, weights, same)
    values[EQUAL] = third_largest(same[:held]) / UNIT
    least = 1.0
    anchor = f8(table[at.ANCHOR], SKETCH)
    for a in range(anchors):
        place = places[a]
        for i in range(SKETCH):
            anchor[i] = entries[i, place]
        squared_distances(entries, anchor, between)
        least = min(least, line(squared[:held], squared[place], between[:held]))
    values[SEGMENT] = -0.5 * math.log(least)


@jit
def resembles(table: Whole, slot: int, position: Floats, blocks: Any, regime: int) -> bool:
    held = min(i8(table[at.RING_ADDED], slot + 1)[slot], RING)
    if held == 0:
        return False
    squared = f8(table[at.SQUARED], RING)
    offset = table[at.RING_SKETCH] + slot * (2 * SKETCH * RING)
    squared_distances(i2(offset, (SKETCH, RING)), position, squared)
    least = np.inf
    for k in range(held):
        least = min(least, squared[k])
    level = knot_of(table, NEAR, regime, -0.5 * math.log(least + 1.0))
    if level >= 0 and f8(table[at.BETS], COUNT * table[at.LEVELS])[level] > 1.0:
        return True
    count = table[at.BLOCKS]
    hashes = u2(table[at.RING_BLOCKS] + slot * (2 * BLOCKS * RING), (BLOCKS, RING))
    most = 0
    for k in range(held):
        same = 0
        for b in range(count):
            same += hashes[b, k] == blocks[b]
        most = max(most, same)
    return bool(count - most <= min(CHANGED, count // 3))


@jit
def against_all(
    table: Whole, content: Any, position: Floats, blocks: Any, weights: Any, values: Floats
) -> Any:
    size = 2 * table[at.HALF]
    contents = u8(table[at.SHARED_CONTENT], size)
    held, known = 0, False
    for k in range(size):
        held += contents[k] != 0
        known |= contents[k] == content
    if known:
        return -1
    if held < NEIGHBOUR:
        return size
    squared = f8(table[at.SQUARED], size)
    squared_distances(i2(table[at.SHARED_SKETCH], (SKETCH, size)), position, squared)
    same = i4(table[at.SAME], size)
    agreement(u2(table[at.SHARED_BLOCKS], (BLOCKS, size)), blocks, weights, same)
    for k in range(size):
        empty = contents[k] == 0
        squared[k] = FAR if empty else squared[k]
        same[k] = np.int32(0) if empty else same[k]
    places = i8(table[at.PLACES], ANCHORS)
    nearest_four(squared, places)
    values[SHARED_NEAR] = -0.5 * math.log(squared[places[NEIGHBOUR - 1]] + 1.0)
    values[SHARED_EQUAL] = third_largest(same) / UNIT
    return places[0]


@jit
def enter(table: Whole, slot: int, content: Any, position: Floats, blocks: Any) -> None:
    added = i8(table[at.RING_ADDED], slot + 1)
    place, retry = added[slot] % RING, added[slot] % RETRIES
    sketch = i2(table[at.RING_SKETCH] + slot * (2 * SKETCH * RING), (SKETCH, RING))
    hashes = u2(table[at.RING_BLOCKS] + slot * (2 * BLOCKS * RING), (BLOCKS, RING))
    for i in range(SKETCH):
        sketch[i, place] = np.int16(position[i])
    for b in range(BLOCKS):
        hashes[b, place] = blocks[b]
    u8(table[at.RING_CONTENT] + slot * (8 * RETRIES), RETRIES)[retry] = content
    u1(table[at.RING_FRESH] + slot * RING, RING)[place] = np.uint8(1)
    added[slot] += 1
