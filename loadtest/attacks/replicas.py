"""One client's queries spread over replicas that tell each other what they have learnt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from detectors.patterns.exchange import Delta, Layout, Merged
from detectors.patterns.layout import ENTRY, RING, SHARED
from detectors.patterns.tracker import PatternTracker
from loadtest.attacks.guard import BLAMED, PACE, Found, Guard
from loadtest.attacks.mixing import WARM_UP, Traffic, interleaved
from loadtest.attacks.study import Study
from proxy.state.memory_sketches import MemorySketches

REPLICAS: Final = 4
INTERVALS: Final = (1, 4, 16, 64)
"""Queries of the client from one exchange to the next."""
ATTACK: Final = "hopskipjump"
RUNS: Final = 20
MOST_HOSTILE: Final = 200

Row = dict[str, Any]
MOST: Final = 100_000


class Replicas:
    """Trackers, and the state that they share.

    Args:
        trackers: one a replica.
        rings: whether ring entries are exchanged, as they are in service.
    """

    def __init__(self, trackers: Sequence[PatternTracker], *, rings: bool = True) -> None:
        self.trackers = trackers
        self.now = 0.0
        self._rings = rings
        layout = Layout(entry_bytes=ENTRY.itemsize, ring=RING, shared_ring=SHARED)
        self._state = MemorySketches(
            layout, most=MOST, clock=lambda: self.now, wall=lambda: self.now
        )

    def sync(self) -> None:
        """Every replica tells, and is told what is known then; twice, so that the first is told
        what the last had to tell."""
        for _ in range(2):
            for tracker in self.trackers:
                tracker.merge(asyncio.run(self._exchange(tracker.drain(MOST))))

    async def _exchange(self, deltas: Sequence[Delta]) -> Sequence[Merged]:
        if not self._rings:
            deltas = [replace(delta, entries=b"") for delta in deltas]
        return await self._state.exchange(deltas)


def recognise_over(
    guard: Guard, replicas: Replicas, traffic: Traffic, interval: int, random: np.random.Generator
) -> Found | None:
    """As :func:`loadtest.attacks.guard.recognise`, each query at a replica drawn at random, with an
    exchange after every ``interval`` queries."""
    p_values = guard.p_values(traffic.rows)
    asked = 0
    for number, hostile in enumerate(traffic.hostile):
        replicas.now = number * PACE
        tracker = replicas.trackers[int(random.integers(len(replicas.trackers)))]
        alarms = tracker.observe(
            traffic.clients[number],
            traffic.subnets[number],
            traffic.rows[number : number + 1],
            p_values[number : number + 1],
            replicas.now,
        )
        asked += int(hostile)
        blamed = [alarm for alarm in alarms if alarm.scope in BLAMED]
        if blamed:
            return Found(asked, blamed[0]) if hostile else None
        if (number + 1) % interval == 0:
            replicas.sync()
    return None


def largest_difference(
    guard: Guard, replicas: Replicas, alone: PatternTracker, traffic: Traffic
) -> float:
    """Nats by which a client's evidence over replicas ever differs from that at one tracker after
    the warm-up, with an exchange after every query.

    A replica that meets a client for the first time judges that one query without what the others
    know; the exchange that follows brings it.
    """
    p_values = guard.p_values(traffic.rows)
    largest = 0.0
    for number, client in enumerate(traffic.clients):
        replicas.now = number * PACE
        tracker = replicas.trackers[number % len(replicas.trackers)]
        for one in (tracker, alone):
            one.observe(
                client,
                traffic.subnets[number],
                traffic.rows[number : number + 1],
                p_values[number : number + 1],
                replicas.now,
            )
        replicas.sync()
        expected = alone.standing(client)
        for one in replicas.trackers:
            found = one.standing(client)
            if number >= WARM_UP and found is not None and expected is not None:
                for family, level in expected.evidence.items():
                    largest = max(largest, abs(found.evidence[family] - level))
    return largest


def measure(study: Study, quick: bool) -> list[Row]:
    """Queries until an attack that is spread over replicas is recognised, by the queries between
    exchanges; and by how much the evidence differs with an exchange after each."""
    guard, honest = study.guard, study.split.honest.rows
    runs = study.attacks(ATTACK, RUNS)[: 2 if quick else RUNS // 2]
    rows: list[Row] = []
    for rings in (True, False):
        for interval in INTERVALS:
            random = study.random(f"replicas {rings} {interval}")
            found = [
                recognise_over(
                    guard,
                    Replicas([guard.tracker(clients=4) for _ in range(REPLICAS)], rings=rings),
                    interleaved(run, honest, 0, MOST_HOSTILE, random),
                    interval,
                    random,
                )
                for run in runs
            ]
            rows.append(
                {
                    "interval": interval,
                    "rings": rings,
                    "found": [None if one is None else one.queries for one in found],
                }
            )
    random = study.random("replicas")
    difference = largest_difference(
        guard,
        Replicas([guard.tracker(clients=4) for _ in range(REPLICAS)]),
        guard.tracker(clients=4),
        interleaved(runs[0], honest, 1, 40, random),
    )
    return [*rows, {"difference": difference}]
