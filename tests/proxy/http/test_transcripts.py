"""What a client sends, and what it reads, as transcripts: each whole, byte by byte, and with more
behind it.
"""

from __future__ import annotations

import pytest
from in_memory import World, echo, ok, post, refused

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSE = b"connection: close\r\n"
KEPT = b"connection: keep-alive\r\n"
MALFORMED = refused(b"400 Bad Request", b"BZ-100")
FRAMING = refused(b"400 Bad Request", b"BZ-101")
HEAD_TOO_LARGE = refused(b"431 Request Header Fields Too Large", b"BZ-102")
BODY_TOO_LARGE = refused(b"413 Content Too Large", b"BZ-103")
METHOD = refused(b"405 Method Not Allowed", b"BZ-111")
EXPECTATION = refused(b"417 Expectation Failed", b"BZ-114")

# name: (sent, read, whether the connection then lives on)
TRANSCRIPTS = {
    "sized": (post(b"abc"), ok(b"abc"), True),
    "empty": (post(b""), ok(b""), True),
    "without a body": (GET, ok(b""), True),
    "leading empty lines": (b"\r\n\r\n" + GET, ok(b""), True),
    "chunked": (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", ok(b"abcde"), True),
    "chunk extensions": (CHUNKED + b'3;a=b;c="d"\r\nabc\r\n0\r\n\r\n', ok(b"abc"), True),
    "padded chunk size": (CHUNKED + b"0003\r\nabc\r\n000\r\n\r\n", ok(b"abc"), True),
    "no chunks": (CHUNKED + b"0\r\n\r\n", ok(b""), True),
    "pipelined": (post(b"1") + GET + post(b"2"), ok(b"1") + ok(b"") + ok(b"2"), True),
    "HEAD": (
        b"HEAD /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        ok(b"abc").removesuffix(b"abc"),
        True,
    ),
    "close": (post(b"abc", b"Connection: close"), ok(b"abc", CLOSE), False),
    "close among others": (post(b"abc", b"Connection: x, Close "), ok(b"abc", CLOSE), False),
    "HTTP/1.0": (b"GET /a HTTP/1.0\r\n\r\n", ok(b"", CLOSE), False),
    "HTTP/1.0 kept alive": (
        b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        ok(b"", KEPT),
        True,
    ),
    "absolute form": (b"GET http://a/a HTTP/1.1\r\nHost: a\r\n\r\n", MALFORMED, False),
    "asterisk form": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", MALFORMED, False),
    "query": (post(target=b"/a?b"), MALFORMED, False),
    "HTTP/0.9": (b"GET /a\r\n\r\n", MALFORMED, False),
    "HTTP/2.0": (b"GET /a HTTP/2.0\r\nHost: a\r\n\r\n", MALFORMED, False),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", MALFORMED, False),
    "no Host": (b"GET /a HTTP/1.1\r\n\r\n", MALFORMED, False),
    "two Hosts": (b"GET /a HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", FRAMING, False),
    "bare LF": (b"GET /a HTTP/1.1\nHost: a\n\n", FRAMING, False),
    "bare CR": (b"GET /a HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", FRAMING, False),
    "obs-fold": (b"GET /a HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", FRAMING, False),
    "space before colon": (b"GET /a HTTP/1.1\r\nHost : a\r\n\r\n", MALFORMED, False),
    "NUL": (b"GET /a HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", MALFORMED, False),
    "TE and CL": (
        CHUNKED.removesuffix(b"\r\n") + b"Content-Length: 3\r\n\r\nabc",
        FRAMING,
        False,
    ),
    "CL and TE": (post(b"abc", b"Transfer-Encoding: chunked"), FRAMING, False),
    "two lengths": (post(b"abc", b"Content-Length: 3"), FRAMING, False),
    "padded length": (post(b"abc", length=b"03"), FRAMING, False),
    "signed length": (post(b"abc", length=b"+3"), FRAMING, False),
    "length with trailing space": (post(b"abc", length=b"3 \t"), ok(b"abc"), True),
    "gzip, chunked": (
        CHUNKED.replace(b": chunked", b": gzip, chunked") + b"0\r\n\r\n",
        FRAMING,
        False,
    ),
    "trailers": (CHUNKED + b"0\r\nX: y\r\n\r\n", FRAMING, False),
    "bad chunk size": (CHUNKED + b"x\r\n", FRAMING, False),
    "chunk longer than said": (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", FRAMING, False),
    "underscored length": (post(b"", b"Content_Length: 9"), FRAMING, False),
    "upgrade": (post(b"", b"Connection: upgrade", b"Upgrade: websocket"), FRAMING, False),
    "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", METHOD, False),
    "TRACE": (b"TRACE /a HTTP/1.1\r\nHost: a\r\n\r\n", METHOD, False),
    "unknown method": (b"BREW /a HTTP/1.1\r\nHost: a\r\n\r\n", MALFORMED, False),
    "unknown expectation": (post(b"", b"Expect: a miracle"), EXPECTATION, False),
    "declared too large": (post(b"", length=b"65"), BODY_TOO_LARGE, False),
    "chunked too large": (
        CHUNKED + b"40\r\n" + b"x" * 64 + b"\r\n1\r\nx\r\n0\r\n\r\n",
        BODY_TOO_LARGE,
        False,
    ),
    "too many headers": (post(b"", *[b"X%d: y" % i for i in range(64)]), HEAD_TOO_LARGE, False),
    "too many repeats": (post(b"", *[b"X: y"] * 64), HEAD_TOO_LARGE, False),
    "head too large": (post(b"", b"X: " + b"y" * 16384), HEAD_TOO_LARGE, False),
    "target too large": (post(b"", target=b"/" + b"y" * 16384), HEAD_TOO_LARGE, False),
    "good, then bad": (post(b"1") + b"BAD\r\n\r\n", ok(b"1") + MALFORMED, False),
    "body without length": (
        b"POST /a HTTP/1.1\r\nHost: a\r\n\r\nabc\r\n\r\n",
        ok(b"") + MALFORMED,
        False,
    ),
}


def world(**options):
    world = World(**options)
    world.application.handler = echo
    world.application.body_limit = 64
    return world


def test_how_many():
    assert len(TRANSCRIPTS) == 51


@pytest.mark.parametrize("name", TRANSCRIPTS)
@pytest.mark.parametrize("step", [None, 1, 7])
async def test_transcript(name, step):
    sent, read, alive = TRANSCRIPTS[name]
    each = world()
    client = each.connect()
    for start in range(0, len(sent), step or len(sent)):
        client.feed(sent[start : start + (step or len(sent))])
    assert client.take() == read
    assert (client.eof or client.closed) is not alive
    if alive:
        client.feed(post(b"again"))
        assert client.take() == ok(b"again")


@pytest.mark.parametrize("name", TRANSCRIPTS)
@pytest.mark.parametrize("step", [None, 1])
async def test_transcript_with_more_behind(name, step):
    sent, read, alive = TRANSCRIPTS[name]
    each = world()
    client = each.connect()
    data = sent + post(b"behind")
    for start in range(0, len(data), step or len(data)):
        client.feed(data[start : start + (step or len(data))])
    assert client.take() == read + (ok(b"behind") if alive else b"")
    handled = [exchange.body for exchange in each.application.handled]
    assert (b"behind" in handled) is alive


@pytest.mark.parametrize("name", TRANSCRIPTS)
async def test_transcript_of_a_client_that_shuts_its_end(name):
    sent, read, _ = TRANSCRIPTS[name]
    each = world()
    client = each.connect()
    client.feed(sent)
    client.feed_eof()
    assert client.take() == read
    assert client.closed or client.eof
