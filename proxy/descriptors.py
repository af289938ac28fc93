"""The process's limit of open file descriptors: every connection takes one."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from typing import Final

from proxy.settings.models import Settings

_SPARE: Final = 64


def needed_for(settings: Settings) -> int:
    """How many a process may have open at once under this configuration."""
    connections = settings.http.connections
    needed = connections + connections // 4 + _SPARE
    needed += sum(endpoint.connections * len(endpoint.upstream) for endpoint in settings.endpoints)
    if settings.grpc is not None:
        needed += settings.grpc.connections
    if settings.ext_proc is not None:
        needed += settings.ext_proc.connections
    return needed


def raise_limit(needed: int) -> int:
    """Raises the soft limit of open descriptors to ``needed``, or as near as the hard one allows.

    It is never lowered.

    Returns:
        how many may be open now: less than ``needed`` if the hard limit is in the way.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # the kernel may know a lower bound than the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
