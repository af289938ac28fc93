"""What the system grants against what the configuration takes."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import detectors
from proxy.descriptors import needed_for
from proxy.doctor.finding import Finding, ok, untried, warning, wrong
from proxy.doctor.host import Host
from proxy.settings.models import Settings

BACKLOG: Final = 1024
"""What the listener asks for: connections that wait to be accepted."""
_DESCRIPTORS: Final = "limits.descriptors"
_MEMORY: Final = "limits.memory"
_PROCESSORS: Final = "limits.processors"
_BACKLOG: Final = "limits.backlog"
_TEMPORARY: Final = "limits.temporary"
_CACHE: Final = "limits.cache"
_MIB: Final = 2**20
_WORKER_BYTES: Final = 220 * _MIB
"""A worker with numba and a bundle, before any client comes: docs/sizing.md."""
_CLIENT_BYTES: Final = 19 * 1024
_LEAST_TEMPORARY: Final = 16 * _MIB


def limits(settings: Settings, host: Host) -> list[Finding]:
    """What is found of the system's limits."""
    return [
        descriptors(settings, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        memory(settings, host.memory()),
        processors(settings.workers, host.processors(), len(os.sched_getaffinity(0))),
        backlog(host.read("proc/sys/net/core/somaxconn")),
        temporary(Path(tempfile.gettempdir())) if _has_temporary() else _no_temporary(),
        cache(os.environ, Path(detectors.__file__ or ".").parent),
    ]


def descriptors(settings: Settings, hard: int) -> Finding:
    """The hard limit of open files against what connections may take."""
    needed = needed_for(settings)
    if hard != resource.RLIM_INFINITY and hard < needed:
        return wrong(
            _DESCRIPTORS,
            f"connections may take {needed} file descriptors a worker, and the hard limit is "
            f"{hard}: it does not start",
            "raise it (LimitNOFILE, ulimit -Hn), or lower http.connections",
        )
    allowed = "no bound" if hard == resource.RLIM_INFINITY else f"{hard} allowed"
    return ok(_DESCRIPTORS, f"connections may take {needed} file descriptors a worker, {allowed}")


def memory(settings: Settings, granted: int | None) -> Finding:
    """What there is against what may be taken at worst: workers, clients' records, and a body of
    full size for every request that a model server is given at once."""
    if granted is None:
        return untried(_MEMORY, "neither a cgroup nor the kernel tells how much memory there is")
    base = settings.workers * _WORKER_BYTES
    worst = base
    for endpoint in settings.endpoints:
        clients = endpoint.patterns.clients * _CLIENT_BYTES if endpoint.bundle else 0
        bodies = endpoint.connections * max(1, len(endpoint.upstream)) * endpoint.limits.body_bytes
        worst += settings.workers * (clients + bodies)
    words = f"{_size(granted)} granted; {settings.workers} worker(s) take {_size(base)} idle"
    if base > granted:
        return wrong(_MEMORY, words, "raise the memory limit, or lower workers")
    words += f", {_size(worst)} if every request at once is of full size"
    if worst > granted:
        advice = "lower limits.body_bytes, connections or patterns.clients, or raise the limit"
        return warning(_MEMORY, words, advice)
    return ok(_MEMORY, words)


def processors(workers: int, granted: float | None, usable: int) -> Finding:
    """Workers against processors: the cgroup's quota, and those that may be run on."""
    have = min(usable, granted) if granted is not None else usable
    words = f"{workers} worker(s), {have:g} processor(s)"
    if granted is not None and granted < 1:
        words += ": the quota stops it for a part of every 100 ms, which shows in latency"
        return warning(_PROCESSORS, words, "grant a whole processor for each worker")
    if workers > have:
        return warning(_PROCESSORS, words, "lower workers, or grant a processor for each")
    return ok(_PROCESSORS, words)


def backlog(somaxconn: str) -> Finding:
    """The kernel's bound on connections that wait to be accepted."""
    if not somaxconn.strip().isdigit():
        return untried(_BACKLOG, "net.core.somaxconn is not told")
    most = int(somaxconn)
    if most < BACKLOG:
        return warning(
            _BACKLOG,
            f"net.core.somaxconn is {most}: a burst of more new connections is dropped",
            f"sysctl net.core.somaxconn={BACKLOG}",
        )
    return ok(_BACKLOG, f"{BACKLOG} connections may wait to be accepted")


def temporary(folder: Path) -> Finding:
    """The folder for temporary files."""
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if free < _LEAST_TEMPORARY:
        return warning(_TEMPORARY, f"{folder}: {_size(free)} free", "make room")
    return ok(_TEMPORARY, f"{folder}: {_size(free)} free")


def cache(environment: Mapping[str, str], program: Path) -> Finding:
    """Whether compiled scoring is kept from one start to the next.

    numba tries ``NUMBA_CACHE_DIR``, then the folder of the program, then the user's cache, and
    takes the first that it can write.

    Args:
        program: the folder of the detectors.
    """
    if find_spec("numba") is None:
        words = "numba is not installed: scoring is numpy's, correct and slower"
        return warning(_CACHE, words, "install the extra fast, pip install '.[fast]' in a checkout")
    if environment.get("NUMBA_CACHE_LOCATOR_CLASSES"):
        return ok(_CACHE, "compiled scoring came with the image")
    users = environment.get("XDG_CACHE_HOME") or f"{environment.get('HOME') or '/'}/.cache"
    given = environment.get("NUMBA_CACHE_DIR")
    for place in ([Path(given)] if given else []) + [program, Path(users)]:
        if _writable(place):
            return ok(_CACHE, f"compiled scoring is kept in {place}")
    return warning(
        _CACHE,
        "no cache can be written: scoring is compiled anew at each start, which takes seconds",
        "set NUMBA_CACHE_DIR to a directory that outlives a restart",
    )


def _writable(folder: Path) -> bool:
    """Whether files can be made there, once the folder itself is."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _has_temporary() -> bool:
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        return False
    return True


def _no_temporary() -> Finding:
    advice = "mount a tmpfs on /tmp (with a read-only root: emptyDir with medium Memory)"
    return warning(_TEMPORARY, "no directory for temporary files can be written", advice)


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
