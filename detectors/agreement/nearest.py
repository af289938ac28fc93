"""The witness that looks at which class's examples are nearest."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from detectors.agreement.base import Labels
from detectors.agreement.space import CHUNK_ELEMENTS
from detectors.agreement.witness import Witness
from detectors.arrays import Floats, Singles, frozen, whole

BLOCK_CAP = 1 << 24
"""Values of the bank when every class takes up as much room as the largest."""


@dataclass(frozen=True, eq=False, slots=True)
class NearestAgreement(Witness):
    """Logits -m_c / min m, with m_c the mean of the k smallest squared distances to class c.

    The ratio of distances, rather than the vote of neighbours, is graded: it moves before the vote
    flips. It is close to the trust score of Jiang et al. (2018, arXiv 1805.11783).

    Attributes:
        bank: (m, r) float32 examples, by rising class.
        counts: (C,) int64: examples of each class, at least k, or none.
        neighbours: k.
    """

    name = "knn_agreement"

    bank: Singles
    counts: Labels
    neighbours: int
    _points: Floats = field(init=False, repr=False)
    _lengths: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        Witness.__post_init__(self)
        bank = frozen(self.bank, np.float32, (None, self.space.rank))
        counts = frozen(self.counts, np.int64, (self.classes,))
        most = max(len(bank), 1)
        whole(self.neighbours, "neighbours", 1, most)
        if int(counts.min()) < 0 or int(counts.max()) > most:
            raise ValueError("the counts of the classes are out of range")
        if bool(((counts > 0) & (counts < self.neighbours)).any()):
            raise ValueError("a class has fewer examples than neighbours")
        if int(counts.sum()) != len(bank) or not len(bank):
            raise ValueError("the counts of the classes do not add up to the bank")
        # One block a class, filled up with examples infinitely far away: one partition for all.
        width = int(counts.max())
        if width * self.classes * self.space.rank > BLOCK_CAP:
            raise ValueError("the classes of the bank are too large, or differ too much in size")
        starts = np.cumsum(counts) - counts
        points = np.zeros((self.classes, width, self.space.rank))
        lengths = np.full((self.classes, width), np.inf)
        for place, (start, count) in enumerate(zip(starts, counts, strict=True)):
            part = bank[start : start + count].astype(np.float64)
            points[place, :count] = part
            lengths[place, :count] = np.einsum("ij,ij->i", part, part)
        flat = np.ascontiguousarray(points.reshape(-1, self.space.rank).T)
        object.__setattr__(self, "bank", bank)
        object.__setattr__(self, "counts", counts)
        object.__setattr__(self, "_points", frozen(flat, np.float64, flat.shape))
        object.__setattr__(
            self, "_lengths", frozen(lengths.ravel(), np.float64, (lengths.size,), finite=False)
        )

    def logits(self, seen: Floats) -> Floats:
        """(n, r) to (n, C)."""
        found = np.empty((len(seen), self.classes))
        chunk = max(1, CHUNK_ELEMENTS // self._lengths.size)
        k = self.neighbours
        for start in range(0, len(seen), chunk):
            part = seen[start : start + chunk]
            squared = part @ self._points
            squared *= -2.0
            squared += self._lengths
            blocks = squared.reshape(len(part), self.classes, -1)
            blocks.partition(k - 1, axis=2)
            nearest = blocks[:, :, :k].mean(axis=2)
            nearest += np.einsum("ij,ij->i", part, part)[:, None]
            found[start : start + chunk] = nearest
        # Rounding may leave a row of the bank a hair below zero from itself.
        np.maximum(found, 1e-9, out=found)
        found /= -found.min(axis=1, keepdims=True)
        return found
