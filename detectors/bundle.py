"""A bundle: everything that scoring needs, in one file that cannot run code.

Members: ``manifest.json``, optionally ``manifest.sig`` (64 bytes of Ed25519 over the manifest), and
one ``.npy`` for each array. The signature is checked before the manifest is parsed; the manifest
holds the SHA-256 of each array; every index, shape and value is checked before a detector is made;
and the golden vectors must come out as they did when the bundle was fitted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from detectors.calibration import BudgetError, Calibration, Tail, threshold_rank
from detectors.container import ContainerError, npy_header, read_container, write_container
from detectors.manifest import (
    MANIFEST_CAP,
    ArrayEntry,
    CalibrationEntry,
    DetectorEntry,
    Manifest,
    ManifestError,
    TailEntry,
    TrainingEntry,
    decode_manifest,
)
from detectors.outlier import REGISTRY, IsolationForest, OutlierDetector
from detectors.outlier.projection import Projection
from detectors.scorer import Engine, ScoreFault, Scorer
from detectors.signing import SigningError, sign, verify

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
_GOLDEN_RELATIVE: Final = 1e-7
_GOLDEN_ABSOLUTE: Final = 1e-7

Arrays = Mapping[str, npt.NDArray[Any]]


class BundleError(ValueError):
    """The bundle is damaged, forged, unsigned where it must not be, or of another version."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded bundle.

    Attributes:
        digest: SHA-256 of the manifest, in hexadecimal; it covers every array.
        manifest: what is inside.
        scorer: ready to serve, under the budget that the bundle was fitted for.
        signature: ``none``; ``unverified`` if there was no key to check it with; ``verified``.
        signer: the fingerprint of the key that verified it, or "".
    """

    digest: str
    manifest: Manifest
    scorer: Scorer
    signature: Literal["none", "unverified", "verified"]
    signer: str = ""


def load_bundle(
    path: str | Path,
    *,
    trusted_keys: Sequence[bytes] = (),
    engine: Engine = "auto",
) -> Bundle:
    """Reads, checks and prepares a bundle.

    Args:
        path: the ``.bundle`` file.
        trusted_keys: Ed25519 public keys, PEM. If any is given, one of them must have signed the
            bundle: a signature that was taken off is as bad as a wrong one.
        engine: as for :class:`Scorer`.

    Raises:
        BundleError: if anything is wrong with it; nothing else, whatever the bytes.
        OSError: if the file cannot be read.
    """
    try:
        members = read_container(Path(path))
    except ContainerError as error:
        raise BundleError(str(error)) from error
    data = members.pop(MANIFEST, None)
    if data is None or len(data) > MANIFEST_CAP:
        raise BundleError("the manifest is missing or too large")
    signature, signer = _check_signature(data, members.pop(SIGNATURE, None), trusted_keys)
    try:
        manifest = decode_manifest(data)
        arrays = _read_arrays(manifest, members)
        scorer = _build(manifest, arrays, engine)
        _check_golden(scorer, arrays)
    except BundleError:
        raise
    except (ManifestError, ValueError, TypeError, IndexError, OverflowError, ScoreFault) as error:
        raise BundleError(f"{error}") from error
    except KeyError as error:
        raise BundleError(f"array {error} is missing") from error
    return Bundle(hashlib.sha256(data).hexdigest(), manifest, scorer, signature, signer)


def save_bundle(
    path: str | Path,
    scorer: Scorer,
    training: TrainingEntry,
    *,
    created: str,
    created_by: str,
    libraries: Mapping[str, str],
    feature_names: Sequence[str] | None = None,
    fitted_with: Mapping[str, Mapping[str, int | float | str]] | None = None,
    signing_key: bytes | None = None,
) -> str:
    """Writes a scorer as a bundle, atomically, and returns its digest.

    Args:
        path: where to; an existing file is replaced once the new one is complete.
        scorer: what to write.
        training: where it came from.
        created: RFC 3339, UTC.
        created_by: program and version.
        libraries: versions that took part.
        feature_names: in order, if known.
        fitted_with: each kind's settings, for the reader.
        signing_key: an Ed25519 private key, PEM.

    Raises:
        SigningError: if the key cannot be used.
        OSError: if the file cannot be written.
    """
    arrays = dict(_dismantle(scorer))
    calibration = scorer.calibration
    manifest = Manifest(
        schema_version=1,
        created=created,
        created_by=created_by,
        libraries=dict(libraries),
        features=scorer.features,
        feature_names=None if feature_names is None else list(feature_names),
        detectors=[
            DetectorEntry(
                kind=detector.name,
                parameters=_parameters(detector),
                tail=TailEntry(shape=tail.shape, scale=tail.scale),
                fitted_with=dict((fitted_with or {}).get(detector.name, {})),
            )
            for detector, tail in zip(scorer.detectors, scorer.tails, strict=True)
        ],
        calibration=CalibrationEntry(
            rows=calibration.scores.size,
            alpha=calibration.alpha,
            delta=calibration.delta,
            rank=calibration.rank,
            threshold=calibration.threshold,
        ),
        training=training,
        arrays={
            name: ArrayEntry(
                dtype=_dtype(array),
                shape=list(array.shape),
                sha256=hashlib.sha256(array.tobytes()).hexdigest(),
            )
            for name, array in arrays.items()
        },
    )
    data = manifest.encode()
    members = {MANIFEST: data}
    if signing_key is not None:
        members[SIGNATURE] = sign(data, signing_key)
    for name, array in arrays.items():
        members[f"{name}.npy"] = npy_header(_dtype(array), array.shape) + array.tobytes()
    write_container(Path(path), members)
    return hashlib.sha256(data).hexdigest()


def _check_signature(
    data: bytes, signature: bytes | None, trusted: Sequence[bytes]
) -> tuple[Literal["none", "unverified", "verified"], str]:
    if not trusted:
        return "none" if signature is None else "unverified", ""
    try:
        return "verified", verify(data, signature, trusted)
    except SigningError as error:
        raise BundleError(str(error)) from error


def _read_arrays(manifest: Manifest, members: Mapping[str, bytes]) -> dict[str, npt.NDArray[Any]]:
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, entry in manifest.arrays.items():
        if not re.fullmatch(r"[a-z_]+(/[a-z_]+){1,2}", name):
            raise BundleError(f"{name!r} is no name for an array")
        data = members.get(f"{name}.npy")
        if data is None:
            raise BundleError(f"array {name!r} is missing")
        shape = tuple(entry.shape)
        header = npy_header(entry.dtype, shape)
        if not data.startswith(header):
            raise BundleError(
                f"array {name!r} is not of the dtype and shape that the manifest says"
            )
        body = data[len(header) :]
        if hashlib.sha256(body).hexdigest() != entry.sha256:
            raise BundleError(f"array {name!r} was changed: its digest differs")
        array = np.frombuffer(body, dtype=entry.dtype)
        arrays[name] = array.reshape(shape)
    strangers = set(members) - {f"{name}.npy" for name in arrays}
    if strangers:
        raise BundleError(f"{min(strangers)!r} is not in the manifest")
    return arrays


def _build(manifest: Manifest, arrays: Arrays, engine: Engine) -> Scorer:
    projection: Projection | None = None
    expected = {"calibration/scores", "golden/rows", "golden/scores", "golden/merged"}
    detectors: list[OutlierDetector] = []
    tails: list[Tail] = []
    for entry in manifest.detectors:
        kind = REGISTRY.get(entry.kind)
        if kind is None:
            raise BundleError(f"{entry.kind!r} is not a detector that this program knows")
        own = {
            name.split("/", 1)[1]: array
            for name, array in arrays.items()
            if name.split("/", 1)[0] == entry.kind
        }
        given: dict[str, Any] = {**entry.parameters, **own}
        if not issubclass(kind, IsolationForest):
            if projection is None:
                parts = {part: arrays[f"projection/{part}"] for part in ("mean", "scale", "basis")}
                projection = Projection(**parts)
                expected |= {f"projection/{part}" for part in parts}
            given["projection"] = projection
        wanted = {field.name for field in fields(kind) if field.init}
        if set(given) != wanted or len(given) < len(own) + len(entry.parameters):
            raise BundleError(f"{entry.kind}: expected {sorted(wanted)}, got {sorted(given)}")
        detectors.append(kind(**given))
        tail = f"tail/{entry.kind}"
        knots, evidence = arrays[f"{tail}/knots"], arrays[f"{tail}/evidence"]
        tails.append(Tail(knots, evidence, entry.tail.shape, entry.tail.scale))
        expected |= {f"{tail}/knots", f"{tail}/evidence"} | {f"{entry.kind}/{name}" for name in own}
    if set(arrays) != expected:
        raise BundleError(f"array {min(set(arrays) ^ expected)!r} is missing or unknown")
    if any(detector.features != manifest.features for detector in detectors):
        raise BundleError("a detector is for another number of features than the manifest")
    return Scorer(detectors, tails, _calibration(manifest, arrays), engine=engine)


def _calibration(manifest: Manifest, arrays: Arrays) -> Calibration:
    entry, scores = manifest.calibration, arrays["calibration/scores"]
    if scores.dtype != np.float64 or scores.ndim != 1 or scores.size != entry.rows:
        raise BundleError("the calibration scores are not as many as the manifest says")
    try:
        rank = threshold_rank(scores.size, entry.alpha, entry.delta)
    except BudgetError as error:
        raise BundleError(f"the manifest promises too much: {error}") from error
    calibration = Calibration.of(scores, entry.alpha, entry.delta)
    if (
        rank != entry.rank
        or calibration.threshold != entry.threshold
        or not np.array_equal(calibration.scores, scores)
    ):
        raise BundleError("threshold and calibration scores do not belong together")
    return calibration


def golden_rows(features: int, centre: npt.NDArray[Any], spread: npt.NDArray[Any]) -> Any:
    """(16, d) float32 made-up rows, typical to far out: no row of the data is given away."""
    noise = np.random.default_rng(16).normal(size=(16, features))
    reach = np.repeat([0.5, 1.0, 4.0, 1000.0], 4)[:, None]
    limit = float(np.finfo(np.float32).max)
    return np.clip(centre + reach * spread * noise, -limit, limit).astype(np.float32)


def _check_golden(scorer: Scorer, arrays: Arrays) -> None:
    rows, merged = arrays["golden/rows"], arrays["golden/merged"]
    if rows.ndim != 2 or not len(rows):
        raise BundleError("there are no golden vectors")
    found = scorer.score(rows)
    tolerances: dict[str, Any] = {"rtol": _GOLDEN_RELATIVE, "atol": _GOLDEN_ABSOLUTE}
    if (
        arrays["golden/scores"].shape != found.scores.shape
        or merged.shape != found.merged.shape
        or not np.allclose(found.scores, arrays["golden/scores"], **tolerances)
        or not np.allclose(found.merged, merged, **tolerances)
    ):
        raise BundleError(
            "the golden vectors do not come out as they did when the bundle was fitted"
        )


def _dismantle(scorer: Scorer) -> dict[str, npt.NDArray[Any]]:
    arrays: dict[str, npt.NDArray[Any]] = {}
    centre: npt.NDArray[Any] = np.zeros(scorer.features)
    spread: npt.NDArray[Any] = np.ones(scorer.features)
    for detector, tail in zip(scorer.detectors, scorer.tails, strict=True):
        for field in fields(detector):
            value = getattr(detector, field.name)
            if field.init and isinstance(value, np.ndarray):
                arrays[f"{detector.name}/{field.name}"] = value
        if not isinstance(detector, IsolationForest):
            projection = detector.projection
            centre, spread = projection.mean, projection.scale
            arrays |= {
                "projection/mean": projection.mean,
                "projection/scale": projection.scale,
                "projection/basis": projection.basis,
            }
        arrays[f"tail/{detector.name}/knots"] = tail.knots
        arrays[f"tail/{detector.name}/evidence"] = tail.evidence
    arrays["calibration/scores"] = scorer.calibration.scores
    arrays["golden/rows"] = golden_rows(scorer.features, centre, spread)
    golden = scorer.score(arrays["golden/rows"])
    arrays["golden/scores"] = np.ascontiguousarray(golden.scores)
    arrays["golden/merged"] = np.ascontiguousarray(golden.merged)
    return arrays


def _parameters(detector: OutlierDetector) -> dict[str, int | float]:
    values = {f.name: getattr(detector, f.name) for f in fields(detector) if f.init}
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def _dtype(array: npt.NDArray[Any]) -> Literal["<f8", "<f4", "<i4"]:
    names: dict[Any, Literal["<f8", "<f4", "<i4"]] = {
        np.dtype(np.float64): "<f8",
        np.dtype(np.float32): "<f4",
        np.dtype(np.int32): "<i4",
    }
    return names[array.dtype]
