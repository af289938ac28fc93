"""The whole of scoring in one compiled call: the same results as numpy, without its overhead.

A scorer's arrays are packed into three flat buffers and a plan of whole numbers that says where
everything lies. Few arguments, because unboxing each costs about as much as a detector.

Sums may be reordered (vector lanes) and contracted (fused multiply-add), so results differ from
numpy's in the last digits; NaN and infinity keep their meaning. Every index in the plan comes from
arrays that were validated when the detectors were made.
"""

# ruff: noqa: PLR0917 - kernels take their arguments by position: numba binds no keywords cheaply
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final, NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from detectors.arrays import Floats, Singles
from detectors.calibration import TIE, Calibration, Tail
from detectors.outlier import (
    GaussianMixture,
    IsolationForest,
    MeanNeighbours,
    MedianNeighbours,
    NearestNeighbours,
    OneClassSVM,
    OutlierDetector,
)
from detectors.outlier.projection import ProjectedDetector, Projection, QuadraticForm

_HEADER: Final = 8
_STEP: Final = 12  # whole numbers for each detector in the plan
_QUADRATIC, _FOREST, _NEAREST, _MIXTURE, _SVM = range(5)
_BLOCK: Final = 64  # reference rows that are screened together
_STRIDE: Final = 4  # coordinates that are screened at a time
_NODE_CAP: Final = 1 << 16  # a node's word holds feature and left child in 16 bits each

Function = TypeVar("Function", bound=Callable[..., Any])


class Packed(NamedTuple):
    """A scorer, flat.

    Attributes:
        plan: (8 + 12 k,) int64.
        numbers: float64: everything but the trees' nodes.
        singles: float32: the nodes, two words each, threshold and code; then the nearest
            neighbours' reference once more, to be screened.
        codes: uint32 view of the same words; a code is feature << 16 | left child in its tree.
    """

    plan: npt.NDArray[np.int64]
    numbers: Floats
    singles: Singles
    codes: npt.NDArray[np.uint32]


class Kernels(NamedTuple):
    """The compiled functions.

    Attributes:
        row: (rows (1, d) float32, *packed, out (2k,)) -> (merged score, p-value); NaN for a fault.
        rows: (rows (n, d) float32, *packed, out (n, 2k + 2)): scores, evidence, merged, p-value.
    """

    row: Callable[..., tuple[float, float]]
    rows: Callable[..., None]


class Unpackable(ValueError):  # noqa: N818 - not a fault: numpy serves such a scorer
    """The scorer does not fit the packed form.

    A tree or a row is too large for 16-bit codes, there is no kernel for a kind, or a detector
    works in a space of its own.
    """


# ---------------------------------------------------------------------------------------- packing


class _Numbers:
    """float64 arrays laid end to end."""

    def __init__(self) -> None:
        self.parts: list[Floats] = []
        self.size = 0

    def add(self, *values: npt.ArrayLike) -> int:
        """Appends each, and returns the offset of the first."""
        offset = self.size
        for value in values:
            flat = np.asarray(value, dtype=np.float64).ravel()
            self.parts.append(flat)
            self.size += flat.size
        return offset


