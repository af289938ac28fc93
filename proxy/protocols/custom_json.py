"""JSON of one's own making, as servers built with LitServe, BentoML or Ray Serve take it: paths say
where the rows and the answer are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from typing import Any, Final

import orjson

from proxy.protocols.base import (
    Call,
    Headers,
    InferRequest,
    InferResponse,
    Refused,
    Route,
    plain,
)
from proxy.protocols.contract import Contract
from proxy.protocols.json_codec import JSON_LINES, JsonCodec, dumps
from proxy.protocols.json_path import Steps, steps_of
from proxy.protocols.json_tensors import write_tensors
from proxy.protocols.nested import may_hold_booleans, to_nested_finite
from proxy.protocols.rows import MISSING
from proxy.protocols.strict_json import check_unique_keys
from proxy.protocols.v2_messages import shown
from proxy.rules import METHOD, NO_ROUTE, SYNTAX, Refusal

_SEGMENT: Final = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]{1,128}"
_PATH: Final = re.compile(rf"/|(?:/{_SEGMENT})+")
_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_]+)\}")
_PLACEHOLDERS: Final = frozenset({"message", "rule", "status"})
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_REFUSAL: Final[Mapping[str, Any]] = {"error": "{message}"}


class CustomJson(JsonCodec):
    """The codec of one model.

    Nothing of a request goes on but the rows and, among the keys beside them, those that are
    declared.

    Args:
        prefix: the path that infers, as clients write it.
        contract, max_rows, max_bytes, max_response_bytes, names: see ``JsonCodec``.
        upstream_prefix: that path on the model server; the same if None.
        rows: JSONPath to the rows of a request: lists of numbers, or objects that name the inputs.
        single: whether the place holds one row, and not a list of rows. So it is with answers.
        others: further keys of a request's outermost object, whose scalar values pass.
        answer: JSONPath to what an answer says of the rows; None: answers cannot be read.
        refusal: the body of refusals. In its strings ``{message}``, ``{rule}`` and ``{status}``
            are replaced; a string that is nothing but ``{status}`` becomes a number.
        health: the server's path that shows that the model is there; it passes with GET.
        reads: further paths of the server's that do.

    Raises:
        ValueError: for a path, a JSONPath or a placeholder that is none.
    """

    name = "json"

    def __init__(
        self,
        prefix: str,
        contract: Contract | None,
        *,
        upstream_prefix: str | None = None,
        max_rows: int = 256,
        max_bytes: int = 10 * 2**20,
        max_response_bytes: int = 10 * 2**20,
        rows: str,
        single: bool = False,
        others: Collection[str] = (),
        answer: str | None = None,
        refusal: Mapping[str, Any] = _REFUSAL,
        health: str | None = None,
        reads: Collection[str] = (),
        names: Sequence[str] = (),
    ) -> None:
        super().__init__(
            contract,
            max_rows=1 if single else max_rows,
            max_bytes=max_bytes,
            max_response_bytes=max_response_bytes,
            names=names,
        )
        upstream = prefix if upstream_prefix is None else upstream_prefix
        for path in (prefix, upstream, health or "/", *reads):
            if _PATH.fullmatch(path) is None:
                raise ValueError(f"{path!r} is not a plain path")
        if prefix in (health, *reads):
            raise ValueError(f"{prefix} is the path that infers")
        self._routes = {path: Route(Call.METADATA, "GET", path.encode()) for path in reads}
        self._routes[prefix] = Route(Call.INFER, "POST", upstream.encode())
        self.probe: Route | None = None
        if health is not None:
            self.probe = self._routes[health] = Route(Call.HEALTH, "GET", health.encode())
        self._single = single
        self._steps = steps_of(rows)
        if any(type(step) is int and step for step in self._steps):
            raise ValueError(f"{rows!r} leaves out elements that would not be inspected: use [0]")
        self._others = frozenset(others)
        if others and (not self._steps or self._steps[0] in self._others or self._steps[0] == 0):
            raise ValueError(f"there are no others beside {rows!r}")
        self._where = None if answer is None else steps_of(answer)
        self._frame = _frame(self._steps)
        self._fill = _template(refusal)

    def route(self, method: str, target: str) -> Route:
        """Understands a request target. See ``Codec.route``."""
        route = self._routes.get(target)
        if route is None:
            raise Refusal(NO_ROUTE)
        if method != route.method:
            raise Refusal(METHOD, f"use {route.method}")
        return route

    def decode_request(self, head: Headers, body: bytes, route: Route) -> InferRequest:
        """Reads a request strictly and within bounds.

        Raises:
            Refusal: and nothing else, whatever the bytes.
        """
        document = self._document(head, body)
        value, keys, others = self._find(document)
        booleans = may_hold_booleans(body, lists=not self._single)
        if self._single:
            value = [value]
        reading = self._tensors.rows("rows", value, booleans=booleans)
        check_unique_keys(body, keys + reading.keys)
        options: dict[str, Any] = {"form": reading.form}
        if others:
            options["others"] = others
        return self._request(reading, options)

    def encode_request(self, request: InferRequest) -> tuple[bytes, bytes]:
        """The canonical header lines and body of a request."""
        options = request.options
        value = write_tensors(options["form"], request.tensors, missing=options.get(MISSING, {}))
        if self._single:
            value = value[0]
        if "others" not in options:
            return JSON_LINES, self._frame % dumps(value)
        first, *inner = self._steps
        for step in reversed(inner):
            value = {step: value} if isinstance(step, str) else [value]
        return JSON_LINES, dumps({**options["others"], first: value})

    def encode_response(self, response: InferResponse) -> tuple[bytes, bytes]:
        """Header lines and body of an answer, in the form in which it was read: all but the tensors
        as the server wrote it.

        Raises:
            ValueError: for a number that is not finite: JSON has none such.
        """
        options = response.options
        value = write_tensors(options["form"], response.tensors, nest=to_nested_finite)
        if self._single:
            value = value[0]
        return JSON_LINES, dumps(_with(options["document"], self._where or (), value))

    def refuse(self, refusal: Refusal) -> Refused:
        """A refusal as the configuration words it."""
        rule = refusal.rule
        words = {
            "message": plain(refusal.message),
            "rule": rule.id,
            "status": str(rule.status),
        }
        return Refused(b"application/json", orjson.dumps(self._fill(words)))

    def _find(self, document: Any) -> tuple[Any, int, dict[str, Any]]:
        """What stands where the rows are, the keys on the way there, and the others' values."""
        keys = 0
        others: dict[str, Any] = {}
        value = document
        for depth, step in enumerate(self._steps):
            if type(step) is int:
                if type(value) is not list or len(value) != 1:
                    raise Refusal(SYNTAX, "not a list of one element where there must be one")
                value = value[0]
                continue
            if type(value) is not dict or step not in value:
                raise Refusal(SYNTAX, f"there is no {shown(str(step))}")
            keys += len(value)
            if len(value) > 1:
                others = self._read_others(value, str(step), depth)
            value = value[step]
        return value, keys, others

    def _read_others(self, value: dict[str, Any], step: str, depth: int) -> dict[str, Any]:
        others = {key: inner for key, inner in value.items() if key != step}
        for key, inner in others.items():
            if depth or key not in self._others:
                raise Refusal(SYNTAX, f"unknown key {shown(key)}")
            if type(inner) not in _SCALARS:
                raise Refusal(SYNTAX, f"{shown(key)} is not a single value")
        return others

    def _read_answer(self, document: Any) -> InferResponse:
        steps = self._where
        if steps is None:
            raise Refusal(SYNTAX, "the configuration does not say where the answer is")
        value = document
        for step in steps:
            there = (
                type(value) is dict and step in value
                if isinstance(step, str)
                else type(value) is list and step < len(value)
            )
            if not there:
                raise Refusal(SYNTAX, f"there is no {shown(str(step))}")
            value = value[step]
        if self._single:
            reading = self._answers.rows("answer", [value])
        elif type(value) is dict:
            reading = self._answers.columns("answer", value)
        else:
            reading = self._answers.rows("answer", value)
        options = {"form": reading.form, "document": _with(document, steps, None)}
        return InferResponse(reading.tensors, reading.n, options)


