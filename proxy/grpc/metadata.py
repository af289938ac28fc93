"""Metadata of gRPC calls, and the header lines in which the firewall speaks of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from proxy.rules import FRAMING, Refusal

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

_OF_THE_CALL: Final = ("grpc-", "content-", "accept-", ":")
_OF_THE_HOP: Final = frozenset(
    {"connection", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
_DETAILS: Final = "grpc-status-details-bin"
_OURS: Final = "x-request-id"
_NOT_SENT: Final = frozenset({"accept", "user-agent", "grpc-timeout"})
_MICROSECONDS: Final = {b"u": 1e-6, b"m": 1e-3, b"S": 1.0, b"M": 60.0, b"H": 3600.0, b"n": 1e-9}


def headers_of(
    metadata: Iterable[tuple[str, str | bytes]] | None, guarded: frozenset[str]
) -> dict[bytes, bytes]:
    """A client's metadata as headers: without binary values, and without what concerns the call or
    the hop. What is there twice is joined by a comma, as in HTTP.

    Args:
        guarded: further names that decide something, and may be there once only.

    Raises:
        Refusal: FRAMING.
    """
    headers: dict[bytes, bytes] = {}
    for name, value in metadata or ():
        if name in _OF_THE_HOP or name.startswith(_OF_THE_CALL) or type(value) is not str:
            continue
        if not (value.isascii() and value.isprintable()):
            raise Refusal(FRAMING, "metadata that is not printable ASCII")
        key = name.encode()
        if key in headers:
            if name == "authorization" or name in guarded:
                raise Refusal(FRAMING, f"several {name}")
            headers[key] += b", " + value.encode()
        else:
            headers[key] = value.encode()
    return headers


def metadata_of(lines: bytes) -> tuple[Metadata, float | None]:
    """Header lines as metadata to send upstream, and the deadline among them in seconds.

    What an HTTP client says of the bodies that it takes is left out, and its name: gRPC sends its
    own.
    """
    metadata = []
    seconds = None
    for line in lines.split(b"\r\n")[:-1]:
        name, _, value = line.decode("latin-1").partition(": ")
        if name == "grpc-timeout":
            seconds = int(value[:-1]) * _MICROSECONDS[value[-1:].encode()]
        elif name not in _NOT_SENT and not name.startswith(_OF_THE_CALL):
            metadata.append((name, value))
    return tuple(metadata), seconds


def timeout_line(seconds: float) -> bytes:
    """A deadline as the value of ``grpc-timeout``: at most 8 digits, in milliseconds."""
    return b"%dm" % min(max(int(seconds * 1000), 1), 99_999_999)


def passed_on(metadata: Iterable[tuple[str, str | bytes]] | None) -> Metadata:
    """A server's metadata as far as clients get it: all but what concerns the call or the hop, what
    gRPC would not send (text that is not printable ASCII), and the request's id, which is ours."""
    return tuple(
        (name, value)
        for name, value in metadata or ()
        if name == _DETAILS
        or not (name == _OURS or name in _OF_THE_HOP or name.startswith(_OF_THE_CALL))
        if type(value) is not str or (value.isascii() and value.isprintable())
    )


def trailers_of(lines: bytes) -> Metadata:
    """Header lines of ours as metadata for a client."""
    return metadata_of(lines)[0]
