"""What an evaluation rests on for one set and one split: data, victim, undefended attacks. Made
once and kept in a folder, since the attacks take longest and do not depend on the firewall."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from loadtest.attacks import extraction, published, traces
from loadtest.attacks.datasets import Singles, load
from loadtest.attacks.gateway import Gateway
from loadtest.attacks.guard import Guard, fit_guard
from loadtest.attacks.traces import Trace
from loadtest.attacks.victims import Victim
from loadtest.mlp import Mlp


class Study:
    """One set, one split.

    Args:
        name, seed: the set and its split.
        folder: where what was made is kept.

    Raises:
        Unavailable: if the set's data is not on this machine.
    """

    def __init__(self, name: str, seed: int, folder: Path) -> None:
        self.name = name
        self.seed = seed
        self.split = load(name, seed)
        self._folder = folder / f"{name}-{seed}"
        self._folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def victim(self) -> Victim:
        """The model that is protected."""
        path = self._folder / "victim.npz"
        if path.exists():
            return Victim(self.split, Mlp.load(path))
        victim = Victim(self.split)
        victim.model.save(path)
        return victim

    @cached_property
    def guard(self) -> Guard:
        """The detectors, fitted anew in every process: they are what is under test."""
        return fit_guard(self.split.fit, self.seed)

    @cached_property
    def thief(self) -> tuple[Singles, Singles]:
        """What a thief asks with, and what it hides among: its own pool and rows that would
        otherwise be honest clients', in two parts that share no row."""
        rows = np.concatenate([self.split.pool.rows, self.split.honest.rows])
        rows = rows[self.random("thief").permutation(len(rows))]
        most = min(3 * len(rows) // 4, 1400)
        return rows[:-most], rows[-most:]

    def random(self, purpose: str) -> np.random.Generator:
        """Randomness of its own for each purpose."""
        return np.random.default_rng((self.seed, *purpose.encode(), *self.name.encode()))

    def attacks(self, name: str, count: int) -> list[Trace]:
        """Successful undefended runs of a published attack, each on a base of its own."""
        path = self._folder / f"attack-{name}-{count}.npz"
        if not path.exists():
            traces.save(path, published.attacks(self.victim, name, count, self.seed))
        return traces.read(path)

    def theft(self, name: str, count: int, queries: int) -> list[Singles]:
        """What undefended thieves ask, ``count`` of them, each up to so many distinct queries."""
        path = self._folder / f"theft-{name.replace(' ', '-')}-{count}-{queries}.npz"
        if not path.exists():
            runs = [self._steal(name, number, queries) for number in range(count)]
            with path.with_suffix(".part").open("wb") as file:
                np.savez_compressed(
                    file,
                    allow_pickle=False,
                    rows=np.concatenate(runs),
                    run=np.repeat(np.arange(count), [len(rows) for rows in runs]),
                )
            path.with_suffix(".part").replace(path)
        with np.load(path, allow_pickle=False) as file:
            rows, run = file["rows"], file["run"]
        return [rows[run == number] for number in range(count)]

    def _steal(self, name: str, number: int, queries: int) -> Singles:
        random = self.random(f"theft {name} {number}")
        own = random.permutation(np.concatenate(self.thief))
        strategy = extraction.STRATEGIES[name](extraction.Means(self.split, own), random)
        theft = extraction.steal(
            Gateway(self.victim),
            strategy,
            budget=queries,
            accounts=1,
            honest=own,
            padding=0.0,
            random=random,
        )
        rows = theft.rows
        return rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]
