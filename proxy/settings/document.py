"""YAML text to plain values with the place of each, every fault gathered.

The scalars are those of YAML 1.2's core schema: ``off`` and ``no`` are words, and a time is not a
number in base 60. Tags are refused; anchors, aliases and merge keys are allowed within bounds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from proxy.settings.excerpt import shown_lines
from proxy.settings.models import Settings
from proxy.settings.problems import Problem, Source, path_text
from proxy.settings.section import Place, Section
from proxy.settings.variables import VARIABLE

MAX_NODES: Final = 100_000
"""Values in a document once its aliases are expanded: what ends a billion laughs."""
MAX_DEPTH: Final = 32

_INTEGER: Final = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INTEGER_DIGITS: Final = 18
_QUOTED_NAME: Final = re.compile(r" '[^'<][^']+'")
_PLAIN_TAGS: Final = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))

Position = tuple[int, int]


def resolve(text: str) -> Any:
    """The value of a plain scalar in YAML 1.2's core schema.

    Raises:
        ValueError: for a number that has no finite value.
    """
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    if _INTEGER.fullmatch(text):
        if len(text) > _INTEGER_DIGITS:
            raise ValueError("the number is too large")
        return int(text, 10 if text[1:2] not in ("o", "x") else 0)
    if _FLOAT.fullmatch(text):
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise ValueError("the number is too large")
        return value
    if re.fullmatch(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", text):
        raise ValueError("must be a finite number")
    return text


class _Loader(yaml.SafeLoader):
    """Composes nodes and resolves nothing: a plain scalar keeps its text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as PyYAML declares it


@dataclass(slots=True)
class Document:
    """A document's values, where each is written, and what is wrong with it.

    Attributes:
        value: dicts with string keys, lists, and scalars.
        values: where the value at a place begins.
        keys: where the key at a place begins.
        substituted: the places whose value came from the environment, kept as strings.
        problems: what was found.
        broken: the places that need no further complaint.
    """

    source: Source
    value: Any = None
    values: dict[Place, Position] = field(default_factory=dict)
    keys: dict[Place, Position] = field(default_factory=dict)
    substituted: set[Place] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    broken: set[Place] = field(default_factory=set)

    def complain(self, position: Position, message: str, place: Place | None = None) -> None:
        """Notes a problem at a position, and that the place needs no other."""
        self.problems.append(self.source.problem(position, message))
        if place is not None:
            self.broken.add(place)

    def find(self, place: Place, *, key: bool = False) -> tuple[Place, Position]:
        """The nearest written place at or above ``place``, and its position.

        Steps of ``place`` that are not in the document (an alternative's tag) are passed over.
        """
        here: Place = ()
        for step in place:
            if (*here, step) in self.values:
                here = (*here, step)
        table = self.keys if key and here in self.keys else self.values
        return here, table.get(here, (1, 1))


def read(
    source: Source, environment: Mapping[str, str], model: type[Section] = Settings
) -> Document:
    """Reads one document, of which the model says what may be in it.

    It never raises: what is wrong is in the document's problems.
    """
    document = Document(source)
    try:
        node = _compose(source.text)
        if node is None:
            document.complain((1, 1), f"the file is empty: it needs {_needed(model)}")
        else:
            source.shown = shown_lines(node, model)
            document.value = _Reader(document, environment).value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        document.complain(position, _syntax_message(error, source.before(position)))
    except yaml.reader.ReaderError as error:
        document.complain(
            source.position(error.position),
            f"the character U+{error.character:04X} is not allowed in YAML",
        )
    except _TooMuchError as error:
        document.complain(_position(error.node), str(error))
    except RecursionError:
        document.complain((1, 1), "nested too deeply, or a << that merges itself")
    return document


def _needed(model: type[Section]) -> str:
    return ", ".join(name for name, one in model.model_fields.items() if one.is_required())


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
    finally:
        loader.dispose()
    return node


