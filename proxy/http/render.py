"""Bytes of answers and of upstream requests."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from proxy.decision import UpstreamRequest
from proxy.http.messages import REASONS, Reply

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"

_STATUS_LINES: Final = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, reason) for status, reason in REASONS.items()
}

_PATH: Final = re.compile(rb"/[!-~]*")


def status_line(status: int) -> bytes:
    """The status line; an unknown status has no reason phrase."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """One CRLF-ended line a header."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


def reply(answer: Reply, *, date: bytes, connection: bytes, with_body: bool) -> bytes:
    """A local answer as it goes out.

    Args:
        date: the Date line.
        connection: the Connection line, or nothing.
        with_body: False in answer to HEAD: the length is told all the same.
    """
    return b"%b%b%b%bcontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (
        status_line(answer.status),
        date,
        connection,
        header_lines(answer.headers) if answer.headers else b"",
        answer.content_type,
        len(answer.body),
        answer.body if with_body else b"",
    )


def chunk(piece: bytes) -> bytes:
    """One chunk (RFC 9112, 7.1); empty for an empty piece, which would end the body."""
    return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""


def upstream_request(request: UpstreamRequest, host_line: bytes) -> bytes:
    """A request upstream, from nothing but what was permitted.

    Args:
        host_line: the end of the request line and the configured Host header.

    Raises:
        ValueError: if it would not be one well-formed request: a defect of ours.
    """
    method, target, headers, body = request
    _check_line(method, target)
    if headers and (headers[-2:] != b"\r\n" or headers[0] < 0x21 or b"\n\r\n" in headers):
        raise ValueError("the permitted headers are not header lines")
    if method == b"POST":
        return b"POST %b%b%bcontent-length: %d\r\n\r\n%b" % (
            target,
            host_line,
            headers,
            len(body),
            body,
        )
    return b"%b %b%b%b\r\n" % (method, target, host_line, headers)


@lru_cache(maxsize=256)
def _check_line(method: bytes, target: bytes) -> None:
    if method not in (b"GET", b"HEAD", b"POST") or not _PATH.fullmatch(target):
        raise ValueError("the permitted request line is not one")
