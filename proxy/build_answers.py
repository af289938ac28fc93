"""Settings to what an endpoint does with the model's answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import SystemRandom
from secrets import token_bytes
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from detectors.agreement.scorer import AnswerScorer
from detectors.bundle import Bundle
from proxy.capture import BYTES_CAP, Capture
from proxy.decision import Mode
from proxy.reading import AnswerReader
from proxy.second_opinion import SecondOpinions
from proxy.settings.endpoint import Endpoint
from proxy.settings.protocols import CustomJson
from proxy.shaping import Style, noise_key

Random: TypeAlias = Callable[[int], npt.NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Answering:
    """What an endpoint does with answers: attributes of ``proxy.endpoint.Endpoint``."""

    judge: tuple[AnswerReader, AnswerScorer] | None
    opinions: SecondOpinions | None
    style: Style
    always_shaped: bool
    capture: Capture | None


def answering(
    endpoint: Endpoint,
    bundle: Bundle | None,
    *,
    secret: bytes,
    workers: int = 1,
    former: tuple[Endpoint, Capture | None] | None = None,
    random: Random | None = None,
) -> Answering:
    """What is done with one endpoint's answers.

    Args:
        secret: from which the key of the shaping's noise is derived.
        workers: of this gateway: a sample is theirs together.
        former: the endpoint's settings so far, and its sample: that goes on if it would be the
            same.
        random: (n,) numbers in [0, 1), by which suspicious rows are sampled; None: of its own.

    Raises:
        ValueError: if it cannot be done with this bundle.
    """
    agreement = bundle.agreement if bundle else None
    if agreement is not None and endpoint.protocol.name == "openai":
        raise ValueError(
            f"{endpoint.bundle} was fitted with the model's answers to its rows: "
            "of embeddings, which are answers, there are none"
        )
    if bundle is not None and agreement is None:
        _check_idle(endpoint)
    _check_readable(endpoint, bundle)
    return Answering(
        judge=(_reader(endpoint, agreement), agreement) if agreement else None,
        opinions=_opinions(endpoint, bundle, random or np.random.default_rng().random),
        style=_style(endpoint, agreement, secret),
        always_shaped=endpoint.shaping.when == "always" and endpoint.mode is Mode.ENFORCE,
        capture=_capture(endpoint, workers, former),
    )


def _check_idle(endpoint: Endpoint) -> None:
    """Refuses what does nothing where no answer is judged."""
    idle = endpoint.model_fields_set & {"on_disagreement", "second_opinion"}
    if endpoint.capture is None and "shaping" not in endpoint.model_fields_set:
        idle |= endpoint.model_fields_set & {"answer"}
    idle |= {f"rules.{rule}" for rule in endpoint.rules if rule == "BZ-400"}
    if idle:
        raise ValueError(
            f"{endpoint.bundle} was fitted without agreement, as it takes the model's answers to "
            f"honest rows: {', '.join(sorted(idle))} would do nothing"
        )


def _check_readable(endpoint: Endpoint, bundle: Bundle | None) -> None:
    """Refuses to need answers of which it is not said where they hold what the model says."""
    protocol = endpoint.protocol
    if not isinstance(protocol, CustomJson) or protocol.answer is not None:
        return
    if bundle is not None and (
        bundle.agreement is not None
        or (bundle.patterns is not None and "shape" in endpoint.on_pattern)
    ):
        raise ValueError(
            f"protocol.answer: with {endpoint.bundle} answers are judged or shaped: say where they "
            "hold what the model says"
        )


def _reader(endpoint: Endpoint, agreement: AnswerScorer) -> AnswerReader:
    answer = endpoint.answer
    try:
        return AnswerReader(
            agreement.classes,
            agreement.outputs,
            # A second opinion that needs more is not asked for where an answer tells less.
            frozenset(detector.needs for detector in agreement.detectors),
            output=answer.output,
            kind=answer.kind,
            order=answer.classes,
        )
    except ValueError as error:
        raise ValueError(f"answer: {error}") from None


def _opinions(endpoint: Endpoint, bundle: Bundle | None, random: Random) -> SecondOpinions | None:
    given = endpoint.second_opinion
    if given.when == "never" or bundle is None or bundle.agreement is None:
        return None
    if bundle.embedding is not None:
        raise ValueError("second_opinion: there is no way back from an embedding to a row")
    try:
        return SecondOpinions(
            bundle.agreement,
            share=given.share,
            sample=given.sample if given.when == "sampled" else 1.0,
            seconds=given.timeout_seconds,
            random=random,
        )
    except ValueError as error:
        raise ValueError(f"second_opinion: {error}: fit {endpoint.bundle} with some") from None


def _style(endpoint: Endpoint, agreement: AnswerScorer | None, secret: bytes) -> Style:
    given, answer = endpoint.shaping, endpoint.answer
    regression = agreement is not None and agreement.classes is None
    try:
        return Style(
            mode=given.mode,
            decimals=given.decimals,
            top_k=given.top_k,
            noise=given.noise,
            keep_best=given.keep_best,
            key=noise_key(secret, endpoint.name) if given.mode == "noise" else b"",
            output=answer.output,
            kind="values" if regression else answer.kind,
            classes=answer.classes or (agreement and agreement.classes) or (),
        )
    except ValueError as error:
        raise ValueError(f"shaping: {error}") from None


def _capture(
    endpoint: Endpoint, workers: int, former: tuple[Endpoint, Capture | None] | None
) -> Capture | None:
    given, answer = endpoint.capture, endpoint.answer
    if given is None:
        return None
    if former is not None and former[1] is not None:
        before, sample = former
        if (before.capture, before.answer, before.match) == (given, answer, endpoint.match):
            return sample
    return Capture(
        rows=-(-given.rows // workers),
        rows_per_client=-(-given.rows_per_client // workers),
        most_bytes=BYTES_CAP // workers,
        anonymise=given.anonymise,
        dice=SystemRandom(),
        salt=token_bytes(16),
        output=answer.output,
        kind=answer.kind,
        classes=answer.classes,
    )
