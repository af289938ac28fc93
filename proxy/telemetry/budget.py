"""Live alert rates against the budget that calibration promised to keep."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

WINDOW_ROWS: Final = 10_000
"""The least number of rows that a window holds once it is full."""

_EXPECTED: Final = 10  # alerts that a window of honest rows at the budget holds, at least
_BLOCKS: Final = 20  # by which a window forgets
_LEVEL: Final = math.log(1e-6)  # of the signal, at any one look


def alert_rate(rows: float, flagged: float) -> float:
    """Flagged rows over rows, NaN where there are none."""
    return flagged / rows if rows else math.nan


def is_exceeded(rows: float, requests: float, budget: float) -> bool:
    """Whether more is flagged than chance explains: see :class:`AlertWindow`.

    Args:
        requests: those with a flagged row.
    """
    mean = rows * budget
    if requests <= mean:
        return False
    return requests - mean - requests * math.log(requests / mean) < _LEVEL


class AlertWindow:
    """The latest rows of one endpoint: how many were flagged, and whether that passes for chance.

    The window holds the last ``max(10 000, 10 / budget)`` rows, and forgets them in twentieths.

    The signal rests on *requests* with a flagged row, not on rows: the rows of one request are not
    independent. Under the budget b a request of n rows is flagged with probability at most n b
    (union bound) whatever binds its rows, so over independent requests with N rows in all the
    number of flagged ones is a sum of Bernoulli variables with mean at most m = N b, and Chernoff's
    bound P(K >= k) <= exp(k - m - k ln(k / m)) holds for k > m. The signal is raised while that
    bound is below 1e-6: at a look every 15 seconds, honest traffic raises it once in half a year
    or more rarely.

    Args:
        budget: the false-positive budget of rows, above 0 and below 1.
    """

    __slots__ = ("_blocks", "_budget", "_kept", "_open", "_size")

    def __init__(self, budget: float) -> None:
        if not 0 < budget < 1:
            raise ValueError(f"a false-positive budget lies between 0 and 1, not at {budget}")
        self._budget = budget
        self._size = max(WINDOW_ROWS, math.ceil(_EXPECTED / budget))
        self._blocks: deque[tuple[int, int, int]] = deque()
        self._open = (0, 0, 0)  # rows, flagged rows, flagged requests
        self._kept = (0, 0, 0)  # the sum of all, with the open block

    @property
    def budget(self) -> float:
        """The share of honest rows that may be flagged."""
        return self._budget

    @property
    def rows(self) -> int:
        """Rows in the window."""
        return self._kept[0]

    @property
    def flagged(self) -> int:
        """Flagged rows in the window."""
        return self._kept[1]

    @property
    def requests(self) -> int:
        """Requests with a flagged row in the window."""
        return self._kept[2]

    @property
    def rate(self) -> float:
        """Flagged rows over rows, NaN before the first row."""
        return alert_rate(self.rows, self.flagged)

    @property
    def exceeded(self) -> bool:
        """Whether more is flagged than chance explains under the budget."""
        return is_exceeded(self.rows, self.requests, self._budget)

    def add(self, rows: int, flagged: int, requests: int) -> None:
        """Takes in some exchanges: scored rows, flagged rows, requests with a flagged row."""
        if not rows:
            return
        added = (rows, flagged, requests)
        self._open = _plus(self._open, added)
        self._kept = _plus(self._kept, added)
        if self._open[0] * _BLOCKS >= self._size:
            self._blocks.append(self._open)
            self._open = (0, 0, 0)
        while self._blocks and self._kept[0] - self._blocks[0][0] >= self._size:
            rows, flagged, requests = self._blocks.popleft()
            self._kept = _plus(self._kept, (-rows, -flagged, -requests))


def _plus(a: tuple[int, int, int], b: tuple[int, int, int]) -> tuple[int, int, int]:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]
