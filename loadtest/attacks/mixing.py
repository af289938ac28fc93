"""Traffic in which an attack hides: among honest queries of its own, over many accounts, behind
noise. What is sent is a plain list; what recognises it is elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from loadtest.attacks.datasets import Singles, Split
from loadtest.attacks.traces import Trace

WARM_UP: Final = 100
"""Honest queries of the attacker's before the attack, over all its accounts."""
ATTACKER: Final = "attacker"
"""How the names of an attacker's accounts begin."""
OTHERS: Final = 20
"""Honest clients that ask beside an attacker of many accounts."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Queries in order, one a request.

    Attributes:
        rows: (n, d) float32.
        clients, subnets: n names each.
        hostile: (n,) whether the query is the attack's own.
    """

    rows: Singles
    clients: list[str]
    subnets: list[str]
    hostile: npt.NDArray[np.bool_]


def interleaved(
    trace: Trace, honest: Singles, every: int, most: int, random: np.random.Generator
) -> Traffic:
    """One client: a warm-up, then ``every`` honest queries before each of ``most`` hostile ones."""
    rows, hostile = _woven(trace.queries[:most], honest, every, random)
    names = [ATTACKER] * len(rows)
    return Traffic(rows, names, ["subnet"] * len(rows), hostile)


def sybils(
    trace: Trace,
    honest: Singles,
    most: int,
    random: np.random.Generator,
    *,
    accounts: int,
    one_subnet: bool,
) -> Traffic:
    """Accounts in turn, among other clients who send four honest queries to each hostile one.

    The accounts share the warm-up; the other clients come from subnets of their own.
    """
    rows, hostile = _woven(trace.queries[:most], honest, 4, random)
    clients, subnets = [], []
    turn = 0
    for position, is_hostile in enumerate(hostile):
        if is_hostile or position < WARM_UP:
            number = turn % accounts
            turn += 1
            clients.append(f"{ATTACKER}-{number}")
            subnets.append("subnet" if one_subnet else f"subnet-{number}")
        else:
            other = int(random.integers(OTHERS))
            clients.append(f"other-{other}")
            subnets.append(f"other-subnet-{other}")
    return Traffic(rows, clients, subnets, hostile)


def _woven(
    queries: Singles, honest: Singles, every: int, random: np.random.Generator
) -> tuple[Singles, npt.NDArray[np.bool_]]:
    """The warm-up, then the queries with so many honest ones before each, on average."""
    count = len(queries) * every
    between = np.full(len(queries), every)
    if every:
        # Not like clockwork: as many in all, at random places.
        between = np.bincount(random.integers(len(queries), size=count), minlength=len(queries))
    hostile = np.zeros(WARM_UP + count + len(queries), bool)
    hostile[WARM_UP + np.cumsum(between + 1) - 1] = True
    needed = WARM_UP + count
    rounds = -(-needed // len(honest))
    order = np.concatenate([random.permutation(len(honest)) for _ in range(rounds)])[:needed]
    rows = np.empty((hostile.size, honest.shape[1]), np.float32)
    rows[~hostile] = honest[order]
    rows[hostile] = queries
    return rows, hostile


@dataclass(frozen=True, slots=True)
class Noise:
    """Probes around one point: Gaussian noise of a fixed L2 norm.

    Attributes:
        split: whose units count: those of the rows if they are images, else the standard
            deviations of the attacker's pool.
        basis: (k, d) directions inside which noise lies, or None for all.
        scale: (d,) the units.
    """

    split: Split
    basis: npt.NDArray[np.float64] | None
    scale: npt.NDArray[np.float64]

    @classmethod
    def of(cls, split: Split, *, inside: bool) -> Noise:
        """Noise in all directions, or inside the principal components that hold 90 % of the
        variance of the attacker's pool."""
        features = split.features
        rows = split.pool.rows.astype(np.float64)
        scale = np.maximum(rows.std(axis=0), 1e-6) if split.table else np.ones(features)
        if not inside:
            return cls(split, None, scale)
        standard = (rows - rows.mean(axis=0)) / scale
        _, lengths, directions = np.linalg.svd(standard, full_matrices=False)
        shares = np.cumsum(lengths**2) / (lengths**2).sum()
        return cls(split, directions[: int(np.searchsorted(shares, 0.9)) + 1], scale)

    def probes(self, base: Singles, norm: float, count: int, random: np.random.Generator) -> Trace:
        """``count`` probes around a base."""
        width = self.split.features if self.basis is None else len(self.basis)
        noise = random.standard_normal((count, width))
        noise *= norm / np.linalg.norm(noise, axis=1, keepdims=True)
        if self.basis is not None:
            noise = noise @ self.basis
        return Trace((base + noise * self.scale).astype(np.float32), count, success=True)
