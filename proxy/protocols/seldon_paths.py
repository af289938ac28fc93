"""The paths of Seldon Core's version 1 that pass, and those that never do."""

from __future__ import annotations

import re
from typing import Final

from proxy.protocols.base import Call, Route
from proxy.rules import CONTROL_PATH, METHOD, NO_ROUTE, Refusal

# No percent-encoding, query, empty or dot segment: servers differ in how they read each of them.
# The server takes a whole message from the query ``json``, too.
_SEGMENT: Final = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]{1,128}"
_PATH: Final = re.compile(rf"(?:/{_SEGMENT})+")
_PREFIX: Final = re.compile(
    rf"(?P<base>(?:/{_SEGMENT})*?)(?:/api/v1\.0/predictions|/api/v0\.1/predictions|/predict)"
)
_READABLE: Final = {
    "/health/ping": Call.HEALTH,
    "/health/status": Call.HEALTH,
    "/api/v1.0/health/status": Call.HEALTH,
    "/metadata": Call.METADATA,
    "/api/v1.0/metadata": Call.METADATA,
}
# Feedback changes what routers have learnt; the others predict in part, past the inspection.
_CONTROL: Final = re.compile(
    r"/(?:api|send-feedback|transform-input|transform-output|route|aggregate|seldon\.json|metrics"
    r"|prometheus)(?:/.*)?"
)


class Paths:
    """The routes of one model.

    Args:
        prefix: the path of predictions as clients write it.
        upstream_prefix: that path on the model server; the same if None.
        health: the path below the server's base that shows that the model is there.

    Attributes:
        probe: its route.

    Raises:
        ValueError: if a prefix is not such a path.
    """

    def __init__(self, prefix: str, upstream_prefix: str | None, health: str) -> None:
        self._base = base = _base(prefix)
        upstream = prefix if upstream_prefix is None else upstream_prefix
        server = _base(upstream)
        readable = {**_READABLE, health: Call.HEALTH}
        self._routes = {
            f"{base}{path}": Route(call, "GET", f"{server}{path}".encode())
            for path, call in readable.items()
        }
        self.probe = self._routes[f"{base}{health}"]
        self._routes[prefix] = Route(Call.INFER, "POST", upstream.encode())

    def route(self, method: str, target: str) -> Route:
        """Understands a request target.

        Raises:
            Refusal: NO_ROUTE, METHOD or CONTROL_PATH.
        """
        route = self._routes.get(target)
        if route is None:
            known = _PATH.fullmatch(target) and target.startswith(f"{self._base}/")
            if known and _CONTROL.fullmatch(target.removeprefix(self._base)):
                raise Refusal(CONTROL_PATH)
            raise Refusal(NO_ROUTE)
        if method != route.method:
            raise Refusal(METHOD, f"use {route.method}")
        return route


def _base(prefix: str) -> str:
    match = _PREFIX.fullmatch(prefix)
    if match is None:
        raise ValueError(
            "the seldon protocol's paths are [/BASE]/api/v1.0/predictions, "
            "[/BASE]/api/v0.1/predictions and [/BASE]/predict"
        )
    return match["base"]
