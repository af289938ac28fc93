"""What fits detectors and second opinions, by name, wherever the library lives that knows how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectors.agreement.base import SecondOpinion
from detectors.arrays import Singles
from detectors.training import alibi, trainers
from detectors.training.agreement import fit_opinions
from detectors.training.readers import DataError
from detectors.training.supervision import Supervision
from detectors.training.trainers import Settings, SettingsError, Trained


@dataclass(frozen=True, slots=True)
class Libraries:
    """This project's own kinds, classes of scikit-learn and PyOD, and those of alibi-detect.

    Attributes:
        alibi: the environment that alibi-detect is in; None: there is none.
    """

    alibi: alibi.Alibi | None = None

    @classmethod
    def of(cls, alibi_python: Path | None, *, licence_held: bool = False) -> Libraries:
        """With the alibi-detect of an interpreter, if one is named."""
        return cls(None if alibi_python is None else alibi.Alibi(alibi_python, licence_held))

    def check(
        self, names: Sequence[str], opinions: Sequence[str] = (), settings: Settings | None = None
    ) -> None:
        """Refuses what cannot be fitted, before anything is.

        Raises:
            ValueError: if a name is unknown or occurs twice, a setting is for nothing, or the
                environment that it takes is not named.
        """
        theirs, own, given = _apart(names, settings or {}, opinions)
        if own or not theirs:
            trainers.check(own, given)
        elif given:
            raise SettingsError(f"settings for {min(given)!r}, which is not fitted")
        for name in theirs:
            if name not in alibi.NAMES or theirs.count(name) > 1:
                raise SettingsError(
                    f"{name!r}: expected some of {', '.join(alibi.NAMES)}, each once"
                )
        if (theirs or alibi.OPINION in opinions) and self.alibi is None:
            named = theirs[0] if theirs else alibi.OPINION
            raise SettingsError(
                f"{named} is fitted in an environment of its own: name its Python with "
                "--alibi-python"
            )

    def detectors(
        self, rows: Singles, names: Sequence[str], seed: int, settings: Settings
    ) -> list[Trained]:
        """Fits each detector on (n, d) float32 training rows, in the order of the names.

        Raises:
            ValueError: as :meth:`check`; or if one cannot be fitted or compiled.
        """
        self.check(names, settings=_of(names, settings))
        theirs, own, given = _apart(names, settings, (alibi.OPINION,))
        fitted: dict[str, Trained] = {}
        if own:
            fitted |= zip(own, trainers.fit_detectors(rows, own, seed, given), strict=True)
        if theirs and self.alibi is not None:
            found = alibi.fit_alibi(theirs, rows, settings, self.alibi, seed=seed)
            fitted |= zip(theirs, (Trained(*one) for one in found), strict=True)
        return [fitted[name] for name in names]

    def opinions(
        self,
        names: Sequence[str],
        rows: Singles,
        truth: Supervision,
        *,
        row_shape: tuple[int, ...] | None,
        settings: Settings,
        seed: int,
    ) -> list[SecondOpinion]:
        """Fits each second opinion on (n, d) float32 training rows.

        Raises:
            ValueError: if one is unknown, or cannot be fitted.
        """
        own = [name for name in names if name != alibi.OPINION]
        found = fit_opinions(rows, own, row_shape=row_shape, seed=seed)
        if len(own) == len(names):
            return found
        if self.alibi is None or truth.classes is None:
            raise DataError(f"{alibi.OPINION} needs --alibi-python, and a model that classifies")
        given: Mapping[str, Any] = settings.get(alibi.OPINION, {})
        reconstruction = alibi.fit_alibi_opinion(
            rows, truth.answers, len(truth.classes), given, self.alibi, seed=seed
        )
        return [*found, reconstruction]


def _of(names: Sequence[str], settings: Settings) -> Settings:
    """Without those of second opinions."""
    return {
        name: given for name, given in settings.items() if name in names or name != alibi.OPINION
    }


def _apart(
    names: Sequence[str], settings: Settings, opinions: Sequence[str]
) -> tuple[list[str], list[str], dict[str, Any]]:
    """alibi-detect's names, the others, and the settings of the others."""
    theirs = [name for name in names if name.startswith(alibi.PREFIX)]
    own = [name for name in names if not name.startswith(alibi.PREFIX)]
    given = {
        name: value
        for name, value in settings.items()
        if name not in theirs and name not in opinions
    }
    return theirs, own, given
