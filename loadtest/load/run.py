"""Loads, run: in processes of their own, and told apart by part, side and round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from loadtest.evidence.results import LoadResult
from loadtest.load.outcome import Outcome
from loadtest.load.plan import Plan, Progress
from loadtest.load.processes import Workers
from loadtest.load.share import owner_of
from loadtest.load.summary import result, results

Listener = Callable[[Progress], None]


def run(plan: Plan, progress: Listener | None = None) -> list[LoadResult]:
    """Sends everything that a plan holds: one result a part, in its order.

    It blocks until the last reply. A signal that raises in this thread ends all processes in order.

    Raises:
        LoadError: if the server cannot be reached at the beginning, or a process dies.
    """
    outcome = Outcome.empty(plan.times)
    owner = owner_of(plan)
    with Workers(plan) as workers:
        for number, share in enumerate(workers.run(_teller(plan, plan.seconds, progress))):
            mine = owner == number
            outcome.sent[mine] = share.sent
            outcome.done[mine] = share.done
            outcome.status[mine] = share.status
    return results(plan, outcome)


def pairs(
    direct: Plan, firewall: Plan, rounds: int, progress: Listener | None = None
) -> list[LoadResult]:
    """Both sides back to back, ``rounds`` times; which goes first alternates.

    So what the firewall costs is a difference within a round, seconds apart: a busy machine is
    slower in one minute than in the next. Requests go on from round to round where they left off.

    Raises:
        LoadError: as ``run``.
    """
    found: list[LoadResult] = []
    for number in range(rounds):
        sides = (direct, firewall) if number % 2 == 0 else (firewall, direct)
        for plan in sides:
            found += run(plan.in_round(number), progress)
    return found


def closed(
    plan: Plan, seconds: float, progress: Listener | None = None, *, what: str = "closed loop"
) -> LoadResult:
    """Keeps all connections busy with the first part's requests: a rate, and no latency to trust.

    Raises:
        LoadError: as ``run``.
    """
    with Workers(plan, seconds) as workers:
        shares = workers.run(_teller(plan, seconds, progress, what))
    order = np.argsort(np.concatenate([share.sent for share in shares]), kind="stable")

    def joined(name: str) -> Any:
        return np.concatenate([getattr(share, name) for share in shares])[order]

    outcome = Outcome(joined("intended"), joined("sent"), joined("done"), joined("status"))
    return result(replace(plan, arrivals="closed loop"), plan.parts[0], outcome)


def rate_of(one: LoadResult) -> float:
    """Good answers a second."""
    return one.good / one.seconds if one.seconds > 0 else 0.0


def _teller(
    plan: Plan, seconds: float, progress: Listener | None, what: str = ""
) -> Callable[[Mapping[int, Mapping[str, Any]]], None] | None:
    if progress is None:
        return None

    def tell(counts: Mapping[int, Mapping[str, Any]]) -> None:
        said: dict[str, int] = {}
        for count in counts.values():
            for word, number in count["said"].items():
                said[word] = said.get(word, 0) + number
        values = list(counts.values())
        progress(
            Progress(
                plan.name, plan.side, plan.round, at=max(count["at"] for count in values),
                seconds=seconds, offered=_sum(values, "offered"), sent=_sum(values, "sent"),
                dropped=_sum(values, "dropped"), waiting=_sum(values, "waiting"), said=said,
                errors=_sum(values, "errors"), p50=_worst(values, "p50"),
                p99=_worst(values, "p99"), what=what,
            )
        )  # fmt: skip

    return tell


def _sum(counts: Sequence[Mapping[str, Any]], name: str) -> int:
    return sum(int(count[name]) for count in counts)


def _worst(counts: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return max((count[name] for count in counts if count[name] is not None), default=None)
