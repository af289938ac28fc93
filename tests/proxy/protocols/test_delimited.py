"""Strict CSV: what is read, what is refused, and that nothing is read two ways."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.protocols.delimited import read_delimited, read_numbers
from proxy.rules import ROWS_PER_REQUEST, SHAPE, SYNTAX, Refusal

BOUNDS = {"max_rows": 100, "max_cells": 1000}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"a", [["a"]]),
        (b"a,b\r\n1,2\r\n", [["a", "b"], ["1", "2"]]),
        (b"a,b\n1,2", [["a", "b"], ["1", "2"]]),
        (b",\n,\n", [["", ""], ["", ""]]),
        (b" a , b \n", [[" a ", " b "]]),
        (b'"a,b","c""d"\n', [["a,b", 'c"d']]),
        (b'"a\nb","c\td"\r\n1,2\r\n', [["a\nb", "c\td"], ["1", "2"]]),
        ("a\u00a0b,\u0100\u2027\n".encode(), [["a\u00a0b", "\u0100\u2027"]]),
        (b'""\n', [[""]]),
        (b'"a",', [["a", ""]]),
        ("é,中\n".encode(), [["é", "中"]]),
    ],
)
def test_what_is_read(text, lines):
    assert read_delimited(text, **BOUNDS) == lines


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (b"", SYNTAX),
        (b"\n", SYNTAX),
        (b"a\n\n", SYNTAX),
        (b"a\n\nb\n", SYNTAX),
        (b'"a"\n\n', SYNTAX),
        (b"a\rb\n", SYNTAX),
        (b"a\r\r\nb\n", SYNTAX),
        (b'a,b"c\n', SYNTAX),
        (b'a,"b"c\n', SYNTAX),
        (b'a, "b"\n', SYNTAX),
        (b'"a\n', SYNTAX),
        (b'"', SYNTAX),
        (b'"a"\r,b', SYNTAX),
        (b"a\0", SYNTAX),
        (b'"\0"', SYNTAX),
        (b"\xef\xbb\xbfa", SYNTAX),
        (b"\xff", SYNTAX),
        ("a,b\n".encode("utf-16"), SYNTAX),
        (b'"' + b"a" * 200_000 + b'"', SYNTAX),
        (b"a,b\n1\n", SHAPE),
        (b"a,b\n1,2,3\n", SHAPE),
        (b'"a",b\n1\n', SHAPE),
        (b"a\n" * 101, ROWS_PER_REQUEST),
        (b'"a"\n' * 101, ROWS_PER_REQUEST),
        (b"," * 1000, SHAPE),
        (b'"",' * 1000, SHAPE),
    ],
)
def test_what_is_refused(text, rule):
    with pytest.raises(Refusal) as refusal:
        read_delimited(text, **BOUNDS)
    assert refusal.value.rule is rule


def test_bounds_are_exact_and_a_header_is_aside():
    assert len(read_delimited(b"a\n" * 3, max_rows=3, max_cells=3)) == 3
    assert len(read_delimited(b"a\n" * 4, max_rows=3, max_cells=3, header=True)) == 4
    for bounds in ({"max_rows": 2, "max_cells": 3}, {"max_rows": 3, "max_cells": 2}):
        for header in (False, True):
            with pytest.raises(Refusal):
                read_delimited(b"a\n" * (3 + header), **bounds, header=header)
        with pytest.raises(Refusal):
            read_numbers(b"1\n" * 3, **bounds)
    with pytest.raises(Refusal):
        read_delimited(b"a,b", max_rows=1, max_cells=1, header=True)


def test_what_some_readers_end_a_line_at_is_refused():
    """``str.splitlines`` ends lines at most of these, files in universal mode at a lone CR."""
    found = {chr(code) for code in range(0x3000) if len(f"a{chr(code)}b".splitlines()) > 1}
    assert len(found) == 10
    for control in (found - {"\n"}) | {"\0", "\x1a", "\x7f", "\x9f", "\r\n"}:
        for text in (f'1,"x{control}2"\n', f'1,"x"\n2,"{control}"\r\n'):
            with pytest.raises(Refusal) as refusal:
                read_delimited(text.encode(), **BOUNDS)
            assert refusal.value.rule is SYNTAX


@settings(max_examples=100)
@given(
    st.lists(
        st.lists(st.text('a1", \n\t', max_size=4), min_size=2, max_size=2), min_size=1, max_size=4
    )
)
def test_what_is_written_is_read(rows):
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    assert read_delimited(file.getvalue().encode(), max_rows=100, max_cells=1000) == rows


@settings(max_examples=150)
@given(st.text('a1",\n\r ', min_size=1, max_size=12))
def test_what_is_taken_the_standard_library_takes_alike(text):
    try:
        lines = read_delimited(text.encode(), **BOUNDS)
    except Refusal:
        return
    assert lines == list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert len(set(map(len, lines))) == 1


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"1,2.5\r\n-3,1e2\r\n", [[1, 2.5], [-3, 100.0]]),
        (b"7", [[7]]),
        (b"0.1\n2", [[0.1], [2]]),
        (b"a,1", None),
        (b"1, 2", None),
        (b"1,,2", None),
        (b"1\n\n2", None),
        (b"1\r,2", None),
        (b"01,2", None),
        (b"+1", None),
        (b".5", None),
        (b"1,2\n3", None),
        (b"", None),
        (b"1e999", None),
        (b'"1"', None),
    ],
)
def test_numbers_are_those_of_json(text, lines):
    read = read_numbers(text, **BOUNDS)
    assert read == lines
    if lines is not None:
        assert [list(map(type, line)) for line in read] == [list(map(type, line)) for line in lines]
