"""The paths of V1 that pass, each in its one canonical spelling, and those that never do."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from proxy.protocols.base import Call, Route
from proxy.rules import CONTROL_PATH, METHOD, NO_ROUTE, Refusal

# No percent-encoding, query, empty or dot segment: servers differ in how they read each of them.
_SEGMENT: Final = r"(?!\.{1,2}(?:[/:]|$))[A-Za-z0-9._~-]{1,128}"
_PATH: Final = re.compile(rf"(?:/{_SEGMENT})+(?::[a-z]{{1,32}})?")
_VERSION: Final = rf"(?:/(?:versions|labels)/(?P<version>{_SEGMENT}))?"
_PREFIX: Final = re.compile(
    rf"(?P<base>(?:/{_SEGMENT})*?)/v1/models/(?P<model>{_SEGMENT}){_VERSION}"
)
_SUFFIX: Final = re.compile(rf"{_VERSION}(?P<end>:[a-z]+|/metadata|)")


class Paths:
    """The routes of one model.

    Args:
        prefix: the model's path as clients write it, ``[/BASE]/v1/models/MODEL``, or that of one
            of its versions, ``…/versions/VERSION`` or ``…/labels/LABEL``.
        upstream_prefix: the model's path on the model server; the same if None.
        calls: the verbs that infer and pass: ``predict``, ``classify``, ``regress``.

    Attributes:
        served: the model's name on the model server.

    Raises:
        ValueError: if a prefix is not such a path.
    """

    def __init__(
        self, prefix: str, upstream_prefix: str | None = None, calls: Collection[str] = ("predict",)
    ) -> None:
        base, self._model, self._version = _split(prefix)
        upstream = prefix if upstream_prefix is None else upstream_prefix
        _, self.served, served = _split(upstream)
        self._fixed = bool(self._version or served)
        self._prefix = prefix
        self._root = f"{base}/v1/"
        self._upstream = upstream
        self._calls = {f":{call}" for call in calls}
        self._predict = f"{prefix}:predict"
        self._usual = (
            self._route(":predict", ":predict", self._version) if "predict" in calls else None
        )

    def route(self, method: str, target: str) -> Route:
        """Understands a request target.

        Raises:
            Refusal: NO_ROUTE, METHOD or CONTROL_PATH.
        """
        usual = self._usual
        if usual is None or target != self._predict:
            usual = self._other(target)
        if method != usual.method:
            raise Refusal(METHOD, f"use {usual.method}")
        return usual

    def _other(self, target: str) -> Route:
        if _PATH.fullmatch(target) is None or not target.startswith(self._root):
            raise Refusal(NO_ROUTE)
        suffix = target.removeprefix(self._prefix)
        if suffix == target or suffix[:1] not in ("", "/", ":"):
            models, _, name = target.removeprefix(self._root).partition("/")
            raise Refusal(NO_ROUTE if models == "models" and name else CONTROL_PATH)
        match = _SUFFIX.fullmatch(suffix)
        # Whatever a server hangs below a model: explanations, calls that are not configured, and
        # what it will think of next.
        if (
            match is None
            or (match["end"].startswith(":") and match["end"] not in self._calls)
            or (match["version"] and self._fixed)
        ):
            raise Refusal(CONTROL_PATH)
        return self._route(suffix, match["end"], match["version"] or self._version)

    def _route(self, suffix: str, end: str, version: str) -> Route:
        infers = end.startswith(":")
        return Route(
            Call.INFER if infers else Call.METADATA,
            "POST" if infers else "GET",
            f"{self._upstream}{suffix}".encode(),
            self._model,
            version,
        )


def _split(prefix: str) -> tuple[str, str, str]:
    """The base, the model and the version or label, or ""."""
    match = _PREFIX.fullmatch(prefix)
    if match is None:
        raise ValueError(
            "the v1 protocol's paths are [/BASE]/v1/models/MODEL, [/BASE]/v1/models/MODEL/versions/"
            "VERSION and [/BASE]/v1/models/MODEL/labels/LABEL"
        )
    return match["base"], match["model"], match["version"] or ""
