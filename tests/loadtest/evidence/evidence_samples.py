"""Results as a run would leave them, made of seeded numbers."""

from dataclasses import replace

import numpy as np

from loadtest.evidence.results import (
    PERCENTILES,
    AttackResult,
    Check,
    Estimate,
    LoadResult,
    Results,
    Share,
    Slice,
)
from loadtest.load.hdr import Histogram

ATLAS = {
    "evasion": ("AML.T0043.001", "AML.T0015"),
    "transfer": ("AML.T0043.002",),
    "extraction": ("AML.T0024.002", "AML.T0005.001"),
    "membership": ("AML.T0024.000",),
    "inversion": ("AML.T0024.001",),
    "adaptive": ("AML.T0043.001",),
    "sybils": ("AML.T0043.001",),
    "interleaving": ("AML.T0043.001", "AML.T0046"),
    "abuse": ("AML.T0029",),
}


def load(
    name="steady",
    side="firewall",
    *,
    round=0,
    n=2000,
    seconds=10.0,
    median=0.002,
    refused=0,
    limited=0,
    shed=0,
    late=0,
    dropped=0,
    kind="honest",
    part="inference",
    beside="",
    begun=None,
    arrivals="Poisson, 200 a second",
    seed=0,
):
    """A load whose latencies are log-normal, and whose seconds are alike."""
    random = np.random.default_rng((seed, round, side == "direct", len(name)))
    sent = n - dropped
    answered = sent - refused - limited - shed
    times = Histogram()
    times.add(random.lognormal(np.log(median), 0.4, answered))
    refusals = Histogram()
    refusals.add(random.lognormal(np.log(median / 4), 0.3, refused + limited + shed))
    width = max(1, int(seconds))
    said = {"answered": answered, "refused": refused, "limited": limited, "shed": shed}
    statuses = {"200": answered, "403": refused, "429": limited, "503": shed}
    return LoadResult(
        name=name,
        part=part,
        kind=kind,
        side=side,
        arrivals=arrivals,
        round=round,
        seconds=seconds,
        offered=n,
        sent=sent,
        late=late,
        dropped=dropped,
        statuses={k: v for k, v in statuses.items() if v},
        said={k: v for k, v in said.items() if v},
        errors={},
        good=answered,
        latency=times.encode(),
        refusal_latency=refusals.encode(),
        percentiles={f"{p:g}": times.percentile(p) for p in PERCENTILES if answered},
        refusal_percentiles={
            f"{p:g}": refusals.percentile(p) for p in PERCENTILES if refusals.total
        },
        series=tuple(
            Slice(
                at=float(i),
                offered=n // width,
                good=answered // width + int(random.integers(-9, 1)) * (answered > 10 * width),
                refused=refused // width,
                limited=limited // width,
                shed=shed // width,
                p50=median,
                p99=median * 2.5,
            )
            for i in range(width)
        ),
        beside=beside,
        begun=begun,
    )


def attack(
    driver="hopskipjump",
    side="firewall",
    family="evasion",
    *,
    success=(0, 20),
    recognised=(19, 20),
    to_recognition=None,
    to_success=None,
    seed=0,
    **other,
):
    """An attack; on the direct side nothing recognises it."""
    random = np.random.default_rng((seed, len(driver), len(family)))
    through = side == "firewall" and recognised is not None
    if to_recognition is None:
        to_recognition = random.integers(6, 40, recognised[0]).tolist() if through else ()
    if to_success is None:
        to_success = random.integers(150, 900, success[0]).tolist()
    return AttackResult(
        driver=driver,
        family=family,
        side=side,
        atlas=ATLAS[family],
        goal="misclassified within the distance",
        success=Share(*success),
        queries=success[1] * 500,
        distinct=success[1] * 480,
        seed=7,
        to_success=tuple(to_success),
        said={"answered": success[1] * 480, "refused": success[1] * 20},
        recognised=Share(*recognised) if through else None,
        to_recognition=tuple(to_recognition) if through else (),
        seconds=12.0,
        **other,
    )


