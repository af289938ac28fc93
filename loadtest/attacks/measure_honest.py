"""How often honest clients are alarmed."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np

from detectors.patterns.base import Alarm, Tracker
from loadtest.attacks import honest
from loadtest.attacks.guard import BLAMED, PACE, Guard, fit_guard
from loadtest.attacks.study import Study

DAYS: Final = {"mixed": 700, "skewed": 320}
OTHER_DAYS: Final = 120
STRESSED_DAYS: Final = 40
COMPANY: Final = 20
"""Clients that ask at the same time, from one subnet."""
ROUNDS: Final = 12

Row = dict[str, Any]


def measure(study: Study, quick: bool) -> list[Row]:
    """Client-days by kind, and how many of them raised an alarm, by family and scope."""
    rows: list[Row] = []
    for kind, make in honest.KINDS.items():
        days = DAYS.get(kind, OTHER_DAYS) // (20 if quick else 1)
        rows.append(_days(study, kind, make, days=days, profile="default"))
    rows.append(_company(study, 2 if quick else ROUNDS))
    return rows


def stressors(study: Study, quick: bool) -> list[Row]:
    """The same of clients who look like an attack, as they are and under the profile for them."""
    rows: list[Row] = []
    for kind, make in honest.STRESSORS.items():
        if (kind == "frames") == study.split.table:
            continue
        days = STRESSED_DAYS // (5 if quick else 1)
        rows.append(_days(study, kind, make, days=days, profile="default"))
        # A profile is for an endpoint that serves such traffic, and was fitted on it.
        part = honest.stressed(
            kind, study.split.fit, study.random(f"fit {kind}"), study.split.image
        )
        guard = fit_guard(part, study.seed)
        rows.append(_days(study, kind, make, days=days, profile=kind, guard=guard))
    return rows


def _days(
    study: Study,
    kind: str,
    make: honest.Make,
    *,
    days: int,
    profile: str,
    guard: Guard | None = None,
) -> Row:
    guard = guard or study.guard
    random = study.random(f"honest {kind}")
    raised: Counter[str] = Counter()
    alarmed, queries = 0, 0
    for _ in range(days):
        day = make(study.split.honest, random, study.split.image)
        names = alarms_of_day(guard, guard.tracker(clients=4, profile=profile), day)
        alarmed += bool(names)
        raised.update(names)
        queries += len(day.rows)
    return {
        "kind": kind,
        "profile": profile,
        "days": days,
        "alarmed": alarmed,
        "raised": dict(raised),
        "queries": queries / days,
    }


def alarms_of_day(guard: Guard, tracker: Tracker, day: honest.Day) -> set[str]:
    """Which alarms a day raises, those of the whole endpoint left out."""
    p_values = guard.p_values(day.rows)
    names: set[str] = set()
    begin = 0
    for number, size in enumerate(day.sizes):
        end = begin + int(size)
        now = number * PACE
        alarms = tracker.observe("honest", "", day.rows[begin:end], p_values[begin:end], now)
        names.update(_name(alarm) for alarm in alarms if alarm.scope in BLAMED)
        begin = end
    return names


def _company(study: Study, rounds: int) -> Row:
    """Clients who share an address and a day, each with rows of its own."""
    random = study.random("honest company")
    raised: Counter[str] = Counter()
    alarmed, queries = 0, 0
    for _ in range(rounds):
        tracker = study.guard.tracker(clients=4 * COMPANY)
        shares = honest.shares(study.split.honest, COMPANY, random)
        order = np.repeat(np.arange(COMPANY), [min(len(share), 100) for share in shares])
        random.shuffle(order)
        turn = [0] * COMPANY
        p_values = [study.guard.p_values(share) for share in shares]
        wronged: dict[int, set[str]] = {}
        for number, client in enumerate(order.tolist()):
            at = turn[client]
            turn[client] += 1
            alarms = tracker.observe(
                f"honest-{client}",
                "subnet",
                shares[client][at : at + 1],
                p_values[client][at : at + 1],
                number * PACE,
            )
            names = {_name(alarm) for alarm in alarms if alarm.scope in BLAMED}
            if names:
                wronged.setdefault(client, set()).update(names)
        alarmed += len(wronged)
        queries += order.size
        for names in wronged.values():
            raised.update(names)
    return {
        "kind": f"{COMPANY} accounts, one subnet",
        "profile": "default",
        "days": rounds * COMPANY,
        "alarmed": alarmed,
        "raised": dict(raised),
        "queries": queries / (rounds * COMPANY),
    }


def _name(alarm: Alarm) -> str:
    return f"{alarm.family.value}, {alarm.scope.value}"
