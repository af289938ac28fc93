"""Strict CSV: RFC 4180 as every reader takes it alike, or a refusal."""

from __future__ import annotations

import csv
import io
import re
from typing import Any, Final

import orjson

from proxy.rules import ROWS_PER_REQUEST, SHAPE, SYNTAX, Refusal

# A quote that begins a cell, up to the one that ends it. Possessive: a long cell costs no stack.
_QUOTED: Final = re.compile(r'"(?<![^,\n]")[^"]*+(?:""[^"]*+)*+"(?=,|\r?\n|\Z)')
_OF_NUMBERS: Final = b"0123456789.eE+-,\n"
# What some readers take for the end of a line, of the text or of nothing: all but tab, CR and LF.
_CONTROLS: Final = bytes({*range(32), 127} - set(b"\t\r\n"))
_WIDE_CONTROLS: Final = re.compile("[\x80-\x9f\u2028\u2029]")


def read_delimited(
    text: bytes, *, max_rows: int, max_cells: int, header: bool = False
) -> list[list[str]]:
    """The lines of a CSV text, each as its cells; a header is a line like any other.

    Cells are separated by commas, lines by LF or CRLF; the last line may end in one. A cell with a
    comma, a quote or a LF in it stands in quotes, a quote in it is doubled. White space is part of
    a cell.

    Args:
        max_rows: lines, at most, beside a header.
        max_cells: cells of these lines together, at most.
        header: whether the first line is one.

    Raises:
        Refusal: SYNTAX for text that is not UTF-8, has a byte order mark, a control character or
            a separator of lines (U+0085, U+2028, U+2029) but for tabs and ends of lines, an empty
            line, a stray quote, a CR elsewhere than at the end of a line, or a cell of more than
            128 KiB in text with quotes; SHAPE if lines differ in their number of cells, or hold
            too many; ROWS_PER_REQUEST.
    """
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        raise Refusal(SYNTAX, "the CSV is not UTF-8") from None
    if decoded.startswith("\ufeff"):
        raise Refusal(SYNTAX, "the CSV has a byte order mark")
    if len(text.translate(None, _CONTROLS)) != len(text) or (
        len(decoded) != len(text) and _WIDE_CONTROLS.search(decoded) is not None
    ):
        raise Refusal(SYNTAX, "the CSV has a control character or a separator of lines")
    # With the quoted cells taken out, every comma and every line's end is what it looks like.
    plain = _QUOTED.sub("q", decoded) if '"' in decoded else decoded
    if '"' in plain:
        raise Refusal(SYNTAX, "the CSV has a stray quote")
    ends = plain.count("\r\n") if "\r" in plain else 0
    if "\r" in decoded and decoded.count("\r") != ends:
        raise Refusal(SYNTAX, "the CSV has a CR elsewhere than at the end of a line")
    if ends:
        plain = plain.replace("\r\n", "\n")
    plain = plain.removesuffix("\n")
    rows = plain.count("\n") + (not header)
    if rows > max_rows:
        raise _too_many(max_rows)
    parts = plain.split("\n")
    commas = parts[0].count(",")
    if max(rows, 1) * (commas + 1) > max_cells:
        raise _too_wide()
    for number, part in enumerate(parts):
        if not part:
            raise Refusal(SYNTAX, f"line {number + 1} of the CSV is empty")
        if part.count(",") != commas:
            raise Refusal(SHAPE, f"line {number + 1} has not as many cells as the first")
    if '"' not in decoded:
        return [part.split(",") for part in parts]
    try:
        return list(csv.reader(io.StringIO(decoded, newline=""), strict=True))
    except csv.Error:
        raise Refusal(SYNTAX, "the CSV has a cell that is too large") from None


def read_numbers(text: bytes, *, max_rows: int, max_cells: int) -> list[list[Any]] | None:
    """The lines of a CSV text of nothing but JSON numbers, at the speed of JSON: integers as int,
    others as float. None if it is anything else: ``read_delimited`` then reads it, or says what is
    wrong with it.

    Raises:
        Refusal: SHAPE if there are too many cells; ROWS_PER_REQUEST.
    """
    # Two letters are not found at the speed of memory, as one is.
    plain = (text.replace(b"\r\n", b"\n") if b"\r" in text else text).removesuffix(b"\n")
    if plain.translate(None, _OF_NUMBERS):
        return None
    rows = plain.count(b"\n") + 1
    if rows > max_rows:
        raise _too_many(max_rows)
    if plain.count(b",") + rows > max_cells:
        raise _too_wide()
    try:
        lines: list[list[Any]] = orjson.loads(b"[[" + plain.replace(b"\n", b"],[") + b"]]")
    except orjson.JSONDecodeError:
        return None
    if not lines[0] or len(set(map(len, lines))) != 1:
        return None
    return lines


def _too_many(most: int) -> Refusal:
    return Refusal(ROWS_PER_REQUEST, f"at most {most}")


def _too_wide() -> Refusal:
    return Refusal(SHAPE, "the CSV has more cells than the model takes")
