"""Resident memory of a process, and whether it stays where it is."""

from pathlib import Path

import numpy as np


def status_bytes(pid, key):
    """``VmRSS`` (now) or ``VmHWM`` (the most since :func:`reset_peak`) in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {key} in /proc/{pid}/status")


def reset_peak(pid):
    """Lets ``VmHWM`` begin anew from what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def growth(samples):
    """Bytes between the medians of the middle and the last third of the samples.

    The first third is the warm-up: pools, caches and the allocator's arenas fill. Medians leave out
    the moments in which a large request is in memory.
    """
    _, middle, last = np.array_split(np.asarray(samples, float), 3)
    return float(np.median(last) - np.median(middle))
