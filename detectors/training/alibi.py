"""alibi-detect's detectors, fitted in an environment of their own and compiled to arrays.

alibi-detect needs libraries that cannot stand beside this project's (numpy 1, TensorFlow), so
another interpreter runs :mod:`detectors.training.alibi_export` and hands arrays back. What is
compiled from them is compared, at every fit, with the scores that the library itself gives.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from detectors.agreement.base import Answers
from detectors.agreement.reconstruction import Reconstruction
from detectors.arrays import Floats, Singles
from detectors.outlier import OutlierDetector
from detectors.training import alibi_export
from detectors.training.alibi_compile import COMPILERS, Layout
from detectors.training.estimators import feature_scale

PREFIX: Final = "alibi_detect."
NAMES: Final = tuple(f"{PREFIX}{name}" for name in COMPILERS)
"""What ``--detectors`` takes beside this project's own kinds."""
OPINION: Final = f"{PREFIX}AdversarialAE"
"""What ``--second-opinion`` takes."""
REFERENCE_ROWS: Final = 2000
"""Rows that KNN and LOF keep, unless their setting ``max_rows`` says otherwise."""
_PROBES: Final = 128
_SECONDS: Final = 3600.0
_ERROR_LINES: Final = 3
_LICENCE: Final = (
    "alibi-detect {version} is not known to be free. From 0.11.5 on it is under the Business "
    "Source License 1.1: production use is for non-profit education alone, and for others by a "
    "licence from its maker. The last release under the Apache License 2.0 is 0.11.4: install "
    "alibi-detect==0.11.4 in that environment, or state that you hold a licence with "
    "--alibi-licence-held"
)


class AlibiError(ValueError):
    """alibi-detect cannot be used as asked, or a detector of it cannot be served. Says why."""


class AlibiTrained(NamedTuple):
    """A detector, and what it was fitted with, for the manifest."""

    detector: OutlierDetector
    fitted_with: dict[str, int | float | str]


