"""The manifest of a bundle: what is inside, where it came from and what is promised."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SCHEMA_VERSION: Final = 1
PATTERNS_VERSION: Final = 2
"""Of bundles with patterns: a program that does not know them refuses such a bundle."""
ANSWERS_VERSION: Final = 3
"""Of bundles with agreement detectors, an embedding or kept examples; patterns or not."""
MANIFEST_CAP: Final = 4 << 20
ARRAY_CAP: Final = 256
CLASS_CAP: Final = 65_536
"""Classes of a model, at most."""
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
    """The scalars of a tail; its arrays are ``tail/<kind>/…``, or where an entry says."""

    shape: Number
    scale: Number


class DetectorEntry(_Part):
    """One detector; its arrays are ``<kind>/…``.

    Attributes:
        kind: the registered name.
        parameters: the scalars and words of the compiled detector.
        tail: how its score becomes evidence.
        fitted_with: the estimator's settings, for the reader.
    """

    kind: Name
    parameters: dict[Name, int | Number | Name]
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


class WitnessEntry(_Part):
    """An agreement detector or a second opinion; its tail's arrays are ``agreement_tail/<kind>/…``.

    Attributes:
        kind: the registered name.
        tail: how its score becomes evidence.
    """

    kind: Name
    tail: TailEntry


class WitnessTraining(_Part):
    """What the witnesses learnt from, and how well they and the model do on rows new to both.

    Attributes:
        labels: what the witnesses learnt: labels that were given, or the model's own answers.
        seen: rows that the model was trained on, or that were for fitting only: none of them
            calibrates.
        clients: clients whose rows were for fitting only, so that others' calibrate; 0: rows were
            split at random.
        fitted_on: rows that the witnesses were fitted on.
        accuracy: of each witness that can tell: the share of split A's rows whose label it finds;
            of values the share of their variance (R squared).
        model_accuracy: the same of the model, on splits A and B; null if there are no labels but
            its own.
        mistakes: the share of split B that are the model's own mistakes; null as above, and of
            values.
    """

    labels: Literal["given", "answers"]
    seen: Count
    clients: Count = 0
    fitted_on: Count
    accuracy: dict[Name, Number] = {}
    model_accuracy: Number | None = None
    mistakes: Number | None = None


class AgreementEntry(_Part):
    """What needs the model's answer; the arrays are ``agreement/…``.

    Attributes:
        kind: of answers: classes or values.
        classes: the classes' names in the order of the labels' indices; null for values.
        parameters: the scalars of each kind, and of what kinds share.
        detectors: at least one, in order.
        opinions: asked in the last step; none: there is no such step.
        entry: of the input's merged score; the steps' arrays are ``agreement_step/<step>/…``.
        total: of the sum with the answer.
        final: of the sum with second opinions; null without.
        handicap: nats that the input must have more to refuse a row unanswered.
        suspicion: nats from which on a second opinion is worth its cost; null: never.
        calibration: of the score over all steps; its scores are ``agreement_calibration/scores``.
        training: how it was fitted.
    """

    kind: Literal["classes", "values"]
    classes: Annotated[list[Name], Field(min_length=2, max_length=CLASS_CAP)] | None
    parameters: Annotated[
        dict[Name, Annotated[dict[Name, int | Number | Name], Field(max_length=64)]],
        Field(max_length=64),
    ]
    detectors: Annotated[list[WitnessEntry], Field(min_length=1, max_length=32)]
    opinions: Annotated[list[WitnessEntry], Field(max_length=32)] = []
    entry: TailEntry
    total: TailEntry
    final: TailEntry | None = None
    handicap: Annotated[Number, Field(ge=0)]
    suspicion: Number | None = None
    calibration: CalibrationEntry
    training: WitnessTraining


class EmbeddingEntry(_Part):
    """What maps a row to the features that are scored; its arrays are ``embedding/…``.

    Attributes:
        kind: of model.
        outputs: e, the features that come out.
        parameters: its scalars and words.
    """

    kind: Literal["onnx"]
    outputs: Annotated[int, Field(ge=1, le=FEATURE_CAP)]
    parameters: Annotated[
        dict[Name, int | Number | Name | Annotated[list[Count], Field(max_length=8)]],
        Field(max_length=64),
    ] = {}


class ExamplesEntry(_Part):
    """Honest rows that are kept to explain with: ``examples/rows``, and ``examples/labels``.

    Attributes:
        rows: how many.
        classes: the names that the labels count from 0; null if the rows have no labels.
    """

    rows: Count
    classes: Annotated[list[Name], Field(min_length=1, max_length=CLASS_CAP)] | None = None


class TensorEntry(_Part):
    """One tensor of the request and the shape of one row of it, in the order of the features.

    Attributes:
        name: of the tensor; "" if it was not known.
        shape: of one row of it.
    """

    name: Name
    shape: Annotated[list[Annotated[Count, Field(ge=1)]], Field(min_length=1, max_length=8)]


class Manifest(_Part):
    """The whole manifest.

    Attributes:
        schema_version: of this format: 3 with agreement, an embedding or examples; else 2 with
            patterns, 1 without.
        created: RFC 3339, UTC.
        created_by: program and version.
        libraries: versions that took part in the fit.
        features: d, the number of features of a row on the wire.
        feature_names: in order, or null.
        layout: the tensors that make up a row, or null.
        merge: how the detectors' evidence becomes one score.
        detectors: at least one.
        calibration: the promise.
        training: where the bundle came from.
        patterns: what is known of honest clients over time, or null.
        agreement: what needs the model's answer, or null.
        embedding: what maps rows to the features that detectors score, or null: none.
        examples: honest rows that are kept, or null.
        arrays: every array by name.
    """

    schema_version: Literal[1, 2, 3]
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
    agreement: AgreementEntry | None = None
    embedding: EmbeddingEntry | None = None
    examples: ExamplesEntry | None = None
    arrays: Annotated[dict[Name, ArrayEntry], Field(max_length=ARRAY_CAP)]

    def encode(self) -> bytes:
        """The canonical bytes: what is hashed and signed."""
        value = self.model_dump(mode="json")
        for name in _LATER:
            if value[name] is None:
                del value[name]  # which an earlier version does not know
        return json.dumps(
            value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True
        ).encode()


_LATER: Final = ("patterns", "agreement", "embedding", "examples")
"""Keys that the first version did not have, and that are left out where there is nothing."""


def version_of(manifest: Mapping[str, object]) -> Literal[1, 2, 3]:
    """The schema version that a manifest with these parts (null or not) is written in."""
    if any(manifest.get(name) is not None for name in _LATER[1:]):
        return ANSWERS_VERSION
    return SCHEMA_VERSION if manifest.get("patterns") is None else PATTERNS_VERSION


def decode_manifest(data: bytes) -> Manifest:
    """Reads a manifest strictly: no duplicate or unknown key, no NaN, no other schema version.

    Raises:
        ManifestError: and nothing else, whatever the bytes.
    """
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"the manifest is not strict JSON: {error}") from error
    if not isinstance(value, dict):
        raise ManifestError("the manifest is no JSON object")
    version = value.get("schema_version")
    if version not in (SCHEMA_VERSION, PATTERNS_VERSION, ANSWERS_VERSION):
        raise ManifestError(
            f"schema version {version!r}: "
            f"this program reads {SCHEMA_VERSION}, {PATTERNS_VERSION} and {ANSWERS_VERSION}"
        )
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ManifestError(f"manifest: {where}: {first['msg']}") from error
    if version_of(value) != version:
        raise ManifestError(
            f"manifest: schema version {version} with the parts of schema version "
            f"{version_of(value)}"
        )
    _check_counts(manifest)
    return manifest


def _check_counts(manifest: Manifest) -> None:
    """Raises ManifestError if what is counted twice does not agree."""
    if manifest.feature_names is not None and len(manifest.feature_names) != manifest.features:
        raise ManifestError("manifest: feature_names: not as many as there are features")
    if manifest.layout is not None:
        sizes = [math.prod(tensor.shape) for tensor in manifest.layout]
        if sum(sizes) != manifest.features:
            raise ManifestError("manifest: layout: its tensors do not make up a row")
    agreement = manifest.agreement
    if agreement is None:
        return
    if (agreement.kind == "classes") != (agreement.classes is not None):
        raise ManifestError("manifest: agreement.classes: go with classes, and only with those")
    if agreement.classes is not None and len(set(agreement.classes)) != len(agreement.classes):
        raise ManifestError("manifest: agreement.classes: a name occurs twice")
    if bool(agreement.opinions) != (agreement.final is not None):
        raise ManifestError("manifest: agreement.final: goes with opinions, and only with those")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
