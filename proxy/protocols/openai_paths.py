"""The paths of OpenAI's API that pass, each in its one canonical spelling."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final, Literal

from proxy.protocols.base import Call, Route
from proxy.rules import CONTROL_PATH, METHOD, NO_ROUTE, Refusal

Question = Literal["chat", "completions", "embeddings"]

_PATHS: Final[dict[Question, str]] = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
}

# No percent-encoding, query, empty or dot segment: servers differ in how they read each of them.
_SEGMENT: Final = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]{1,128}"
_PREFIX: Final = re.compile(rf"(?:/{_SEGMENT})*/v[1-9]")
# Names of models are often paths themselves: ORGANISATION/MODEL:VARIANT.
_MODEL: Final = re.compile(r"/models((?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~:@-]{1,128}){1,4})")
_PATH: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~:@-]{1,128})*")


class Paths:
    """The routes of one server.

    Args:
        prefix: the server's path as clients write it, ``[/BASE]/v1``.
        upstream_prefix: its path on the server itself; the same if None.
        calls: what may be asked.

    Raises:
        ValueError: if a prefix is not such a path.
    """

    def __init__(
        self, prefix: str, upstream_prefix: str | None, calls: Collection[Question]
    ) -> None:
        self._prefix = prefix
        self._upstream = prefix if upstream_prefix is None else upstream_prefix
        for one in (prefix, self._upstream):
            if _PREFIX.fullmatch(one) is None:
                raise ValueError(f"{one!r} is not of the form [/BASE]/v1")
        self.questions: dict[bytes, Question] = {
            f"{self._upstream}{_PATHS[call]}".encode(): call for call in calls
        }
        self._routes = {
            f"{prefix}{_PATHS[call]}": Route(
                Call.INFER, "POST", f"{self._upstream}{_PATHS[call]}".encode()
            )
            for call in calls
        }
        self.models = Route(Call.METADATA, "GET", f"{self._upstream}/models".encode())
        self._routes[f"{prefix}/models"] = self.models

    def route(self, method: str, target: str) -> Route:
        """Understands a request target.

        Raises:
            Refusal: NO_ROUTE, METHOD or CONTROL_PATH.
        """
        route = self._routes.get(target) or self._model(target)
        if method != route.method:
            raise Refusal(METHOD, f"use {route.method}")
        return route

    def _model(self, target: str) -> Route:
        rest = target.removeprefix(self._prefix)
        if rest == target or _PATH.fullmatch(rest) is None:
            raise Refusal(NO_ROUTE)
        match = _MODEL.fullmatch(rest)
        if match is None:
            # Files, fine-tuning, assistants, stored answers, adapters that are loaded and unloaded,
            # and what servers will think of next.
            raise Refusal(CONTROL_PATH)
        return Route(Call.METADATA, "GET", f"{self._upstream}{rest}".encode(), match[1][1:])
