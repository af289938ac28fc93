"""The configuration's JSON Schema: what an editor completes and checks while one types."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

from proxy.settings.models import Settings
from proxy.settings.section import Place

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


@cache
def generated() -> dict[str, Any]:
    """The schema as pydantic makes it, once."""
    return Settings.model_json_schema()


def schema() -> str:
    """The JSON Schema (draft 2020-12) as indented text, the same for the same models."""
    document = {"$schema": _DIALECT, **generated(), "title": "Bartizan configuration"}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def keys_at(place: Place) -> list[str]:
    """The keys that the mapping at a place may hold, over all its alternatives."""
    nodes = root()
    for step in place:
        nodes = [found for node in nodes for found in below(node, step)]
    return sorted({key for node in nodes for key in node.get("properties", ())})


def root() -> list[dict[str, Any]]:
    """The schemas of the whole document."""
    return [generated()]


def below(node: dict[str, Any], step: str | int) -> list[dict[str, Any]]:
    """The schemas, one for each alternative, of what a key or index leads to; none: unknown."""
    if isinstance(step, int):
        found = node.get("items")
    else:
        found = node.get("properties", {}).get(step, node.get("additionalProperties"))
    return _alternatives(found) if isinstance(found, dict) else []


def _alternatives(node: dict[str, Any]) -> list[dict[str, Any]]:
    """A schema with its references followed and its alternatives side by side."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        return _alternatives(generated()["$defs"][name])
    options = node.get("anyOf") or node.get("oneOf")
    if options:
        return [below for option in options for below in _alternatives(option)]
    return [node]
