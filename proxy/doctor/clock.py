"""Whether this host's clock can be believed."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

from proxy.doctor.finding import Finding, ok, untried, warning, wrong

_WALL: Final = "clock.wall"
_STEADY: Final = "clock.steady"
_NTP: Final = "clock.ntp"
_EARLIEST: Final = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""Before this was written."""
_LATEST: Final = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
_READINGS: Final = 1000
_UNSYNCHRONISED: Final = 0x40


class _Timex(ctypes.Structure):
    """``struct timex``, as far as its status; the rest is room. Source: adjtimex(2)."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 512),
    )


def clocks(
    wall: Callable[[], float] = time.time,
    steady: Callable[[], float] = time.perf_counter,
    kernel: Callable[[], int | None] | None = None,
) -> list[Finding]:
    """What is found of this host's clocks.

    Args:
        kernel: the kernel's status of its clock, None if it does not tell.
    """
    return [_wall(wall()), _steady(steady), _ntp((kernel or kernel_status)())]


def kernel_status() -> int | None:
    """The kernel's status of its clock; None if it does not tell. Reads only."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        told = _Timex()  # modes is 0: nothing is set
        if libc.adjtimex(ctypes.byref(told)) < 0:
            return None
    except (OSError, AttributeError):
        return None
    return int(told.status)


def _wall(now: float) -> Finding:
    told = datetime.fromtimestamp(min(max(now, 0), 2**33), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if not _EARLIEST < now < _LATEST:
        advice = "set the clock: certificates, days of quotas and the audit log depend on it"
        return wrong(_WALL, f"the clock says {told}", advice)
    return ok(_WALL, f"the clock says {told}")


def _steady(steady: Callable[[], float]) -> Finding:
    readings = [steady() for _ in range(_READINGS)]
    if any(later < earlier for earlier, later in pairwise(readings)):
        return wrong(_STEADY, "the steady clock goes back", "use another clock source, or host")
    return ok(_STEADY, "the steady clock does not go back")


def _ntp(status: int | None) -> Finding:
    if status is None:
        words = f"the kernel does not tell{' in this container' if _contained() else ''}"
        return untried(_NTP, words, "timedatectl, or chronyc tracking, on the host")
    if status & _UNSYNCHRONISED:
        return warning(
            _NTP,
            "the kernel's clock is not synchronised by NTP",
            "run chrony or systemd-timesyncd on the host (some keep the clock without telling)",
        )
    return ok(_NTP, "the kernel's clock is synchronised")


def _contained() -> bool:
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
