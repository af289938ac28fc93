"""Request ids, and the trace context that a request came with."""

from __future__ import annotations

import os
import re
from typing import Final

_DRAWN: Final = 512  # ids that one system call draws
_ID: Final = 16  # bytes of an id

_TRACEPARENT: Final = re.compile(
    rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]*)?"
)
_ORIGINAL: Final = 0x03  # sampled, random trace id: the flags that the specification defines

_MEMBER: Final = re.compile(
    rb"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    rb"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_MEMBERS: Final = 32
_STATE_BYTES: Final = 512


class RequestIds:
    """Makes request ids: 128 random bits of the operating system in hex, so that none is made twice
    and none can be guessed from others. They are drawn 512 at a time, as one system call an id
    would cost more than all the rest. A forked process draws its own.
    """

    __slots__ = ("__weakref__", "_ids")

    def __init__(self) -> None:
        self._ids: list[str] = []
        os.register_at_fork(after_in_child=self._ids.clear)

    def __call__(self) -> str:
        """A fresh id of 32 hex digits."""
        if not self._ids:
            drawn = os.urandom(_DRAWN * _ID).hex()
            width = 2 * _ID
            self._ids.extend(drawn[at : at + width] for at in range(0, len(drawn), width))
        return self._ids.pop()


def traceparent(value: bytes | None) -> bytes | None:
    """The header to pass on for a received ``traceparent``; None drops it, and ``tracestate`` too.

    What was understood is written anew as version 00, with the flags that are defined; the parent
    stays as it is, as the firewall makes no span of its own. A value that is not valid never
    refuses a request. Source: W3C Trace Context, level 2, section 3.2.
    """
    if value is None:
        return None
    parts = _TRACEPARENT.fullmatch(value)
    if parts is None:
        return None
    version, trace, parent, flags, rest = parts.groups()
    if version == b"ff" or (version == b"00" and rest is not None):
        return None
    if not trace.strip(b"0") or not parent.strip(b"0"):
        return None
    return b"00-%b-%b-%02x" % (trace, parent, int(flags, 16) & _ORIGINAL)


def tracestate(value: bytes | None) -> bytes | None:
    """The header to pass on for a received ``tracestate``, None drops it.

    At most 32 members of the specification's form, in 512 bytes. Source: W3C Trace Context,
    level 2, section 3.3.
    """
    if value is None or len(value) > _STATE_BYTES:
        return None
    members = [member for member in (part.strip(b" \t") for part in value.split(b",")) if member]
    if not members or len(members) > _MEMBERS:
        return None
    keys = set()
    for member in members:
        if not _MEMBER.fullmatch(member):
            return None
        keys.add(member.partition(b"=")[0])
    return b",".join(members) if len(keys) == len(members) else None
