"""Requests that two HTTP parsers could take differently, or none should: made from a valid one.

After RFC 9110 and 9112, and the classes of request smuggling (Linhart et al., HTTP Request
Smuggling, 2005; Kettle, HTTP Desync Attacks, 2019).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from loadtest.drivers.abuse_wire import Parts

MARKER: Final = b"/bartizan-abuse-marker"
"""The path of requests that are smuggled. No server has it."""


@dataclass(frozen=True, slots=True)
class Case:
    """One request that is meant to be malformed.

    Attributes:
        name: what is wrong with it.
        group: after which an honest request is asked.
        data: on a connection of its own.
        framed: whether it is about where a message ends: a second answer is listened for.
    """

    name: str
    group: str
    data: bytes
    framed: bool = False


def http_cases(valid: Parts, random: Random, mutations: int) -> Iterator[Case]:
    """Every case of HTTP itself, and ``mutations`` random ones."""
    yield from _framing(valid, random)
    yield from _chunks(valid, random)
    yield from _lines(valid, random)
    yield from _targets(valid)
    yield from _heads(valid)
    yield from _mutations(valid, random, mutations)


def _marker(valid: Parts, random: Random) -> bytes:
    """A whole request to be smuggled, with a path of its own each time."""
    host = valid.header(b"host") or b"x"
    path = b"%b/%d" % (MARKER, random.randrange(10**9))
    return b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (path, host)


def _chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"


def _framing(valid: Parts, random: Random) -> Iterator[Case]:
    body = valid.body
    size = b"Content-Length: %d" % len(body)
    chunked = _chunked(body)
    marker = _marker(valid, random)

    def case(name: str, *lines: bytes, body: bytes = body) -> Case:
        return Case(name, "framing", valid.framed(*lines, body=body), framed=True)

    hidden = b"0\r\n\r\n" + marker
    yield case(
        "CL and TE, TE ends first",
        b"Content-Length: %d" % len(hidden),
        b"Transfer-Encoding: chunked",
        body=hidden,
    )
    yield case(
        "TE and CL, CL ends first",
        b"Transfer-Encoding: chunked",
        b"Content-Length: 4",
        body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(marker), marker),
    )
    yield case(
        "CL and TE that agree",
        b"Content-Length: %d" % len(chunked),
        b"Transfer-Encoding: chunked",
        body=chunked,
    )
    yield case("two CLs, the first right", size, b"Content-Length: 0")
    yield case("two CLs, the last right", b"Content-Length: 0", size)
    yield case("two equal CLs", size, size)
    yield case("CL twice in one line", b"Content-Length: %d, %d" % (len(body), len(body)))
    yield case(
        "two CLs, a request between",
        b"Content-Length: %d" % len(body),
        b"Content-Length: %d" % (len(body) + len(marker)),
        body=body + marker,
    )
    odd = (b"+%d", b"-%d", b"0x%x", b"%d.0", b'"%d"', b"%d abc", b"0%d", b"%d_0", b"1e%d")
    for form in odd:
        value = form % len(body)
        yield case(
            f"CL {form.replace(b'%d', b'N').replace(b'%x', b'N').decode()}",
            b"Content-Length: " + value,
        )
    yield case("CL of 2^64 and its size", b"Content-Length: %d" % (2**64 + len(body)))
    yield case("CL empty", b"Content-Length:")
    yield case("CL with a space before the colon", b"Content-Length : %d" % len(body))
    yield case("CL with an underscore", b"Content_Length: %d" % (len(body) + 9), size)
    codings = (
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunked;q=1",
        b"Transfer-Encoding:\x0bchunked",
        b"Transfer-Encoding: \x00chunked",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding: gzip, chunked",
        b'Transfer-Encoding: "chunked"',
        b"Transfer_Encoding: chunked",
        b" Transfer-Encoding: chunked",
        b"Transfer-Encoding:\r\n chunked",
        b"X: y\nTransfer-Encoding: chunked",
    )
    for line in codings:
        name = line.decode("latin-1").encode("unicode_escape").decode()
        yield case(f"{name} beside CL", b"Content-Length: %d" % len(hidden), line, body=hidden)
    twice = (b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity")
    yield case("two TEs", *twice, body=chunked)
    yield case("TE chunked twice", twice[0], twice[0], body=chunked)
    yield case("Connection names Content-Length", b"Connection: keep-alive, content-length", size)
    yield case("a body behind Upgrade", b"Connection: upgrade", b"Upgrade: h2c", size)
    yield case("bytes that are no request behind it", size, body=body + random.randbytes(24))
    yield case("a marker behind an empty head", b"\r\n" + marker.rstrip(), size)


def _chunks(valid: Parts, random: Random) -> Iterator[Case]:
    body = valid.body
    marker = _marker(valid, random)

    def case(name: str, body: bytes, *lines: bytes) -> Case:
        data = valid.framed(*lines, b"Transfer-Encoding: chunked", body=body)
        return Case(name, "chunks", data, framed=True)

    size = b"%x" % len(body)
    ending = b"\r\n" + body + b"\r\n0\r\n\r\n"
    sizes = (
        (b"0x" + size, "0x before a chunk's size"),
        (b"+" + size, "+ before a chunk's size"),
        (b"-" + size, "- before a chunk's size"),
        (b" " + size, "a space before a chunk's size"),
        (size + b" ", "a space behind a chunk's size"),
        (b"\t" + size, "a tab before a chunk's size"),
        (b"1" + b"0" * 16 + size, "a chunk's size beyond 2^64"),
        (b"f" * 16, "a chunk's size of 2^64-1"),
        (size + b"_0", "a chunk's size with an underscore"),
        (size + b"g", "a chunk's size with a letter beyond f"),
        (b"", "a chunk's size missing"),
        (size + b"\x00", "NUL behind a chunk's size"),
        (size + b";\nx", "bare LF in a chunk's extension"),
        (size + b';a="', "a chunk's extension that is not closed"),
    )
    for start, name in sizes:
        yield case(name, start + ending)
    yield case("bare LF behind a chunk's size", size + b"\n" + body + b"\r\n0\r\n\r\n")
    yield case("bare LF behind a chunk", size + b"\r\n" + body + b"\n0\r\n\r\n")
    yield case("nothing behind a chunk", size + b"\r\n" + body + b"0\r\n\r\n")
    yield case("two bytes too many behind a chunk", size + b"\r\n" + body + b"xx0\r\n\r\n")
    yield case("a trailer that is a CL", _chunked(body)[:-2] + b"Content-Length: 0\r\n\r\n")
    yield case("a trailer that is a TE", _chunked(body)[:-2] + b"Transfer-Encoding: x\r\n\r\n")
    yield case("a trailer", _chunked(body)[:-2] + b"X-Trailer: 1\r\n\r\n")
    yield case("a marker in a trailer", _chunked(body)[:-2] + marker)
    yield case("a chunk longer than it says", size[:-1] + ending)
    old = Parts(valid.method, valid.target, valid.lines, valid.body)
    data = old.framed(b"Transfer-Encoding: chunked", body=_chunked(body))
    yield Case(
        "chunked in HTTP/1.0", "chunks", data.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1), True
    )
    many = b"".join(b"1;%b\r\n%c\r\n" % (b"x" * 200, byte) for byte in body[:400])
    yield case("chunks of one byte with long extensions", many + b"0\r\n\r\n")


def _lines(valid: Parts, random: Random) -> Iterator[Case]:
    body = valid.body
    good = valid.with_body(body)
    head, _, _ = good.partition(b"\r\n\r\n")
    host = valid.header(b"host") or b"x"

    def case(name: str, data: bytes) -> Case:
        return Case(name, "lines", data, framed=True)

    def beside(name: str, *lines: bytes) -> Case:
        return case(name, valid.with_body(body, *lines))

    yield case("bare LF everywhere", head.replace(b"\r\n", b"\n") + b"\n\n" + body)
    yield case("bare CR everywhere", head.replace(b"\r\n", b"\r") + b"\r\r" + body)
    yield case("bare LF behind the request line", good.replace(b"\r\n", b"\n", 1))
    yield case("bare LF before the body", head + b"\n\n" + body)
    yield beside("a folded header", b"X-Folded: a", b" b")
    yield beside("a folded header, by tab", b"X-Folded: a", b"\tb")
    yield beside("NUL in a value", b"X-Nul: a\x00b")
    yield beside("bare CR in a value", b"X-Cr: a\rContent-Length: 0")
    yield beside("bare LF in a value", b"X-Lf: a\nContent-Length: 0")
    yield beside("a space before the colon", b"X-Space : a")
    yield beside("a name that is empty", b": a")
    yield beside("a line without a colon", b"just words")
    yield beside("a name with a space", b"X Y: a")
    yield beside("a name that is not ASCII", b"X-\xc3\xa9: a")
    yield beside("a control character in a name", b"X-\x01: a")
    yield beside("Host twice", b"Host: other")
    yield case("no Host", valid.without(b"host").with_body(body))
    for value in (b"a b", b"a/b", b"a@b", b"a:99999", b"[::g]", b"a\x7f"):
        data = valid.without(b"host").with_body(body, b"Host: " + value)
        yield case(f"Host: {value.decode('latin-1')!r}", data)
    yield beside("Content-Type twice", b"Content-Type: text/html")
    yield beside("Expect: x", b"Expect: x")
    yield beside("Connection names Host", b"Connection: keep-alive, host")
    yield beside("Connection names Authorization", b"Connection: keep-alive, authorization")
    yield beside("Upgrade: websocket", b"Connection: upgrade", b"Upgrade: websocket")
    yield beside("a header named as Authorization with _", b"X_Api_Key: a")
    yield case("white space before the first header", good.replace(b"\r\n", b"\r\n ", 1))
    yield case("a null byte first", b"\0" + good)
    yield case("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    yield case(
        "a TLS greeting", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(200)
    )
    yield case("random bytes", random.randbytes(400))
    for version in (b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1", b"HTTP/1.1.1", b"http/1.1",
                    b"HTTP/11", b"HTTP/1.1 ", b"ICY/1.1"):  # fmt: skip
        yield case(
            f"version {version.decode()!r}", good.replace(b" HTTP/1.1\r\n", b" %b\r\n" % version, 1)
        )
    yield case("no version", b"GET %b\r\nHost: %b\r\n\r\n" % (valid.target, host))
    for method in (b"BREW", b"post", b"CONNECT", b"TRACE", b"", b"PO ST", b"P\x00ST", b"A" * 500):
        data = method + good[len(valid.method) :]
        yield case(f"method {method[:12].decode('latin-1')!r}", data)


def _targets(valid: Parts) -> Iterator[Case]:
    target, body = valid.target, valid.body
    host = valid.header(b"host") or b"x"
    folder, _, name = target.rpartition(b"/")

    def case(name: str, target: bytes, body: bytes = body, method: bytes = valid.method) -> Case:
        return Case(
            name, "targets", valid._replace(target=target, method=method).with_body(body), True
        )

    yield case("a letter of the path encoded", folder + b"/%%%02X" % name[0] + name[1:] if name
               else b"/%2f")  # fmt: skip
    yield case("a slash of the path encoded", folder + b"%2F" + name)
    yield case("the absolute form", b"http://%b%b" % (host, target))
    yield case("the absolute form of another host", b"http://other.invalid" + target)
    yield case("the asterisk form", b"*")
    yield case("the authority form", host)
    yield case("two slashes", b"/" + target)
    yield case("a dot segment", b"/." + target)
    yield case("two dots", b"/x/.." + target)
    yield case("two dots, encoded", b"/x/%2e%2e" + target)
    yield case("a query that hides a path", target + b"?/../x")
    yield case("a fragment", target + b"#x")
    yield case("a backslash", folder + b"\\" + name)
    yield case("NUL in the path", target + b"\x00")
    yield case("NUL in the path, encoded", target + b"%00")
    yield case("CRLF in the path, encoded", target + b"%0d%0aX:%20y")
    yield case("UTF-8 in the path", target + b"\xc3\xa9")
    yield case("a path parameter", target + b";x=y")
    yield case("a space in the path", target + b" x")
    control = (
        b"/v2/repository/index",
        b"/v2/repository/models/m/load",
        b"/v2/systemsharedmemory/status",
        b"/v2/cudasharedmemory/region/r/register",
        b"/v2/logging",
        b"/v2/trace/setting",
    )
    for path in control:
        yield case(f"control path {path.decode()}", path, b"{}", b"POST")


def _heads(valid: Parts) -> Iterator[Case]:
    body = valid.body

    def case(name: str, *lines: bytes) -> Case:
        return Case(name, "huge heads", valid.with_body(body, *lines), True)

    yield case("a header of 100 kB", b"X-Long: " + b"a" * 100_000)
    yield case("a name of 100 kB", b"X" * 100_000 + b": a")
    yield case("10 000 headers", *(b"X-%d: a" % i for i in range(10_000)))
    yield case("10 000 headers of one name", *([b"X-Same: a"] * 10_000))
    yield case("a megabyte of header", b"X-Long: " + b"a" * 2**20)
    long = valid._replace(target=valid.target + b"/" + b"a" * 100_000)
    yield Case("a path of 100 kB", "huge heads", long.with_body(body), True)


_TOKENS: Final = (
    b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b",", b";", b"_", b"\xff", b"\x0b",
    b"0\r\n\r\n", b"Content-Length: 0\r\n", b"content-length: 44\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:\x0bchunked\r\n",
    b"Connection: close\r\n", b"Host: b\r\n", b" folded\r\n", b"Trailer: x\r\n",
    b"HTTP/1.0", b"HTTP/0.9", b"%0a", b"//", b"CONNECT",
)  # fmt: skip


def _mutations(valid: Parts, random: Random, count: int) -> Iterator[Case]:
    """The valid request's head, spoilt in one to three places."""
    good = valid.with_body(valid.body)
    end = good.index(b"\r\n\r\n") + 4
    for index in range(count):
        head = bytearray(good[:end])
        for _ in range(random.randint(1, 3)):
            where = random.randrange(len(head))
            what = random.randrange(5)
            if what == 0:
                head[where:where] = random.choice(_TOKENS)
            elif what == 1:
                head[where : where + random.randint(1, 4)] = random.choice(_TOKENS)
            elif what == 2:
                del head[where : where + random.randint(1, 12)]
            elif what == 3:
                head[where:where] = head[max(0, where - random.randint(1, 40)) : where]
            else:
                head[where] = random.randrange(256)
        yield Case(f"head mutation {index}", "mutated heads", bytes(head) + good[end:], framed=True)
