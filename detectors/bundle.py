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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from detectors import bundle_agreement, bundle_scorer
from detectors.agreement.scorer import AnswerScorer
from detectors.container import ContainerError, npy_header, read_container
from detectors.examples import Examples
from detectors.golden import answers_hold, embedding_holds, patterns_hold, scores_hold
from detectors.manifest import MANIFEST_CAP, Manifest, ManifestError, decode_manifest
from detectors.patterns.model import PatternModel
from detectors.scorer import Engine, ScoreFault, Scorer
from detectors.shelf import Shelf
from detectors.signing import SigningError, verify

if TYPE_CHECKING:
    from detectors.embedding import Embedding

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
PATTERNS_CAP: Final = 64 << 20
"""Bytes of the patterns' arrays, all together."""
PATTERNS: Final = "patterns/"
EMBEDDING: Final = "embedding/"
"""What the names of these parts' arrays begin with."""
_NOT_GOLDEN: Final = "the golden vectors do not come out as they did when the bundle was fitted"


class BundleError(ValueError):
    """The bundle is damaged, forged, unsigned where it must not be, or of another version."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded bundle.

    Attributes:
        digest: SHA-256 of the manifest, in hexadecimal; it covers every array.
        manifest: what is inside.
        scorer: of the input, ready to serve, under the budget that the bundle was fitted for.
            Where there is agreement, the budget is kept over both, and the scorer flags above
            ``agreement.input_threshold``.
        signature: ``none``; ``unverified`` if there was no key to check it with; ``verified``.
        signer: the fingerprint of the key that verified it, or "".
        patterns: of clients over time, who see rows as on the wire; None if fitted without.
        agreement: what needs the model's answer; None if fitted without.
        embedding: what maps rows to those that scorer and agreement take; None: the rows
            themselves.
        examples: honest rows that were kept; None: none.
    """

    digest: str
    manifest: Manifest
    scorer: Scorer
    signature: Literal["none", "unverified", "verified"]
    signer: str = ""
    patterns: PatternModel | None = None
    agreement: AnswerScorer | None = None
    embedding: Embedding | None = None
    examples: Examples | None = None

    @property
    def features(self) -> int:
        """d: the number of features of a row on the wire."""
        return self.manifest.features

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row, (28, 28) of an image; (d,) if it has none of its own."""
        layout = self.manifest.layout
        if layout is None or len(layout) != 1:
            return (self.features,)
        return tuple(layout[0].shape)

    def with_budget(self, alpha: float, delta: float) -> Bundle:
        """The same bundle under another budget and confidence (1 - delta), input and answer.

        Raises:
            BudgetError: if the calibration rows are too few; says how many it takes.
        """
        agreement, flag_above = self.agreement, None
        if agreement is not None:
            agreement = agreement.with_budget(alpha, delta)
            flag_above = agreement.input_threshold
        scorer = self.scorer.with_budget(alpha, delta, flag_above=flag_above)
        return replace(self, scorer=scorer, agreement=agreement)


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
        shelf = Shelf(_read_arrays(manifest, members))
        embedding = _embedding(manifest, shelf)
        scorer, agreement = _scorers(manifest, shelf, embedding, engine)
        patterns = _patterns(manifest, shelf, engine)
        examples = _examples(manifest, shelf)
        shelf.check_empty()
    except BundleError:
        raise
    except (
        ManifestError,
        ValueError,
        TypeError,
        IndexError,
        OverflowError,
        ImportError,  # of what an embedding needs
        ScoreFault,
    ) as error:
        raise BundleError(f"{error}") from error
    except KeyError as error:
        raise BundleError(f"array {error} is missing") from error
    return Bundle(
        hashlib.sha256(data).hexdigest(),
        manifest,
        scorer,
        signature,
        signer,
        patterns,
        agreement,
        embedding,
        examples,
    )


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


def _scorers(
    manifest: Manifest, shelf: Shelf, embedding: Embedding | None, engine: Engine
) -> tuple[Scorer, AnswerScorer | None]:
    """What scores the input, and what scores it with the answer."""
    features = manifest.features if embedding is None else embedding.outputs
    calibration = bundle_scorer.read_calibration(manifest.calibration, shelf["calibration/scores"])
    agreement = None
    if manifest.agreement is not None:
        agreement = bundle_agreement.assemble(manifest.agreement, shelf, features, calibration)
    scorer = bundle_scorer.assemble(
        manifest.detectors,
        shelf,
        calibration,
        flag_above=None if agreement is None else agreement.input_threshold,
        engine=engine,
    )
    if scorer.features != features:
        raise BundleError("a detector is for another number of features than the manifest")
    if not scores_hold(scorer, shelf):
        raise BundleError(_NOT_GOLDEN)
    if agreement is not None and not answers_hold(agreement, shelf):
        raise BundleError(f"agreement: {_NOT_GOLDEN}")
    return scorer, agreement


def _embedding(manifest: Manifest, shelf: Shelf) -> Embedding | None:
    entry = manifest.embedding
    if entry is None:
        return None
    from detectors.embedding import Embedding  # noqa: PLC0415 - what it needs is an extra

    embedding = Embedding.of_parts(dict(entry.parameters), shelf.under(EMBEDDING))
    if (embedding.features, embedding.outputs) != (manifest.features, entry.outputs):
        raise BundleError("the embedding is not of the size that the manifest says")
    if not embedding_holds(embedding, shelf):
        raise BundleError(f"embedding: {_NOT_GOLDEN}")
    return embedding


def _examples(manifest: Manifest, shelf: Shelf) -> Examples | None:
    entry = manifest.examples
    if entry is None:
        return None
    rows = shelf["examples/rows"]
    if rows.shape != (entry.rows, manifest.features):
        raise BundleError("the examples are not as many, or as wide, as the manifest says")
    if entry.classes is None:
        return Examples(rows)
    return Examples(rows, shelf["examples/labels"], tuple(entry.classes))


def _patterns(manifest: Manifest, shelf: Shelf, engine: Engine) -> PatternModel | None:
    if manifest.patterns is None:
        return None
    own = shelf.under(PATTERNS)
    check_patterns(own)
    with np.errstate(all="ignore"):  # of forged values; what comes of them is checked
        model = PatternModel.of_parts(dict(manifest.patterns.parameters), own)
        if model.features != manifest.features:
            raise BundleError("the patterns are for another number of features than the manifest")
        if not patterns_hold(model, shelf, engine):
            raise BundleError(f"patterns: {_NOT_GOLDEN}")
    return model


def check_patterns(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raises BundleError if the arrays of patterns are too large."""
    if sum(array.nbytes for array in arrays.values()) > PATTERNS_CAP:
        raise BundleError(f"the patterns are larger than {PATTERNS_CAP >> 20} MiB")
