"""The manifest of a bundle: what is inside, where it came from and what is promised."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SCHEMA_VERSION: Final = 1
PATTERNS_VERSION: Final = 2
"""Of bundles with patterns: a program that does not know them refuses such a bundle."""
MANIFEST_CAP: Final = 4 << 20
ARRAY_CAP: Final = 128
FEATURE_CAP: Final = 1 << 16

Name = Annotated[str, Field(max_length=200)]
Count = Annotated[int, Field(ge=0, le=1 << 40)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Dtype = Literal["<f8", "<f4", "<f2", "<i8", "<i4", "<u8", "<u4", "<u2", "|u1"]


class ManifestError(ValueError):
    """The manifest is not what this version reads. Says where and why."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ArrayEntry(_Part):
    """One array: little-endian, C order, as a ``.npy`` member.

    Attributes:
        dtype: as numpy writes it.
        shape: one to three lengths.
        sha256: of the array's bytes, without the member's header.
    """

    dtype: Dtype
    shape: Annotated[
        list[Annotated[int, Field(ge=0, le=1 << 31)]], Field(min_length=1, max_length=3)
    ]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class TailEntry(_Part):
    """The scalars of a detector's tail; its arrays are ``tail/<kind>/…``."""

    shape: Number
    scale: Number


class DetectorEntry(_Part):
    """One detector; its arrays are ``<kind>/…``.

    Attributes:
        kind: the registered name.
        parameters: the scalars of the compiled detector.
        tail: how its score becomes evidence.
        fitted_with: the estimator's settings, for the reader.
    """

    kind: Name
    parameters: dict[Name, int | Number]
    tail: TailEntry
    fitted_with: dict[Name, int | Number | str] = {}


class CalibrationEntry(_Part):
    """The promise: with confidence 1 - delta, at most alpha of honest rows are flagged.

    Attributes:
        rows: n, the calibration rows of split B.
        alpha: the false-positive budget.
        delta: the risk that it does not hold.
        rank: the threshold is the rank-th largest calibration score.
        threshold: that score.
    """

    rows: Count
    alpha: Share
    delta: Share
    rank: Count
    threshold: Number


class RowsEntry(_Part):
    """How the rows were used; the other counts add up to ``read``."""

    read: Count
    duplicates: Count
    train: Count
    merge: Count
    threshold: Count
    unused: Count


class TrainingEntry(_Part):
    """Where the bundle came from.

    Attributes:
        seed: of the splits and the estimators.
        rows: how the rows were used.
        constant_features: indices of features that held one value in every training row.
        classes: rows for each class label, if labels were given.
    """

    seed: int
    rows: RowsEntry
    constant_features: list[Count] = []
    classes: dict[Name, Count] | None = None


class PatternsEntry(_Part):
    """The patterns of clients over time; their arrays are ``patterns/…``.

    Attributes:
        parameters: the scalars of the fitted model.
        budget: the share of honest client-days that may alarm, which the rows support.
        space: rows that fitted it.
        streams: other rows, which its honest streams were drawn from.
    """

    parameters: Annotated[dict[Name, int | Number | Name], Field(max_length=64)]
    budget: Share
    space: Count
    streams: Count


class TensorEntry(_Part):
    """One tensor of the request and the shape of one row of it, in the order of the features."""

    name: Name
    shape: list[Count]


class Manifest(_Part):
    """The whole manifest.

    Attributes:
        schema_version: of this format: 2 with patterns, 1 without.
        created: RFC 3339, UTC.
        created_by: program and version.
        libraries: versions that took part in the fit.
        features: d, the number of features of a row.
        feature_names: in order, or null.
        layout: the tensors that make up a row, or null.
        merge: how the detectors' evidence becomes one score.
        detectors: at least one.
        calibration: the promise.
        training: where the bundle came from.
        patterns: what is known of honest clients over time, or null.
        arrays: every array by name.
    """

    schema_version: Literal[1, 2]
    created: Name
    created_by: Name
    libraries: dict[Name, Name]
    features: Annotated[int, Field(ge=1, le=FEATURE_CAP)]
    feature_names: list[Name] | None = None
    layout: list[TensorEntry] | None = None
    merge: Literal["log-mean-inverse-p"] = "log-mean-inverse-p"
    detectors: Annotated[list[DetectorEntry], Field(min_length=1, max_length=32)]
    calibration: CalibrationEntry
    training: TrainingEntry
    patterns: PatternsEntry | None = None
    arrays: Annotated[dict[Name, ArrayEntry], Field(max_length=ARRAY_CAP)]

    def encode(self) -> bytes:
        """The canonical bytes: what is hashed and signed."""
        value = self.model_dump(mode="json")
        if self.patterns is None:
            del value["patterns"]  # which version 1 does not know
        return json.dumps(
            value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True
        ).encode()


def decode_manifest(data: bytes) -> Manifest:
    """Reads a manifest strictly: no duplicate or unknown key, no NaN, no other schema version.

    Raises:
        ManifestError: and nothing else, whatever the bytes.
    """
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"the manifest is not strict JSON: {error}") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version not in (SCHEMA_VERSION, PATTERNS_VERSION):
        raise ManifestError(
            f"schema version {version!r}: "
            f"this program reads {SCHEMA_VERSION} and {PATTERNS_VERSION}"
        )
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ManifestError(f"manifest: {where}: {first['msg']}") from error
    if (manifest.patterns is None) != (version == SCHEMA_VERSION):
        raise ManifestError(
            f"manifest: patterns go with schema version {PATTERNS_VERSION}, and only with that"
        )
    if manifest.feature_names is not None and len(manifest.feature_names) != manifest.features:
        raise ManifestError("manifest: feature_names: not as many as there are features")
    return manifest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
