"""Several agreement detectors asked together: what they share is computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias, runtime_checkable

import numpy as np

from detectors.agreement.base import AgreementDetector, Answers, Need
from detectors.agreement.space import Space
from detectors.agreement.witness import only_finite
from detectors.arrays import Floats
from detectors.base import Rows, Scores

Measure: TypeAlias = Callable[[Floats, Answers], Scores]
Score: TypeAlias = Callable[[Rows, Answers], Scores]


@runtime_checkable
class Measuring(Protocol):
    """A detector that scores rows as a shared view shows them."""

    @property
    def space(self) -> Space: ...

    @property
    def outputs(self) -> int: ...

    @property
    def needs(self) -> Need: ...

    def check(self, answers: Answers, count: int) -> None:
        """Raises ValueError unless the answers fit the detector and are ``count``."""

    def measure(self, seen: Floats, answers: Answers) -> Scores:
        """As ``score``, of finite rows as the view shows them and answers that were checked."""


class Panel:
    """Detectors in order. Immutable; any thread."""

    def __init__(self, detectors: Sequence[AgreementDetector]) -> None:
        views: list[Space] = []
        checks: dict[tuple[int, str], Callable[[Answers, int], None]] = {}
        self._measures: Final[list[tuple[int, int, Measure]]] = []
        self._scores: Final[list[tuple[int, Score]]] = []
        for k, detector in enumerate(detectors):
            if not isinstance(detector, Measuring):
                self._scores.append((k, detector.score))
                continue
            place = next((i for i, view in enumerate(views) if view is detector.space), len(views))
            if place == len(views):
                views.append(detector.space)
            self._measures.append((k, place, detector.measure))
            # One check does for all that need the same.
            checks.setdefault((detector.outputs, detector.needs), detector.check)
        self._views: Final = [view.apply for view in views]
        self._checks: Final = list(checks.values())
        self._count: Final = len(detectors)

    def scores(self, rows: Rows, answers: Answers) -> Floats:
        """(n, d) float32 and n answers to (n, k): each detector's scores, NaN for faulty rows.

        Raises:
            ValueError: if rows or answers do not fit the detectors.
        """
        for check in self._checks:
            check(answers, len(rows))
        seen = [view(rows) for view in self._views]
        found = np.empty((len(rows), self._count))
        for k, place, measure in self._measures:
            found[:, k] = measure(seen[place], answers)
        for k, score in self._scores:
            found[:, k] = score(rows, answers)
        return only_finite(found, rows)
