"""Honest rows that a bundle keeps, to show what a refused one is unlike. They are data: opt-in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detectors.agreement.base import Labels
from detectors.arrays import Singles, frozen


@dataclass(frozen=True, eq=False, slots=True)
class Examples:
    """Rows, as on the wire.

    Attributes:
        rows: (m, d) float32, at least one.
        labels: (m,) int64, of each row the index of its class; None: they have none.
        classes: the classes' names; empty without labels.
    """

    rows: Singles
    labels: Labels | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rows = frozen(self.rows, np.float32, (None, None))
        if not len(rows):
            raise ValueError("there are no examples")
        object.__setattr__(self, "rows", rows)
        if (self.labels is None) == bool(self.classes):
            raise ValueError("labels go with the names of classes")
        if self.labels is None:
            return
        labels = frozen(self.labels, np.int64, (len(rows),))
        if labels.min() < 0 or labels.max() >= len(self.classes):
            raise ValueError("an example's label names no class")
        object.__setattr__(self, "labels", labels)
