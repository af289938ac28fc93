"""How far one process is with its load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.load.outcome import ERRORS, said_of


@dataclass(frozen=True, slots=True)
class Count:
    """As in ``Progress``."""

    at: float
    offered: int
    sent: int
    dropped: int
    waiting: int
    said: dict[str, int]
    errors: int
    p50: float | None
    p99: float | None


def count_of(
    at: float,
    statuses: Mapping[int, int],
    *,
    offered: int,
    busy: int,
    waiting: int,
    recent: Sequence[float],
) -> Count:
    """From what was counted.

    Args:
        statuses: of what has ended so far.
        busy: requests under way; ``waiting``: for a connection.
        recent: seconds of the replies of late.
    """
    said: dict[str, int] = {}
    for status, count in statuses.items():
        if status > 0:
            word = said_of(status).value
            said[word] = said.get(word, 0) + count
    sent = sum(statuses.values()) + busy
    p50, p99 = (float(p) for p in np.percentile(recent, [50, 99])) if recent else (None, None)
    return Count(
        at, offered, sent, offered - sent - waiting, busy + waiting, said,
        sum(statuses.get(status, 0) for status in ERRORS), p50, p99,
    )  # fmt: skip
