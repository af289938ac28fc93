"""Which lines of a configuration may be shown beside a fault: none where a secret could stand."""

from __future__ import annotations

from typing import Any

import yaml

from proxy.settings.schema import below, root
from proxy.settings.section import Section


def shown_lines(node: yaml.Node, model: type[Section]) -> set[int]:
    """The lines, from 1, that may be shown of a document that was parsed.

    Left out is every line that holds any part of a mapping in which a secret may stand, of the
    value of an unknown key (a secret's key may be misspelt, or misplaced), or of what stands
    where a mapping should.
    """
    lines = _Lines(model)
    lines.walk(node, root(model), hide=False)
    return lines.seen - lines.hidden


class _Lines:
    def __init__(self, model: type[Section]) -> None:
        self._model = model
        self.seen: set[int] = set()
        self.hidden: set[int] = set()
        self._walked: set[tuple[int, bool]] = set()

    def walk(self, node: yaml.Node, schemas: list[dict[str, Any]], *, hide: bool) -> None:
        """Takes in a node, which the schemas describe."""
        properties = [
            value for schema in schemas for value in schema.get("properties", {}).values()
        ]
        hide = hide or any(map(_is_secret, properties))
        hide = hide or (bool(properties) and not isinstance(node, yaml.MappingNode))
        if (id(node), hide) in self._walked:  # an alias; anchors may even hold themselves
            return
        self._walked.add((id(node), hide))
        # A URL with credentials, whatever the key.
        hide = hide or (isinstance(node, yaml.ScalarNode) and "@" in node.value)
        self._mark(node, hide=hide)
        if isinstance(node, yaml.SequenceNode):
            items = [found for schema in schemas for found in below(schema, 0, self._model)]
            for item in node.value:
                self.walk(item, items, hide=hide)
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                self._pair(key, value, schemas, hide=hide)

    def _pair(
        self, key: yaml.Node, value: yaml.Node, schemas: list[dict[str, Any]], *, hide: bool
    ) -> None:
        if isinstance(key, yaml.ScalarNode) and key.value == "<<":
            sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for source in sources:
                self.walk(source, schemas, hide=hide)
            return
        name = key.value if isinstance(key, yaml.ScalarNode) else ""
        found = [one for schema in schemas for one in below(schema, name, self._model)]
        hide = hide or not found
        self._mark(key, hide=hide)
        self.walk(value, found, hide=hide)

    def _mark(self, node: yaml.Node, *, hide: bool) -> None:
        first, last = node.start_mark.line + 1, node.end_mark.line + 1
        if node.end_mark.column == 0 and last > first:
            last -= 1  # a block ends where the next one begins
        (self.hidden if hide else self.seen).update(range(first, last + 1))


def _is_secret(schema: dict[str, Any]) -> bool:
    return any(option.get("writeOnly") for option in (schema, *schema.get("anyOf", ())))
