"""What is told to the service manager that started the process: ready, reloading, stopping, alive.

Source: sd_notify(3). Without one, that is without ``NOTIFY_SOCKET``, nothing is told to anybody.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import structlog

_log = structlog.get_logger("bartizan")

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
_ALIVE: Final = "WATCHDOG=1"
_RELOADING: Final = "RELOADING=1"


def notify(*words: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Tells the service manager; whether there is one that took it.

    It never raises: who serves goes on, whoever listens.
    """
    path = environment.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    # Linux' abstract names begin with a NUL, which an environment variable cannot hold.
    place = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
            sending.setblocking(False)
            sending.connect(place)
            sending.send("\n".join(words).encode())
    except OSError as error:
        _log.warning("the service manager cannot be told", words=words[0], error=str(error))
        return False
    return True


@contextmanager
def reloading() -> Iterator[None]:
    """Tells that a reload begins, and that it is over, whatever came of it."""
    # The moment lets the manager tell this reload from an earlier one (systemd 253 and newer).
    notify(_RELOADING, f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
    try:
        yield
    finally:
        notify(READY)


def watchdog_seconds(environment: Mapping[str, str] = os.environ) -> float | None:
    """Within how long the manager wants to hear that this process is alive; None: it does not."""
    told, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not told.isdecimal() or not int(told) or process not in ("", str(os.getpid())):
        return None
    return int(told) / 1e6


async def stay_alive() -> None:
    """Says for ever that the loop turns, if somebody wants to hear it."""
    seconds = watchdog_seconds()
    while seconds is not None:
        notify(_ALIVE)
        await asyncio.sleep(seconds / 3)