def pack(
    detectors: Sequence[OutlierDetector], tails: Sequence[Tail], calibration: Calibration
) -> Packed:
    """Lays a scorer out flat.

    Raises:
        Unpackable: if it cannot be.
    """
    numbers = _Numbers()
    forests = [detector for detector in detectors if isinstance(detector, IsolationForest)]
    words = _pack_nodes(forests[0]) if forests else np.zeros(2, dtype=np.uint32)
    steps: list[list[int]] = []
    rank = 0
    projection: Projection | None = None
    for detector, tail in zip(detectors, tails, strict=True):
        if isinstance(detector, ProjectedDetector):
            projection = projection or detector.projection
            if detector.projection is not projection or not projection.turns:
                raise Unpackable("a detector works in a space of its own")
        match detector:
            case MeanNeighbours() | MedianNeighbours():  # kinds of the nearest, with another sum
                raise Unpackable(f"no kernel for {detector.name}")
            case QuadraticForm():
                used = detector.weights.size
                step = [_QUADRATIC, used, numbers.add(detector.rest, detector.weights)]
            case NearestNeighbours():
                count, used = detector.reference.shape
                longest = np.sqrt(np.square(detector.reference).sum(axis=1).max())
                offset = numbers.add(longest, detector.reference)
                step = [_NEAREST, used, offset, count, detector.neighbours, words.size]
                words = np.concatenate([words, _pack_blocks(detector.reference)])
            case GaussianMixture():
                count, used = detector.means.shape
                offset = numbers.add(detector.offsets, detector.means, detector.factors)
                step = [_MIXTURE, used, offset, count]
            case OneClassSVM():
                count, used = detector.vectors.shape
                offset = numbers.add(detector.gamma, detector.weights, detector.vectors)
                step = [_SVM, used, offset, count]
            case IsolationForest():
                offset = numbers.add(detector.normaliser, detector.roots, detector.length)
                step = [_FOREST, 0, offset, detector.roots.size, detector.depth]
                used = 0
            case _:
                raise Unpackable(f"no kernel for {detector.name}")
        rank = max(rank, used)
        step += [0] * (_STEP - 2 - len(step))
        step += [
            numbers.add(tail.shape, tail.scale, tail.knots, tail.evidence),
            tail.knots.size,
        ]
        steps.append(step)
    where = 0
    if projection is not None:
        where = numbers.add(projection.mean, 1.0 / projection.scale, projection.basis[:rank])
    features = detectors[0].features
    calibrated = numbers.add(calibration.scores)
    header = [features, rank, len(steps), where, calibrated, calibration.scores.size, 0, 0]
    plan = np.array(header + [number for step in steps for number in step], dtype=np.int64)
    words = _readonly(words)
    return Packed(
        _readonly(plan),
        _readonly(np.concatenate(numbers.parts)),
        words.view(np.float32),
        words,
    )


