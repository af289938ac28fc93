"""The paths of OIP v2 that pass, each in its one canonical spelling, and those that never do."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from proxy.protocols.base import Call, Route
from proxy.rules import CONTROL_PATH, METHOD, NO_ROUTE, Refusal

# No percent-encoding, query, empty or dot segment: servers differ in how they read each of them.
_SEGMENT: Final = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]{1,128}"
_PATH: Final = re.compile(rf"(?:/{_SEGMENT})+")
_LABEL: Final = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]{1,64}"
_PREFIX: Final = re.compile(
    rf"(?P<base>(?:/{_SEGMENT})*?)/v2/models/(?P<model>{_SEGMENT})"
    rf"(?:/versions/(?P<version>{_LABEL}))?"
)
_VERSION: Final = re.compile(rf"/versions/({_LABEL})(/infer|/ready|)")


class Paths:
    """The routes of one model.

    Args:
        prefix: the model's path as clients write it, ``[/BASE]/v2/models/MODEL``, or that of one
            of its versions, ``…/versions/VERSION``. The server's own paths (``/v2``,
            ``/v2/health/live``, ``/v2/health/ready``) lie under the same base.
        upstream_prefix: the model's path on the model server; the same if None.

    Attributes:
        model: the model's name, as clients write it.
        served: its name on the model server.

    Raises:
        ValueError: if a prefix is not such a path.
    """

    def __init__(self, prefix: str, upstream_prefix: str | None = None) -> None:
        base, self.model, self._version = _split(prefix)
        upstream = prefix if upstream_prefix is None else upstream_prefix
        upstream_base, self.served, served = _split(upstream)
        self._fixed = bool(self._version or served)
        self._prefix = prefix
        self._root = f"{base}/v2"
        self._upstream = upstream
        own = {
            "": Call.METADATA,
            "/health/live": Call.HEALTH,
            "/health/ready": Call.HEALTH,
        }
        self._routes = {
            f"{base}/v2{path}": Route(call, "GET", f"{upstream_base}/v2{path}".encode())
            for path, call in own.items()
        } | {
            f"{prefix}{path}": self._route(path, call)
            for path, call in (
                ("/infer", Call.INFER),
                ("", Call.METADATA),
                ("/ready", Call.HEALTH),
            )
        }

    def route(self, method: str, target: str) -> Route:
        """Understands a request target.

        Raises:
            Refusal: NO_ROUTE, METHOD or CONTROL_PATH.
        """
        route = self._routes.get(target) or self._versioned(target)
        if method != route.method:
            raise Refusal(METHOD, f"use {route.method}")
        return route

    def _versioned(self, target: str) -> Route:
        if _PATH.fullmatch(target) is None or not target.startswith(f"{self._root}/"):
            raise Refusal(NO_ROUTE)
        if target.startswith(f"{self._prefix}/"):
            suffix = target.removeprefix(self._prefix)
            match = None if self._fixed else _VERSION.fullmatch(suffix)
            if match is None:
                # Whatever a server hangs below a model: configuration, statistics, tracing, other
                # ways to infer, and what it will think of next.
                raise Refusal(CONTROL_PATH)
            call = {"/infer": Call.INFER, "/ready": Call.HEALTH, "": Call.METADATA}[match[2]]
            return replace(self._route(suffix, call), version=match[1])
        models, _, name = target.removeprefix(f"{self._root}/").partition("/")
        if models == "models" and name and name != "stats":
            raise Refusal(NO_ROUTE)
        raise Refusal(CONTROL_PATH)

    def _route(self, suffix: str, call: Call) -> Route:
        method = "POST" if call is Call.INFER else "GET"
        return Route(call, method, f"{self._upstream}{suffix}".encode(), self.model, self._version)


def _split(prefix: str) -> tuple[str, str, str]:
    """The base, the model and the version, or ""."""
    match = _PREFIX.fullmatch(prefix)
    if match is None:
        raise ValueError(
            "the v2 protocol's paths are [/BASE]/v2/models/MODEL and "
            "[/BASE]/v2/models/MODEL/versions/VERSION"
        )
    return match["base"], match["model"], match["version"] or ""
