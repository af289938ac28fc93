"""How a compiled kernel finds model and arena: one array of sizes and addresses.

They are some seventy arrays, and to unbox each at every call would cost more than what is done with
it. All are allocated once and never move (:mod:`detectors.patterns.arena`); whoever holds the table
holds them. Every index into them comes from a model that was validated, or from the tracker's own
slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import intrinsic
from numba.np import arrayobj

from detectors.arrays import Floats
from detectors.patterns import layout, statistics
from detectors.patterns.arena import Records
from detectors.patterns.reference import Arena

Whole: TypeAlias = npt.NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., Any])

UNIT: Final = 1024.0
"""Weights of blocks are multiples of 1/1024: as whole numbers they add up exactly, in any order."""

# Sizes and addresses of the table, by name; the order is that of :func:`_table`.
(
    FEATURES, RANK, SIGNAL, BLOCKS, CLASSES, LEVELS, HAS_OUTLIER, HALF, ONCE_A_SCENE,
    BASIS, CENTRE, SQUARES, CROSS, WEIGHTS, SKETCH, BLOCK_OF, KEYS, MODES,
    BLOCK_WEIGHTS,
    CENTROIDS, CENTROID_NORMS, OFFSETS, KNOTS, TAILS, BETS, FREQUENCIES, PHASES,
    MEANS, SCALES, CELLS, CELL_NORMS, CELL_STARTS, MASS,
    RING_SKETCH, RING_BLOCKS, RING_CONTENT, RING_ADDED, RING_FRESH,
    SHARED_SKETCH, SHARED_BLOCKS, SHARED_CONTENT, SHARED_LINEAGE, SHARED_SLOT,
    SHARED_ADDED, SHARED_FRESH,
    LINEAGES, IDS, LINEAGE_LEVELS, LINEAGE_TOTALS, LINEAGE_PEAKS, LINEAGE_BASES,
    LINEAGE_SEEN, DIRTY, REFUSED, MIX, BUDGETS, TRACKED, P_VALUES, TOLD,
    COMPONENTS, POSITION, FOURIER, VALUES, E_VALUES, SQUARED, BETWEEN, ANCHOR, SUMS,
    HASHES, WEIGHED, SAME, PLACES,
    CLIENTS,
) = range(73)  # fmt: skip
GROUPS: Final = CLIENTS + 8
ENTRIES: Final = GROUPS + 8
# Of a record, from CLIENTS or GROUPS on.
R_LEVELS, R_TOTALS, R_PEAKS, R_SUMS, R_PENDING, R_MARKS, R_SEEN, R_COVERAGE = range(8)
# The plain numbers.
NORM, REST, RECOVERY, LINEAGE_BUDGET = range(4)


OPTIONS: Final[dict[str, Any]] = {"nogil": True, "error_model": "numpy", "_nrt": False}
"""Nothing is allocated on the way: ``_nrt`` leaves out the counting of references."""


def jit(function: Function) -> Function:
    # No "ninf", no "nnan": NaN and infinity keep their meaning.
    jit = numba.njit(fastmath={"reassoc", "contract", "nsz"}, **OPTIONS)
    return cast(Function, jit(function))


def exact(function: Function) -> Function:
    """As numpy does it, to the last bit: for differences of almost equal numbers."""
    return cast(Function, numba.njit(**OPTIONS)(function))


# numba ships no types for these two.
_make_array: Final = cast(Callable[..., Any], arrayobj.make_array)
_populate_array: Final = cast(Callable[..., Any], arrayobj.populate_array)


def _view(kind: Any) -> Any:
    """An intrinsic (address, length or (length, length)) -> the array of ``kind`` there."""

    @intrinsic
    def at(_: Any, address: Any, shape: Any) -> Any:
        lengths = (*cast(Any, shape),) if isinstance(shape, types.BaseTuple) else (shape,)
        view = types.Array(kind, len(lengths), "C")

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            made = _make_array(view)(context, builder)
            size = context.get_abi_sizeof(context.get_data_type(kind))
            step = context.get_constant(types.intp, size)
            given = [arguments[1]]
            if isinstance(signature.args[1], types.BaseTuple):
                given = [builder.extract_value(arguments[1], i) for i in range(len(lengths))]
            given = [
                context.cast(builder, one, length, types.intp)
                for one, length in zip(given, lengths, strict=True)
            ]
            _populate_array(
                made,
                data=builder.inttoptr(arguments[0], made.data.type),
                shape=given,
                strides=[builder.mul(step, given[1]), step] if len(given) > 1 else [step],
                itemsize=step,
                meminfo=None,
            )
            return made._getvalue()

        return view(types.int64, shape), generate

    return at


f8, f4, i8 = _view(types.float64), _view(types.float32), _view(types.int64)
i4, i2, u1 = _view(types.int32), _view(types.int16), _view(types.uint8)
u8, u2 = _view(types.uint64), _view(types.uint16)


def table_of(arena: Arena) -> tuple[Whole, Floats, list[npt.NDArray[Any]]]:
    """Sizes and addresses; plain numbers; and the arrays that must live as long as those.

    Raises:
        ValueError: if an array is not laid out as the kernel reads it.
    """
    model, rings, shared, lineages = arena.model, arena.rings, arena.shared, arena.lineages
    block_of = np.empty(model.features, dtype=np.int32)
    ends = np.append(model.starts[1:], model.features)
    block_of[model.order] = np.repeat(np.arange(model.starts.size), ends - model.starts)
    modes = np.full(layout.BLOCKS, -1, dtype=np.int32)
    modes[: model.starts.size] = model.modes
    weights = np.zeros((2, layout.BLOCKS), dtype=np.int32)
    weights[:, : model.starts.size] = np.rint(model.block_weights * UNIT)
    arrays: list[npt.NDArray[Any]] = [
        model.basis, model.centre, model.squares, model.cross, model.weights, model.sketch,
        block_of, model.keys, modes, weights, model.centroids, (model.centroids**2).sum(axis=1),
        model.offsets, model.knots, model.tails, model.bets, model.frequencies, model.phases,
        model.means, model.scales, model.cells, (model.cells**2).sum(axis=1), model.cell_starts,
        model.mass, rings.sketch.transpose(0, 2, 1), rings.blocks.transpose(0, 2, 1),
        rings.content, rings.added, rings.fresh, shared.sketch.T, shared.blocks.T, shared.content,
        shared.lineage, shared.slot, shared.added, shared.fresh,
    ]  # fmt: skip
    sizes = [
        model.features, len(model.centre), model.signal, model.starts.size, model.classes,
        model.knots.shape[1], int(bool(model.has_outlier)), shared.half,
        int(arena.once_a_scene),
    ]  # fmt: skip
    first = [_address(array) for array in arrays]
    later: list[npt.NDArray[Any]] = [
        lineages.ids, lineages.levels, lineages.totals, lineages.peaks, lineages.bases,
        lineages.seen, lineages.dirty, lineages.refused, arena.mix, arena.budgets, arena.tracked,
        arena.p_values, arena.told,
    ]  # fmt: skip
    later += _scratch(len(model.centre), max(2 * shared.half, layout.RING))
    later += [*_fields(arena.clients), *_fields(arena.groups)]
    rest = [lineages.ids.size, *(_address(array) for array in later)]
    numbers = np.array([model.norm, model.rest, arena.recovery, arena.lineage_budget])
    return np.array(sizes + first + rest, dtype=np.int64), numbers, arrays + later


def _scratch(rank: int, entries: int) -> list[npt.NDArray[Any]]:
    """What one query is computed in."""
    count = len(layout.STATISTICS)
    doubles = (
        rank,
        layout.SKETCH,
        layout.FEATURES,
        count,
        count,
        entries,
        layout.RING,
        layout.SKETCH,
    )
    return [
        *(np.empty(size) for size in doubles),
        np.empty(layout.BLOCKS, dtype=np.uint64),
        np.empty(layout.BLOCKS, dtype=np.uint16),
        np.empty(layout.BLOCKS, dtype=np.int32),
        np.empty(entries, dtype=np.int32),
        np.empty(statistics.ANCHORS, dtype=np.int64),
    ]


def _fields(records: Records) -> tuple[npt.NDArray[Any], ...]:
    return (
        records.levels, records.totals, records.peaks, records.sums, records.pending,
        records.marks, records.seen, records.coverage,
    )  # fmt: skip


def _address(array: npt.NDArray[Any]) -> int:
    if not array.flags.c_contiguous:
        raise ValueError("an array is not laid out as the kernel reads it")
    return int(array.ctypes.data)
