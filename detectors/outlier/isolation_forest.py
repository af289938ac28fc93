"""Isolation forest, flattened."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats, Indices, Singles, check_rows, frozen, real, whole
from detectors.base import Rows
from detectors.outlier.projection import CHUNK_ELEMENTS, RawDetector

_DEPTH_CAP = 64
_FEATURE_CAP = 1 << 16


@dataclass(frozen=True, eq=False, slots=True)
class IsolationForest(RawDetector):
    """2^(-(sum over trees of the path length) / normaliser): short paths are suspicious.

    Liu, Ting and Zhou (2008). Each tree lies breadth first, so that a right child follows its left
    sibling and a child follows its parent. Thresholds are float32, rounded down: for a float32
    value that decides exactly as the float64 threshold does. A leaf points at itself under a
    threshold of +inf, so every row walks the same number of steps.

    Equal to ``-IsolationForest.score_samples`` to 1e-12, relative.

    Attributes:
        roots: (t,) int32, the index of each tree's root, rising from 0.
        feature: (nodes,) int32.
        threshold: (nodes,) float32.
        left: (nodes,) int32.
        length: (nodes,) float64: the path length that a leaf stands for, 0 elsewhere.
        normaliser: t times the mean path length of an unsuccessful search.
        features: d.
        depth: steps from a root to the deepest leaf.
    """

    name = "isolation_forest"

    roots: Indices
    feature: Indices
    threshold: Singles
    left: Indices
    length: Floats
    normaliser: float
    features: int
    depth: int = field(init=False)
    # The same as numpy's own index type: a third of the time of a walk is converting otherwise.
    _roots: npt.NDArray[np.intp] = field(init=False, repr=False)
    _feature: npt.NDArray[np.intp] = field(init=False, repr=False)
    _left: npt.NDArray[np.intp] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        whole(self.features, "features", 1, _FEATURE_CAP)
        if real(self.normaliser, "normaliser") <= 0:
            raise ValueError("the normaliser must be positive")
        nodes = self.left.size
        left = frozen(self.left, np.int32, (None,))
        roots = frozen(self.roots, np.int32, (None,))
        feature = frozen(self.feature, np.int32, (nodes,))
        threshold = frozen(self.threshold, np.float32, (nodes,), finite=False)
        length = frozen(self.length, np.float64, (nodes,))
        if not roots.size or roots[0] != 0 or not bool((np.diff(roots) > 0).all()):
            raise ValueError("roots must rise from 0")
        if roots[-1] >= nodes:
            raise ValueError("a root lies outside the forest")
        if int(feature.min()) < 0 or int(feature.max()) >= self.features:
            raise ValueError("a node splits on a feature that does not exist")
        if bool((length < 0).any()):
            raise ValueError("a path length is negative")
        here = np.arange(nodes)
        leaf = left == here
        if bool(np.isnan(threshold).any()) or bool((np.isposinf(threshold) != leaf).any()):
            raise ValueError("a threshold is NaN, or infinite elsewhere than at a leaf")
        tree = np.searchsorted(roots, here, side="right")
        end = np.append(roots[1:], nodes)[tree - 1]
        # Children come after their parent and inside its tree: no walk can leave it or circle.
        if bool((~leaf & ((left <= here) | (left + 1 >= end))).any()):
            raise ValueError("a child lies outside its tree or before its parent")
        object.__setattr__(self, "roots", roots)
        object.__setattr__(self, "feature", feature)
        object.__setattr__(self, "threshold", threshold)
        object.__setattr__(self, "left", left)
        object.__setattr__(self, "length", length)
        object.__setattr__(self, "normaliser", float(self.normaliser))
        object.__setattr__(self, "depth", _depth(roots, left))
        for name, array in (("_roots", roots), ("_feature", feature), ("_left", left)):
            index = frozen(array.astype(np.intp), np.intp, array.shape)
            object.__setattr__(self, name, index)

    def score(self, rows: Rows) -> Floats:
        """(n, d) float32 to (n,) float64, high = suspicious; NaN for a row that is not finite.

        Raises:
            ValueError: if ``rows`` is not (n, d) float32.
        """
        check_rows(rows, self.features)
        totals = np.empty(len(rows))
        chunk = max(1, CHUNK_ELEMENTS // self.roots.size)
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            totals[start : start + chunk] = self._path_lengths(part)
        # A comparison with NaN sends a row down some path all the same: it must not score.
        totals[~np.isfinite(rows).all(axis=1)] = np.nan
        scores: Floats = np.exp2(totals / -self.normaliser)
        return scores

    def _path_lengths(self, rows: Singles) -> Floats:
        if len(rows) == 1:  # the common case, without the bookkeeping of a batch
            row = rows[0]
            node = self._roots
            for _ in range(self.depth):
                right = row.take(self._feature.take(node)) > self.threshold.take(node)
                node = self._left.take(node) + right
            alone: Floats = self.length.take(node).sum(keepdims=True)
            return alone
        flat = np.ascontiguousarray(rows).ravel()
        start = np.arange(len(rows))[:, None] * self.features
        node = np.broadcast_to(self._roots, (len(rows), self.roots.size))
        for _ in range(self.depth):
            right = flat.take(self._feature.take(node) + start) > self.threshold.take(node)
            node = self._left.take(node) + right
        totals: Floats = self.length.take(node).sum(axis=1)
        return totals


def _depth(roots: Indices, left: Indices) -> int:
    """Steps until every walk rests on a leaf; bounded, and so is the work of a level."""
    level = roots
    for depth in range(_DEPTH_CAP + 1):
        level = level[left[level] != level]
        if not level.size:
            return depth
        level = np.unique(np.concatenate([left[level], left[level] + 1]))
    raise ValueError(f"a tree is deeper than {_DEPTH_CAP}")
