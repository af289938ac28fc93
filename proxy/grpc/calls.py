"""Which endpoint a gRPC call is for: its method, and the model that its message names."""

from __future__ import annotations

import re
from typing import Final

from proxy import protobuf
from proxy.protobuf import WireError
from proxy.rules import NO_ROUTE, SYNTAX, Refusal

SERVICE: Final = "/inference.GRPCInferenceService"
STREAM: Final = f"{SERVICE}/ModelStreamInfer"

METHODS: Final = tuple(
    f"{SERVICE}/{method}"
    for method in (
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryUnregister",
        "LogSettings",
        "ModelConfig",
        "ModelInfer",
        "ModelMetadata",
        "ModelReady",
        "ModelStatistics",
        "ModelStreamInfer",
        "RepositoryIndex",
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "ServerLive",
        "ServerMetadata",
        "ServerReady",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryUnregister",
        "TraceSetting",
    )
)
"""The service's methods, whether they pass or not: all others are unknown."""

_NAMING: Final = frozenset(
    f"{SERVICE}/{method}"
    for method in ("ModelInfer", "ModelStreamInfer", "ModelReady", "ModelMetadata")
)
"""Methods whose message has the model's name in field 1 and its version in field 2."""

_MOST_FIELDS: Final = 1024
_SEGMENT: Final = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._~-]{1,128}")


def names_model(method: str) -> bool:
    """Whether calls of this method are about a model."""
    return method in _NAMING


def target_of(method: str, message: bytes) -> str:
    """The target by which a call finds its endpoint: ``/SERVICE/MODEL[/VERSION]/METHOD`` if it is
    about a model, and the method otherwise.

    A reader that is not this one must find the same name: it may be there once only.

    Raises:
        Refusal: SYNTAX if no name can be read; NO_ROUTE if it is none that an endpoint can have.
    """
    if method not in _NAMING:
        return method
    try:
        model, version = _names(message)
    except WireError as error:
        raise Refusal(SYNTAX, str(error)) from None
    if not _SEGMENT.fullmatch(model) or (version and not _SEGMENT.fullmatch(version)):
        raise Refusal(NO_ROUTE)
    name = method[len(SERVICE) :]
    return f"{SERVICE}/{model}/{version}{name}" if version else f"{SERVICE}/{model}{name}"


def _names(message: bytes) -> tuple[str, str]:
    """The model's name and its version, "" where they are missing.

    Raises:
        WireError: if one is there twice, or it is no message.
    """
    names: dict[int, str] = {}
    for number, start, stop in protobuf.spans(message, 0, len(message), _MOST_FIELDS):
        if number <= 2:
            if number in names:
                raise WireError("the model is named twice")
            names[number] = protobuf.text(message[start:stop])
    return names.get(1, ""), names.get(2, "")


def method_of(target: str) -> tuple[str, bytes]:
    """The method of a target, and the message that names its model: the whole of a message that
    asks for no inference."""
    parts = target.split("/")
    message = b"".join(
        protobuf.span(number, name.encode()) for number, name in enumerate(parts[2:-1], start=1)
    )
    return f"/{parts[1]}/{parts[-1]}", message
