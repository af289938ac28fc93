"""A ground of servers that stand already: the operator's, or the demonstration's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from detectors.training.readers import DataError
from loadtest.drivers.base import Driver, Means
from loadtest.drivers.run import attack as carry_out
from loadtest.evidence.results import AttackResult, LoadResult, Side
from loadtest.load.ceiling import CONFIRMED_AT, ceiling
from loadtest.load.run import rate_of, run
from loadtest.scenario.data import Material
from loadtest.scenario.ground import Asking, GroundError, Loading
from loadtest.scenario.load_settings import Load
from loadtest.scenario.means import allotted, means_of
from loadtest.scenario.refusals import AuditTail, pseudonym, rules_of
from loadtest.scenario.settings import Attack, Scenario
from loadtest.scenario.traffic import Recorded, plan
from loadtest.targets.base import Said
from loadtest.targets.open import Endpoint

_TRIES: Final = 5
_PAUSE_SECONDS: Final = 0.4


class Standing:
    """Loads and attacks on an open endpoint.

    Args:
        drivers: by name, those of the scenario.
        queries: of the drivers whose queries loads send.
        audit: the firewall's audit log, or None.
        about: what else the report is to say of what was attacked.
        renew: has the firewall begin anew before an attack on it; None: it is left as it is.
        alive: raises GroundError if a server has ended; None: nobody knows but by asking.

    Raises:
        ValueError: if there are not enough clients.
    """

    def __init__(
        self,
        scenario: Scenario,
        endpoint: Endpoint,
        material: Material,
        *,
        drivers: Mapping[str, Driver],
        queries: Recorded,
        audit: Path | None,
        about: Mapping[str, str],
        renew: Callable[[], None] | None = None,
        alive: Callable[[], None] | None = None,
    ) -> None:
        self._scenario = scenario
        self._endpoint = endpoint
        self._material = material
        self._drivers = drivers
        self._queries = queries
        self._audit = audit
        self._about = about
        self._renew = renew
        self._alive = alive
        self._pools, self._accounts = allotted(scenario, endpoint.clients)
        self._pseudonyms: dict[str, frozenset[str]] | None = None
        self._notes: list[str] = []

    def check(self, sides: Sequence[Side]) -> None:
        """See ``Ground``."""
        if self._alive is not None:
            self._alive()
        for side in sides:
            self._check(side)

    def _check(self, side: Side) -> None:
        client = self._endpoint.clients[0]
        row = self._material.honest[0]
        told = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE_SECONDS)  # a server that was overloaded may need a moment
            with self._endpoint.oracle(side) as oracle:
                reply = oracle.ask(row, client)
            if reply.said is not Said.FAILED:
                return
            told = f"{reply.status} {reply.body}".strip("0 ")
        where = self._endpoint.place(side).address
        raise GroundError(f"{side}, {where.path or f'{where.host}:{where.port}'}: no answer {told}")

    def prepare(self, attack: Attack) -> None:
        """See ``Ground``."""
        if self._renew is not None:
            self._renew()

    def load(self, load: Load, side: Side, turn: int, progress: Loading) -> Sequence[LoadResult]:
        """See ``Ground``."""
        try:
            made = plan(
                self._endpoint,
                load,
                side,
                turn,
                material=self._material,
                pools=self._pools,
                queries=self._queries,
                seed=self._scenario.seed,
            )
        except (DataError, ValueError) as error:
            raise GroundError(str(error)) from error
        if load.arrivals == "ceiling":
            assert load.seconds is not None  # the settings were checked
            found = ceiling(made, seconds=load.seconds, progress=progress)
            held = found.confirmed
            self._notes.append(
                f"{load.name}, {side}: at {CONFIRMED_AT:g} of the ceiling {held.good} of "
                f"{held.offered} requests were answered well"
            )
            # What is compared is the most that was answered; its latency means nothing.
            return [max(found.steps, key=rate_of)]
        tail = self._tail(side)
        results = run(made, progress)
        return results if tail is None else self._with_rules(results, tail)

    def attack(self, attack: Attack, side: Side, journal: Path, progress: Asking) -> AttackResult:
        """See ``Ground``."""
        driver = self._drivers[attack.driver]
        means = self._means(attack)
        try:
            return carry_out(
                driver,
                self._endpoint,
                side,
                means,
                journal=journal,
                resume=journal.exists(),
                about={"scenario": self._scenario.name},
                audit=self._audit if side == "firewall" else None,
                progress=progress,
            )
        except (OSError, ValueError) as error:
            raise GroundError(str(error)) from error

    def describe(self) -> Mapping[str, str]:
        """See ``Ground``."""
        return {**self._endpoint.about, **self._about}

    def notes(self) -> Sequence[str]:
        """See ``Ground``."""
        return tuple(self._notes)

    def _means(self, attack: Attack) -> Means:
        return means_of(self._scenario, attack, self._material, self._accounts[attack.title])

    def _tail(self, side: Side) -> AuditTail | None:
        """The audit log from here on, where it can tell who was refused."""
        if side == "direct" or self._audit is None or len(self._endpoint.clients) == 1:
            return None
        try:
            if self._pseudonyms is None:
                self._pseudonyms = self._learn(self._audit)
            return AuditTail(self._audit) if self._pseudonyms else None
        except (OSError, ValueError) as error:
            self._notes.append(f"the audit log cannot be read, so rules are not known: {error}")
            self._audit = None
            return None

    def _learn(self, audit: Path) -> dict[str, frozenset[str]]:
        """By which names the log knows the clients of each part: each asks once, and is looked
        up."""
        tail, asked = AuditTail(audit), {}
        names = sorted({name for pool in self._pools.values() for name in pool})
        with self._endpoint.oracle("firewall") as oracle:
            for number, name in enumerate(names):
                row = self._material.honest[number % len(self._material.honest)]
                asked[name] = oracle.ask(row, name).request_id

        def all_there(records: Sequence[Mapping[str, Any]]) -> bool:
            return set(asked.values()) <= {record.get("id") for record in records}

        records = tail.records(all_there)
        known = {name: pseudonym(records, request_id) for name, request_id in asked.items()}
        if None in known.values():
            self._notes.append(
                "the audit log does not hold what was asked: is it this firewall's? Which rules "
                "refused honest requests is not known"
            )
            return {}
        return {
            part: frozenset(known[name] or "" for name in pool)
            for part, pool in self._pools.items()
        }

    def _with_rules(self, results: Sequence[LoadResult], tail: AuditTail) -> list[LoadResult]:
        """The results with what the log says of their refusals."""
        assert self._pseudonyms is not None  # there is a tail
        sent = sum(result.sent for result in results)
        records = tail.records(lambda found: len(found) >= sent)
        return [
            replace(result, rules=rules_of(records, self._pseudonyms[result.part]))
            for result in results
        ]
