"""What was learnt of honest traffic: the fitted, frozen part of the patterns. Needs numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats, Indices, Singles, frozen, real, whole
from detectors.patterns.evidence import betting
from detectors.patterns.layout import (
    BLOCKS,
    CELLS,
    DISCREPANCY,
    EQUAL,
    FEATURES,
    NEAR,
    OUTLIER,
    RESIDUE,
    SEGMENT,
    SHARED,
    SHARED_EQUAL,
    SHARED_NEAR,
    SKETCH,
    STATISTICS,
)

__all__ = [
    "DISCREPANCY",
    "EQUAL",
    "NEAR",
    "OUTLIER",
    "RESIDUE",
    "SEGMENT",
    "SHARED_EQUAL",
    "SHARED_NEAR",
    "STATISTICS",
    "PatternModel",
]
Parameters: TypeAlias = dict[str, int | float | str]
Arrays: TypeAlias = dict[str, npt.NDArray[Any]]

MAX_FEATURES: Final = 1 << 16
MAX_RANK: Final = 128
MAX_SIGNAL: Final = 64
MAX_CLASSES: Final = 64
MAX_LEVELS: Final = 256


@dataclass(frozen=True, eq=False, slots=True)
class PatternModel:
    """Everything that the patterns compare a client's queries with.

    A row x becomes ``y = basis^T x - centre``; its first k components, the honest signal, become
    the sketch ``rint(sketch^T y)``, and what is left over is the residue
    ``weights . y^2 + rest (|(x - mean) / scale|^2 - |y|^2)``.

    Attributes:
        basis: (d, r) float32: principal directions of honest rows, divided by the scale.
        centre: (r,) the mean row's components.
        squares: (d,) one over the squared scale of each feature.
        cross: (d,) mean over squared scale.
        norm: the squared length of the scaled mean.
        weights: (r,) not negative; 0 for the signal.
        rest: not negative: the weight of what the basis leaves out.
        sketch: (k, 32) secret; k at most r and 64. In units of fixed-point steps.
        order: (d,) a permutation of the features, block by block.
        starts: (b,) where each block begins in ``order``, rising from 0.
        keys: (d,) uint64, odd, secret: the multilinear hash's multipliers.
        modes: (b,) the hash of each block's most frequent honest value: a blank corner, a zero.
        block_weights: (2, b) -log of the chance that another honest row agrees on the block, for
            its mode and for any other value, rounded to multiples of 2^-10, so that sums of them
            are exact in any order.
        centroids: (c, 32) the regimes of honest traffic, in sketch space.
        offsets: (8, c) of each statistic: a high quantile in one regime's streams, subtracted.
        knots: (8, l) rising: values of the statistic, less its offset.
        tails: (8, l) falling: the p-value at each knot.
        frequencies, phases: (32, 128) and (128,): random Fourier features of the sketch.
        means, scales: (c, 128): of the features, in each regime; scales positive.
        cells: (m, 32) centres of the cells of the honest space, at most 512.
        cell_starts: (c + 1,): the cells of each regime, rising from 0 to m.
        mass: (m,) share of honest rows in each cell; the sum is 1.
        shared: entries of the ring over all clients, at most 512.
        rows: distinct rows that the tables were calibrated on.
        has_outlier: whether the outlier scorer's p-values were calibrated too.
        bets: (8, l) the e-value at each knot.
    """

    basis: Singles
    centre: Floats
    squares: Floats
    cross: Floats
    weights: Floats
    sketch: Floats
    order: Indices
    starts: Indices
    keys: npt.NDArray[np.uint64]
    modes: Indices
    block_weights: Floats
    centroids: Floats
    offsets: Floats
    knots: Floats
    tails: Floats
    frequencies: Floats
    phases: Floats
    means: Floats
    scales: Floats
    cells: Floats
    cell_starts: Indices
    mass: Floats
    norm: float
    rest: float
    shared: int
    rows: int
    has_outlier: int
    bets: Floats = field(init=False)

    def __post_init__(self) -> None:
        basis = frozen(self.basis, np.float32, (None, None))
        features, rank = basis.shape
        _require(1 <= features <= MAX_FEATURES, f"{features} features")
        _require(1 <= rank <= min(features, MAX_RANK), f"a rank of {rank}")
        sketch = frozen(self.sketch, np.float64, (None, SKETCH))
        _require(1 <= len(sketch) <= min(rank, MAX_SIGNAL), f"a signal of {len(sketch)}")
        starts = frozen(self.starts, np.int32, (None,))
        blocks = starts.size
        _require(1 <= blocks <= min(BLOCKS, features), f"{blocks} blocks")
        centroids = frozen(self.centroids, np.float64, (None, SKETCH))
        classes = len(centroids)
        _require(1 <= classes <= MAX_CLASSES, f"{classes} regimes")
        cells = frozen(self.cells, np.float64, (None, SKETCH))
        _require(1 <= len(cells) <= CELLS, f"{len(cells)} cells")
        knots = frozen(self.knots, np.float64, (len(STATISTICS), None))
        levels = knots.shape[1]
        _require(1 <= levels <= MAX_LEVELS, f"{levels} levels")
        wide: dict[str, tuple[Any, tuple[int, ...]]] = {
            "centre": (np.float64, (rank,)),
            "squares": (np.float64, (features,)),
            "cross": (np.float64, (features,)),
            "weights": (np.float64, (rank,)),
            "order": (np.int32, (features,)),
            "keys": (np.uint64, (features,)),
            "modes": (np.int32, (blocks,)),
            "block_weights": (np.float64, (2, blocks)),
            "offsets": (np.float64, (len(STATISTICS), classes)),
            "tails": (np.float64, (len(STATISTICS), levels)),
            "frequencies": (np.float64, (SKETCH, FEATURES)),
            "phases": (np.float64, (FEATURES,)),
            "means": (np.float64, (classes, FEATURES)),
            "scales": (np.float64, (classes, FEATURES)),
            "cell_starts": (np.int32, (classes + 1,)),
            "mass": (np.float64, (len(cells),)),
        }
        checked: Arrays = {
            "basis": basis,
            "sketch": sketch,
            "starts": starts,
            "centroids": centroids,
            "cells": cells,
            "knots": knots,
        }
        for name, (dtype, shape) in wide.items():
            checked[name] = frozen(getattr(self, name), dtype, shape)
        _check_values(checked, features, len(cells))
        for name, array in checked.items():
            object.__setattr__(self, name, array)
        object.__setattr__(self, "norm", real(self.norm, "norm"))
        object.__setattr__(self, "rest", real(self.rest, "rest"))
        whole(self.shared, "shared", 8, SHARED)
        whole(self.rows, "rows", 1, 1 << 40)
        whole(self.has_outlier, "has_outlier", 0, 1)
        object.__setattr__(self, "bets", frozen(betting(self.tails), np.float64, knots.shape))

    @property
    def features(self) -> int:
        """d: the number of features of a row."""
        return len(self.basis)

    @property
    def signal(self) -> int:
        """k: components of the honest signal."""
        return len(self.sketch)

    @property
    def classes(self) -> int:
        """The number of regimes."""
        return len(self.centroids)

    def weights_of(self, blocks: npt.NDArray[np.uint16]) -> Floats:
        """(…, b) what it weighs that another row has these blocks, (…, 32)."""
        usual = blocks[..., : self.modes.size] == self.modes
        weights: Floats = np.where(usual, self.block_weights[0], self.block_weights[1])
        return weights

    def parts(self) -> tuple[Parameters, Arrays]:
        """The model as plain numbers and arrays: what :meth:`of_parts` makes it from."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.init}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        return {name: value for name, value in values.items() if name not in arrays}, arrays

    @classmethod
    def of_parts(cls, parameters: Mapping[str, Any], arrays: Mapping[str, Any]) -> PatternModel:
        """The model of these parts.

        Raises:
            ValueError: if a part is missing, unknown, or not what it must be.
        """
        names = {item.name: item.type for item in fields(cls) if item.init}
        plain = {name for name, kind in names.items() if kind in {"int", "float"}}
        for kind, given, wanted in (
            ("parameters", set(parameters), plain),
            ("arrays", set(arrays), set(names) - plain),
        ):
            if given != wanted:
                odd = ", ".join(sorted(map(str, given ^ wanted)))
                raise ValueError(f"the {kind} of the patterns are not as expected: {odd}")
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("an array of the patterns is not an array")
        return cls(**parameters, **arrays)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"patterns cannot have {what}")


