from __future__ import annotations

import pytest

from proxy.decision import UpstreamRequest
from proxy.http import render
from proxy.http.messages import Reply


def test_a_reply_with_its_own_headers():
    reply = Reply(429, b"{}", headers=((b"retry-after", b"3"), (b"x", b"y")))
    assert render.reply(reply, date=b"date: d\r\n", connection=b"c: d\r\n", with_body=True) == (
        b"HTTP/1.1 429 Too Many Requests\r\ndate: d\r\nc: d\r\nretry-after: 3\r\nx: y\r\n"
        b"content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    )


def test_a_reply_without_its_body_tells_the_length():
    assert render.reply(Reply(200, b"abc"), date=b"", connection=b"", with_body=False).endswith(
        b"content-length: 3\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, b"HTTP/1.1 200 OK\r\n"),
        (413, b"HTTP/1.1 413 Content Too Large\r\n"),
        (599, b"HTTP/1.1 599 \r\n"),
    ],
)
def test_status_lines(status, line):
    assert render.status_line(status) == line


@pytest.mark.parametrize(
    ("piece", "chunk"),
    [(b"", b""), (b"a", b"1\r\na\r\n"), (b"a" * 26, b"1a\r\n%b\r\n" % (b"a" * 26))],
)
def test_chunks(piece, chunk):
    assert render.chunk(piece) == chunk


def test_requests():
    host = b" HTTP/1.1\r\nhost: a\r\n"
    post = UpstreamRequest(b"POST", b"/a", b"x: y\r\n", b"abc")
    assert render.upstream_request(post, host) == (
        b"POST /a HTTP/1.1\r\nhost: a\r\nx: y\r\ncontent-length: 3\r\n\r\nabc"
    )
    empty = UpstreamRequest(b"POST", b"/a", b"")
    assert render.upstream_request(empty, host).endswith(b"content-length: 0\r\n\r\n")
    get = UpstreamRequest(b"GET", b"/a", b"")
    assert render.upstream_request(get, host) == b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n"