def _frame(steps: Steps) -> bytes:
    """The format of a request's text around its rows."""
    before = after = b""
    for step in steps:
        if isinstance(step, str):
            before += b"{%b:" % orjson.dumps(step).replace(b"%", b"%%")
            after = b"}" + after
        else:
            before += b"["
            after = b"]" + after
    return before + b"%b" + after


def _with(document: Any, steps: Steps, value: Any) -> Any:
    """A document with another value in a place; the document itself stays as it is."""
    if not steps:
        return value
    first, *rest = steps
    changed = copy(document)
    changed[first] = _with(document[first], tuple(rest), value)
    return changed


def _template(template: Any) -> Callable[[Mapping[str, str]], Any]:
    """What makes a document of words from a template of it.

    Raises:
        ValueError: for a placeholder that does not exist.
    """
    match template:
        case str():
            unknown = set(_PLACEHOLDER.findall(template)) - _PLACEHOLDERS
            if unknown:
                raise ValueError(f"refusal: there is no {{{min(unknown)}}} to fill in")
            if template == "{status}":
                return lambda words: int(words["status"])
            return lambda words: _PLACEHOLDER.sub(lambda match: words[match[1]], template)
        case dict():
            members = {key: _template(value) for key, value in template.items()}
            return lambda words: {key: fill(words) for key, fill in members.items()}
        case list() | tuple():
            elements = [_template(value) for value in template]
            return lambda words: [fill(words) for fill in elements]
    return lambda _: template
