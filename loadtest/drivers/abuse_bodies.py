"""Bodies that say two things, or nothing: made from a valid one, whatever its form.

After what parsers were seen to differ in: duplicate keys, numbers beyond a type, encodings of text,
lengths that lie (RFC 8259; Seriot, Parsing JSON is a Minefield, 2016; CVE-2019-6446 and its like
for npy).
"""

from __future__ import annotations

import ast
import gzip
import json
import re
import struct
import zlib
from collections.abc import Iterator
from random import Random
from typing import Any, Final

import zstandard

from loadtest.drivers.abuse_http import Case
from loadtest.drivers.abuse_wire import Parts

_HEADER_LENGTH: Final = b"inference-header-content-length"
_CUTS: Final = 24
_JSON_TOKEN: Final = re.compile(
    rb'"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?', re.DOTALL
)
_NUMBER: Final = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")

_NOT_NUMBERS: Final = (
    b"NaN", b"Infinity", b"-Infinity", b"nan", b"1e400", b"-1e400", b"1e39",
    b"18446744073709551616", b"9" * 400, b"+1", b"01", b".5", b"1.", b"0x10", b"1_000", b"1e",
    b"--1", b"1,", b"'1'", b'"1"',
    b'"NaN"', b"true", b"null", b"[]", b"{}", b'"\\ud800"', b"",
)  # fmt: skip
_PREFIXES: Final = (
    (b"\xef\xbb\xbf", "a byte order mark"),
    (b"\0", "NUL before it"),
    (b"/* */", "a comment before it"),
    (b")]}',\n", "a guard against inclusion before it"),
    (b"\x1f\x8b", "gzip's magic number before it"),
)
_SUFFIXES: Final = (
    (b"\0", "NUL behind it"),
    (b"{}", "an object behind it"),
    (b"]", "a bracket behind it"),
    (b"//x", "a comment behind it"),
    (b",", "a comma behind it"),
    (b"\xff", "a byte behind it that is no UTF-8"),
)


def body_cases(valid: Parts, random: Random, mutations: int) -> Iterator[Case]:
    """Every case that the valid body's form has, and ``mutations`` random ones."""
    yield from _any(valid, random, mutations)
    kind = valid.header(b"content-type").partition(b";")[0].strip().lower()
    if valid.header(_HEADER_LENGTH):
        yield from _binary(valid)
    elif valid.body[:6] == b"\x93NUMPY":
        yield from _npy(valid)
    elif kind == b"text/csv":
        yield from _csv(valid)
    else:
        with_json = _document(valid.body)
        if with_json is not None:
            yield from _json(valid, with_json, random)
    yield from _codings(valid)


def _document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _case(valid: Parts, group: str, name: str, body: bytes, *lines: bytes) -> Case:
    return Case(name, group, valid.with_body(body, *lines))


