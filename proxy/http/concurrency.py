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
_MOST_SAMPLES: Final = 1024
_WINDOW: Final = 0.1  # seconds, at least: one turn of our own loop is none
_STEP: Final = 0.1  # by which one quiet sample moves a baseline, at most
_HARDEST: Final = 0.3  # the most that one window takes off
_FEW: Final = 4  # samples of a size that say nothing of its baseline
_PROBE_AFTER: Final = 30.0  # seconds under pressure without a quiet sample
_PROBE_SHARE: Final = 200  # baselines between two probes, as each takes about eight
_PROBE_SAMPLES: Final = 8
_PROBE_RISE: Final = 1.25


class Concurrency:
    """The limit of one upstream. Knows no clock: whoever asks says what time it is.

    What a request costs depends on its rows. Samples are compared with the baseline of requests of
    about their size (of the same power of two), so that a change of the mix is no change of speed.
    It may depend on its content too: so a window is judged by its median, and a baseline moves by
    small steps. As long as most requests are not slow by themselves, those that are say nothing.

    After ``_SAMPLES`` answers, and no sooner than one of them, and a tenth of a second, takes::

        room  = median of (tolerance * baseline + slack) / latency, in this window or the last
        limit = limit * min(1, room) + sqrt(limit)

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
        baseline: seconds that one of the latest requests would have taken without load, the median;
            infinity before it is known.
    """

    __slots__ = (
        "_base",
        "_before",
        "_begun",
        "_level",
        "_most",
        "_probed_until",
        "_probing",
        "_quiet_at",
        "_room",
        "_samples",
        "_tight",
        "_tolerance",
        "_waited",
        "baseline",
        "lag",
        "limit",
    )  # fmt: skip

    def __init__(self, most: int, tolerance: float = 1.5) -> None:
        self.limit = self._most = most
        self._tolerance = tolerance
        self._level = float(most)
        self._base: dict[int, float] = {}  # seconds without load, by the size's bit length
        self.baseline = math.inf
        self.lag = 0.0
        self._room = math.inf  # of the last window
        self._waited = 0.0  # seconds that load added in the last window, the median
        self._quiet_at = 0.0  # clock of the last quiet sample
        self._probing = 0  # quiet samples still wanted
        self._probed_until = 0.0
        self._before: dict[int, float] = {}  # the baselines when the probe began
        # Of the current window:
        self._begun = 0.0
        self._samples: list[tuple[float, float, int]] = []  # latency, its baseline, its size's
        self._tight = False

    def held(self, now: float) -> None:
        """A request has to wait because of the limit."""
        self._tight = True
        self.check(now)

    def check(self, now: float) -> None:
        """Ends a probe that takes too long."""
        if self._probing and now > self._probed_until:
            self._end_probe(now)

    def answered(self, seconds: float, size: int, among: int, now: float) -> None:
        """A request of ``size`` bytes got its answer after ``seconds``.

        Args:
            among: how many were under way when it was sent, itself included.
            now: clock.
        """
        kind = size.bit_length()
        base = self._base.get(kind)
        if among <= _QUIET:
            base = self._quiet(kind, base, seconds, now)
        elif base is None:
            # Its kind was never seen: it waited as long as others did.
            self._base[kind] = base = max(seconds / 2, seconds - self._waited)
        self.check(now)
        samples = self._samples
        samples.append((seconds, base, kind))
        count = len(samples)
        if count >= _SAMPLES and (
            now - self._begun > max(seconds, _WINDOW) or count >= _MOST_SAMPLES
        ):
            self._judge(now)

    def missed(self, seconds: float, size: int, now: float) -> None:
        """A request got no answer within ``seconds``: it counts as slow as that."""
        self.answered(seconds, size, self._most + _QUIET, now)

    def _quiet(self, kind: int, base: float | None, seconds: float, now: float) -> float:
        self._quiet_at = now
        if base is None:
            base = seconds
        else:
            base = min(max(seconds, (1 - _STEP) * base), (1 + _STEP) * base)
        if self._probing:
            base = min(base, _PROBE_RISE * self._before.get(kind, base))
            self._probing -= 1
            if not self._probing:
                self._end_probe(now)
        self._base[kind] = base
        return base

    def _end_probe(self, now: float) -> None:
        self._probing = 0
        self._quiet_at = now
        self.limit = int(self._level)
        self._restart(now)

    def _judge(self, now: float) -> None:
        samples = self._samples
        slack = _SLACK + _LAGS * self.lag
        tolerance = self._tolerance
        room = _median([(tolerance * base + slack) / max(took, 1e-9) for took, base, _ in samples])
        self.baseline = _median([base for _, base, _ in samples])
        self._waited = max(0.0, _median([took - base for took, base, _ in samples]))
        self._lower(samples)
        level = self._level
        # A clump of requests that were slow by themselves fills one window, a queue the next too.
        gradient = max(_HARDEST, min(1.0, max(room, self._room)))
        self._room = room
        target = level * gradient + math.sqrt(level)
        if target < level or self._tight:
            self._level = min(max(target, _LEAST), self._most)
        if self._tight and gradient < 1.0 and self._probe_due(now):
            self._probing = _PROBE_SAMPLES
            self._probed_until = now + 4 * _PROBE_SAMPLES * (self.baseline + self._waited)
            self._before = dict(self._base)
            self.limit = 1
        elif not self._probing:
            self.limit = int(self._level)
        self._restart(now)

    def _lower(self, samples: list[tuple[float, float, int]]) -> None:
        """Lowers the baselines of sizes whose requests are faster than that under any load."""
        if all(took >= base for took, base, _ in samples):
            return
        took_by: dict[int, list[float]] = {}
        for took, _, kind in samples:
            took_by.setdefault(kind, []).append(took)
        for kind, times in took_by.items():
            if len(times) >= _FEW:
                base = self._base[kind]
                self._base[kind] = max(min(base, _median(times)), base / 2)

    def _probe_due(self, now: float) -> bool:
        return now - self._quiet_at > max(_PROBE_AFTER, _PROBE_SHARE * self.baseline)

    def _restart(self, now: float) -> None:
        self._begun = now
        self._samples = []
        self._tight = False


def _median(values: list[float]) -> float:
    values.sort()
    return values[len(values) // 2]
