"""The configuration's JSON Schema: what an editor completes and checks while one types."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

from proxy.settings.models import Settings
from proxy.settings.section import Place, Section

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


@cache
def generated(model: type[Section] = Settings) -> dict[str, Any]:
    """The schema as pydantic makes it, once for each root model."""
    return model.model_json_schema()


def schema(model: type[Section] = Settings, title: str = "Bartizan configuration") -> str:
    """The JSON Schema (draft 2020-12) as indented text, the same for the same models."""
    document = {"$schema": _DIALECT, **generated(model), "title": title}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def keys_at(place: Place, model: type[Section] = Settings) -> list[str]:
    """The keys that the mapping at a place may hold, over all its alternatives."""
    nodes = root(model)
    for step in place:
        nodes = [found for node in nodes for found in below(node, step, model)]
    return sorted({key for node in nodes for key in node.get("properties", ())})


def root(model: type[Section] = Settings) -> list[dict[str, Any]]:
    """The schemas of the whole document."""
    return [generated(model)]


def below(
    node: dict[str, Any], step: str | int, model: type[Section] = Settings
) -> list[dict[str, Any]]:
    """The schemas, one for each alternative, of what a key or index leads to; none: unknown."""
    if isinstance(step, int):
        found = node.get("items")
    else:
        found = node.get("properties", {}).get(step, node.get("additionalProperties"))
    return _alternatives(found, model) if isinstance(found, dict) else []


def _alternatives(node: dict[str, Any], model: type[Section]) -> list[dict[str, Any]]:
    """A schema with its references followed and its alternatives side by side."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        return _alternatives(generated(model)["$defs"][name], model)
    options = node.get("anyOf") or node.get("oneOf")
    if options:
        return [below for option in options for below in _alternatives(option, model)]
    return [node]
