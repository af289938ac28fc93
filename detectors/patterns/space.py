"""From rows to what the statistics look at: hashes, sketches, residues, regimes, features.

Every function takes many rows at once; calibration and serving call the same ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats
from detectors.base import Rows
from detectors.patterns.layout import BLOCKS, SKETCH_LIMIT
from detectors.patterns.model import PatternModel

_TINY = 1e-12


class Hashes(NamedTuple):
    """What is compared for equality.

    Attributes:
        content: (n,) uint64, never 0.
        blocks: (n, 32) uint16; 0 for a block that the model does not have.
    """

    content: npt.NDArray[np.uint64]
    blocks: npt.NDArray[np.uint16]


class Sketched(NamedTuple):
    """Where rows lie.

    Attributes:
        sketch: (n, 32) float64 whole numbers within int16.
        residue: (n,) log of what lies off the honest signal; NaN where it is not finite.
        regime: (n,) nearest centroid.
    """

    sketch: Floats
    residue: Floats
    regime: npt.NDArray[np.int64]


def hashes(model: PatternModel, rows: Rows) -> Hashes:
    """Multilinear hashes modulo 2^64 of the float32 bits, of blocks and of the whole row.

    Who does not know the keys finds two rows of equal hash with probability 2^-32 at most for each
    pair (Lemire and Kaser 2014, "Strongly universal string hashing is fast"): so that nobody can
    pass a new query off as a retry. The sign of zero does not count.
    """
    words = (rows + np.float32(0.0)).view(np.uint32).astype(np.uint64)
    products = words * model.keys
    sums = np.add.reduceat(products[:, model.order], model.starts, axis=1)
    content = sums.sum(axis=1, dtype=np.uint64)
    content[content == 0] = 1
    blocks = np.zeros((len(rows), BLOCKS), dtype=np.uint16)
    blocks[:, : sums.shape[1]] = (sums >> np.uint64(48)).astype(np.uint16)
    return Hashes(content, blocks)


def sketch(model: PatternModel, rows: Rows) -> Sketched:
    """Sketches, residues and regimes of rows. Values that are not finite give a NaN residue."""
    wide = rows.astype(np.float64)
    with np.errstate(all="ignore"):
        components = wide @ model.basis.astype(np.float64) - model.centre
        squares = components * components
        residue = squares @ model.weights
        if model.rest:
            norms = wide * wide @ model.squares - 2.0 * (wide @ model.cross) + model.norm
            residue = residue + model.rest * np.maximum(norms - squares.sum(axis=1), 0.0)
        residue = np.log(residue + _TINY)
        position = components[:, : model.signal] @ model.sketch
        faulty = ~(np.isfinite(residue) & np.isfinite(position).all(axis=1))
        residue[faulty] = np.nan
        position[faulty] = 0.0
    position = np.rint(np.clip(position, -SKETCH_LIMIT, SKETCH_LIMIT))
    return Sketched(position, residue, nearest(position, model.centroids))


def nearest(position: Floats, centres: Floats) -> npt.NDArray[np.int64]:
    """(n,) the nearest of (c, 32) centres."""
    squared = (centres * centres).sum(axis=1) - 2.0 * (position @ centres.T)
    found: npt.NDArray[np.int64] = np.argmin(squared, axis=1)
    return found


def cell(model: PatternModel, position: Floats, regime: int) -> int:
    """The cell of the honest space that a sketch (32,) lies in."""
    first, last = int(model.cell_starts[regime]), int(model.cell_starts[regime + 1])
    centres = model.cells[first:last]
    return first + int(np.argmin((centres * centres).sum(axis=1) - 2.0 * (centres @ position)))


def features(model: PatternModel, position: Floats, regime: npt.NDArray[Any]) -> Floats:
    """(n, 128) random Fourier features, less the regime's mean, in units of its deviation.

    cos(w z + b) with w normal: the feature map of a Gaussian kernel (Rahimi and Recht 2007). Their
    mean over a client's queries is its maximum mean discrepancy from the honest ones of the same
    regimes.
    """
    raw = np.cos(position @ model.frequencies + model.phases)
    whitened: Floats = (raw - model.means[regime]) / model.scales[regime]
    return whitened
