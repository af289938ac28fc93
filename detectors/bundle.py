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
from typing import Any, Final, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from detectors.calibration import BudgetError, Calibration, Tail, threshold_rank
from detectors.container import ContainerError, npy_header, read_container, write_container
from detectors.golden import (
    GOLDEN_PATTERNS,
    GOLDEN_SCORES,
    Arrays,
    golden_scores,
    golden_stream,
    patterns_hold,
    scores_hold,
)
from detectors.manifest import (
    MANIFEST_CAP,
    PATTERNS_VERSION,
    SCHEMA_VERSION,
    ArrayEntry,
    CalibrationEntry,
    DetectorEntry,
    Dtype,
    Manifest,
    ManifestError,
    PatternsEntry,
    TailEntry,
    TrainingEntry,
    decode_manifest,
)
from detectors.outlier import REGISTRY, IsolationForest, OutlierDetector
from detectors.outlier.projection import Projection
from detectors.patterns.model import PatternModel
from detectors.scorer import Engine, ScoreFault, Scorer
from detectors.signing import SigningError, sign, verify

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
PATTERNS_CAP: Final = 64 << 20
"""Bytes of the patterns' arrays, all together."""
_PATTERNS: Final = "patterns/"
_NOT_GOLDEN: Final = "the golden vectors do not come out as they did when the bundle was fitted"
_DTYPES: Final[frozenset[str]] = frozenset(get_args(Dtype))


class BundleError(ValueError):
    """The bundle is damaged, forged, unsigned where it must not be, or of another version."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded bundle.

    Attributes:
        digest: SHA-256 of the manifest, in hexadecimal; it covers every array.
        manifest: what is inside.
        scorer: ready to serve, under the budget that the bundle was fitted for.
        patterns: of clients over time; None if the bundle was fitted without.
        signature: ``none``; ``unverified`` if there was no key to check it with; ``verified``.
        signer: the fingerprint of the key that verified it, or "".
    """

    digest: str
    manifest: Manifest
    scorer: Scorer
    signature: Literal["none", "unverified", "verified"]
    signer: str = ""
    patterns: PatternModel | None = None


@dataclass(frozen=True, slots=True)
class FittedPatterns:
    """Patterns, ready to be written.

    Attributes:
        model: what was fitted.
        budget: the share of honest client-days that may alarm, which the rows support.
        space: rows that fitted it.
        streams: other rows, which its honest streams were drawn from.
    """

    model: PatternModel
    budget: float
    space: int
    streams: int


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
        engine: as for :class:`Scorer`, and for checking that the patterns come out as fitted.

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
        patterns = _patterns(manifest, arrays, engine)
    except BundleError:
        raise
    except (ManifestError, ValueError, TypeError, IndexError, OverflowError, ScoreFault) as error:
        raise BundleError(f"{error}") from error
    except KeyError as error:
        raise BundleError(f"array {error} is missing") from error
    digest = hashlib.sha256(data).hexdigest()
    return Bundle(digest, manifest, scorer, signature, signer, patterns)


def save_bundle(
    path: str | Path,
    scorer: Scorer,
    training: TrainingEntry,
    *,
    patterns: FittedPatterns | None = None,
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
        patterns: of clients over time, to go with it.
        created: RFC 3339, UTC.
        created_by: program and version.
        libraries: versions that took part.
        feature_names: in order, if known.
        fitted_with: each kind's settings, for the reader.
        signing_key: an Ed25519 private key, PEM.

    Raises:
        BundleError: if the patterns are too large.
        SigningError: if the key cannot be used.
        OSError: if the file cannot be written.
    """
    arrays = _dismantle(scorer)
    entry = None
    if patterns is not None:
        parameters, own = patterns.model.parts()
        _check_size(own)
        arrays |= {f"{_PATTERNS}{name}": array for name, array in own.items()}
        arrays |= golden_stream(scorer, patterns.model)
        entry = PatternsEntry(
            parameters=parameters,
            budget=patterns.budget,
            space=patterns.space,
            streams=patterns.streams,
        )
    calibration = scorer.calibration
    manifest = Manifest(
        schema_version=SCHEMA_VERSION if patterns is None else PATTERNS_VERSION,
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
        patterns=entry,
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
        if not re.fullmatch(r"[a-z_]+(/[a-z0-9_]+){1,2}", name):
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
    expected = {"calibration/scores", *GOLDEN_SCORES}
    if manifest.patterns is not None:
        expected |= {name for name in arrays if name.startswith(_PATTERNS)} | GOLDEN_PATTERNS
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
    scorer = Scorer(detectors, tails, _calibration(manifest, arrays), engine=engine)
    if not scores_hold(scorer, arrays):
        raise BundleError(_NOT_GOLDEN)
    return scorer


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


def _patterns(manifest: Manifest, arrays: Arrays, engine: Engine) -> PatternModel | None:
    if manifest.patterns is None:
        return None
    own = {
        name.removeprefix(_PATTERNS): array
        for name, array in arrays.items()
        if name.startswith(_PATTERNS)
    }
    _check_size(own)
    with np.errstate(all="ignore"):  # of forged values; what comes of them is checked
        model = PatternModel.of_parts(dict(manifest.patterns.parameters), own)
        if model.features != manifest.features:
            raise BundleError("the patterns are for another number of features than the manifest")
        if not patterns_hold(model, arrays, engine):
            raise BundleError(f"patterns: {_NOT_GOLDEN}")
    return model


def _check_size(arrays: Arrays) -> None:
    if sum(array.nbytes for array in arrays.values()) > PATTERNS_CAP:
        raise BundleError(f"the patterns are larger than {PATTERNS_CAP >> 20} MiB")


def _dismantle(scorer: Scorer) -> dict[str, npt.NDArray[Any]]:
    arrays: dict[str, npt.NDArray[Any]] = {}
    for detector, tail in zip(scorer.detectors, scorer.tails, strict=True):
        for field in fields(detector):
            value = getattr(detector, field.name)
            if field.init and isinstance(value, np.ndarray):
                arrays[f"{detector.name}/{field.name}"] = value
        if not isinstance(detector, IsolationForest):
            projection = detector.projection
            arrays |= {
                "projection/mean": projection.mean,
                "projection/scale": projection.scale,
                "projection/basis": projection.basis,
            }
        arrays[f"tail/{detector.name}/knots"] = tail.knots
        arrays[f"tail/{detector.name}/evidence"] = tail.evidence
    arrays["calibration/scores"] = scorer.calibration.scores
    arrays |= golden_scores(scorer)
    return arrays


def _parameters(detector: OutlierDetector) -> dict[str, int | float]:
    values = {f.name: getattr(detector, f.name) for f in fields(detector) if f.init}
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def _dtype(array: npt.NDArray[Any]) -> Dtype:
    if array.dtype.str not in _DTYPES:
        raise TypeError(f"a bundle holds no array of {array.dtype}")
    return cast(Dtype, array.dtype.str)
