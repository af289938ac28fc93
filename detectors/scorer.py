"""What the gateway calls: rows in, verdicts out."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats, check_rows
from detectors.base import Rows
from detectors.calibration import Calibration, Tail, merge
from detectors.outlier import OutlierDetector
from detectors.outlier.projection import Projected, ProjectedDetector, Projection

if TYPE_CHECKING:
    from detectors.native import Kernels, Packed

Engine: TypeAlias = Literal["auto", "numpy", "native"]

ENGINE_VARIABLE: Final = "BARTIZAN_ENGINE"
"""Environment variable that settles ``auto``: ``numpy``, ``native`` or ``auto``."""

_SMALLEST: Final = float(np.finfo(np.float64).tiny)


class ScoreFault(Exception):  # noqa: N818 - the design's word for it
    """A score is not finite, or a row cannot be scored. The row must not pass for normal."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What was found about n rows by k detectors. All values are finite.

    Attributes:
        names: the detectors, in the order of the columns.
        merged: (n,) merged score, high = suspicious.
        p_values: (n,) conformal p-value of the merged score; never rises with the score.
        flagged: (n,) bool: the row is an outlier under the budget.
        scores: (n, k) each detector's own score.
        detector_p_values: (n, k) each score's estimated p-value, in (0, 1]: evidence that explains
            a verdict, without a guarantee of its own.
    """

    names: tuple[str, ...]
    merged: Floats
    p_values: Floats
    flagged: npt.NDArray[np.bool_]
    scores: Floats
    detector_p_values: Floats


class Scorer:
    """Detectors, their tails and the calibration of the merged score, ready to serve.

    Immutable but for a scratch row: :meth:`score_row` and :meth:`row_p_values` belong to one
    thread, :meth:`score` to any.
    """

    def __init__(
        self,
        detectors: Sequence[OutlierDetector],
        tails: Sequence[Tail],
        calibration: Calibration,
        *,
        flag_above: float | None = None,
        engine: Engine = "auto",
    ) -> None:
        """Prepares to serve; with the native engine this compiles it, or loads it from a cache.

        Args:
            detectors: at least one, each kind at most once, for the same number of features.
            tails: one for each detector.
            calibration: of the merged score.
            flag_above: a merged score strictly above this is flagged; None: what the calibration
                says. Where the answer counts too, the budget is kept over both together, and the
                input's part of it is less than all.
            engine: ``auto`` takes the native engine where the ``fast`` extra is installed.

        Raises:
            ValueError: if the parts do not fit each other.
            ImportError: if the native engine is asked for and is not there, or may not compile.
        """
        if not detectors or len(detectors) != len(tails):
            raise ValueError("a scorer needs detectors, and a tail for each")
        self.names: Final = tuple(detector.name for detector in detectors)
        if len(set(self.names)) != len(self.names):
            raise ValueError("a kind of detector occurs twice")
        self.features: Final = detectors[0].features
        if any(detector.features != self.features for detector in detectors):
            raise ValueError("the detectors differ in their number of features")
        self.detectors: Final = tuple(detectors)
        self.tails: Final = tuple(tails)
        self.calibration: Final = calibration
        self._flag_above: Final = calibration.flag_above if flag_above is None else flag_above
        if math.isnan(self._flag_above):
            raise ValueError("a threshold must be a number")
        self._count: Final = len(detectors)
        self._scratch: Final = np.zeros(2 * self._count)
        native = _native(self, engine)
        self.engine: Final = "native" if native else "numpy"
        self._kernels: Kernels | None = native[0] if native else None
        self._packed: tuple[Any, ...] = tuple(native[1]) if native else ()

    @property
    def threshold(self) -> float:
        """A merged score strictly above this is flagged."""
        return self._flag_above

    def with_budget(self, alpha: float, delta: float, *, flag_above: float | None = None) -> Scorer:
        """The same scorer under another budget and confidence (1 - delta).

        Args:
            alpha: the false-positive budget.
            delta: the risk that it does not hold.
            flag_above: as for the constructor.

        Raises:
            BudgetError: if the calibration rows are too few; says how many it takes.
        """
        calibration = Calibration.of(self.calibration.scores, alpha, delta)
        engine: Engine = "native" if self.engine == "native" else "numpy"
        return Scorer(self.detectors, self.tails, calibration, flag_above=flag_above, engine=engine)

    def score_row(self, rows: Rows) -> tuple[float, float, bool]:
        """The fast entry for one row: (merged score, p-value, flagged).

        Args:
            rows: (1, d) float32, C-contiguous.

        Raises:
            ScoreFault: if a value or a score is not finite.
            ValueError: if ``rows`` has another shape or dtype.
        """
        if rows.shape != (1, self.features):
            raise ValueError(f"expected one row of {self.features} features, got {rows.shape}")
        if self._kernels is not None:
            try:
                merged, p_value = self._kernels.row(rows, *self._packed, self._scratch)
            except TypeError:
                return self._score_odd_row(rows)
        else:
            merged, p_value = self._numpy_row(rows)
        if merged != merged:  # NaN  # noqa: PLR0124 - cheaper than a call
            raise ScoreFault("a value or a score is not finite")
        return merged, p_value, merged > self._flag_above

    def _score_odd_row(self, rows: Rows) -> tuple[float, float, bool]:
        """A row that is not C-contiguous float32: laid out as it should be, or refused."""
        check_rows(rows, self.features)
        return self.score_row(np.ascontiguousarray(rows))

    def row_p_values(self) -> dict[str, float]:
        """Each detector's estimated p-value for the row last given to :meth:`score_row`."""
        evidence = self._scratch.tolist()[self._count :]
        # Plain floats: a ufunc costs more than all of these together.
        return {
            name: math.exp(-value) or _SMALLEST
            for name, value in zip(self.names, evidence, strict=True)
        }

    def score(self, rows: Rows) -> Verdicts:
        """Scores n rows; a row's verdict does not depend on the others.

        Args:
            rows: (n, d) float32, n may be 0.

        Raises:
            ScoreFault: if a value or a score of any row is not finite.
            ValueError: if ``rows`` has another shape or dtype.
        """
        check_rows(rows, self.features)
        count = self._count
        if self._kernels is not None:
            out = np.empty((len(rows), 2 * count + 2))
            self._kernels.rows(np.ascontiguousarray(rows), *self._packed, out)
            scores, evidence = out[:, :count], out[:, count : 2 * count]
            merged, p_values = out[:, 2 * count], out[:, 2 * count + 1]
        else:
            scores, evidence, merged = self._numpy_rows(rows)
            p_values = self.calibration.p_values(merged)
        if not bool(np.isfinite(merged).all()):
            raise ScoreFault("a value or a score is not finite")
        return Verdicts(
            self.names,
            merged,
            p_values,
            merged > self._flag_above,
            scores,
            np.maximum(np.exp(-evidence), _SMALLEST),
        )

    def _numpy_row(self, rows: Rows) -> tuple[float, float]:
        _, evidence, merged = self._numpy_rows(rows)
        self._scratch[self._count :] = evidence[0]
        return float(merged[0]), float(self.calibration.p_values(merged)[0])

    def _numpy_rows(self, rows: Rows) -> tuple[Floats, Floats, Floats]:
        scores = detector_scores(self.detectors, rows)
        evidence = [tail(scores[:, k]) for k, tail in enumerate(self.tails)]
        merged = merge(evidence)
        # Comparisons drop NaN on the way (a maximum, a search): ask the sources.
        faulty = ~(np.isfinite(rows).all(axis=1) & np.isfinite(scores).all(axis=1))
        merged[faulty] = np.nan
        return scores, np.stack(evidence, axis=1), merged