def _check_values(arrays: Arrays, features: int, cells: int) -> None:
    order, starts, cell_starts = arrays["order"], arrays["starts"], arrays["cell_starts"]
    _require(bool((np.sort(order) == np.arange(features)).all()), "an order with gaps")
    _require(
        starts[0] == 0 and bool((np.diff(starts) > 0).all()) and starts[-1] < features,
        "blocks that are empty or overlap",
    )
    _require(
        cell_starts[0] == 0 and cell_starts[-1] == cells and bool((np.diff(cell_starts) > 0).all()),
        "a regime without cells",
    )
    _require(bool((arrays["keys"] & np.uint64(1) == 1).all()), "an even hash key")
    for name in ("squares", "weights", "block_weights", "mass"):
        _require(bool((arrays[name] >= 0).all()), f"a negative value in {name}")
    _require(bool((arrays["scales"] > 0).all()), "a scale that is not positive")
    _require(abs(float(arrays["mass"].sum()) - 1.0) < 1e-6, "cells whose mass is not 1")
    tails = arrays["tails"]
    _require(bool((tails > 0).all() and (tails <= 1).all()), "a p-value outside (0, 1]")
    _require(bool((np.diff(tails, axis=1) <= 0).all()), "p-values that rise")
    _require(bool((np.diff(arrays["knots"], axis=1) >= 0).all()), "knots that fall")
    exact = arrays["block_weights"] * 1024
    _require(bool((exact == np.rint(exact)).all() and (exact < 1 << 20).all()), "inexact weights")
