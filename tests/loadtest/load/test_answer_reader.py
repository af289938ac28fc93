"""Answers of HTTP/1.1, whole, in pieces, and broken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_http import CHUNKED, CLOSING, OK, REFUSED

from loadtest.load.http import AnswerReader

ANSWERS = {
    "length": (OK, 200, False),
    "no body": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, False),
    "no body of a length": (b"HTTP/1.1 204 x\r\nContent-Length: 10\r\n\r\n", 204, False),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", 304, False),
    "chunked": (CHUNKED, 200, False),
    "trailers": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n", 200, False
    ),
    "refused": (REFUSED, 403, False),
    "closing": (CLOSING, 403, True),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + OK, 200, False),
    "any case": (b"HTTP/1.1 503 x\r\nCONTENT-LENGTH:\t1\r\nCONNECTION: Close\r\n\r\n!", 503, True),
    "old": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200, True),
    "old, kept": (
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\n{}", 200, False
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_whole_in_two_and_byte_by_byte(name):
    answer, status, closes = ANSWERS[name]
    reader = AnswerReader()
    for cut in range(len(answer)):
        pieces = [answer[:cut], answer[cut:]] if cut else [answer]
        assert [reader.feed(piece) for piece in pieces] == [0] * (len(pieces) - 1) + [status]
        assert reader.closes is closes
        assert not reader.begun
    assert [reader.feed(bytes([byte])) for byte in answer] == [0] * (len(answer) - 1) + [status]


def test_an_answer_that_the_end_completes():
    reader = AnswerReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\n") == 0
    assert reader.feed(b"any") == 0
    assert reader.end() == 200
    reader = AnswerReader()
    reader.feed(OK[:-1])
    assert reader.end() == 0
    assert reader.begun


@pytest.mark.parametrize(
    "bad",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 007 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 9999 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        CHUNKED + b"x",
        OK + b"x",
        REFUSED + OK,
        b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 70_000,
    ],
)
def test_what_is_no_answer(bad):
    with pytest.raises(ValueError):
        AnswerReader().feed(bad)


def test_very_many_interim_answers_are_no_recursion():
    assert AnswerReader().feed(b"HTTP/1.1 100 x\r\n\r\n" * 20_000 + OK) == 200


@given(st.lists(st.binary(max_size=60), max_size=5), st.sampled_from(sorted(ANSWERS)))
def test_any_bytes_are_an_answer_or_a_value_error(pieces, name):
    answer = ANSWERS[name][0]
    for first in (b"", answer[: len(answer) // 2]):
        reader = AnswerReader()
        try:
            statuses = [reader.feed(piece) for piece in [first, *pieces] if piece]
        except ValueError:
            continue
        assert all(0 <= status <= 999 for status in statuses)


@given(st.lists(st.integers(1, 40), max_size=12), st.lists(st.integers(1, 30), max_size=6))
def test_chunks_however_they_are_cut(sizes, cuts):
    body = b"".join(b"%x\r\n%b\r\n" % (size, b"\r" * size) for size in sizes) + b"0\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    reader, at, seen = AnswerReader(), 0, []
    for cut in cuts:
        if answer[at : at + cut] and at + cut < len(answer):
            seen.append(reader.feed(answer[at : at + cut]))
            at += cut
    assert not any(seen)
    assert reader.feed(answer[at:]) == 200
