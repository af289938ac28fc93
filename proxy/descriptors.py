"""The process's limit of open file descriptors: every connection takes one."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress


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