def curve(top):
    """A surrogate's fidelity over queries."""
    return [[q, 0.1 + (top - 0.1) * (1 - np.exp(-q / 300))] for q in (50, 100, 200, 400, 800)]


def full():
    """A run with everything in it."""
    loads = []
    for round in range(6):
        at = 25.0 * round
        loads += [
            load(side="direct", round=round, median=0.0011, begun=at),
            load(side="firewall", round=round, median=0.0016, refused=6, limited=1, begun=at + 12),
        ]
    for round in range(3):
        common = {"name": "burst", "round": round, "arrivals": "steps", "n": 3000}
        at = 160.0 + 25 * round
        loads += [
            load(side="direct", median=0.004, begun=at, **common),
            load(side="firewall", median=0.006, shed=40, refused=4, begun=at + 12, **common),
        ]
    for round in range(2):
        beside = {"round": round, "beside": "hopskipjump", "begun": 250.0 + 10 * round}
        loads += [
            load(side="firewall", median=0.0019, refused=9, **beside),
            load(kind="hostile", part="noise", n=500, refused=420, limited=20, **beside),
        ]
    for side, n in (("direct", 9000), ("firewall", 6500)):
        loads.append(load("ceiling", side, n=n, arrivals="closed loop", part="inference"))
    attacks = [
        attack(side="direct", success=(20, 20), begun=230.0),
        attack(success=(1, 20), begun=250.0),
        attack("square", "direct", success=(18, 20), begun=270.0),
        attack("square", success=(4, 20), recognised=(15, 20), begun=280.0),
        attack("transfer-pgd", "direct", "transfer", success=(15, 20)),
        attack("transfer-pgd", family="transfer", success=(9, 20), recognised=(8, 20)),
    ]
    for side, top in (("direct", 0.9), ("firewall", 0.35)):
        attacks.append(
            attack(
                "knockoff",
                side,
                "extraction",
                success=(int(side == "direct") * 3, 3),
                recognised=(3, 3),
                measure="fidelity",
                value=Estimate(top, top - 0.03, top + 0.03),
                baseline=0.11,
                details={"fidelity_over_queries": curve(top), "coarse": True},
            )
        )
        attacks.append(
            attack(
                "membership-label",
                side,
                "membership",
                success=(0, 5),
                recognised=None,
                measure="AUC",
                value=Estimate(0.58, 0.54, 0.62),
                baseline=0.5,
            )
        )
    attacks.append(
        attack("abuse-malformed", family="abuse", success=(0, 212), recognised=None, seed=3)
    )
    results = Results(
        scenario="digits",
        digest="9f" * 32,
        started="2026-11-23T18:00:00Z",
        seconds=301.5,
        seed=7,
        command="bartizan loadtest run digits.yaml",
        machine={"processor": "An x86-64 at 2.4 GHz", "cores": "2", "memory": "7.7 GiB"},
        versions={"bartizan": "0.1.0", "python": "3.11.2", "numpy": "2.3.4"},
        target={"endpoint": "digits", "protocol": "openinference", "mode": "enforce",
                "bundle": "ab" * 32},
        loads=tuple(loads),
        attacks=tuple(attacks),
        notes=("zoo was skipped: it needs more queries than the budget has",),
    )  # fmt: skip
    return replace(
        results,
        checks=(
            Check("honest_refusals", "<= 1 %", 0.0061, True, "upper end: 78 of 20000"),
            Check("attack_success[square]", "<= 0.1", 0.41, False, "upper end: 4 of 20"),
            Check("recognised[zoo]", ">= 0.9", None, False, "not measured"),
        ),
    )


def empty(**other):
    """A run that found nothing at all."""
    plain = {
        "scenario": "nothing", "digest": "", "started": "2026-11-23T18:00:00Z", "seconds": 0.0,
        "seed": 0, "command": "", "machine": {}, "versions": {}, "target": {},
    }  # fmt: skip
    return Results(**{**plain, **other})
