"""Who gets what: clients for every part of a load, rows and clients for every attack."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence

import numpy as np

from loadtest.drivers.base import Means
from loadtest.scenario.data import Material
from loadtest.scenario.settings import Attack, Scenario


def number_of(*words: object) -> int:
    """A number for a seed that is the same for the same words."""
    return zlib.crc32("/".join(map(str, words)).encode())


def means_of(
    scenario: Scenario, attack: Attack, material: Material, accounts: Sequence[str]
) -> Means:
    """What an attack is given: the same on both sides."""
    seed = number_of(scenario.seed, attack.title)
    order = np.random.default_rng((seed, 0)).permutation(len(material.own))
    return Means(
        own=material.own[order],
        labels=None if material.labels is None else material.labels[order],
        low=material.low,
        high=material.high,
        test=material.test,
        accounts=accounts,
        budget=attack.budget,
        tries=attack.tries,
        seed=seed,
        image=material.image,
        members=material.members,
        knobs=attack.knobs,
    )


def allotted(
    scenario: Scenario, clients: Sequence[str]
) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]]]:
    """The clients of each part of the loads, and those of each attack: nobody is two of them,
    unless all are one.

    Raises:
        ValueError: if there are not enough.
    """
    pools = scenario.pools
    wanted = {one.title: one.accounts * one.tries for one in scenario.attacks}
    if len(clients) == 1:
        return dict.fromkeys(pools, clients), dict.fromkeys(wanted, clients)
    if scenario.accounts > len(clients):
        raise ValueError(
            f"{scenario.accounts} clients are needed, {len(clients)} there are: each part of a "
            "load, and each try of an attack, has its own"
        )
    names = iter(clients)
    return (
        {part: tuple(itertools.islice(names, count)) for part, count in pools.items()},
        {title: tuple(itertools.islice(names, count)) for title, count in wanted.items()},
    )
