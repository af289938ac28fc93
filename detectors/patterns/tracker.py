"""The patterns of one endpoint: keys, rows, alarms, and what is exchanged with other replicas."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final, TypeAlias

import numpy as np

from detectors.arrays import Floats, check_rows
from detectors.base import Rows
from detectors.patterns import evidence, exchanging, reference
from detectors.patterns.arena import Records, bytes_of
from detectors.patterns.base import Alarm, Family, Scope, Standing
from detectors.patterns.exchange import Delta, Layout, Merged
from detectors.patterns.layout import ENTRY, EXTRACTION, FEATURES, PROBING, RING, SHARED
from detectors.patterns.model import STATISTICS, PatternModel
from detectors.patterns.profiles import PROFILES
from detectors.patterns.reference import ENDPOINT, JOINED, NO_GROUP, Arena
from detectors.patterns.slots import Slots
from detectors.scorer import ENGINE_VARIABLE, Engine, ScoreFault

Step: TypeAlias = Callable[[int, int, Rows, float, float], float]

OVERFLOW: Final = 0
"""The slot of clients that found no room."""
FAMILIES: Final = ((Family.PROBING, PROBING), (Family.EXTRACTION, EXTRACTION))
CONTRIBUTION: Final = 2.0
"""Nats of its own that make a client answer for what its subnet or endpoint is suspected of."""
CLIENTS_A_SUBNET: Final = 4
"""A quarter as many subnets as clients are kept apart."""
ASKED_AGAIN: Final = 20
"""Exchanges for which a key that other replicas work on too is asked after without news."""
MOST_LEFT: Final = 1024
"""Evicted clients whose pending evidence waits to be handed over."""


class PatternTracker:
    """Implements :class:`detectors.patterns.base.Tracker`. One thread at a time."""

    def __init__(
        self,
        model: PatternModel,
        *,
        clients: int = 10_000,
        budget: float = 0.001,
        retention: float = 86_400.0,
        coverage_limit: float | None = None,
        profile: str = "default",
        recovery: float = 1.0 / 3600.0,
        engine: Engine = "auto",
    ) -> None:
        """Allocates all it will ever need; the system commits it as it is used.

        Args:
            model: what was fitted.
            clients: how many are kept apart.
            budget: false alarms a client-day.
            retention: seconds of a client's day.
            coverage_limit: the share of the honest space that one client may visit; None: all.
            profile: one of :data:`PROFILES`.
            recovery: nats a second by which evidence falls.
            engine: as for :class:`detectors.scorer.Scorer`.

        Raises:
            ValueError: if an argument is outside its range.
        """
        if clients < 1 or not 0 < budget < 1 or not retention > 0 or not recovery >= 0:
            raise ValueError("clients, budget, retention and recovery must be positive")
        if coverage_limit is not None and not 0 < coverage_limit < 1:
            raise ValueError("a coverage limit lies strictly between 0 and 1")
        if profile not in PROFILES:
            raise ValueError(f"unknown profile {profile!r}: expected {', '.join(PROFILES)}")
        self.model: Final = model
        self.profile: Final = PROFILES[profile]
        self._retention: Final = retention
        self._limit: Final = math.inf if coverage_limit is None else coverage_limit
        budgets = [
            [budget * evidence.SHARES[scope, family] for family, _ in FAMILIES]
            for scope in (Scope.CLIENT, Scope.SUBNET, Scope.ENDPOINT)
        ]
        subnets = max(clients // CLIENTS_A_SUBNET, 1)
        self._arena: Final = Arena.of(
            model,
            clients=clients,
            subnets=subnets,
            mix=self.profile.mix(bool(model.has_outlier)),
            budgets=np.array(budgets),
            lineage_budget=budget * evidence.SHARES[Scope.LINEAGE, Family.PROBING],
            recovery=recovery,
            once_a_scene=self.profile.once_a_scene,
        )
        self._clients: Final = Slots(clients)
        self._subnets: Final = Slots(subnets)
        self._step: Final = _engine(self._arena, engine)
        self._dirty: Final[dict[str, None]] = {}
        self._left: Final[dict[str, Delta]] = {}
        self._recent: Final[dict[str, int]] = {}
        self._drains = 0
        self._shared_cursor = 0
        self._shared_epoch = 0

    @property
    def layout(self) -> Layout:
        """How what is exchanged is laid out."""
        return Layout(
            ENTRY.itemsize,
            RING,
            SHARED,
            recovery=self._arena.recovery * 3600.0,
            retention=self._retention,
        )

    def observe(
        self, client: str, subnet: str, rows: Rows, p_values: Floats | None, now: float
    ) -> Sequence[Alarm]:
        """See :class:`detectors.patterns.base.Tracker`.

        Raises:
            ScoreFault: if a value or a statistic is not finite, or a p-value is none.
            ValueError: if ``rows`` or ``p_values`` has another shape or dtype.
        """
        check_rows(rows, self.model.features)
        if p_values is not None and p_values.shape != (len(rows),):
            raise ValueError("expected one p-value a row")
        rows = np.ascontiguousarray(rows)
        slot = self._client_slot(client, now)
        group = self._subnet_slot(subnet, now) if subnet else NO_GROUP
        arena, step = self._arena, self._step
        if slot == OVERFLOW:
            arena.clients.levels[OVERFLOW] = 0.0  # so that it goes on adding to its groups
        told, most, lineages = arena.told, -math.inf, set[int]()
        for index in range(len(rows)):
            p_value = math.nan
            if p_values is not None:
                p_value = float(p_values[index])
                if not 0.0 < p_value <= 1.0:
                    raise ScoreFault("an outlier's p-value is outside (0, 1]")
            most = step(slot, group, rows[index : index + 1], p_value, now)
            if most != most:  # noqa: PLR0124 - NaN
                raise ScoreFault("a value or a statistic is not finite")
            if most >= 0 and told[JOINED] >= 0:
                lineages.add(int(told[JOINED]))
        if not len(rows):
            told[JOINED] = -1
            most = reference.excess(arena, slot, group)
        if most < 0 and not lineages and not arena.clients.coverage[slot] >= self._limit:
            return ()
        return self._alarms(client, slot, subnet, group, lineages)

    def drain(self, most: int) -> list[Delta]:
        """See :class:`detectors.patterns.base.Tracker`.

        After what has news come, as empty questions, the keys of which other replicas had some
        lately.
        """
        arena = self._arena
        deltas: list[Delta] = []
        if most >= 2:
            deltas = [
                exchanging.take_record(arena.groups, ENDPOINT, "endpoint"),
                Delta(
                    "shared",
                    entries=exchanging.take_shared(arena.shared),
                    cursor=self._shared_cursor,
                    epoch=self._shared_epoch,
                ),
            ]
        lineages = np.flatnonzero(arena.lineages.dirty)[: max((most - len(deltas)) // 2, 0)]
        deltas += [exchanging.take_lineage(arena.lineages, int(slot)) for slot in lineages]
        left = list(islice(self._left, max(most - len(deltas), 0)))
        deltas += [self._left.pop(key) for key in left]
        self._drains += 1
        told = set(left)
        for key in _first(self._dirty, told, most - len(deltas)):
            del self._dirty[key]
            told.add(key)
            deltas.append(self._take(key))
        for key in _first(self._recent, told, most - len(deltas)):
            last = self._recent.pop(key)
            if self._drains - last <= ASKED_AGAIN:
                self._recent[key] = last
                deltas.append(self._take(key))
        return deltas

    def merge(self, merged: Sequence[Merged]) -> None:
        """See :class:`detectors.patterns.base.Tracker`. Keys not tracked here are passed over.

        Raises:
            ExchangeError: if something is not of the agreed form.
        """
        arena, mass = self._arena, self.model.mass
        for one in merged:
            kind, _, name = one.key.partition(":")
            others = False
            if kind == "client":
                slot = self._clients.find(name)
                if slot:
                    others = exchanging.put_record(arena.clients, slot, one, mass, arena.rings)
            elif kind == "subnet":
                slot = self._subnets.find(name)
                if slot:
                    others = exchanging.put_record(arena.groups, slot, one, mass)
            elif kind == "endpoint":
                exchanging.put_record(arena.groups, ENDPOINT, one, mass)
            elif kind == "shared":
                exchanging.put_shared(arena.shared, arena.lineages, one.entries)
                self._shared_cursor, self._shared_epoch = one.cursor, one.epoch
            elif kind == "lineage":
                for found in np.flatnonzero(arena.lineages.ids == np.uint64(int(name, 16))):
                    exchanging.put_lineage(arena.lineages, int(found), one)
            if others:
                self._recent.pop(one.key, None)
                self._recent[one.key] = self._drains

    def forget(self, client: str) -> None:
        """See :class:`detectors.patterns.base.Tracker`."""
        self._left.pop("client:" + client, None)
        self._dirty.pop("client:" + client, None)
        self._recent.pop("client:" + client, None)
        slot = self._clients.find(client)
        if slot:
            exchanging.forgive(self._arena.clients, slot, self._arena.rings)

    def standings(self, most: int) -> list[Standing]:
        """See :class:`detectors.patterns.base.Tracker`."""
        known = self._clients.items()
        if not known or most < 1:
            return []
        slots = np.array([slot for _, slot in known])
        strongest = self._arena.clients.levels[slots].max(axis=1)
        order = np.argsort(-strongest, kind="stable")[:most]
        return [self._standing(*known[index]) for index in order]

    def standing(self, client: str) -> Standing | None:
        """See :class:`detectors.patterns.base.Tracker`."""
        slot = self._clients.find(client)
        return self._standing(client, slot) if slot else None

    def sizes(self) -> dict[str, Any]:
        """See :class:`detectors.patterns.base.Tracker`.

        ``bytes`` is what is reserved; ``client_bytes`` is one client's share of it.
        """
        arena = self._arena
        return {
            "clients": len(self._clients),
            "subnets": len(self._subnets),
            "lineages": int((arena.lineages.ids != 0).sum()),
            "evictions": self._clients.evictions + self._subnets.evictions,
            "overflow": self._clients.refusals + self._subnets.refusals,
            "lineages_refused": int(arena.lineages.refused[0]),
            "pending": len(self._dirty) + len(self._left),
            "client_bytes": bytes_of(arena.clients, arena.rings) // arena.clients.slots,
            "bytes": bytes_of(
                arena.clients, arena.rings, arena.groups, arena.shared, arena.lineages
            ),
        }

    # ------------------------------------------------------------------------------- slots

    def _client_slot(self, client: str, now: float) -> int:
        arena = self._arena
        slot = self._clients.touch(client)
        if not slot:
            slot = self._clients.admit(
                client, partial(self._idle, arena.clients, now), self._client_leaves
            )
            if slot:
                arena.clients.clear(slot)
                arena.rings.clear(slot)
                arena.clients.born[slot] = arena.clients.seen[slot] = now
            arena.tracked[0] = max(len(self._clients), 1)
        if now - arena.clients.born[slot] >= self._retention:
            exchanging.begin_day(arena.clients, slot, now)
        if slot:
            self._dirty["client:" + client] = None
        return slot

    def _subnet_slot(self, subnet: str, now: float) -> int:
        groups = self._arena.groups
        slot = self._subnets.touch(subnet)
        if not slot:
            may_leave = partial(self._idle, groups, now)
            slot = self._subnets.admit(subnet, may_leave, self._subnet_leaves)
            if not slot:
                return NO_GROUP
            groups.clear(slot)
            groups.born[slot] = groups.seen[slot] = now
        elif now - groups.born[slot] >= self._retention:
            exchanging.begin_day(groups, slot, now)
        self._dirty["subnet:" + subnet] = None
        return slot

    def _idle(self, records: Records, now: float, slot: int) -> bool:
        """Whether a key holds no evidence, and what it learnt can still be handed over."""
        fallen = max(now - float(records.seen[slot]), 0.0) * self._arena.recovery
        if float(records.levels[slot].max()) - fallen > evidence.NEGLIGIBLE:
            return False
        return len(self._left) < MOST_LEFT

    def _client_leaves(self, slot: int) -> None:
        self._leave("client:" + self._clients.names[slot])

    def _subnet_leaves(self, slot: int) -> None:
        self._leave("subnet:" + self._subnets.names[slot])

    def _leave(self, key: str) -> None:
        self._recent.pop(key, None)
        if key in self._dirty:
            del self._dirty[key]
            later = self._take(key)
            before = self._left.pop(key, None)
            self._left[key] = later if before is None else exchanging.joined(before, later)

    def _take(self, key: str) -> Delta:
        arena = self._arena
        kind, _, name = key.partition(":")
        if kind == "client":
            slot = self._clients.find(name)
            return exchanging.take_record(arena.clients, slot, key, arena.rings)
        return exchanging.take_record(arena.groups, self._subnets.find(name), key)

    # ------------------------------------------------------------------------------ alarms

    def _alarms(
        self, client: str, slot: int, subnet: str, group: int, lineages: set[int]
    ) -> list[Alarm]:
        arena = self._arena
        names = zip(STATISTICS, arena.p_values.tolist(), strict=True)
        detail = {f"p_{name}": value for name, value in names if value < 1.0}
        alarms: list[Alarm] = []
        # Clients without a record of their own do not answer for each other.
        concerned = [(Scope.CLIENT, client, arena.clients, slot)] if slot != OVERFLOW else []
        if group != NO_GROUP:
            concerned.append((Scope.SUBNET, subnet, arena.groups, group))
        concerned.append((Scope.ENDPOINT, "", arena.groups, ENDPOINT))
        for scope, key, records, index in concerned:
            distinct = float(records.sums[index, FEATURES])
            above = reference.excesses(arena, records, index)
            for family, position in FAMILIES:
                own = float(arena.clients.levels[slot, position])
                contributes = own >= CONTRIBUTION and slot != OVERFLOW
                if above[position] >= 0 and (scope is Scope.CLIENT or contributes):
                    level = float(records.levels[index, position])
                    limit = level - float(above[position])
                    told = detail | {"distinct": distinct}
                    alarms.append(Alarm(family, scope, level, limit, key, told))
        limit = reference.lineage_threshold(arena)
        for index in lineages:
            level = float(arena.lineages.levels[index])
            if level >= limit:
                key = f"{int(arena.lineages.ids[index]):016x}"
                told = dict(detail)
                own = float(arena.clients.levels[slot, PROBING])
                shared = slot == OVERFLOW or own < CONTRIBUTION
                alarms.append(Alarm(Family.PROBING, Scope.LINEAGE, level, limit, key, told, shared))
        coverage = float(arena.clients.coverage[slot])
        if coverage >= self._limit and slot != OVERFLOW:
            told = {"coverage": coverage, "distinct": float(arena.clients.sums[slot, FEATURES])}
            seen, limit = unseen(coverage), unseen(self._limit)
            alarms.append(Alarm(Family.COVERAGE, Scope.CLIENT, seen, limit, client, told))
        alarms.sort(key=lambda alarm: alarm.threshold - alarm.evidence)
        return alarms

    def _standing(self, client: str, slot: int) -> Standing:
        clients = self._arena.clients
        levels = clients.levels[slot].tolist()
        above = reference.excesses(self._arena, clients, slot).tolist()
        coverage = float(clients.coverage[slot])
        levelled = {family.value: levels[i] for family, i in FAMILIES}
        thresholds = {family.value: levels[i] - above[i] for family, i in FAMILIES}
        if self._limit <= 1.0:
            levelled[Family.COVERAGE.value] = unseen(coverage)
            thresholds[Family.COVERAGE.value] = unseen(self._limit)
        return Standing(
            client,
            levelled,
            thresholds,
            int(clients.sums[slot, FEATURES]),
            coverage,
            float(clients.seen[slot]),
        )


def _first(waiting: dict[str, Any], but: set[str], most: int) -> list[str]:
    """The keys that wait longest."""
    some = islice(waiting, max(most, 0) + len(but))
    return [key for key in some if key not in but][: max(most, 0)]


def unseen(coverage: float) -> float:
    """-log of the honest mass that was not visited, in nats: coverage on evidence's scale."""
    return -math.log(max(1.0 - coverage, 1e-9))


def _engine(arena: Arena, engine: Engine) -> Step:
    wanted = os.environ.get(ENGINE_VARIABLE, "auto") if engine == "auto" else engine
    if wanted not in {"auto", "numpy", "native"}:
        raise ValueError(f"{ENGINE_VARIABLE} must be auto, numpy or native, not {wanted!r}")
    if wanted != "numpy":
        try:
            from detectors.patterns import native  # noqa: PLC0415 - an extra, and slow to import
        except ImportError:
            if wanted == "native":
                raise
        else:
            return native.bind(arena)
    return partial(reference.step, arena)
