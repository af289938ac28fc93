"""Estimators that people already use, fitted here or elsewhere, as arrays of ours.

A :class:`Trainer` knows one class of a library: how to tell that an estimator can be compiled, how
to compile it, and what the library itself says of rows. What was compiled is compared with that
before anyone gets it, so that another version of a library cannot change a score unnoticed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats, Singles
from detectors.outlier import OutlierDetector

Check = Callable[[Any, OutlierDetector, Singles], Floats | float]

VERIFIED_ROWS: Final = 64
"""Rows, near and far, that the library and the compiled detector are compared on."""
REFERENCE_CAP: Final = 2000
"""Rows that an estimator keeps for scoring, unless the settings say otherwise: it bounds the cost
of a request."""


class CompileError(ValueError):
    """The estimator cannot be compiled. Says what is in the way."""


def nothing(_estimator: Any, _detector: OutlierDetector, _rows: Singles) -> float:
    """No slack."""
    return 0.0


def unambiguous(
    _estimator: Any, _detector: OutlierDetector, rows: Singles
) -> npt.NDArray[np.bool_]:
    """Every row has one score."""
    return np.ones(len(rows), dtype=bool)


def unchanged(_estimator: Any, scores: Floats) -> Floats:
    """The library's scores are ours."""
    return scores


@dataclass(frozen=True, slots=True)
class Trainer:
    """One class of estimators.

    Attributes:
        name: as in ``--detectors``.
        module, attribute: where the class is.
        compile: a fitted estimator to a detector; raises CompileError if it cannot.
        library_scores: the library's own scores of (n, d) float64 rows, high = suspicious.
        as_library: our scores in the library's terms: a constant offset, or a logarithm undone.
        relative: the tolerance of their equality.
        slack: and its absolute part, (n,) or one number, for float32 rows.
        certain: (n,) which rows have one score: neither tied nor within rounding of a step.
        alone: the library's score of a row depends on the rest of the call: ask one at a time.
        defaults: arguments that a user need not give, over the library's own.
        max_rows: rows that it is fitted on unless the settings say otherwise; None: all.
    """

    name: str
    module: str
    attribute: str
    compile: Callable[[Any], OutlierDetector]
    library_scores: Callable[[Any, Floats], npt.ArrayLike]
    as_library: Callable[[Any, Floats], Floats] = unchanged
    relative: float = 1e-9
    slack: Check = nothing
    certain: Callable[[Any, OutlierDetector, Singles], npt.NDArray[np.bool_]] = unambiguous
    alone: bool = False
    defaults: Mapping[str, Any] | None = None
    max_rows: int | None = None

    @property
    def library(self) -> str:
        """The name of the package."""
        return self.name.split(".", 1)[0]

    def estimator(self) -> type[Any]:
        """The class.

        Raises:
            CompileError: if the library is not installed.
        """
        try:
            found: type[Any] = getattr(importlib.import_module(self.module), self.attribute)
        except ImportError as error:
            extra = "pyod" if self.library == "pyod" else "train"
            raise CompileError(
                f"{self.name} needs the extra {extra}, "
                f"pip install '.[{extra}]' in a checkout ({error})"
            ) from error
        return found

    def version(self) -> str:
        """The library and its version."""
        distribution = {"sklearn": "scikit-learn"}.get(self.library, self.library)
        return f"{distribution} {importlib.metadata.version(distribution)}"

    def scores(self, estimator: Any, rows: Singles) -> Floats:
        """(n,) the library's own scores, high = suspicious."""
        wide = rows.astype(np.float64)
        parts = [row[None] for row in wide] if self.alone else [wide]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of rows far away; the fit's own are the user's
            found = [np.asarray(self.library_scores(estimator, part), np.float64) for part in parts]
        return np.concatenate(found)

    def agrees(
        self, estimator: Any, detector: OutlierDetector, rows: Singles
    ) -> npt.NDArray[np.bool_]:
        """(n,) whether the compiled detector scores each of the rows as the library does."""
        expected = self.scores(estimator, rows)
        found = self.as_library(estimator, detector.score(rows))
        allowed = self.relative * np.abs(expected) + self.slack(estimator, detector, rows)
        same: npt.NDArray[np.bool_] = np.abs(found - expected) <= allowed
        return same | ~self.certain(estimator, detector, rows)


def compile_fitted(
    trainer: Trainer, estimator: Any, reference_rows: npt.ArrayLike
) -> OutlierDetector:
    """Compiles an estimator of the trainer's class, and compares it with the library.

    Raises:
        CompileError: if it is not fitted, cannot be compiled or comes out otherwise.
    """
    rows = _rows(reference_rows)
    try:
        detector = trainer.compile(estimator)
    except CompileError as error:
        raise CompileError(f"{trainer.name}: {error}") from error
    except AttributeError as error:
        raise CompileError(f"{trainer.name} is not fitted ({error})") from error
    except ValueError as error:
        raise CompileError(f"{trainer.name} cannot be compiled: {error}") from error
    if detector.features != rows.shape[1]:
        raise CompileError(
            f"{trainer.name} was fitted on {detector.features} features, "
            f"the reference rows have {rows.shape[1]}"
        )
    probes = _probes(rows)
    same = trainer.agrees(estimator, detector, probes)
    if not bool(same.all()):
        worst = int(np.flatnonzero(~same)[0])
        ours = trainer.as_library(estimator, detector.score(probes))[worst]
        theirs = trainer.scores(estimator, probes)[worst]
        raise CompileError(
            f"{trainer.name} does not score as compiled ({trainer.version()}): {theirs:.9g} where "
            f"{ours:.9g} was expected, in {int((~same).sum())} of {len(probes)} rows. Its scores "
            "may have changed with the version, or its attributes since it was fitted"
        )
    return detector


def _rows(given: npt.ArrayLike) -> Singles:
    rows = np.asarray(given)
    if rows.ndim != 2 or not rows.size or rows.dtype.kind not in "fiub":
        raise CompileError(f"reference rows must be (n, d) numbers, got {rows.dtype} {rows.shape}")
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(rows, dtype=np.float32)
    if not bool(np.isfinite(single).all()):
        raise CompileError("a reference row is not finite in float32")
    return single


def _probes(rows: Singles) -> Singles:
    """Reference rows and the same moved away from their mean, a little and far."""
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), VERIFIED_ROWS // 2)).astype(int)]
    wide = some.astype(np.float64)
    middle = wide.mean(axis=0)
    reach = np.resize([1.7, 5.0, 40.0], len(wide))[:, None]
    limit = float(np.finfo(np.float32).max)
    away = np.clip(middle + reach * (wide - middle) + 0.01 * reach, -limit, limit)
    return np.vstack([some, away.astype(np.float32)])
