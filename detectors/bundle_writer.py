"""Writes bundles: the one place where a fit becomes a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, get_args

import numpy.typing as npt

from detectors import bundle_agreement, bundle_scorer
from detectors.bundle import EMBEDDING, MANIFEST, PATTERNS, SIGNATURE, check_patterns
from detectors.bundle_agreement import FittedAgreement
from detectors.container import npy_header, write_container
from detectors.examples import Examples
from detectors.golden import golden_answers, golden_embedding, golden_scores, golden_stream
from detectors.manifest import (
    ArrayEntry,
    Dtype,
    EmbeddingEntry,
    ExamplesEntry,
    Manifest,
    PatternsEntry,
    TensorEntry,
    TrainingEntry,
    version_of,
)
from detectors.patterns.model import PatternModel
from detectors.scorer import Scorer
from detectors.signing import sign

if TYPE_CHECKING:
    from detectors.embedding import Embedding

_DTYPES: Final[frozenset[str]] = frozenset(get_args(Dtype))


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


def save_bundle(
    path: str | Path,
    scorer: Scorer,
    training: TrainingEntry,
    *,
    patterns: FittedPatterns | None = None,
    agreement: FittedAgreement | None = None,
    embedding: Embedding | None = None,
    examples: Examples | None = None,
    created: str,
    created_by: str,
    libraries: Mapping[str, str],
    feature_names: Sequence[str] | None = None,
    row_shape: Sequence[int] | None = None,
    fitted_with: Mapping[str, Mapping[str, int | float | str]] | None = None,
    signing_key: bytes | None = None,
) -> str:
    """Writes a scorer as a bundle, atomically, and returns its digest.

    Args:
        path: where to; an existing file is replaced once the new one is complete.
        scorer: what to write.
        training: where it came from.
        patterns: of clients over time, to go with it.
        agreement: what needs the model's answer, to go with it.
        embedding: what makes the rows that the scorer takes.
        examples: honest rows to keep.
        created: RFC 3339, UTC.
        created_by: program and version.
        libraries: versions that took part.
        feature_names: in order, if known.
        row_shape: of one row, if it has more than one length.
        fitted_with: each kind's settings, for the reader.
        signing_key: an Ed25519 private key, PEM.

    Raises:
        BundleError: if the patterns are too large.
        ValueError: if the agreement is.
        SigningError: if the key cannot be used.
        OSError: if the file cannot be written.
    """
    detectors, arrays = bundle_scorer.dismantle(scorer, fitted_with or {})
    golden = golden_scores(scorer)
    arrays |= golden
    seen = golden["golden/rows"]
    parts: dict[str, Any] = {}
    if embedding is not None:
        scalars, own = embedding.parts()
        arrays |= {f"{EMBEDDING}{name}": array for name, array in own.items()}
        arrays |= golden_embedding(embedding)
        seen = arrays["golden/raw"]
        parts["embedding"] = EmbeddingEntry(
            kind="onnx", outputs=embedding.outputs, parameters=dict(scalars)
        )
    if agreement is not None:
        parts["agreement"], own = bundle_agreement.dismantle(agreement)
        arrays |= own
        arrays |= golden_answers(agreement.scorer, golden["golden/rows"], golden["golden/merged"])
    if patterns is not None:
        parameters, own = patterns.model.parts()
        check_patterns(own)
        arrays |= {f"{PATTERNS}{name}": array for name, array in own.items()}
        arrays |= golden_stream(seen, patterns.model)
        parts["patterns"] = PatternsEntry(
            parameters=parameters,
            budget=patterns.budget,
            space=patterns.space,
            streams=patterns.streams,
        )
    if examples is not None:
        arrays["examples/rows"] = examples.rows
        if examples.labels is not None:
            arrays["examples/labels"] = examples.labels
        parts["examples"] = ExamplesEntry(
            rows=len(examples.rows), classes=list(examples.classes) or None
        )
    shaped = row_shape is not None and len(row_shape) > 1
    manifest = Manifest(
        schema_version=version_of(parts),
        created=created,
        created_by=created_by,
        libraries=dict(libraries),
        features=scorer.features if embedding is None else embedding.features,
        feature_names=None if feature_names is None else list(feature_names),
        layout=[TensorEntry(name="", shape=list(row_shape or ()))] if shaped else None,
        detectors=detectors,
        calibration=bundle_scorer.calibration_entry(scorer.calibration),
        training=training,
        **parts,
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


def _dtype(array: npt.NDArray[Any]) -> Dtype:
    if array.dtype.str not in _DTYPES:
        raise TypeError(f"a bundle holds no array of {array.dtype}")
    return cast(Dtype, array.dtype.str)
