"""A timer fine enough to send by: event loops count in milliseconds, Linux in nanoseconds."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from typing import Final, Protocol


class Timer(Protocol):
    """Calls back once, some time after it was set last."""

    def set(self, seconds: float) -> None:
        """Calls back after this long, or as soon as may be."""

    def close(self) -> None:
        """Calls back no more."""


class LoopTimer:
    """By the event loop: late by up to a millisecond."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None

    def set(self, seconds: float) -> None:
        """As ``Timer``."""
        if seconds <= 0:
            self._handle = self._loop.call_soon(self._callback)
        else:
            self._handle = self._loop.call_later(seconds, self._callback)

    def close(self) -> None:
        """As ``Timer``."""
        if self._handle is not None:
            self._handle.cancel()


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


_MONOTONIC: Final = 1
_NANO: Final = 1_000_000_000


class KernelTimer:
    """By timerfd_create(2): late by some tens of microseconds.

    Raises:
        OSError: where the system has none.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        try:
            self._settime = ctypes.CDLL(None, use_errno=True).timerfd_settime
            create = ctypes.CDLL(None, use_errno=True).timerfd_create
        except AttributeError:
            raise OSError("no timerfd here") from None
        self._descriptor = create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._setting = _Setting()
        self._pointer = ctypes.byref(self._setting)
        self._loop.add_reader(self._descriptor, self._ready)

    def set(self, seconds: float) -> None:
        """As ``Timer``."""
        # Zero would mean never.
        whole, rest = divmod(max(1, int(seconds * _NANO)), _NANO)
        self._setting.value.seconds, self._setting.value.nanoseconds = whole, rest
        if self._settime(self._descriptor, 0, self._pointer, None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        """As ``Timer``."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _ready(self) -> None:
        # Set again meanwhile, there is nothing to read yet.
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 8)
            self._callback()


def timer(callback: Callable[[], None]) -> Timer:
    """The finest there is."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return KernelTimer(callback)
    return LoopTimer(callback)