def _syntax_message(error: yaml.MarkedYAMLError, before: str) -> str:
    problem = error.problem or "not readable"
    if before.endswith("$"):
        return 'between braces, ${NAME} needs quotes: "${NAME}"'
    if "'\\t'" in problem:
        return "a tab cannot indent YAML: use spaces"
    if "expected a single document" in str(error.context):
        return "a second document begins here: one file holds one configuration"
    context = f" ({error.context})" if error.context else ""
    # An unquoted secret may begin with * or & or !, and so be taken for a name.
    return _QUOTED_NAME.sub("", f"not valid YAML: {problem}{context}")


def _is_text(value: str) -> bool:
    """False for an environment variable's bytes that are not UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _position(node: yaml.Node) -> Position:
    return node.start_mark.line + 1, node.start_mark.column + 1


class _TooMuchError(Exception):
    """The document is too large or too deep once its aliases are expanded."""

    def __init__(self, node: yaml.Node, message: str) -> None:
        super().__init__(message)
        self.node = node


class _Reader:
    def __init__(self, document: Document, environment: Mapping[str, str]) -> None:
        self._document = document
        self._environment = environment
        self._nodes = 0

    def value(self, node: yaml.Node, place: Place) -> Any:
        self._count(node)
        if len(place) > MAX_DEPTH:  # an alias within its own anchor ends here too
            raise _TooMuchError(node, f"nested more than {MAX_DEPTH} deep")
        self._document.values[place] = _position(node)
        if node.tag not in _PLAIN_TAGS:
            self._document.complain(_position(node), "a tag (!…) is not supported", place)
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*place, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, place) if isinstance(node, yaml.ScalarNode) else None

    def _count(self, node: yaml.Node) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _TooMuchError(node, f"more than {MAX_NODES} values once its aliases are expanded")

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key, value in node.value:
            position = _position(key)
            if not isinstance(key, yaml.ScalarNode):
                self._document.complain(position, "a key must be a plain word")
            elif key.value == "<<" and key.style is None:
                self._merge(value, place, merged)
            elif key.value in own:
                line = self._document.keys[(*place, key.value)][0]
                self._document.complain(
                    position,
                    f"{path_text((*place, key.value))} is given twice; first in line {line}",
                )
            else:
                own[key.value] = self.value(value, (*place, key.value))
                self._document.keys[(*place, key.value)] = position
        return merged | own

    def _merge(self, node: yaml.Node, place: Place, into: dict[str, Any]) -> None:
        """YAML 1.1's merge key: of several mappings the first wins, and own keys win over all."""
        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(source, yaml.MappingNode):
                self._document.complain(_position(source), "<< needs a mapping, or a list of them")
                continue
            self._count(source)
            # Places of what an own key overrides are overwritten in turn: own keys may come first.
            values, keys = dict(self._document.values), dict(self._document.keys)
            into.update(self._mapping(source, place) | into)
            self._document.values |= values
            self._document.keys |= keys

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> Any:
        text: str = node.value
        if "${" in text:
            return self._substitute(node, place)
        if node.style is not None:
            return text
        try:
            return resolve(text)
        except ValueError as error:
            self._document.complain(_position(node), f"{path_text(place)}: {error}", place)
            return None

    def _substitute(self, node: yaml.ScalarNode, place: Place) -> str:
        line, column = _position(node)

        def replace(match: re.Match[str]) -> str:
            escaped, name, default, malformed = match.groups()
            if escaped:
                return "$"
            value = default if malformed else self._environment.get(name) or default
            if malformed or value is None or not _is_text(value):
                offset = match.start() if node.style is None else 0
                self._document.complain((line, column + offset), fault(name, malformed), place)
                return ""
            return value

        def fault(name: str, malformed: str | None) -> str:
            if malformed:
                return "this ${ is neither ${NAME} nor ${NAME:-default}; $${ is a plain ${"
            if self._environment.get(name):
                return f"the environment variable {name} is not UTF-8 text"
            state = "empty" if name in self._environment else "not set"
            return (
                f"the environment variable {name} is {state}; ${{{name}:-default}} gives a default"
            )

        text = VARIABLE.sub(replace, node.value)
        self._document.substituted.add(place)
        return text
