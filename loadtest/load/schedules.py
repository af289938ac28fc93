"""When requests are due: seconds from the start, (n,) float64, sorted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from loadtest.load.plan import Indices, Times


def constant(rate: float, seconds: float) -> Times:
    """``rate`` a second at equal distances, from 0 up to ``seconds``.

    Raises:
        ValueError: here and below, if a rate or a stretch of time is not positive and finite.
    """
    _check(rate, seconds)
    times = np.arange(math.ceil(rate * seconds)) / rate
    return times[times < seconds]


def poisson(rate: float, seconds: float, seed: int) -> Times:
    """As independent clients come: gaps are exponential, ``rate`` a second on average."""
    _check(rate, seconds)
    generator = np.random.default_rng(seed)
    # Given their number, the arrivals of a Poisson process are uniform and independent.
    return np.sort(generator.uniform(0.0, seconds, generator.poisson(rate * seconds)))


def steps(stretches: Iterable[tuple[float, float]], seed: int | None = None) -> Times:
    """Stretches of (rate, seconds), one after the other; a rate of 0 is a pause.

    Args:
        seed: of Poisson arrivals within each; None: at equal distances.
    """
    times, begin = [np.empty(0)], 0.0
    for number, (rate, seconds) in enumerate(stretches):
        if rate == 0:
            _check(1, seconds)
        elif seed is None:
            times.append(begin + constant(rate, seconds))
        else:
            times.append(begin + poisson(rate, seconds, _seed_of(seed, number)))
        begin += seconds
    return np.concatenate(times)


def recorded(times: Sequence[float] | Times, speed: float = 1.0) -> Times:
    """As they once came, from the first of them; ``speed`` 2 replays them twice as fast.

    Raises:
        ValueError: if one is not finite, or ``speed`` is not positive.
    """
    _check(speed, 1)
    given = np.sort(np.asarray(times, np.float64))
    if not np.isfinite(given).all():
        raise ValueError("a recorded time is not finite")
    return (given - given[0]) / speed if len(given) else given


def mix(schedules: Sequence[Times]) -> tuple[Times, Indices]:
    """Several schedules as one: the times of a plan, and which of the schedules each is of."""
    times = np.concatenate([np.empty(0), *schedules])
    which = np.repeat(np.arange(len(schedules)), [len(one) for one in schedules])
    order = np.argsort(times, kind="stable")
    return times[order], which[order].astype(np.int64)


def _seed_of(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])


def _check(rate: float, seconds: float) -> None:
    if not (0 < rate < math.inf and 0 < seconds < math.inf):
        raise ValueError("a rate and a stretch of time are positive and finite")