@dataclass(frozen=True, slots=True)
class Alibi:
    """An environment that has alibi-detect.

    Attributes:
        python: its interpreter.
        licence_held: whether the user states that they hold a licence for a release after 0.11.4.
        seconds: how long a fit may take.
    """

    python: Path
    licence_held: bool = False
    seconds: float = _SECONDS

    def export(
        self,
        names: Sequence[str],
        rows: Singles,
        probes: Singles,
        settings: Mapping[str, Mapping[str, Any]],
        *,
        seed: int,
        answers: npt.NDArray[np.float32] | None = None,
    ) -> Exported:
        """Has the library fit detectors on rows and score the probes.

        Args:
            names: classes of the library, without the prefix.
            rows: (n, d) float32.
            probes: (m, d) float32, scored by the library itself.
            settings: by name; what the library's constructors and ``fit`` take.
            seed: of everything that is drawn.
            answers: (n, classes) probabilities, for those that need the model's answers.

        Raises:
            AlibiError: if the library is missing, its licence does not allow it, or it fails.
        """
        layout = _layout(rows)
        given = {
            "rows": rows,
            "standard": layout.standard(rows),
            "probes": probes,
            "standard_probes": layout.standard(probes),
            "bounds": layout.bounds,
        }
        if answers is not None:
            given["answers"] = answers
        request = {
            "seed": seed,
            "licence_held": self.licence_held,
            "detectors": [
                {"name": name, "settings": dict(settings.get(name, {}))} for name in names
            ],
        }
        with tempfile.TemporaryDirectory(prefix="bartizan-alibi-") as name:
            folder = Path(name)
            (folder / "request.json").write_text(json.dumps(request))
            np.savez(folder / "rows.npz", allow_pickle=False, **given)
            told = self._run(folder)
            try:
                with np.load(folder / "arrays.npz", allow_pickle=False) as held:
                    arrays = {key: held[key] for key in held.files}
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                raise AlibiError(f"what {self.python} wrote are not arrays: {error}") from error
        own: list[dict[str, npt.NDArray[Any]]] = [{} for _ in names]
        for key, array in arrays.items():
            index, name = key.split("/", 1)
            own[int(index)][name] = array
        return Exported(layout, told["libraries"], told["detectors"], own)

    def _run(self, folder: Path) -> dict[str, Any]:
        program = Path(alibi_export.__file__)
        quiet = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        try:
            done = subprocess.run(  # noqa: S603 - the interpreter that the user named
                [str(self.python), "-I", str(program), str(folder)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self.seconds,
                check=False,
                env={**os.environ, **quiet},
            )
        except OSError as error:
            raise AlibiError(f"{self.python} cannot be run: {error.strerror}") from error
        except subprocess.TimeoutExpired as error:
            raise AlibiError(f"alibi-detect took longer than {self.seconds:.0f} s") from error
        if done.returncode or not (folder / "result.json").is_file():
            last = done.stderr.decode(errors="replace").strip().splitlines()[-_ERROR_LINES:]
            raise AlibiError(f"{self.python} failed: {' / '.join(last) or done.returncode}")
        told: dict[str, Any] = json.loads((folder / "result.json").read_text())
        if told["version"] is None:
            raise AlibiError(f"alibi-detect is not installed for {self.python}")
        if told.get("refused"):
            raise AlibiError(_LICENCE.format(version=told["version"]))
        if "failed" in told:
            raise AlibiError(f"{PREFIX}{told['failed']}: {told['error']}")
        return told


@dataclass(frozen=True, slots=True)
class Exported:
    """What came back.

    Attributes:
        layout: how rows were standardised for the detectors that are neural networks.
        libraries: versions that took part.
        scalars: of each detector.
        arrays: of each detector; ``scores`` are the library's own scores of the probes.
    """

    layout: Layout
    libraries: dict[str, str]
    scalars: list[dict[str, Any]]
    arrays: list[dict[str, npt.NDArray[Any]]]


def fit_alibi(
    names: Sequence[str],
    rows: Singles,
    settings: Mapping[str, Mapping[str, Any]],
    alibi: Alibi,
    *,
    seed: int,
) -> list[AlibiTrained]:
    """Fits alibi-detect's detectors on honest rows; deterministic under ``seed``.

    Args:
        names: some of :data:`NAMES`.
        rows: (n, d) float32, finite.
        settings: by name.
        alibi: the environment.
        seed: of everything that is drawn.

    Raises:
        AlibiError: if a name is unknown, the environment cannot be used, or a detector cannot be
            compiled so that it scores as the library does.
    """
    for name in names:
        if name == OPINION:
            raise AlibiError(f"{name} asks the model again: it is a second opinion")
        if name not in NAMES:
            raise AlibiError(f"{name!r}: expected some of {', '.join(NAMES)}")
    if not names:
        return []
    rows = np.ascontiguousarray(rows[np.random.default_rng(seed).permutation(len(rows))])
    classes = [name.removeprefix(PREFIX) for name in names]
    wanted = {short: dict(settings.get(PREFIX + short, {})) for short in classes}
    for short in ("KNN", "LOF"):
        if short in wanted:
            wanted[short].setdefault("max_rows", min(REFERENCE_ROWS, len(rows)))
    probes = made_up_probes(rows, seed)
    exported = alibi.export(classes, rows, probes, wanted, seed=seed)
    trained = []
    for index, short in enumerate(classes):
        arrays, scalars = exported.arrays[index], exported.scalars[index]
        try:
            detector = COMPILERS[short].compile(arrays, scalars, exported.layout)
        except (ValueError, KeyError) as error:
            raise AlibiError(f"{PREFIX}{short} cannot be compiled: {error}") from error
        _compare(short, detector, probes, arrays["scores"] - scalars.get("offset", 0.0))
        version = exported.libraries["alibi-detect"]
        told = {"library": f"alibi-detect {version}", "class": short}
        trained.append(AlibiTrained(detector, {**told, **_plain(wanted[short])}))
    return trained


def fit_alibi_opinion(
    rows: Singles,
    answers: Answers,
    classes: int,
    settings: Mapping[str, Any],
    alibi: Alibi,
    *,
    seed: int,
) -> Reconstruction:
    """Fits the autoencoder of AdversarialAE, whose reconstructions the model is asked about.

    Its training needs the model's gradient, which only the model's server has: a stand-in that
    learns from the model's answers gives it instead. When served, the model itself is asked.

    Args:
        rows: (n, d) float32, finite.
        answers: the model's, of these rows: labels, and probabilities if they are known.
        classes: the number of classes.
        settings: of AdversarialAE.
        alibi: the environment.
        seed: of everything that is drawn.

    Raises:
        AlibiError: as :func:`fit_alibi`; or if the answers are not those of a classifier.
    """
    if answers.labels is None:
        raise AlibiError(f"{OPINION} is for classifiers")
    probabilities = answers.probabilities
    if probabilities is None:
        probabilities = np.eye(classes)[answers.labels]
    probes = made_up_probes(rows, seed)
    exported = alibi.export(
        [OPINION.removeprefix(PREFIX)],
        np.ascontiguousarray(rows),
        probes,
        {OPINION.removeprefix(PREFIX): settings},
        seed=seed,
        answers=probabilities.astype(np.float32),
    )
    arrays, scalars = exported.arrays[0], exported.scalars[0]
    opinion = exported.layout.reconstruction(arrays, scalars)
    views = exported.layout.standard(opinion.views(probes))
    if not np.allclose(views, arrays["probe_views"], rtol=1e-3, atol=1e-3):
        raise AlibiError(f"{OPINION}: the reconstructions are not those of the library")
    found = opinion.score(
        Answers.of_probabilities(arrays["probe_answers"]),
        Answers.of_probabilities(arrays["probe_again"]),
    )
    if not np.allclose(found, arrays["scores"], rtol=1e-3, atol=1e-4):
        raise AlibiError(f"{OPINION}: the scores are not those of the library")
    return opinion


def made_up_probes(rows: Singles, seed: int) -> Singles:
    """(m, d) rows to compare scores on: next to honest ones, and leaving them more and more.

    Next to, not the same: where neighbours are equally far, which of them counts is arbitrary.
    """
    generator = np.random.default_rng(seed)
    honest = rows[generator.permutation(len(rows))[:_PROBES]].astype(np.float64)
    reach = np.geomspace(0.01, 10.0, len(honest))[:, None]
    noise = rows.std(axis=0) * generator.normal(size=honest.shape)
    probes: Singles = (honest + reach * noise).astype(np.float32)
    return probes


def _layout(rows: Singles) -> Layout:
    wide = rows.astype(np.float64)
    return Layout.of(wide, wide.mean(axis=0), feature_scale(wide))


def _compare(name: str, detector: OutlierDetector, probes: Singles, expected: Floats) -> None:
    """Raises AlibiError unless the detector scores the probes as the library did."""
    found = detector.score(probes)
    tolerance = COMPILERS[name].tolerance
    if not bool(np.isfinite(expected).all()):
        raise AlibiError(f"{PREFIX}{name}: the library gives scores that are not finite")
    if not np.allclose(found, expected, rtol=tolerance, atol=tolerance * np.median(expected)):
        worst = int(np.abs(found - expected).argmax())
        raise AlibiError(
            f"{PREFIX}{name}: compiled, it does not score as the library does "
            f"({found[worst]:.9g} instead of {expected[worst]:.9g})"
        )


def _plain(settings: Mapping[str, Any]) -> dict[str, int | float | str]:
    return {
        name: value if isinstance(value, int | float | str) else str(value)
        for name, value in settings.items()
    }
