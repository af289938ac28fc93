"""What the C library and Python do with memory that is no longer used."""

from __future__ import annotations

import ctypes
import gc
from typing import Final

# mallopt(3), from glibc's malloc.h.
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

_ARENAS: Final = 1
_MMAP_BYTES: Final = 256 * 1024

_COLLECT_AT_START: Final = 100_000


def return_memory() -> bool:
    """Makes glibc give large buffers back to the system as soon as they are freed.

    By default it raises the size from which it does so to that of the largest buffer it has seen,
    and keeps a heap for each thread: after a few bodies of megabytes, resident memory creeps up for
    hours though nothing leaks.

    Returns:
        False where there is no glibc, and nothing was changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_ARENA_MAX, _ARENAS) and mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES))


def start_without_collecting() -> None:
    """Keeps Python from looking for garbage while everything is imported and loaded.

    All of that stays: to go through it again and again is a sixth of the time that a start takes.
    Whoever serves sets a threshold of their own afterwards.
    """
    gc.set_threshold(_COLLECT_AT_START)
