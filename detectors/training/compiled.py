"""Estimators that were fitted elsewhere, on their way into a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectors.arrays import Singles
from detectors.training.libraries import Libraries
from detectors.training.trainers import (
    Settings,
    SettingsError,
    Trained,
    canonical,
    compile_estimator,
    names,
    trainer_of,
)


@dataclass(frozen=True, slots=True)
class Compiled(Libraries):
    """What fits detectors, and estimators that need no fitting any more.

    ``fit(rows, kinds=("mine", "mahalanobis"), libraries=Compiled(estimators={"mine": forest}))``
    merges and calibrates both. The rows that fitted the forest are to be marked as ``seen`` or
    left out: it scores them too low for a threshold to be set on them.

    Attributes:
        estimators: by names of the caller's own.
    """

    estimators: Mapping[str, Any] = field(default_factory=dict)

    def check(
        self, wanted: Sequence[str], opinions: Sequence[str] = (), settings: Settings | None = None
    ) -> None:
        """As its parent, but for the names of estimators.

        Raises:
            ValueError: also if one has the name of something that can be fitted, or settings.
        """
        for name, estimator in self.estimators.items():
            if canonical(name) in names():
                raise SettingsError(f"{name!r} is the name of a detector that is fitted here")
            if settings and name in settings:
                raise SettingsError(f"{name!r} is fitted already: it takes no settings")
            trainer_of(estimator)
        rest = [name for name in wanted if name not in self.estimators]
        if rest or not wanted:
            Libraries.check(self, rest, opinions, settings)

    def detectors(
        self, rows: Singles, wanted: Sequence[str], seed: int, settings: Settings
    ) -> list[Trained]:
        """Fits or compiles each, in the order of the names; (n, d) float32 training rows.

        Raises:
            ValueError: as :meth:`check`; or if one cannot be fitted or compiled.
        """
        self.check(wanted, settings=settings)
        rest = [name for name in wanted if name not in self.estimators]
        found: dict[str, Trained] = {}
        if rest:
            fitted = Libraries.detectors(self, rows, rest, seed, settings)
            found |= zip(rest, fitted, strict=True)
        for name in wanted:
            if name in self.estimators:
                estimator = self.estimators[name]
                trainer = trainer_of(estimator)
                told: dict[str, int | float | str] = {
                    "estimator": trainer.name,
                    "library": trainer.version(),
                    "fitted": "elsewhere",
                }
                found[name] = Trained(compile_estimator(estimator, rows), told)
        return [found[name] for name in wanted]
