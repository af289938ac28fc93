"""The calls of OIP v2 over gRPC that pass, and those that never do.

A call names its model in the message, not in its path. The listener reads that name and puts it
into the target, ``/SERVICE/MODEL[/VERSION]/METHOD``, so that a call finds its endpoint as an HTTP
request does. Calls about the server have the target ``/SERVICE/METHOD``.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.protocols.base import Call, Route
from proxy.rules import CONTROL_PATH, METHOD, NO_ROUTE, Refusal

SERVICE: Final = "/inference.GRPCInferenceService"

_SEGMENT: Final = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]{1,128}"
_PREFIX: Final = re.compile(
    rf"{re.escape(SERVICE)}/(?P<model>{_SEGMENT})(?:/(?P<version>{_SEGMENT}))?"
)
_BELOW: Final = re.compile(rf"(?:/(?P<version>{_SEGMENT}))?/(?P<method>[A-Za-z]{{1,64}})")
_OF_MODELS: Final = {
    "ModelInfer": Call.INFER,
    "ModelStreamInfer": Call.INFER,
    "ModelReady": Call.HEALTH,
    "ModelMetadata": Call.METADATA,
}
_OF_SERVERS: Final = {
    f"{SERVICE}/{method}": Route(call, "RPC", f"{SERVICE}/{method}".encode())
    for method, call in (
        ("ServerLive", Call.HEALTH),
        ("ServerReady", Call.HEALTH),
        ("ServerMetadata", Call.METADATA),
    )
}
# Triton's and MLServer's: they load code, move tensors out of sight, or tell of other clients.
_CONTROL: Final = frozenset(
    f"{SERVICE}/{method}"
    for method in (
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryUnregister",
        "LogSettings",
        "ModelConfig",
        "ModelStatistics",
        "RepositoryIndex",
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryUnregister",
        "TraceSetting",
    )
)


class Paths:
    """The routes of one model.

    Args:
        prefix: ``/SERVICE/MODEL``, or ``/SERVICE/MODEL/VERSION`` for one of its versions alone.
        stream: whether ``ModelStreamInfer`` passes, each of its messages as a ``ModelInfer``.

    Raises:
        ValueError: if the prefix is no such path.
    """

    def __init__(self, prefix: str, *, stream: bool = True) -> None:
        match = _PREFIX.fullmatch(prefix)
        if match is None:
            raise ValueError(
                f"the gRPC protocol's paths are {SERVICE}/MODEL and {SERVICE}/MODEL/VERSION"
            )
        self._prefix = prefix
        self._model = match["model"]
        self._version = match["version"] or ""
        self._stream = stream
        self.metadata = self._route("ModelMetadata", self._version)

    def route(self, method: str, target: str) -> Route:
        """Understands a target.

        Raises:
            Refusal: NO_ROUTE, METHOD or CONTROL_PATH.
        """
        if method != "RPC":
            raise Refusal(METHOD, "use gRPC")
        if target in _OF_SERVERS:
            return _OF_SERVERS[target]
        if target in _CONTROL:
            raise Refusal(CONTROL_PATH)
        if target.startswith(self._prefix):
            match = _BELOW.fullmatch(target, len(self._prefix))
            if match is not None and match["method"] in _OF_MODELS:
                version = match["version"] or ""
                if not (version and self._version):
                    return self._route(match["method"], version or self._version)
        raise Refusal(NO_ROUTE)

    def _route(self, method: str, version: str) -> Route:
        if method == "ModelStreamInfer" and not self._stream:
            raise Refusal(CONTROL_PATH)
        call = _OF_MODELS[method]
        name = "ModelInfer" if call is Call.INFER else method
        place = f"{SERVICE}/{self._model}{version and f'/{version}'}/{name}"
        return Route(call, "RPC", place.encode(), self._model, version)
