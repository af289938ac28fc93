"""Whether and when theft is recognised, and what a stolen model is worth."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from loadtest.attacks import extraction
from loadtest.attacks.datasets import Singles
from loadtest.attacks.gateway import Gateway
from loadtest.attacks.guard import recognise
from loadtest.attacks.mixing import ATTACKER, Traffic
from loadtest.attacks.study import Study

THIEVES: Final = 8
LEARNING: Final = ("jacobian", "active")
"""Strategies whose thieves learn a surrogate on the way, over and over: half as many."""
QUERIES: Final = 1500
FIDELITY_QUERIES: Final = 1000
PADDING: Final = 0.9
ACCOUNTS: Final = (1, 16, 64)

Row = dict[str, Any]


def recognition(study: Study, quick: bool) -> list[Row]:
    """After how many queries, padding included, each way of theft is recognised."""
    rows: list[Row] = []
    for name in strategies(study):
        thieves = study.theft(name, thieves_of(name), QUERIES)[: 2 if quick else THIEVES]
        for accounts in ACCOUNTS:
            for one_subnet in (True, False) if accounts > 1 else (True,):
                for padding in (0.0, PADDING):
                    random = study.random(f"{name} {accounts} {one_subnet} {padding}")
                    found, sent = [], []
                    for queries in thieves:
                        traffic = _traffic(
                            study,
                            queries,
                            random,
                            accounts=accounts,
                            one_subnet=one_subnet,
                            padding=padding,
                        )
                        sent.append(len(traffic.rows))
                        seen = recognise(study.guard, study.guard.tracker(), traffic)
                        found.append(None if seen is None else seen.queries)
                    rows.append(
                        {
                            "strategy": name,
                            "accounts": accounts,
                            "one_subnet": one_subnet,
                            "padding": padding,
                            "found": found,
                            "sent": sent,
                        }
                    )
    return rows


def fidelity(study: Study, quick: bool) -> list[Row]:
    """The surrogate's agreement with the victim after so many queries: nothing in the way, and with
    the firewall for thieves of 1, 16 and 64 accounts. On rows that the thief never had."""
    rows: list[Row] = []
    for name in strategies(study):
        for accounts in (0, *(ACCOUNTS[:1] if quick else ACCOUNTS)):
            random = study.random(f"fidelity {name}")
            own = random.permutation(np.concatenate(study.thief))
            gateway = Gateway(study.victim)
            if accounts:
                gateway = Gateway(study.victim, study.guard, study.guard.tracker())
            theft = extraction.steal(
                gateway,
                extraction.STRATEGIES[name](extraction.Means(study.split, own), random),
                budget=FIDELITY_QUERIES,
                accounts=max(accounts, 1),
                honest=own,
                padding=0.0,
                random=random,
            )
            rows.append(
                {
                    "strategy": name,
                    "accounts": accounts,
                    "fidelity": extraction.fidelity(
                        theft, gateway, study.split.fit.rows, study.seed
                    ),
                    "answered": len(theft.labels),
                    "sent": theft.sent,
                    "alarm": theft.alarm,
                    "refusal": theft.refusal,
                }
            )
    return rows


def thieves_of(name: str) -> int:
    """How many thieves use a strategy."""
    return THIEVES // 2 if name in LEARNING else THIEVES


def strategies(study: Study) -> list[str]:
    """Those that make sense of this set."""
    return [
        name for name in extraction.STRATEGIES if name != "other images" or not study.split.table
    ]


def _traffic(
    study: Study,
    queries: Singles,
    random: np.random.Generator,
    *,
    accounts: int,
    one_subnet: bool,
    padding: float,
) -> Traffic:
    """Accounts in turn, all that they send being the thief's: every query counts."""
    rows = queries
    if padding:
        honest = study.thief[1]
        known = {row.tobytes() for row in honest}
        queries = queries[[row.tobytes() not in known for row in queries]]
        stolen = random.random(QUERIES) >= padding
        stolen[np.cumsum(stolen) > len(queries)] = False
        # No row twice: where the honest ones are used up, the day is over.
        end = int(np.searchsorted(np.cumsum(~stolen), len(honest), "right"))
        stolen = stolen[:end]
        rows = np.empty((stolen.size, honest.shape[1]), np.float32)
        rows[stolen] = queries[: int(stolen.sum())]
        rows[~stolen] = honest[random.permutation(len(honest))[: int((~stolen).sum())]]
    numbers = [number % accounts for number in range(len(rows))]
    return Traffic(
        rows,
        [f"{ATTACKER}-{number}" for number in numbers],
        ["subnet" if one_subnet else f"subnet-{number}" for number in numbers],
        np.ones(len(rows), bool),
    )
