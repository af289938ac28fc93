"""After how many queries black-box attacks are recognised, and how many succeed all the same."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from loadtest.attacks import adaptive, published
from loadtest.attacks.datasets import Singles
from loadtest.attacks.gateway import IMMEDIATE, SILENT, Gateway
from loadtest.attacks.guard import Guard, recognise, wronged
from loadtest.attacks.mixing import Noise, Traffic, interleaved, sybils
from loadtest.attacks.study import Study
from loadtest.attacks.traces import Trace

RUNS: Final = 20
"""Bases of each attack."""
MOST: Final = 400
MOST_INTERLEAVED: Final = 150
"""Hostile queries of a run, at most: what is not recognised by then is missed."""
ACCOUNTS: Final = (4, 16, 64)
NORMS: Final = (0.3, 1.0, 3.0, 5.0, 8.0)
ADAPTIVE_BUDGET: Final = 1000
ADAPTIVE_RUNS: Final = 10
MANNERS: Final = ((1, True), (100, True), (100, False))
"""Accounts, and whether the attacker pads."""
ANSWERS: Final = {
    "silent": (SILENT, False),
    "silent, lineages climb": (SILENT, True),
    "immediate": (IMMEDIATE, False),
}
"""The ladder, and whether lineages climb it: to one account that makes no difference."""

Row = dict[str, Any]


def blackbox(study: Study, quick: bool) -> list[Row]:
    """Each published attack, from one account that does nothing else."""
    return _published(study, quick, every=0)


def interleaving(study: Study, quick: bool) -> list[Row]:
    """The same, with 2 and with 10 honest queries of the same client to each hostile one."""
    return [row for every in (2, 10) for row in _published(study, quick, every=every)]


def _published(study: Study, quick: bool, every: int) -> list[Row]:
    rows: list[Row] = []
    honest = study.split.honest.rows
    most = MOST_INTERLEAVED if every else MOST
    for name in published.ATTACKS:
        random = study.random(f"{name} {every}")
        runs = study.attacks(name, RUNS)[: 4 if quick else RUNS]
        traffic = [interleaved(run, honest, every, most, random) for run in runs]
        rows.append({"attack": name, "every": every, "found": _found(study.guard, traffic)})
    return rows


def rounded(study: Study, quick: bool) -> list[Row]:
    """Each published attack with its queries rounded to whole numbers, where all rows of the table
    are: an attacker need not give itself away by fractions."""
    rows: list[Row] = []
    honest = study.split.honest.rows
    if not bool((honest == np.rint(honest)).all()):
        return rows
    for name in published.ATTACKS:
        random = study.random(f"{name} rounded")
        runs = [_whole(run) for run in study.attacks(name, RUNS)[: 4 if quick else RUNS]]
        traffic = [interleaved(run, honest, 0, MOST, random) for run in runs if run.counts]
        rows.append({"attack": name, "found": _found(study.guard, traffic)})
    return rows


def _whole(run: Trace) -> Trace:
    queries = np.rint(run.queries)
    first = np.sort(np.unique(queries, axis=0, return_index=True)[1])
    return Trace(queries[first], first.size, run.success)


def accounts(study: Study, quick: bool) -> list[Row]:
    """Each published attack over several accounts in turn, among other honest clients."""
    rows: list[Row] = []
    honest = study.split.honest.rows
    for name in published.ATTACKS:
        runs = study.attacks(name, RUNS)[: 2 if quick else RUNS // 2]
        for count in ACCOUNTS:
            for one_subnet in (True, False):
                random = study.random(f"{name} {count} {one_subnet}")
                traffic = [
                    sybils(
                        run, honest, MOST_INTERLEAVED, random, accounts=count, one_subnet=one_subnet
                    )
                    for run in runs
                ]
                beside = [wronged(study.guard, study.guard.tracker(), one) for one in traffic]
                rows.append(
                    {
                        "attack": name,
                        "accounts": count,
                        "one_subnet": one_subnet,
                        "found": _found(study.guard, traffic),
                        "beside": np.sum(beside, axis=0).tolist(),
                    }
                )
    return rows


def noise(study: Study, quick: bool) -> list[Row]:
    """Probes around one point, in all directions and inside the honest signal."""
    rows: list[Row] = []
    bases = study.victim.bases(4 if quick else RUNS, study.seed)
    for inside in (False, True):
        source = Noise.of(study.split, inside=inside)
        for norm in NORMS:
            for every in (0, 10):
                random = study.random(f"noise {inside} {norm} {every}")
                traffic = [
                    interleaved(
                        source.probes(base, norm, MOST_INTERLEAVED, random),
                        study.split.honest.rows,
                        every,
                        MOST_INTERLEAVED,
                        random,
                    )
                    for base in bases
                ]
                found = _found(study.guard, traffic)
                rows.append({"norm": norm, "inside": inside, "every": every, "found": found})
    return rows


def adapting(study: Study, quick: bool) -> list[Row]:
    """The attacker who knows the defence: how often it succeeds within its budget.

    Bases count that it wins undefended, with at least 20 queries: one that is won sooner is no
    matter of patterns.
    """
    rows: list[Row] = []
    bases = study.victim.bases(60, study.seed)
    for way in adaptive.WAYS:
        chosen: list[int] = []
        quickly, lost = 0, 0
        for number in range(len(bases)):
            if len(chosen) == (3 if quick else ADAPTIVE_RUNS):
                break
            attacker = _attacker(
                study, Gateway(study.victim), bases[number], number, count=1, pads=True
            )
            if not adaptive.run(attacker, way):
                lost += 1
            elif attacker.spent < 20:
                quickly += 1
            else:
                chosen.append(number)
        for answer, (ladder, climb) in ANSWERS.items():
            for count, pads in MANNERS[1:] if climb else MANNERS:
                won = 0
                for number in chosen:
                    tracker = study.guard.tracker(clients=256)
                    gateway = Gateway(study.victim, study.guard, tracker, ladder, climb)
                    attacker = _attacker(
                        study, gateway, bases[number], number, count=count, pads=pads
                    )
                    won += adaptive.run(attacker, way)
                rows.append(
                    {
                        "way": way,
                        "ladder": answer,
                        "accounts": count,
                        "pads": pads,
                        "runs": len(chosen),
                        "won": won,
                        "quickly": quickly,
                        "lost": lost,
                    }
                )
    return rows


def _attacker(
    study: Study, gateway: Gateway, base: Singles, number: int, *, count: int, pads: bool
) -> adaptive.Attacker:
    random = np.random.default_rng((study.seed, number, 47))
    return adaptive.Attacker(gateway, base, study.split.pool, random, ADAPTIVE_BUDGET, count, pads)


def _found(guard: Guard, traffic: list[Traffic]) -> list[int | None]:
    """Hostile queries until recognition, run by run; None for a miss."""
    found = [recognise(guard, guard.tracker(), one) for one in traffic]
    return [None if one is None else one.queries for one in found]
