"""How many requests a model server is given at once: learnt from how long it takes for them.

The law is the gradient of Netflix's concurrency-limits (Gradient2) with the baseline of TCP Vegas
and of Envoy's adaptive concurrency: latency without load. That is measured where it shows, on
requests that found the server all but idle, so that no overload, however long, passes for normal.
"""

from __future__ import annotations

import math
from typing import Final

_LEAST: Final = 4
"""Requests that are always let through at once."""
_QUIET: Final = 2
"""A request that is one of so many meets no queue of our making."""
_SLACK: Final = 0.005
_LAGS: Final = 3
"""Seconds beyond the baseline that never count as queueing, and so many turns of our own loop: an
answer waits for one, and so do the requests that go out with it."""
_SAMPLES: Final = 16
_WINDOW: Final = 0.1  # seconds, at least: one turn of our own loop is none
_WEIGHT: Final = 0.1  # of one quiet sample in a baseline
_HARDEST: Final = 0.3  # the most that one window takes off
_PROBE_AFTER: Final = 30.0  # seconds under pressure without a quiet sample
_PROBE_SHARE: Final = 200  # baselines between two probes, as each takes about eight
_PROBE_SAMPLES: Final = 8
_PROBE_RISE: Final = 1.25


class Concurrency:
    """The limit of one upstream. Knows no clock: whoever asks says what time it is.

    What a request costs depends on its rows. Samples are compared with the baseline of requests of
    about their size (of the same power of two), so that a change of the mix is no change of speed.

    After ``_SAMPLES`` answers, and no sooner than one of them, and a tenth of a second, takes::

        slowdown = sum of latencies / sum of their baselines
        limit    = limit * min(1, (tolerance * baselines + slack) / latencies) + sqrt(limit)

    upwards only while the limit is what held requests back. The root keeps the server busy between
    two of our answers; with a server of c places the limit settles where it takes ``tolerance * c``
    and a few more. Under pressure the baseline cannot be seen: twice a minute at most, one request
    at a time is sent until eight have been answered, and the baseline may rise by a fourth.

    Args:
        most: the limit at the start, and the highest.
        tolerance: how many times its baseline the server may take; infinity: the limit stays.

    Attributes:
        limit: how many may be under way now.
        lag: seconds that a turn of our own loop takes of late.
        baseline: seconds that the latest requests would have taken without load, on average;
            infinity before it is known.
    """

    __slots__ = (
        "_answers", "_base", "_begun", "_expected", "_level", "_most", "_probed_until", "_probing",
        "_quiet_at", "_taken", "_tight", "_tolerance", "baseline", "lag", "limit",
    )  # fmt: skip

    def __init__(self, most: int, tolerance: float = 2.0) -> None:
        self.limit = self._most = most
        self._tolerance = tolerance
        self._level = float(most)
        self._base: dict[int, float] = {}  # seconds without load, by the size's bit length
        self.baseline = math.inf
        self.lag = 0.0
        self._quiet_at = 0.0  # clock of the last quiet sample
        self._probing = 0  # quiet samples still wanted
        self._probed_until = 0.0
        # Of the current window:
        self._begun = 0.0
        self._answers = 0
        self._taken = self._expected = 0.0
        self._tight = False

    def held(self) -> None:
        """A request has to wait because of the limit."""
        self._tight = True

    def answered(self, seconds: float, size: int, among: int, now: float) -> None:
        """A request of ``size`` bytes got its answer after ``seconds``.

        Args:
            among: how many were under way when it was sent, itself included.
            now: clock.
        """
        kind = size.bit_length()
        base = self._base.get(kind)
        if among <= _QUIET:
            base = seconds if base is None else base + _WEIGHT * (seconds - base)
            self._quiet(kind, base, now)
        elif base is None:
            # Its kind was never seen: it waited as long as others did.
            waited = (self._taken - self._expected) / self._answers if self._answers else 0.0
            self._base[kind] = base = max(seconds / 2, seconds - waited)
        elif self._probing and now > self._probed_until:
            self._end_probe(now)
        self._taken += seconds
        self._expected += base
        self._answers += 1
        if self._answers >= _SAMPLES and now - self._begun > max(seconds, _WINDOW):
            self._judge(now)

    def missed(self, seconds: float, size: int, now: float) -> None:
        """A request got no answer within ``seconds``: it counts as slow as that."""
        self.answered(seconds, size, self._most + _QUIET, now)

    def _quiet(self, kind: int, base: float, now: float) -> None:
        self._quiet_at = now
        if self._probing:
            self._probing -= 1
            base = min(base, _PROBE_RISE * self._base.get(kind, base))
            if not self._probing:
                self._end_probe(now)
        self._base[kind] = base

    def _end_probe(self, now: float) -> None:
        self._probing = 0
        self._quiet_at = now
        self.limit = int(self._level)
        self._restart(now)

    def _judge(self, now: float) -> None:
        taken, expected, count = self._taken, self._expected, self._answers
        if taken < expected:  # the baselines were too high
            for kind in self._base:
                self._base[kind] *= taken / expected
        self.baseline = min(taken, expected) / count
        allowed = self._tolerance * expected + count * (_SLACK + _LAGS * self.lag)
        level = self._level
        gradient = max(_HARDEST, min(1.0, allowed / taken)) if taken else 1.0
        target = level * gradient + math.sqrt(level)
        if target < level or self._tight:
            self._level = min(max(target, _LEAST), self._most)
        if self._tight and gradient < 1.0 and self._probe_due(now):
            self._probing = _PROBE_SAMPLES
            self._probed_until = now + 4 * _PROBE_SAMPLES * taken / count
            self.limit = 1
        elif not self._probing:
            self.limit = int(self._level)
        self._restart(now)

    def _probe_due(self, now: float) -> bool:
        return now - self._quiet_at > max(_PROBE_AFTER, _PROBE_SHARE * self.baseline)

    def _restart(self, now: float) -> None:
        self._begun = now
        self._answers = 0
        self._taken = self._expected = 0.0
        self._tight = False
