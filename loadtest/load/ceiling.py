"""How much a server can do: searched for in a closed loop, confirmed in an open one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from loadtest.evidence.results import LoadResult
from loadtest.load import run as loads
from loadtest.load.plan import LoadError, Plan
from loadtest.load.run import Listener, rate_of
from loadtest.load.schedules import poisson

GROWTH: Final = 0.03
"""Twice the connections have to bring this much more, or the ceiling is reached."""

CONFIRMED_AT: Final = 0.9


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What was found.

    Attributes:
        rate: good answers a second, the most of any step.
        connections: with which that was reached.
        steps: of the search, in its order.
        confirmed: of an open loop at 0.9 of the rate.
    """

    rate: float
    connections: int
    steps: tuple[LoadResult, ...]
    confirmed: LoadResult


def search(
    plan: Plan, closed: Callable[[Plan], LoadResult], most: int
) -> tuple[float, int, tuple[LoadResult, ...]]:
    """Doubles the connections until the rate grows no more: the rate, the connections, the steps.

    It is over when two steps in a row bring no more: on a busy machine one may be unlucky.

    Raises:
        LoadError: if nothing is answered well.
    """
    steps: list[LoadResult] = []
    best, connections, at, idle = 0.0, 0, plan.processes, 0
    while at <= most and idle < 2:
        step = closed(replace(plan, connections=at))
        steps.append(step)
        idle = 0 if rate_of(step) > best * (1 + GROWTH) else idle + 1
        if rate_of(step) > best:
            best, connections = rate_of(step), at
        at *= 2
    if not best:
        raise LoadError(f"no good answer: {dict(steps[-1].said)}, {dict(steps[-1].errors)}")
    return best, connections, tuple(steps)


def ceiling(
    plan: Plan,
    *,
    seconds: float = 2.0,
    most: int = 1024,
    seed: int = 0,
    progress: Listener | None = None,
) -> Ceiling:
    """Searches with the plan's first part; its times, if it has any, are not used.

    Args:
        seconds: of each step, and of the confirmation.
        most: connections.

    Raises:
        LoadError: if the server cannot be reached, or answers nothing well.
    """
    nothing = np.empty(0, np.int64)
    bare = replace(plan, parts=plan.parts[:1], times=np.empty(0), which=nothing)

    def closed(step: Plan) -> LoadResult:
        what = f"{step.connections} connections"
        return loads.closed(step, seconds, progress, what=what)

    rate, connections, steps = search(bare, closed, most)
    times = poisson(CONFIRMED_AT * rate, seconds, seed)
    held = replace(
        bare, times=times, which=np.zeros(len(times), np.int64),
        arrivals=f"Poisson, {CONFIRMED_AT:g} of the ceiling",
        connections=max(2 * connections, plan.connections),
    )  # fmt: skip
    (confirmed,) = loads.run(held, progress)
    return Ceiling(rate, connections, steps, confirmed)