def _any(valid: Parts, random: Random, mutations: int) -> Iterator[Case]:
    body = valid.body
    step = max(1, len(body) // _CUTS)
    for end in range(0, len(body), step):
        yield _case(valid, "cut bodies", f"cut after {end} bytes", body[:end])
    for index in range(mutations):
        flipped = bytearray(body)
        places = sorted(random.randrange(len(body)) for _ in range(random.randint(1, 3)))
        for place in places:
            flipped[place] ^= 1 << random.randrange(8)
        yield _case(valid, "flipped bits", f"bits flipped, {index}", bytes(flipped))
    for prefix, name in _PREFIXES:
        yield _case(valid, "around bodies", name, prefix + body)
    for suffix, name in _SUFFIXES:
        yield _case(valid, "around bodies", name, body + suffix)
    yield _case(valid, "around bodies", "the body twice", body + body)
    yield _case(valid, "around bodies", "as many NULs", bytes(len(body)))
    yield _case(valid, "around bodies", "random bytes", random.randbytes(len(body)))
    without = valid.without(b"content-type")
    for value in (
        b"text/html",
        b"application/x-python-pickle",
        b"application/x-www-form-urlencoded",
        b"application/json; charset=utf-16",
        b"application/json, text/csv",
        b"",
    ):
        name = f"Content-Type: {value.decode()}"
        yield _case(without, "media types", name, body, b"Content-Type: " + value)


def _json(valid: Parts, document: Any, random: Random) -> Iterator[Case]:
    body = valid.body

    def case(name: str, body: bytes) -> Case:
        return _case(valid, "JSON", name, body)

    for coding in ("utf-16", "utf-16-le", "utf-32", "utf-7"):
        text = body.decode("utf-8", "replace")
        yield case(
            f"in {coding}", text.encode(coding) if coding != "utf-7" else b"+AHs-" + body[1:]
        )
    spans = [found.span() for found in _JSON_TOKEN.finditer(body)]
    numbers = [span for span in spans if body[span[0] : span[0] + 1] != b'"']
    if numbers:
        for literal in _NOT_NUMBERS:
            start, end = random.choice(numbers)
            name = f"{literal[:24].decode()} for a number"
            yield case(name, body[:start] + literal + body[end:])
        start, end = random.choice(numbers)
        yield case("a number less", body[:start].rstrip(b", ") + body[end:])
        number = body[start:end]
        yield case("a number more", body[:end] + b"," + number + body[end:])
        yield case("a number in a list of its own", body[:start] + b"[%b]" % number + body[end:])
        for depth in (65, 1000, 100_000):
            nested = b"[" * depth + number + b"]" * depth
            yield case(f"a number {depth} lists deep", body[:start] + nested + body[end:])
    for opening, name in ((b"[", "lists"), (b'{"a":', "objects")):
        yield case(f"200 000 {name} deep, and cut", opening * 200_000)
    yield case("a string that is not ended", body + b'"' + b"a" * 1000)
    yield case("single quotes", body.replace(b'"', b"'"))
    yield case("a comma behind the last member", re.sub(rb"([\]}])\s*\Z", rb",\1", body))
    for value in (b"null", b"[]", b"{}", b"0", b'""', b"true"):
        yield case(f"only {value.decode()}", value)
    if isinstance(document, dict):
        yield from _members(valid, document)


def _members(valid: Parts, document: dict[str, Any]) -> Iterator[Case]:
    """Cases of a JSON object."""

    def case(name: str, body: bytes) -> Case:
        return _case(valid, "JSON members", name, body)

    body = valid.body.strip()
    inner = body[1:-1]
    key = next(iter(document), "")
    member = json.dumps(key).encode() + b":" + json.dumps(document.get(key)).encode()
    yield case("all members twice", b"{%b,%b}" % (inner, inner))
    yield case("a member twice, null first", b"{%b:null,%b}" % (json.dumps(key).encode(), inner))
    yield case("a member twice, null last", b"{%b,%b:null}" % (inner, json.dumps(key).encode()))
    if key and key.isascii():
        escaped = f'"\\u{ord(key[0]):04x}{key[1:]}"'.encode()
        yield case("a member twice, once escaped", b"{%b,%b:[]}" % (inner, escaped))
    yield case("a name that is a lone surrogate", b'{%b,"\\ud800":0}' % inner)
    yield case("a name that is not quoted", b"{%b,x:0}" % inner)
    yield case("a name with a control character", b'{%b,"a\nb":0}' % inner)
    yield case("the members in a list", b"[%b]" % body)
    yield case("without its first member", json.dumps(
        {name: value for name, value in document.items() if name != key}).encode())  # fmt: skip
    yield case(
        "a member of the wrong kind", b"{%b}" % member.replace(member.partition(b":")[2], b"7")
    )
    for name, changed in _changed(document):
        yield case(name, json.dumps(changed).encode())


_TENSOR_CHANGES: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("datatype FP128", {"datatype": "FP128"}),
    ("datatype BYTES", {"datatype": "BYTES"}),
    ("datatype INT8", {"datatype": "INT8"}),
    ("datatype BOOL", {"datatype": "BOOL"}),
    ("datatype null", {"datatype": None}),
    ("no dimensions", {"shape": []}),
    ("dimensions below 0", {"shape": [-1, -1]}),
    ("a dimension of 0", {"shape": [0, 0]}),
    ("2^40 rows", {"shape": [2**40, 1]}),
    ("dimensions that overflow", {"shape": [2**32, 2**32, 2]}),
    ("dimensions that are floats", {"shape": [1.5, 2.0]}),
    ("dimensions that are words", {"shape": ["1", "1"]}),
    ("64 dimensions", {"shape": [1] * 64}),
    ("another name", {"name": "bartizan-abuse"}),
    ("a name of 100 kB", {"name": "a" * 100_000}),
    ("a name that is a number", {"name": 7}),
    ("data that is a word", {"data": "abc"}),
    ("data that is an object", {"data": {"0": 1}}),
    ("no data", {"data": []}),
    ("ragged data", {"data": [[1, 2], [3]]}),
    (
        "shared memory",
        {"parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 256}},
    ),
    ("binary data that is not there", {"parameters": {"binary_data_size": 2**31}}),
)


def _changed(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Documents with one thing of their tensors changed."""
    for place, value in document.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for name, change in _TENSOR_CHANGES:
                yield name, {**document, place: [{**value[0], **change}, *value[1:]]}
            yield "a tensor twice", {**document, place: value * 2}
            yield "no tensors", {**document, place: []}
        elif isinstance(value, list) and value and isinstance(value[0], list) and value[0]:
            short = [value[0][:-1], *value[1:]]
            yield "a row that is short", {**document, place: short}
            yield "a row that is long", {**document, place: [value[0] * 2, *value[1:]]}
            yield "ragged rows", {**document, place: [*value, value[0][:-1]]}
            yield "rows a list too deep", {**document, place: [value]}
            yield "rows a list too flat", {**document, place: value[0]}
            yield "no rows", {**document, place: []}
        elif isinstance(value, dict):
            for name, changed in _changed(value):
                yield name, {**document, place: changed}


def _csv(valid: Parts) -> Iterator[Case]:
    body = valid.body
    found = list(_NUMBER.finditer(body))
    start, end = found[-1].span()

    def case(name: str, body: bytes) -> Case:
        return _case(valid, "CSV", name, body)

    for literal in (b"NaN", b"inf", b"-Infinity", b"1e400", b"", b"x", b'"1', b"0x10", b"1_0",
                    b"1;2", b"1\0", b"9" * 400, b"=1+1", b"1 2"):  # fmt: skip
        name = f"{literal[:24].decode()!r} for a number"
        yield case(name, body[:start] + literal + body[end:])
    yield case("a field more", body[:end] + b",1" + body[end:])
    yield case("a field less", body[:start].rstrip(b",") + body[end:])
    yield case("bare CRs", body.replace(b"\n", b"\r"))
    yield case("in UTF-16", body.decode("latin-1").encode("utf-16"))
    yield case("an empty line within", body + b"\n\n" + body)
    yield case("a quoted field of 1 MB", b'"' + b"a" * 2**20)


def _npy(valid: Parts) -> Iterator[Case]:
    body = valid.body
    size = struct.unpack_from("<H", body, 8)[0]
    header = ast.literal_eval(body[10 : 10 + size].decode("latin-1"))
    data = body[10 + size :]

    def case(name: str, body: bytes) -> Case:
        return _case(valid, "npy", name, body)

    def written(**change: Any) -> bytes:
        text = repr({**header, **change}).encode() + b"\n"
        return body[:8] + struct.pack("<H", len(text)) + text + data

    for name, change in (
        ("ten billion rows", {"shape": (10**10, 1)}),
        ("10^12 elements of no size", {"descr": "|V0", "shape": (10**12,)}),
        ("dimensions that overflow", {"shape": (2**32, 2**32)}),
        ("a dimension below 0", {"shape": (-1, 4)}),
        ("a dimension that is a float", {"shape": (1.5,)}),
        ("no dimensions", {"shape": ()}),
        ("pickled objects", {"descr": "|O"}),
        ("big-endian", {"descr": ">f4"}),
        ("dates", {"descr": "<M8[s]"}),
        ("records", {"descr": [("a", "<f4")]}),
        ("text", {"descr": "<U4"}),
        ("Fortran order", {"fortran_order": True}),
        ("a key more", {"extra": 1}),
    ):
        yield case(name, written(**change))
    for name, length in (("0", 0), ("too short", size - 1), ("too long", 65535)):
        yield case(f"a header length {name}", body[:8] + struct.pack("<H", length) + body[10:])
    yield case("a header that is code", body[:8] + struct.pack("<H", 20) + b"__import__('os')   \n")
    yield case("a header nested deep", body[:8] + struct.pack("<H", 40000) + b"(" * 40000)
    yield case("version 9", body[:6] + b"\x09\x00" + body[8:])
    yield case("bytes behind it", body + b"\0\0\0\0")
    yield case("NaN", body[:-4] + struct.pack("<f", float("nan")))
    yield case("Infinity", body[:-4] + struct.pack("<f", float("inf")))
    yield case("a pickle", b"\x80\x04N.")


def _binary(valid: Parts) -> Iterator[Case]:
    """Of the v2 protocol's binary extension: a JSON header, and tensors behind it."""
    body = valid.body
    length = int(valid.header(_HEADER_LENGTH))
    bare = valid.without(_HEADER_LENGTH)
    header, tail = body[:length], body[length:]

    def lie(name: str, value: bytes) -> Case:
        return _case(bare, "binary", name, body, b"Inference-Header-Content-Length: " + value)

    def case(name: str, header: bytes, tail: bytes) -> Case:
        line = b"Inference-Header-Content-Length: %d" % len(header)
        return _case(bare, "binary", name, header + tail, line)

    for name, value in (
        ("0", b"0"), ("one less", b"%d" % (length - 1)), ("one more", b"%d" % (length + 1)),
        ("of the whole", b"%d" % len(body)), ("beyond the body", b"%d" % (len(body) + 1)),
        ("of 2^31", b"%d" % 2**31), ("of 2^64", b"%d" % 2**64), ("below 0", b"-1"),
        ("that is no number", b"x"), ("with a plus", b"+%d" % length), ("missing", b""),
    ):  # fmt: skip
        yield lie(f"a header length {name}", value)
    yield case("bytes behind the tensors", header, tail + b"\0\0\0\0")
    yield case("the last tensor short", header, tail[:-4])
    yield case("no tensors", header, b"")
    yield case("NaN", header, tail[:-4] + struct.pack("<f", float("nan")))
    yield case("Infinity", header, tail[:-4] + struct.pack("<f", float("inf")))
    yield case("the header twice", header + header, tail)
    sizes = re.compile(rb'("binary_data_size"\s*:\s*)[0-9]+')
    for value in (
        b"0",
        b"-4",
        b"1",
        b"2147483648",
        b"18446744073709551616",
        b"1.5",
        b'"4"',
        b"null",
    ):
        yield case(f"binary_data_size {value.decode()}", sizes.sub(rb"\g<1>" + value, header), tail)
    for value in (
        b"[0, 0]",
        b"[-1, -1]",
        b"[1099511627776, 1]",
        b"[4294967296, 4294967296]",
        b"[]",
    ):
        changed = re.sub(rb'("shape"\s*:\s*)\[[^\]]*\]', rb"\g<1>" + value, header)
        yield case(f"shape {value.decode()}", changed, tail)
    for value in (b"INT64", b"BYTES", b"FP128", b"FP16"):
        changed = re.sub(rb'("datatype"\s*:\s*)"[^"]*"', rb'\g<1>"' + value + b'"', header)
        yield case(f"datatype {value.decode()}", changed, tail)


def _codings(valid: Parts) -> Iterator[Case]:
    body = valid.body
    packed = gzip.compress(body, mtime=0)

    def case(name: str, coding: bytes, body: bytes) -> Case:
        return _case(valid, "codings", name, body, b"Content-Encoding: " + coding)

    plain = b" " * 2**23
    yield case("a gzip bomb", b"gzip", gzip.compress(body + plain, mtime=0))
    yield case("a deflate bomb", b"deflate", zlib.compress(body + plain))
    yield case("a zstd bomb", b"zstd", zstandard.compress(body + plain))
    twice = gzip.compress(gzip.compress(plain, mtime=0), mtime=0)
    yield case("a gzip bomb in gzip", b"gzip, gzip", twice)
    yield case("gzip cut short", b"gzip", packed[: len(packed) // 2])
    yield case("gzip without its end", b"gzip", packed[:-8])
    yield case("gzip with a wrong check", b"gzip", packed[:-8] + b"\0" * 8)
    yield case("bytes behind gzip", b"gzip", packed + b"x")
    yield case("two gzip members", b"gzip", packed + packed)
    yield case("gzip that is plain", b"gzip", body)
    yield case("deflate that is gzip", b"deflate", packed)
    yield case("zstd that is gzip", b"zstd", packed)
    yield case("gzip of nothing", b"gzip", b"")
    yield case("gzip twice", b"gzip, gzip", gzip.compress(packed, mtime=0))
    yield case("an unknown coding", b"br", body)
    yield case("a coding that is none", b"x,,y", body)
    yield case("gzip, not said", b"identity", packed)