def detector_scores(detectors: Sequence[OutlierDetector], rows: Rows) -> Floats:
    """(n, k): each detector's scores of (n, d) rows; rows are projected once a projection."""
    scores = np.empty((len(rows), len(detectors)))
    space: Projection | None = None
    projected: Projected | None = None
    for k, detector in enumerate(detectors):
        if isinstance(detector, ProjectedDetector):
            if projected is None or detector.projection is not space:
                space = detector.projection
                projected = space.apply(rows)
            scores[:, k] = detector.measure(projected)
        else:
            scores[:, k] = detector.score(rows)
    return scores


def merged_scores(
    detectors: Sequence[OutlierDetector], tails: Sequence[Tail], rows: Rows
) -> Floats:
    """(n,): the merged scores that a calibration is made of."""
    scores = detector_scores(detectors, rows)
    return merge([tail(scores[:, k]) for k, tail in enumerate(tails)])


def _native(scorer: Scorer, engine: Engine) -> tuple[Kernels, Packed] | None:
    wanted = os.environ.get(ENGINE_VARIABLE, "auto") if engine == "auto" else engine
    if wanted not in {"auto", "numpy", "native"}:
        raise ValueError(f"{ENGINE_VARIABLE} must be auto, numpy or native, not {wanted!r}")
    if wanted == "numpy":
        return None
    try:
        from detectors import native  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        if wanted == "native":
            raise
        return None
    try:
        packed = native.pack(scorer.detectors, scorer.tails, scorer.calibration)
    except native.Unpackable:
        if wanted == "native":
            raise
        return None
    try:
        return native.load(), packed
    except OSError as error:  # a system that grants no executable memory
        words = f"scoring cannot be compiled here ({error}): set {ENGINE_VARIABLE}=numpy"
        raise ImportError(words) from error