def _readonly(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array.setflags(write=False)
    return array


def _pack_nodes(forest: IsolationForest) -> npt.NDArray[np.uint32]:
    ends = np.append(forest.roots[1:], forest.left.size)
    sizes = ends - forest.roots
    if int(sizes.max()) > _NODE_CAP or forest.features > _NODE_CAP:
        raise Unpackable("a tree or a row is too large for 16-bit codes")
    root = np.repeat(forest.roots, sizes)
    words = np.empty((forest.left.size, 2), dtype=np.uint32)
    words[:, 0] = forest.threshold.view(np.uint32)
    words[:, 1] = (forest.feature.astype(np.uint32) << 16) | (forest.left - root).astype(np.uint32)
    return words.ravel()


def _pack_blocks(reference: Floats) -> npt.NDArray[np.uint32]:
    """The reference as float32, a block of rows after the other, in each one coordinate after the
    other: what one step of the screening reads lies together. Filled up with rows at infinity.
    """
    count, rank = reference.shape
    filled = np.zeros((-(-count // _BLOCK) * _BLOCK, -(-rank // _STRIDE) * _STRIDE), np.float32)
    with np.errstate(over="ignore"):  # infinity is screened as such
        filled[:count, :rank] = reference
    filled[count:] = np.inf
    blocks = filled.reshape(-1, _BLOCK, filled.shape[1]).transpose(0, 2, 1)
    return np.ascontiguousarray(blocks).view(np.uint32).ravel()


# ---------------------------------------------------------------------------------------- kernels


def _jit(function: Function) -> Function:
    fast = {"reassoc", "contract", "nsz"}
    jit = numba.njit(nogil=True, error_model="numpy", fastmath=fast)
    return cast(Function, jit(function))


@_jit
def _dot(numbers: Floats, at: int, other: Floats, count: int) -> float:
    # A slice tells the compiler that no index is negative: only then does it use vector lanes.
    values = numbers[at : at + count]
    total = 0.0
    for i in range(count):
        total += values[i] * other[i]
    return total


@_jit
def _distance(numbers: Floats, at: int, other: Floats, start: int, stop: int) -> float:
    values = numbers[at + start : at + stop]
    against = other[start:stop]
    total = 0.0
    for i in range(stop - start):
        step = values[i] - against[i]
        total += step * step
    return total


@_jit
def _quadratic(y: Floats, norm: float, numbers: Floats, at: int, count: int) -> float:
    total = 0.0
    inside = 0.0
    weights = numbers[at + 1 : at + 1 + count]
    for i in range(count):
        square = y[i] * y[i]
        inside += square
        total += weights[i] * square
    if numbers[at] != 0.0:
        left = norm - inside
        total += numbers[at] * (0.0 if left < 0.0 else left)
    return total


@_jit
def _forest(
    x: Singles,
    numbers: Floats,
    singles: Singles,
    codes: npt.NDArray[np.uint32],
    at: int,
    trees: int,
    depth: int,
) -> float:
    # All trees take a step together: their cache misses overlap instead of adding up.
    base = np.empty(trees, dtype=np.uint64)
    node = np.empty(trees, dtype=np.uint64)
    for t in range(trees):
        base[t] = np.uint64(numbers[at + 1 + t])
        node[t] = base[t]
    low, shift, one = np.uint64(0xFFFF), np.uint64(16), np.uint64(1)
    for _ in range(depth):
        for t in range(trees):
            word = node[t] << one
            code = np.uint64(codes[word + one])
            right = np.uint64(x[code >> shift] > singles[word])
            node[t] = base[t] + (code & low) + right
    total = 0.0
    first = np.uint64(at + 1 + trees)
    for t in range(trees):
        total += numbers[first + node[t]]
    return float(2.0 ** (-total / numbers[at]))


@_jit
def _screen(singles: Singles, at: int, y: Singles, squares: Singles) -> None:
    """The squared distances of one block's rows, all in step: many lanes, no sum across them."""
    squares[:] = np.float32(0.0)
    for i in range(0, y.size, _STRIDE):
        y0, y1, y2, y3 = y[i], y[i + 1], y[i + 2], y[i + 3]
        start = at + i * _BLOCK
        values = singles[start : start + _STRIDE * _BLOCK]
        for j in range(_BLOCK):
            d0 = values[j] - y0
            d1 = values[j + _BLOCK] - y1
            d2 = values[j + 2 * _BLOCK] - y2
            d3 = values[j + 3 * _BLOCK] - y3
            squares[j] += d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3


@_jit
def _nearest(
    y: Floats,
    numbers: Floats,
    singles: Singles,
    at: int,
    rank: int,
    count: int,
    neighbours: int,
    blocks: int,
) -> float:
    # Screened in single precision, measured in double: only rows that could be among the nearest,
    # for all that the screening's rounding can do, are measured.
    best = np.full(neighbours, np.inf)
    squares = np.empty(_BLOCK, np.float32)
    near = np.zeros((rank + _STRIDE - 1) // _STRIDE * _STRIDE, np.float32)
    norm = 0.0
    for i in range(rank):
        near[i] = np.float32(y[i])
        norm += y[i] * y[i]
    # Each coordinate, difference, square and sum is rounded once, by half of 2^-23 at most.
    slack = (rank + 4) * 2.0**-23 * (numbers[at] + math.sqrt(norm)) + 1e-18
    worst, bound = np.inf, np.float32(np.inf)
    # The reference is sorted by its first coordinate: go outwards from the row's own, in turns.
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) >> 1
        if numbers[at + 1 + middle * rank] < y[0]:
            low = middle + 1
        else:
            high = middle
    total = (count + _BLOCK - 1) // _BLOCK
    for turn in range(total):
        step = (turn + 1) >> 1
        block = (low // _BLOCK + (-step if turn & 1 else step) + total) % total
        first = block * _BLOCK
        last = min(first + _BLOCK, count) - 1
        gap = max(numbers[at + 1 + first * rank] - y[0], y[0] - numbers[at + 1 + last * rank])
        if gap > 0.0 and gap * gap > worst:
            continue  # that coordinate alone is further away
        _screen(singles, blocks + first * near.size, near, squares)
        close = 0
        for j in range(_BLOCK):
            close += not squares[j] > bound
        if not close:
            continue
        for row in range(first, last + 1):
            if squares[row - first] > bound:
                continue
            squared = _distance(numbers, at + 1 + row * rank, y, 0, rank)
            if squared < worst:
                place = neighbours - 1
                while place > 0 and best[place - 1] > squared:
                    best[place] = best[place - 1]
                    place -= 1
                best[place] = squared
                worst = best[neighbours - 1]
                within = (math.sqrt(worst) + slack) ** 2
                bound = np.float32(within if within < 3e38 else np.inf)
    return math.sqrt(worst)


@_jit
def _mixture(y: Floats, numbers: Floats, at: int, rank: int, count: int) -> float:
    logs = np.empty(count)
    gap = np.empty(rank)
    means = at + count
    factors = means + count * rank
    top = -np.inf
    for k in range(count):
        for i in range(rank):
            gap[i] = y[i] - numbers[means + k * rank + i]
        squared = 0.0
        for i in range(rank):
            white = _dot(numbers, factors + (k * rank + i) * rank, gap, i + 1)
            squared += white * white
        logs[k] = numbers[at + k] - 0.5 * squared
        top = max(top, logs[k])
    total = 0.0
    for k in range(count):
        total += math.exp(logs[k] - top)
    return float(-top - math.log(total))


@_jit
def _svm(y: Floats, numbers: Floats, at: int, rank: int, count: int) -> float:
    squares = np.empty(count)
    vectors = at + 1 + count
    nearest = np.inf
    for k in range(count):
        squared = _distance(numbers, vectors + k * rank, y, 0, rank)
        squares[k] = squared
        nearest = min(nearest, squared)
    gamma = numbers[at]
    total = 0.0
    for k in range(count):
        exponent = gamma * (nearest - squares[k])
        if exponent > -60.0:  # e^-60 is below the last digit of any sum over 10^9 vectors
            total += numbers[at + 1 + k] * math.exp(exponent)
    return float(gamma * nearest - math.log(total))


@_jit
def _evidence(score: float, numbers: Floats, at: int, count: int) -> float:
    shape, scale = numbers[at], numbers[at + 1]
    knots = at + 2
    levels = knots + count
    last = numbers[knots + count - 1]
    if score >= last:
        beyond = math.log1p(shape * ((score - last) / scale)) / shape
        return float(numbers[levels + count - 1] + beyond)
    if score <= numbers[knots]:
        return float(numbers[levels])
    low, high = 0, count - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if numbers[knots + middle] <= score:
            low = middle
        else:
            high = middle
    left = numbers[knots + low]
    slope = (numbers[levels + high] - numbers[levels + low]) / (numbers[knots + high] - left)
    return float(numbers[levels + low] + slope * (score - left))


@_jit
def _row(
    x: Singles,
    plan: npt.NDArray[np.int64],
    numbers: Floats,
    singles: Singles,
    codes: npt.NDArray[np.uint32],
    out: Floats,
) -> tuple[float, float]:
    """One row: scores and evidence into ``out``, the merged score and its p-value returned."""
    features, rank, count = plan[0], plan[1], plan[2]
    fault = 0.0
    for j in range(features):
        fault += x[j] * np.float32(0.0)  # NaN as soon as one value is not finite
    y = np.empty(rank)
    norm = 0.0
    if rank > 0:
        z = np.empty(features)
        mean = plan[3]
        scale = mean + features
        basis = scale + features
        centre = numbers[mean:scale]
        unit = numbers[scale:basis]
        for j in range(features):
            z[j] = (x[j] - centre[j]) * unit[j]
            norm += z[j] * z[j]
        for i in range(rank):
            y[i] = _dot(numbers, basis + i * features, z, features)
    # From here on every coordinate is finite: searches end, and stay inside their arrays.
    if not math.isfinite(fault) or not math.isfinite(norm):
        return np.nan, np.nan
    top = -np.inf
    for k in range(count):
        step = _HEADER + k * _STEP
        kind, used, at, size = plan[step], plan[step + 1], plan[step + 2], plan[step + 3]
        if kind == _QUADRATIC:
            score = _quadratic(y, norm, numbers, at, used)
        elif kind == _FOREST:
            score = _forest(x, numbers, singles, codes, at, size, plan[step + 4])
        elif kind == _NEAREST:
            score = _nearest(y, numbers, singles, at, used, size, plan[step + 4], plan[step + 5])
        elif kind == _MIXTURE:
            score = _mixture(y, numbers, at, used, size)
        else:
            score = _svm(y, numbers, at, used, size)
        evidence = _evidence(score, numbers, plan[step + 10], plan[step + 11])
        out[k] = score
        out[count + k] = evidence
        fault += score * 0.0 + evidence * 0.0
        top = max(top, evidence)
    if not math.isfinite(fault):
        return np.nan, np.nan
    total = 0.0
    for k in range(count):
        total += math.exp(out[count + k] - top)
    merged = top + math.log(total / count)
    low, high = 0, plan[5]
    while low < high:
        middle = (low + high) >> 1
        if numbers[plan[4] + middle] < merged - TIE:
            low = middle + 1
        else:
            high = middle
    return merged, (1.0 + (plan[5] - low)) / (plan[5] + 1.0)


def _first_row(
    rows: Singles,
    plan: npt.NDArray[np.int64],
    numbers: Floats,
    singles: Singles,
    codes: npt.NDArray[np.uint32],
    out: Floats,
) -> tuple[float, float]:
    return _row(rows[0], plan, numbers, singles, codes, out)


def _all_rows(
    rows: Singles,
    plan: npt.NDArray[np.int64],
    numbers: Floats,
    singles: Singles,
    codes: npt.NDArray[np.uint32],
    out: Floats,
) -> None:
    count = 2 * plan[2]
    for i in range(rows.shape[0]):
        merged, p_value = _row(rows[i], plan, numbers, singles, codes, out[i])
        out[i, count] = merged
        out[i, count + 1] = p_value


@cache
def load() -> Kernels:
    """Compiles the kernels, or reads them from numba's cache; a few seconds at most, once.

    The cache lies beside this file, in ``NUMBA_CACHE_DIR`` or in the user's cache directory. Where
    none can be written, or what lies there cannot be read, the kernels are compiled afresh.
    """
    try:
        return _compile(cached=True)
    except Exception:  # numba raises what it likes; the retry speaks for itself
        return _compile(cached=False)


def _compile(*, cached: bool) -> Kernels:
    def array(kind: Any, rank: int, *, readonly: bool) -> Any:
        return types.Array(kind, rank, "C", readonly=readonly)

    packed = (
        array(types.int64, 1, readonly=True),
        array(types.float64, 1, readonly=True),
        array(types.float32, 1, readonly=True),
        array(types.uint32, 1, readonly=True),
    )
    pair: Any = types.Tuple((types.float64, types.float64))  # type: ignore[no-untyped-call]  # numba's
    # Rows may or may not be writable: numba sees two types.
    rows = [array(types.float32, 2, readonly=readonly) for readonly in (False, True)]
    single = [pair(row, *packed, array(types.float64, 1, readonly=False)) for row in rows]
    many = [types.void(row, *packed, array(types.float64, 2, readonly=False)) for row in rows]

    def compiled(signatures: Any, function: Callable[..., Any]) -> Any:
        jit = numba.njit(signatures, nogil=True, error_model="numpy", cache=cached)
        return jit(function)

    return Kernels(compiled(single, _first_row), compiled(many, _all_rows))
