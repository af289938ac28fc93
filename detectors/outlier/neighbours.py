"""The exact search for the nearest of a bounded reference."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats, frozen
from detectors.outlier.projection import CHUNK_ELEMENTS

SPARE: Final = 4
"""More candidates than neighbours: rounding in the screening cannot lose a true one."""


def squared_lengths(rows: Floats) -> Floats:
    """(m,) immutable: the squared length of each of (m, r) rows.

    Raises:
        ValueError: if one is not finite.
    """
    with np.errstate(over="ignore"):
        return frozen(np.einsum("ij,ij->i", rows, rows), np.float64, (len(rows),))


def chunk_rows(reference: Floats, neighbours: int) -> int:
    """Rows to search for at a time, so that temporaries stay bounded."""
    widest: int = max(len(reference), (neighbours + SPARE) * reference.shape[1])
    return max(1, CHUNK_ELEMENTS // widest)


def candidates(
    rows: Floats, reference: Floats, lengths: Floats, neighbours: int
) -> tuple[npt.NDArray[np.intp], Floats]:
    """Candidates for the nearest ``neighbours`` of each row, and their squared distances.

    A matrix product screens, and only candidates are measured by their differences, so that a row
    close to the reference loses no digits.

    Args:
        rows: (n, r).
        reference: (m, r).
        lengths: (m,) squared lengths of the reference.
        neighbours: k, from 1 to m.

    Returns:
        (n, c) indices into the reference and (n, c) squared distances, in no order, c >= k.
    """
    if neighbours + SPARE >= len(reference):
        picked = np.broadcast_to(np.arange(len(reference)), (len(rows), len(reference)))
        near = reference[None]
    else:
        # |x|^2 is the same for every candidate of a row, so the screening leaves it out.
        screen = lengths - 2.0 * (rows @ reference.T)
        kth = neighbours - 1 + SPARE
        picked = np.argpartition(screen, kth, axis=1)[:, : kth + 1]
        near = reference[picked]
    gap = near - rows[:, None]
    return picked, np.einsum("ijk,ijk->ij", gap, gap)
