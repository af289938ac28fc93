"""The paths of TorchServe's inference API that pass, and those that never do."""

from __future__ import annotations

import re
from typing import Final

from proxy.protocols.base import Call, Route
from proxy.rules import CONTROL_PATH, METHOD, NO_ROUTE, Refusal

# No percent-encoding, query, empty or dot segment: servers differ in how they read each of them.
_SEGMENT: Final = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]{1,128}"
_PREFIX: Final = re.compile(
    rf"(?P<base>(?:/{_SEGMENT})*?)/predictions/(?P<model>{_SEGMENT})(?:/(?P<version>{_SEGMENT}))?"
)
_VERSION: Final = re.compile(rf"/({_SEGMENT})")
# Management, metrics, and the ways to infer that no rows can be read from.
_CONTROL: Final = re.compile(
    r"/(?:models|explanations|wfpredict|workflows|metrics|api-description)(?:/.*)?"
)


class Paths:
    """The routes of one model.

    Args:
        prefix: the clients' path, ``[/BASE]/predictions/MODEL[/VERSION]``. Without a version, all
            of them are asked below it.
        upstream_prefix: the path on the model server; the same if None.

    Raises:
        ValueError: if a prefix is not such a path.
    """

    def __init__(self, prefix: str, upstream_prefix: str | None = None) -> None:
        own, there = _parts(prefix), _parts(upstream_prefix or prefix)
        self._prefix = prefix
        self._upstream = upstream_prefix or prefix
        self._base = own["base"]
        self._model = own["model"]
        self._version = own["version"] or ""
        self._versions = not (own["version"] or there["version"])
        self.ping = Route(Call.HEALTH, "GET", f"{there['base']}/ping".encode())

    def route(self, method: str, target: str) -> Route:
        """Understands a request target. ``curl -T``, which the server's manual uses, sends PUT,
        which to the server is POST, and goes on as that.

        Raises:
            Refusal: NO_ROUTE, METHOD or CONTROL_PATH.
        """
        route = self._find(target)
        if method != route.method and not (method == "PUT" and route.call is Call.INFER):
            raise Refusal(METHOD, f"use {route.method}")
        return route

    def _find(self, target: str) -> Route:
        if target == self._prefix:
            return self._infer("", self._version)
        if target == f"{self._base}/ping":
            return self.ping
        if target.startswith(f"{self._prefix}/"):
            found = _VERSION.fullmatch(target, len(self._prefix))
            if found is None or not self._versions:
                raise Refusal(NO_ROUTE)
            return self._infer(found[0], found[1])
        if target.startswith(f"{self._base}/") and _CONTROL.fullmatch(target, len(self._base)):
            raise Refusal(CONTROL_PATH)
        raise Refusal(NO_ROUTE)

    def _infer(self, suffix: str, version: str) -> Route:
        target = f"{self._upstream}{suffix}".encode()
        return Route(Call.INFER, "POST", target, self._model, version)


def _parts(prefix: str) -> re.Match[str]:
    match = _PREFIX.fullmatch(prefix)
    if match is None:
        raise ValueError(f"{prefix!r} is not of the form [/BASE]/predictions/MODEL[/VERSION]")
    return match
