"""The paths of containers that infer at ``/invocations``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from proxy.protocols.base import Call, Route
from proxy.rules import METHOD, NO_ROUTE, Refusal

_SEGMENT: Final = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]{1,128}"
_PREFIX: Final = re.compile(rf"(?P<base>(?:/{_SEGMENT})*)/invocations")


class Paths:
    """The routes of one model.

    Args:
        prefix: the clients' path, ``[/BASE]/invocations``.
        upstream_prefix: the path on the model server; the same if None.
        own: the server's own paths that may be asked with GET, below BASE, and what they are.

    Raises:
        ValueError: if a prefix is not such a path.
    """

    def __init__(
        self, prefix: str, upstream_prefix: str | None = None, *, own: Mapping[str, Call]
    ) -> None:
        base, upstream_base = _base(prefix), _base(upstream_prefix or prefix)
        self._routes = {
            f"{base}{path}": Route(call, "GET", f"{upstream_base}{path}".encode())
            for path, call in own.items()
        }
        target = f"{upstream_base}/invocations".encode()
        self._routes[prefix] = Route(Call.INFER, "POST", target)
        self.ping = Route(Call.HEALTH, "GET", f"{upstream_base}/ping".encode())

    def route(self, method: str, target: str) -> Route:
        """Understands a request target.

        Raises:
            Refusal: NO_ROUTE or METHOD.
        """
        route = self._routes.get(target)
        if route is None:
            raise Refusal(NO_ROUTE)
        if method != route.method:
            raise Refusal(METHOD, f"use {route.method}")
        return route


def _base(prefix: str) -> str:
    match = _PREFIX.fullmatch(prefix)
    if match is None:
        raise ValueError(f"{prefix!r} is not of the form [/BASE]/invocations")
    return match["base"]
