"""Bodies that are not honest, whatever the protocol; and those of protocols that speak JSON."""

import json
import re

_ALPHABET = b'{}[]",:0123456789.eE+-\\utrfalsn \0\n\r\xff\xef\xbb\xbf'

_PARTS = (
    *("null", "true", "0", "-1", "1.5", "18446744073709551616", '""', '"abc"', "[]", "{}"),
    *("[[]]", "[1]", "[1, [2]]", '["a"]', '[{"a": 1}]', '{"a": 1}', '{"b64": "YQ"}'),
)

FOREIGN = (
    b"application/x-www-form-urlencoded",
    b"application/x-python-pickle",
    b"text/html",
)
"""Media types of which every server that reads them would read something else."""

LITERALS = {
    "BOOL": ["0", "1", '"true"', "null", "[]", "{}", "0.0"],
    "BYTES": ["1", "null", "true", "[]", "{}", '"\\ud800"', "1.5"],
    "INT": ["1.5", "1e0", '"1"', "true", "null", "[]", "{}", "NaN", "1e999", "9" * 30],
    "FP": ['"1"', "true", "null", "[]", "{}", "NaN", "Infinity", "-Infinity", "1e999", '"NaN"'],
}
"""JSON that is no element of a datatype."""

_BOUNDS = {
    f"{sign}INT{bits}": (0 if sign else -(2 ** (bits - 1)), 2 ** (bits if sign else bits - 1) - 1)
    for sign in ("", "U")
    for bits in (8, 16, 32, 64)
}
_MARKS = {"BOOL": "true", "BYTES": '"a0"'}


def misfits(datatype):
    """JSON literals that are no element of a datatype: of another type, or out of its range."""
    if datatype in LITERALS:
        return LITERALS[datatype]
    if datatype in _BOUNDS:
        low, high = _BOUNDS[datatype]
        return [*LITERALS["INT"], str(low - 1), str(high + 1)]
    largest = {"FP16": "65520", "FP32": "3.5e38", "FP64": "1e309"}[datatype]
    return [*LITERALS["FP"], largest, f"-{largest}"]


def hostile(body):
    """Bodies that have brought readers down, some of them around an honest one."""
    yield b""
    yield b"\0"
    yield b"\0" * 4096
    yield b"\xff" * 4096
    yield b"[" * 200_000
    yield b"[" * 100_000 + b"]" * 100_000
    yield b'{"a":' * 50_000
    yield b'{"instances":' + b"[" * 100_000
    yield b"[" + b"0," * 100_000 + b"0]"
    yield b"9" * 100_000
    yield b"-" + b"9" * 5000
    yield b'"' + b"a" * 100_000
    yield b"\n" * 100_000
    yield b"," * 100_000
    yield b"1,2\n" * 50_000
    yield b"\x1f\x8b\x08\0\0\0\0\0"
    yield b"PK\x03\x04"
    yield b"\x93NUMPY"
    yield b"\x80\x04cos\nsystem\n(S'true'\ntR."
    yield body + body
    yield body + b"x"
    yield b"x" + body
    yield body[::-1]
    yield body.swapcase()


def mutant(body, rng):
    """The body with one to three bytes replaced, put in, taken out, or a stretch of it repeated."""
    odd = bytearray(body)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(odd)) if odd else 0
        match rng.randrange(4) if odd else 1:
            case 0:
                odd[at] = rng.choice(_ALPHABET)
            case 1:
                odd.insert(at, rng.choice(_ALPHABET))
            case 2:
                del odd[at]
            case _:
                odd[at:at] = odd[at : at + rng.randint(1, 40)]
    return bytes(odd)


def with_a_part_replaced(body):
    """A JSON text with each of its values, at any depth, replaced by each of ``_PARTS``."""
    try:
        document = json.loads(body, object_pairs_hook=_Pairs)
    except ValueError:  # of another protocol
        return
    for part in _PARTS:
        for odd in _with_one_replaced(document, json.loads(part, object_pairs_hook=_Pairs)):
            yield _text(odd)


class JsonBodies:
    """Of a protocol whose requests are one JSON document: mixed in before ``CodecConformance``."""

    def duplicated(self):
        """Each member of each object a second time: with the same value, and with another."""
        headers, body = self.write(self.pair())
        for odd in with_a_member_twice(body):
            yield headers, odd

    def wrong(self, datatype):
        """An example with each misfit in place of its first element."""
        named = self.wire.example(datatype)
        mark = _MARKS.get(datatype, r"\b77(?:\.0)?\b")
        if datatype not in _MARKS:
            for _, array in named.values():
                array.reshape(-1)[0] = 77
        headers, body = self.write(named)
        before, *after = re.split(mark, body.decode(), maxsplit=1)
        assert len(after) == 1, f"no first element in {body!r}"
        for literal in misfits(datatype):
            yield headers, f"{before}{literal}{after[0]}".encode()


def with_a_member_twice(text):
    """JSON texts in which one member of one object comes twice."""
    for odd in _with_one_twice(json.loads(text, object_pairs_hook=_Pairs)):
        yield _text(odd)


class _Pairs(list):
    """The members of an object, in order."""


def _with_one_twice(value):
    if isinstance(value, _Pairs):
        for at, (name, inner) in enumerate(value):
            for other in (inner, 0):
                yield _Pairs([*value, (name, other)])
                yield _Pairs([(name, other), *value])
            for odd in _with_one_twice(inner):
                yield _Pairs([*value[:at], (name, odd), *value[at + 1 :]])
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            for odd in _with_one_twice(inner):
                yield [*value[:at], odd, *value[at + 1 :]]


def _with_one_replaced(value, part):
    yield part
    if isinstance(value, _Pairs):
        for at, (name, inner) in enumerate(value):
            for odd in _with_one_replaced(inner, part):
                yield _Pairs([*value[:at], (name, odd), *value[at + 1 :]])
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            for odd in _with_one_replaced(inner, part):
                yield [*value[:at], odd, *value[at + 1 :]]


def _text(value):
    if isinstance(value, _Pairs):
        return b"{" + b",".join(_text(name) + b":" + _text(inner) for name, inner in value) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(_text, value)) + b"]"
    return json.dumps(value).encode()
