"""The heads of messages as Envoy holds them, under the rules that hold of HTTP/1.

Envoy has parsed the request, whatever its version of HTTP; what two readers could take differently
is refused all the same: the next one is not Envoy. Pseudo-headers: RFC 9113, 8.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from envoy.config.core.v3.base_pb2 import HeaderMap

from proxy.http import heads
from proxy.http.messages import Head
from proxy.rules import FRAMING, HEAD_TOO_LARGE, MALFORMED, MEDIA_TYPE, UPSTREAM_INVALID, Refusal

_PSEUDO: Final = frozenset({":authority", ":method", ":path", ":scheme"})
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")  # RFC 9110, 5.1; HTTP/2 has lower case only
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # no value may have one (RFC 9110, 5.5)
_KNOWN: Final = 512  # names that are remembered as good
_LENGTH: Final = "content-length"
_GRPC: Final = b"application/grpc"
_ENVOYS: Final = frozenset({b"connection", b"transfer-encoding", b"upgrade"})
"""Of an answer, how Envoy frames it: what the client gets of them is Envoy's own."""


class HeadLimits(NamedTuple):
    """What a head may take: see ``http.limits.ListenerLimits``."""

    head_bytes: int
    header_count: int


class Request(NamedTuple):
    """A request's head, and what Envoy is to forget of it.

    Attributes:
        removed: the names of its headers, but for those that say what Envoy does next: pseudo
            headers, which cannot be removed, and Content-Length, which must be true of the body.
    """

    head: Head
    removed: list[str]


class ResponseHead(NamedTuple):
    """The head of an answer.

    Attributes:
        headers: lower-case names and values in their order, as clients get them.
        length: the body's length as declared, or None.
        removed: the names of headers that clients do not get.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    length: int | None
    removed: list[str]


def request_head(given: HeaderMap, limits: HeadLimits, guarded: frozenset[bytes]) -> Request:
    """Checks a request's head.

    Args:
        guarded: names to protect as the identity headers are.

    Raises:
        Refusal: HEAD_TOO_LARGE, MALFORMED, FRAMING, METHOD, EXPECTATION or MEDIA_TYPE.
    """
    fields = given.headers
    if len(fields) > limits.header_count + len(_PSEUDO):
        raise Refusal(HEAD_TOO_LARGE, "too many headers")
    pseudo: dict[str, bytes] = {}
    headers: dict[bytes, bytes] = {}
    removed: list[str] = []
    size = 0
    for field in fields:
        key, value = field.key, _value(field.value, field.raw_value)
        size += len(key) + len(value) + 4
        if key[:1] == ":":
            if key not in _PSEUDO or key in pseudo:
                raise Refusal(FRAMING, f"{key[:64]} is repeated or unknown")
            pseudo[key] = value
            continue
        name = _name(key, guarded)
        if name in headers:
            heads.add_repeated(headers, name, value)
        else:
            headers[name] = value
            if key not in {_LENGTH, "host"}:
                removed.append(key)
    if size > limits.head_bytes:
        raise Refusal(HEAD_TOO_LARGE, f"more than {limits.head_bytes} bytes")
    if len(pseudo) < 3 or b"host" in headers:
        raise Refusal(MALFORMED, "method, path or authority is missing or repeated")
    headers[b"host"] = pseudo.get(":authority", b"")
    head = heads.request_head(
        pseudo.get(":method", b""),
        pseudo.get(":path", b""),
        headers,
        "1.1",
        keep_alive=True,
        guarded=guarded,
    )
    if headers.get(b"content-type", b"").lower().startswith(_GRPC):
        raise Refusal(MEDIA_TYPE, "gRPC is not inspected here: use a gRPC listener")
    return Request(head, removed)


def response_head(given: HeaderMap, limits: HeadLimits) -> ResponseHead:
    """Checks the head of an answer, as ``http.client_connection`` does.

    Raises:
        Refusal: UPSTREAM_INVALID.
    """
    status = b""
    headers: list[tuple[bytes, bytes]] = []
    length: int | None = None
    removed: list[str] = []
    options: list[bytes] = []
    size = 0
    if len(given.headers) > limits.header_count:
        raise _invalid("the answer has too many headers")
    for field in given.headers:
        key, value = field.key, field.raw_value or field.value.encode()
        size += len(key) + len(value) + 4
        name = key.encode()
        if name == b":status":
            if status:
                raise _invalid("two statuses")
            status = value
        elif name == b"content-length":
            if not heads.is_length(value):
                raise _invalid("Content-Length is not a plain decimal number")
            length = int(value)
        elif name == b"connection":
            options += [option.strip().lower() for option in value.split(b",")]
        elif name in heads.HOP_BY_HOP:
            if name not in _ENVOYS:
                removed.append(key)
        elif name != b"x-request-id":
            headers.append((name, value))
    if size > limits.head_bytes:
        raise _invalid("the head of the answer is too large")
    if len(status) != 3 or not status.isdigit() or not 200 <= int(status) <= 599:
        raise _invalid("a status that was not asked for")
    if options:
        removed += [name.decode() for name, _ in headers if name in options]
        headers = [pair for pair in headers if pair[0] not in options]
    return ResponseHead(int(status), headers, length, removed)


def status_of(given: HeaderMap) -> int:
    """The status of an answer; 0 if it has none that is well-formed."""
    told = [
        field.raw_value or field.value.encode() for field in given.headers if field.key == ":status"
    ]
    return int(told[0]) if len(told) == 1 and re.fullmatch(rb"[1-5][0-9]{2}", told[0]) else 0


def lines_of(lines: bytes) -> Iterable[tuple[str, bytes]]:
    """Header lines of ours, each ended by CRLF, as lower-case names and values."""
    for line in lines.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b": ")
        yield name.decode().lower(), value


@lru_cache(maxsize=_KNOWN)
def _name(key: str, guarded: frozenset[bytes]) -> bytes:
    if not _NAME.fullmatch(key):
        raise Refusal(MALFORMED, "the name of a header is invalid")
    name = key.encode()
    if b"_" in name:
        heads.refuse_look_alike(name, guarded)
    return name


def _value(text: str, raw: bytes) -> bytes:
    """A value, in whichever of the two fields Envoy wrote it: since 1.30, ``raw_value``."""
    if text:
        if raw:
            raise Refusal(FRAMING, "a header has two values")
        raw = text.encode()
    if _CONTROL.search(raw):
        raise Refusal(MALFORMED, "a header has control characters")
    return raw.strip(b" \t")


def _invalid(why: str) -> Refusal:
    return Refusal(UPSTREAM_INVALID, why)
