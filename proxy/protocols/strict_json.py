"""Strict JSON: what every parser reads alike, or a refusal.

orjson is strict about grammar, UTF-8, byte order marks, surrogates and numbers that no double can
hold. It takes the last of two equal keys in silence, as most Python parsers do and most others do
not; that is caught here.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import orjson

from proxy.rules import DUPLICATE_KEY, SYNTAX, Refusal

MAX_DEPTH: Final = 64
_MAX_ARRAYS: Final = 64

# Possessive, so that a long string costs no backtracking stack. A string that nothing ends reaches
# to the end of the text: were it no match, every escaped quote in it would be tried in its turn.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NUMERALS: Final = b"0123456789.eE+- \t\r\n"
_ARRAY: Final = re.compile(rb'"data"[ \t\r\n]*:[ \t\r\n]*(\[{1,16})')


def loads(text: bytes) -> Any:
    """Parses JSON, all but for duplicate keys and depth beyond orjson's 1024.

    Raises:
        Refusal: SYNTAX.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise Refusal(SYNTAX, f"not strict JSON at {where}") from None


class Bounds(NamedTuple):
    """How much a JSON text may hold.

    Attributes:
        values: commas.
        lists: arrays.
        fields: objects and keys together.
        strings: strings, the keys among them.
    """

    values: int
    lists: int
    fields: int
    strings: int


def check_bounds(text: bytes, bounds: Bounds) -> bool:
    """Refuses JSON that holds too much, before it is parsed.

    What a text costs to parse goes by the values in it, an array or a string several times what a
    number does, and hardly by its length. Commas and brackets inside strings do not count.

    Returns:
        Whether the bounds hold with the strings counted in. If not, a fault may hide something in
        what looks like a string: the text is to be parsed from its start on, not in parts.

    Raises:
        Refusal: SYNTAX.
    """

    def within(part: bytes) -> bool:
        return (
            part.count(b",") <= bounds.values
            and part.count(b"[") <= bounds.lists
            and part.count(b"{") + part.count(b":") <= bounds.fields
        )

    marks = text.translate(None, _NUMERALS)  # one pass, and little is left of an honest text
    # A string's first quote is never escaped. Counting is cheap and taking the strings out is not:
    # that is done only if it matters, and not if there are too many of them.
    if marks.count(b'"') - marks.count(b'\\"') > 2 * bounds.strings:
        raise Refusal(SYNTAX, "more strings than a request within the limit of rows can hold")
    if within(marks):
        return True
    if not within(_STRING.sub(b"", marks)):
        raise Refusal(
            SYNTAX,
            "more values, arrays or objects than a request within the limit of rows can hold",
        )
    return False


def split_arrays(text: bytes) -> tuple[bytes, list[list[Any]], bool]:
    """Parses the arrays that follow ``"data":`` apart from the frame around them.

    The frame is the text with each of these arrays written as ``[]``. If frame and arrays are
    valid JSON, then so is the text, and it means the frame's document with the arrays in their
    places: in a valid frame ``"data":[`` cannot begin inside a string, because the quote before
    its colon would end that string. Frames recur from request to request; numbers do not.

    Returns:
        The frame, the arrays in the order of the text, and whether a ``true`` or ``false`` may be
        in one of them. If the text cannot be taken apart so simply (an unusual spelling, a
        bracket in a string, a fault), it is the frame itself, without arrays.
    """
    parts: list[bytes] = []
    arrays: list[list[Any]] = []
    booleans = False
    at = 0
    while (match := _ARRAY.search(text, at)) is not None:
        start, inner = match.span(1)
        # One letter is found at the speed of memory, two are not: one row ends at the first.
        end = text.find(b"]", inner)
        depth = inner - start
        if depth > 1:
            closing = b"]" * depth
            if not text.startswith(closing, end):
                end = text.find(closing, end)
        if end < 0 or len(arrays) == _MAX_ARRAYS:
            return text, [], True
        stop = end + depth
        try:
            arrays.append(orjson.loads(text[start:stop]))
        except orjson.JSONDecodeError:
            return text, [], True
        # Both have an e, which few numbers have, and a letter that no number has.
        if text.find(b"e", start, stop) >= 0:
            booleans = (
                booleans or text.find(b"t", start, stop) >= 0 or text.find(b"f", start, stop) >= 0
            )
        parts += (text[at:start], b"[]")
        at = stop
    parts.append(text[at:])
    return b"".join(parts), arrays, booleans


def check_unique_keys(text: bytes, keys: int) -> None:
    """Refuses valid JSON in which an object names a key twice, also in two spellings.

    A parser keeps one of two equal keys, so the text then holds more key separators than the
    parsed document has keys. Colons inside strings only add to the text's side: equal numbers
    settle it at once, and only otherwise are the strings taken out and the separators counted.

    Args:
        text: JSON that has been parsed.
        keys: how many keys all objects of the parsed document have together.

    Raises:
        Refusal: DUPLICATE_KEY.
    """
    if text.count(b":") != keys and _STRING.sub(b"", text).count(b":") != keys:
        raise Refusal(DUPLICATE_KEY)


def strict_json(text: bytes, *, depth: int = MAX_DEPTH) -> Any:
    """Any JSON text, read strictly.

    Where RFC 8259 leaves a choice: text that is not UTF-8, a byte order mark, a lone surrogate, a
    number beyond the range of a double and more than ``depth`` levels are refused; a number too
    small for a double is zero; an integer beyond 64 bits is the nearest double, and whoever needs
    an integer refuses it by its type.

    Raises:
        Refusal: SYNTAX or DUPLICATE_KEY.
    """
    document = loads(text)
    check_unique_keys(text, count_keys(document, depth))
    return document


def count_keys(document: Any, depth: int = MAX_DEPTH) -> int:
    """How many keys all objects of a parsed document have together.

    Raises:
        Refusal: SYNTAX if it is more than ``depth`` levels deep.
    """
    keys = 0
    level = [document]
    for _ in range(depth):
        below: list[Any] = []
        for value in level:
            if type(value) is dict:
                keys += len(value)
                below.extend(value.values())
            elif type(value) is list:
                below.extend(value)
        if not below:
            return keys
        level = below
    if any(type(value) in (dict, list) for value in level):
        raise Refusal(SYNTAX, f"nested deeper than {depth} levels")
    return keys
