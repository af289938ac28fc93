"""Settings to codecs: which protocols an endpoint speaks, and at which paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import Any, Final

from proxy.protocols.base import Codec
from proxy.protocols.contract import Contract
from proxy.settings.protocols import (
    V1,
    V2,
    Auto,
    Invocations,
    Protocol,
    Seldon,
    TorchServe,
)

GRPC_SERVICE: Final = "/inference.GRPCInferenceService"
"""The path of the service whose methods gRPC clients call."""

_CODECS: Final = {
    "v2": ("v2", "V2"),
    "v1": ("v1", "V1"),
    "mlflow": ("invocations", "Invocations"),
    "sagemaker": ("sagemaker", "SageMaker"),
    "torchserve": ("torchserve", "TorchServe"),
    "seldon": ("seldon", "Seldon"),
    "json": ("custom_json", "CustomJson"),
    "openai": ("openai", "OpenAI"),
    "grpc": ("grpc_v2", "GrpcV2"),
}
"""Module and class, imported when an endpoint speaks it: some read images, some protobuf."""

_NAMES: Final = frozenset({"names", "features"})
"""Keywords of codecs whose wire names the features: they are told what those are called."""

_MODEL: Final = re.compile(
    r".*/(?:models|predictions)/(?P<model>[^/]+)(?:/(?:versions/)?(?P<version>[^/]+))?"
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a codec holds messages to.

    Attributes:
        rows: of one request.
        body_bytes: of one request's body, decompressed.
        answer_bytes: of one answer that is to be read.
    """

    rows: int = 256
    body_bytes: int = 10 * 2**20
    answer_bytes: int = 10 * 2**20


@dataclass(frozen=True, slots=True)
class Spoken:
    """One protocol at one place.

    Attributes:
        protocol: with what only it needs to be told.
        match: the clients' path.
        upstream_path: the path on the model server; None: the same.
    """

    protocol: Protocol
    match: str
    upstream_path: str | None = None


def spoken(protocol: Protocol, match: str, upstream_path: str | None = None) -> tuple[Spoken, ...]:
    """The protocols of an endpoint, each at its place: one, or all of ``auto``."""
    if not isinstance(protocol, Auto):
        return (Spoken(protocol, match, upstream_path),)
    base = match.rstrip("/")
    served = None if upstream_path is None else upstream_path.rstrip("/")
    return tuple(
        Spoken(one, f"{base}{path}", None if served is None else f"{served}{path}")
        for one, path in (
            (V2(), f"/v2/models/{protocol.model}"),
            (V1(), f"/v1/models/{protocol.model}"),
            (TorchServe(), f"/predictions/{protocol.model}"),
            (Seldon(), "/api/v1.0/predictions"),
            (Seldon(), "/api/v0.1/predictions"),
            (Invocations(), "/invocations"),
        )
    )


def codec(
    one: Spoken,
    contract: Contract | None,
    bounds: Bounds,
    features: Sequence[str] | None = None,
) -> Codec:
    """The codec of one protocol.

    Args:
        features: names of what is scored of a row, in order, where a bundle knows them.

    Raises:
        ValueError: if a path is not one of the protocol's.
    """
    name: str = one.protocol.name
    own = one.protocol.model_dump(exclude={"name"})
    if isinstance(one.protocol, Invocations):
        name = own.pop("server")
        if name == "sagemaker":
            del own["parameters"]  # MLflow's alone
    for key in _NAMES.intersection(signature(_kind(name)).parameters):
        own[key] = features or ()
    return _codec(name, one.match, contract, bounds, upstream_prefix=one.upstream_path, **own)


def grpc_codec(match: str, contract: Contract | None, bounds: Bounds, **own: Any) -> Codec:
    """The codec of the same model over gRPC.

    Args:
        match: of :func:`grpc_match`.
        own: keywords of the codec's own.

    Raises:
        ImportError: if the extra ``grpc`` is not installed.
        ValueError: if it is not such a path.
    """
    return _codec("grpc", match, contract, bounds, **own)


def grpc_match(protocol: Protocol, match: str, model: str | None) -> str | None:
    """The path by which gRPC clients ask for the model; None if its name is not known.

    Args:
        model: its name, where something says so; None: as in the paths of HTTP.
    """
    if model is None and isinstance(protocol, Auto):
        model = protocol.model
    if model is None and isinstance(protocol, V2 | V1 | TorchServe):
        found = _MODEL.fullmatch(match)
        if found is not None:
            version = f"/{found['version']}" if found["version"] else ""
            return f"{GRPC_SERVICE}/{found['model']}{version}"
    return f"{GRPC_SERVICE}/{model}" if model else None


def _codec(name: str, match: str, contract: Contract | None, bounds: Bounds, **own: Any) -> Codec:
    return _kind(name)(
        match,
        contract,
        max_rows=bounds.rows,
        max_bytes=bounds.body_bytes,
        max_response_bytes=bounds.answer_bytes,
        **own,
    )


def _kind(name: str) -> Callable[..., Codec]:
    module, kind = _CODECS[name]
    found: Callable[..., Codec] = getattr(import_module(f"proxy.protocols.{module}"), kind)
    return found
