"""What makes a head unacceptable, in one place: what llhttp's strict mode leaves to us.

Whatever two parsers could read differently is refused, whichever of the two we would agree with.
Sources: RFC 9110 and 9112; the differentials that request smugglers use.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Final

from proxy.http.messages import Head
from proxy.rules import EXPECTATION, FRAMING, HEAD_TOO_LARGE, MALFORMED, METHOD, Refusal

METHODS: Final = {
    name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
}

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers that end at the next hop (RFC 9110, 7.6.1, and what older software sends)."""

_PROTECTED: Final = frozenset(
    {
        b"authorization",
        b"cookie",
        b"expect",
        b"forwarded",
        b"host",
        b"inference-header-content-length",
        b"traceparent",
        b"transfer-encoding",
        b"x-api-key",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-real-ip",
    }
)
"""Headers that decide something, beside every ``Content-*``: ``Connection`` may not name them and
no other name may pass for one of them."""

_SINGLE: Final = _PROTECTED - {b"cookie", b"forwarded", b"x-forwarded-for"}
"""Those of them that have one value: a repeat is refused, not joined."""

_KNOWN: Final = 256  # distinct hosts, targets and Connection values that are remembered as good

_TARGET: Final = re.compile(rb"(?:/[A-Za-z0-9\-._~!$&'()*+,=:@]+)*/?")
_DOTS: Final = re.compile(rb"/\.\.?(?:/|\Z)")
_HOST: Final = re.compile(
    rb"(\[[0-9A-Fa-f:.]{2,45}\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2}){1,255})"
    rb"(?::([0-9]{1,5}))?"
)


def request_head(
    method: bytes,
    target: bytes,
    headers: dict[bytes, bytes],
    version: str,
    keep_alive: bool,
    *,
    guarded: frozenset[bytes] = frozenset(),
) -> Head:
    """Checks a head that llhttp has parsed.

    Args:
        headers: by lower-case name, values without surrounding white space.
        version: ``major.minor`` of the request line.
        keep_alive: what llhttp makes of version and ``Connection``.
        guarded: further names to protect as the identity headers are.

    Raises:
        Refusal: MALFORMED, FRAMING, METHOD or EXPECTATION.
    """
    if version not in {"1.1", "1.0"}:
        raise Refusal(MALFORMED, "the version must be HTTP/1.1 or HTTP/1.0")
    name = METHODS.get(method)
    if name is None:
        raise Refusal(METHOD, method.decode("latin-1"))
    path = _target(target)
    host = headers.get(b"host")
    if host is not None:
        _host(host)
    elif version == "1.1":
        raise Refusal(MALFORMED, "Host is missing")
    if b"transfer-encoding" in headers:
        if version == "1.0":
            raise Refusal(FRAMING, "Transfer-Encoding in HTTP/1.0")
        if headers[b"transfer-encoding"].lower() != b"chunked":
            raise Refusal(FRAMING, "Transfer-Encoding other than chunked")
        if b"content-length" in headers:
            raise Refusal(FRAMING, "Transfer-Encoding and Content-Length")
    elif b"content-length" in headers and not is_length(headers[b"content-length"]):
        raise Refusal(FRAMING, "Content-Length is not a plain decimal number")
    if b"upgrade" in headers:
        raise Refusal(FRAMING, "Upgrade is not supported")
    if b"trailer" in headers:
        raise Refusal(FRAMING, "trailers are not supported")
    if b"connection" in headers:
        for option in _connection_options(headers[b"connection"], guarded):
            headers.pop(option, None)
    if b"expect" in headers and headers[b"expect"].lower() != b"100-continue":
        raise Refusal(EXPECTATION)
    return Head(name, path, headers, keep_alive, version == "1.0")


def is_length(value: bytes) -> bool:
    """Whether a Content-Length is ``0|[1-9][0-9]*`` (and below 10**18)."""
    return value.isdigit() and (value[0] != 0x30 or value == b"0") and len(value) < 19


def add_repeated(headers: dict[bytes, bytes], name: bytes, value: bytes) -> None:
    """Joins a header to its earlier occurrence (RFC 9110, 5.3).

    Raises:
        Refusal: FRAMING, if a header of one value is repeated.
    """
    if name in _SINGLE or name.startswith(b"content-"):
        raise Refusal(FRAMING, f"{_shown(name)} is repeated")
    headers[name] += b", " + value


def check_size(target: bytes, headers: dict[bytes, bytes], limit: int) -> None:
    """Refuses a head of more than ``limit`` bytes.

    Raises:
        Refusal: HEAD_TOO_LARGE.
    """
    size = len(target) + sum(len(name) + len(value) + 4 for name, value in headers.items())
    if size > limit:
        raise Refusal(HEAD_TOO_LARGE, f"more than {limit} bytes")


@lru_cache(maxsize=_KNOWN)
def _target(target: bytes) -> str:
    if not target.startswith(b"/"):
        raise Refusal(MALFORMED, "the request target must be a path")
    if b"?" in target:
        raise Refusal(MALFORMED, "a query string is not supported")
    if b"//" in target or _DOTS.search(target):
        raise Refusal(MALFORMED, "the path has empty or dot segments")
    if not _TARGET.fullmatch(target):
        raise Refusal(MALFORMED, "the path has a character that is not supported")
    return target.decode("ascii")


@lru_cache(maxsize=_KNOWN)
def _host(host: bytes) -> None:
    match = _HOST.fullmatch(host)
    if match is None or int(match[2] or 0) > 65535:
        raise Refusal(MALFORMED, "Host is invalid")
    if host.startswith(b"["):
        try:
            ipaddress.IPv6Address(match[1][1:-1].decode("ascii"))
        except ValueError:
            raise Refusal(MALFORMED, "Host is invalid") from None


@lru_cache(maxsize=_KNOWN)
def _connection_options(value: bytes, guarded: frozenset[bytes]) -> tuple[bytes, ...]:
    """The headers that ``Connection`` declares hop-by-hop, so that they end here."""
    options = [option.strip().lower() for option in value.split(b",")]
    for option in options:
        if option in _PROTECTED or option in guarded or option.startswith(b"content-"):
            raise Refusal(FRAMING, f"Connection names {_shown(option)}")
        if option == b"upgrade":
            raise Refusal(FRAMING, "Upgrade is not supported")
    return tuple(option for option in options if option not in (b"", b"close", b"keep-alive"))


def refuse_look_alike(name: bytes, guarded: frozenset[bytes]) -> None:
    """Refuses a name with ``_`` that passes for another: servers that map ``-`` and ``_`` to one
    name (CGI, WSGI) would take it for that one.

    Raises:
        Refusal: FRAMING.
    """
    meant = name.replace(b"_", b"-")
    if (
        meant in _PROTECTED
        or meant in HOP_BY_HOP
        or meant in guarded
        or meant.startswith(b"content-")
    ):
        raise Refusal(FRAMING, f"{_shown(name)} looks like {_shown(meant)}")


def _shown(name: bytes) -> str:
    return name[:64].decode("latin-1")
