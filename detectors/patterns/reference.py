"""One query: the whole of what is computed on the way, in numpy. The compiled step equals it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats
from detectors.base import Rows
from detectors.patterns import discrepancy, evidence, space, statistics
from detectors.patterns.arena import MARKED, Lineages, Records, Rings, Shared, add
from detectors.patterns.layout import (
    EXTRACTION,
    FEATURES,
    LINEAGE,
    LINEAGES,
    PROBING,
    RETRIES,
    RING,
)
from detectors.patterns.model import (
    DISCREPANCY,
    EQUAL,
    NEAR,
    OUTLIER,
    RESIDUE,
    SEGMENT,
    SHARED_EQUAL,
    SHARED_NEAR,
    STATISTICS,
    PatternModel,
)

ENDPOINT: Final = 0
"""The slot of the endpoint among the groups."""
NO_GROUP: Final = -1
NEW, JOINED = 0, 1
"""Positions in ``Arena.told``."""
CHANGED: Final = 2
"""Blocks in which a case differs from the one that it was changed from."""
SAMPLED: Final = 16
"""One in so many queries is kept longer in the shared ring, chosen by its keyed hash."""


@dataclass(eq=False, slots=True)
class Arena:
    """All state of one endpoint's patterns, and what one step tells.

    Attributes:
        model: what was fitted.
        clients, rings: one slot a client; slot 0 is shared by those that found no room.
        groups: slot 0 is the endpoint; the others are subnets.
        shared, lineages: over all clients.
        mix: (3, 8) the weight of each statistic in the bets of probing, extraction and lineages;
            every row sums to 1, or to 0 where nothing is on.
        budgets: (3, 2) false alarms a client-day for client, subnet, endpoint, by family.
        lineage_budget: false alarms a client-day for lineages.
        recovery: nats a second by which levels fall.
        once_a_scene: whether a query that resembles an earlier one of its client is a repetition.
        tracked: (1,) clients tracked now.
        p_values: (8,) of the last step; 1 where there is none.
        told: (2,) of the last step: 1 if the row was new; the slot of the lineage that it answers
            for, or -1.
    """

    model: PatternModel
    clients: Records
    rings: Rings
    groups: Records
    shared: Shared
    lineages: Lineages
    mix: Floats
    budgets: Floats
    lineage_budget: float
    recovery: float
    once_a_scene: bool
    tracked: npt.NDArray[np.int64]
    p_values: Floats
    told: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls,
        model: PatternModel,
        *,
        clients: int,
        subnets: int,
        mix: Floats,
        budgets: Floats,
        lineage_budget: float,
        recovery: float,
        once_a_scene: bool,
    ) -> Arena:
        """Allocates everything."""
        return cls(
            model,
            Records(clients + 1),
            Rings(clients + 1),
            Records(subnets + 1),
            Shared(model.shared),
            Lineages(LINEAGES),
            mix,
            budgets,
            lineage_budget,
            recovery,
            once_a_scene,
            np.ones(1, dtype=np.int64),
            np.ones(len(STATISTICS)),
            np.array([0, -1], dtype=np.int64),
        )


def step(  # noqa: PLR0917 - as the compiled one, which binds no keywords cheaply
    arena: Arena, slot: int, group: int, row: Rows, p_value: float, now: float
) -> float:
    """Takes one row of a client into account.

    Args:
        arena: the state; changed.
        slot: of the client.
        group: of the subnet, or ``NO_GROUP``.
        row: (1, d) float32.
        p_value: the outlier scorer's, or NaN for none.
        now: seconds.

    Returns:
        The most that any evidence concerned lies above its threshold, in nats, or NaN for a fault,
        in which case nothing was changed.
    """
    model = arena.model
    arena.told[:] = 0, -1
    arena.p_values[:] = 1.0
    content, blocks = space.hashes(model, row)
    place = space.sketch(model, row)
    if not np.isfinite(place.residue[0]):
        return float("nan")
    recover(arena, slot, group, now)
    if bool((arena.rings.content[slot] == content[0]).any()):
        return excess(arena, slot, group)
    arena.told[NEW] = 1
    regime = int(place.regime[0])
    query = Query(place.sketch[0], blocks[0], content[0])
    features = space.features(model, place.sketch, place.regime)[0]

    if arena.once_a_scene and resembles(arena, slot, query, regime):
        enter(arena.rings, slot, query)
        return excess(arena, slot, group)
    values = np.full(len(STATISTICS), -np.inf)
    values[RESIDUE] = place.residue[0]
    if model.has_outlier and p_value == p_value:  # noqa: PLR0124 - not NaN
        values[OUTLIER] = -np.log(p_value)
    weights = model.weights_of(query.blocks)
    against_ring(arena.rings, slot, weights, query, values)
    neighbour = against_all(arena.shared, weights, query, values)
    concerned = [(arena.clients, slot)]
    if float(excesses(arena, arena.clients, slot).max()) < 0:
        # A client that alarms is dealt with itself: its neighbours do not answer for it.
        concerned.append((arena.groups, ENDPOINT))
        if group != NO_GROUP:
            concerned.append((arena.groups, group))
    witnesses = [
        float(discrepancy.witness(records.sums[index, :FEATURES], features))
        for records, index in concerned
    ]
    values[DISCREPANCY] = witnesses[0]
    bets = evidence.bets(model, values, regime, arena.p_values)
    probing = evidence.increment(arena.mix[PROBING], bets, evidence.STAKE)
    for (records, index), value in zip(concerned, witnesses, strict=True):
        bets[DISCREPANCY], _ = evidence.bet(model, DISCREPANCY, value, regime)
        extraction = evidence.increment(arena.mix[EXTRACTION], bets, evidence.STAKE)
        # What others have added may stand above it already: each taking it back would fall too far.
        top = np.maximum(evidence.HEADROOM - excesses(arena, records, index), 0.0)
        add(records, (index, PROBING), min(probing, float(top[PROBING])))
        add(records, (index, EXTRACTION), min(extraction, float(top[EXTRACTION])))
        for sums in (records.sums, records.pending):
            sums[index, :FEATURES] += features
            sums[index, FEATURES] += 1.0
        visit(records, index, model, space.cell(model, query.position, regime))
    if neighbour >= 0:
        descend(arena, neighbour, query, bets, now)
    enter(arena.rings, slot, query)
    return excess(arena, slot, group)


class Query(NamedTuple):
    """What is stored of a query.

    Attributes:
        position: (32,) float64 whole numbers.
        blocks: (32,) uint16.
        content: uint64.
    """

    position: Floats
    blocks: npt.NDArray[np.uint16]
    content: np.uint64


def squared_distances(position: Floats, entries: npt.NDArray[np.int16]) -> Floats:
    """(n,) exact squared distances, in steps."""
    apart = entries.astype(np.float64) - position
    squared: Floats = np.einsum("ij,ij->i", apart, apart)
    return squared


def against_ring(rings: Rings, slot: int, weights: Floats, query: Query, values: Floats) -> None:
    """Fills in the statistics of a client's own ring, where it holds enough."""
    held = min(int(rings.added[slot]), RING)
    if held < statistics.NEIGHBOUR:
        return
    entries = rings.sketch[slot, :held].astype(np.float64)
    apart = entries - query.position
    squared = np.einsum("ij,ij->i", apart, apart)
    values[NEAR] = statistics.near(squared)
    count = weights.size
    same = rings.blocks[slot, :held, :count] == query.blocks[:count]
    values[EQUAL] = statistics.equal(same @ weights)
    anchors = np.argsort(squared, kind="stable")[: statistics.ANCHORS]
    between = entries[anchors, None, :] - entries[None, :, :]
    between = np.einsum("ijk,ijk->ij", between, between)
    values[SEGMENT] = statistics.segment(squared, anchors, between)


def resembles(arena: Arena, slot: int, query: Query, regime: int) -> bool:
    """Whether a query is the next frame of a scene, or a case with an input changed: nearer to one
    in its client's ring than honest rows are to their third, or different in two blocks at most."""
    model, rings = arena.model, arena.rings
    held = min(int(rings.added[slot]), RING)
    if not held:
        return False
    closest = float(squared_distances(query.position, rings.sketch[slot, :held]).min())
    if evidence.bet(model, NEAR, -0.5 * math.log(closest + 1.0), regime)[0] > 1.0:
        return True
    count = model.starts.size
    same = rings.blocks[slot, :held, :count] == query.blocks[:count]
    return count - int(same.sum(axis=1).max()) <= min(CHANGED, count // 3)


def against_all(shared: Shared, weights: Floats, query: Query, values: Floats) -> int:
    """Fills in the statistics of the shared ring.

    Returns:
        The nearest entry, or -1 if the very row is in the ring, or the ring holds too little: then
        the query has no part in lineages. With an empty ring it is 0.
    """
    held = shared.content != 0
    if bool((shared.content == query.content).any()):
        return -1
    if int(held.sum()) < statistics.NEIGHBOUR:
        return shared.content.size
    squared = squared_distances(query.position, shared.sketch)
    squared[~held] = statistics.FAR
    count = weights.size
    agreement = (shared.blocks[:, :count] == query.blocks[:count]) @ weights
    agreement[~held] = 0.0
    values[SHARED_NEAR] = statistics.near(squared)
    values[SHARED_EQUAL] = statistics.equal(agreement)
    return int(np.argmin(squared))


def enter(rings: Rings, slot: int, query: Query, fresh: int = 1) -> None:
    """Adds a query to a client's ring and to its retries."""
    added = int(rings.added[slot])
    rings.sketch[slot, added % RING] = query.position
    rings.blocks[slot, added % RING] = query.blocks
    rings.content[slot, added % RETRIES] = query.content
    rings.fresh[slot, added % RING] = fresh
    rings.added[slot] = added + 1


def visit(records: Records, index: int, model: PatternModel, cell: int) -> None:
    """Marks a cell of the honest space as visited."""
    if not records.marks[index, cell]:
        records.marks[index, cell] = MARKED
        records.coverage[index] += model.mass[cell]


def recover(arena: Arena, slot: int, group: int, now: float) -> None:
    """Time lowers levels. Not the stretches: the shared state lowers its own."""
    for records, index in ((arena.clients, slot), (arena.groups, ENDPOINT), (arena.groups, group)):
        if index == NO_GROUP:
            continue
        fall = max(now - records.seen[index], 0.0) * arena.recovery
        np.maximum(records.levels[index] - fall, 0.0, out=records.levels[index])
        records.seen[index] = now


def excesses(arena: Arena, records: Records, index: int) -> Floats:
    """(2,) nats above the thresholds, by family."""
    scope = 0 if records is arena.clients else 2 if index == ENDPOINT else 1
    volume = float(records.sums[index, FEATURES])
    limits = [evidence.threshold(volume, float(share)) for share in arena.budgets[scope]]
    above: Floats = records.levels[index] - limits
    return above


def lineage_threshold(arena: Arena) -> float:
    """Nats at which a lineage alarms: at the mean client's volume."""
    volume = float(arena.groups.sums[ENDPOINT, FEATURES]) / max(int(arena.tracked[0]), 1)
    return evidence.threshold(volume, arena.lineage_budget)


def excess(arena: Arena, slot: int, group: int) -> float:
    """The most that any evidence concerned lies above its threshold."""
    most = float(excesses(arena, arena.clients, slot).max())
    most = max(most, float(excesses(arena, arena.groups, ENDPOINT).max()))
    if group != NO_GROUP:
        most = max(most, float(excesses(arena, arena.groups, group).max()))
    lineage = int(arena.told[JOINED])
    if lineage >= 0:
        level = float(arena.lineages.levels[lineage])
        most = max(most, level - lineage_threshold(arena))
    return most


def descend(arena: Arena, neighbour: int, query: Query, bets: Floats, now: float) -> None:
    """Charges a query to the lineage of its nearest entry, and enters it into the shared ring.

    A query that is likelier than not to descend from that entry carries the lineage on, and founds
    one where there is none; another only lowers it.
    """
    shared, lineages = arena.shared, arena.lineages
    bet = evidence.descent(arena.mix[LINEAGE], bets)
    descends = bet > 1.0 and neighbour < shared.content.size
    index = -1
    if neighbour < shared.content.size:
        index = int(shared.slot[neighbour])
        if not shared.lineage[neighbour] or lineages.ids[index] != shared.lineage[neighbour]:
            index = found(lineages, shared.content[neighbour], now) if descends else -1
            if index >= 0:
                shared.lineage[neighbour] = lineages.ids[index]
                shared.slot[neighbour] = index
    if index >= 0:
        fall = max(now - lineages.seen[index], 0.0) * arena.recovery
        lineages.levels[index] = max(lineages.levels[index] - fall, 0.0)
        lineages.seen[index] = now
        increment = float(np.log(1.0 - evidence.LINEAGE_STAKE + evidence.LINEAGE_STAKE * bet))
        room = lineage_threshold(arena) + evidence.HEADROOM - float(lineages.levels[index])
        add(lineages, index, min(increment, max(room, 0.0)))
        lineages.dirty[index] = 1
    inherits = descends and index >= 0
    arena.told[JOINED] = index if inherits and bet > evidence.CLOSE else -1
    ident = lineages.ids[index] if inherits else np.uint64(0)
    share(shared, query, ident, max(index, 0))


def share(shared: Shared, query: Query, lineage: np.uint64, slot: int, fresh: int = 1) -> None:
    """Adds a query to the shared ring: to the half that is kept longer if it has a lineage, or is
    one of a sample."""
    kept = int(bool(lineage) or int(query.content) % SAMPLED == 0)
    position = kept * shared.half + int(shared.added[kept]) % shared.half
    shared.sketch[position] = query.position
    shared.blocks[position] = query.blocks
    shared.content[position] = query.content
    shared.lineage[position] = lineage
    shared.slot[position] = slot
    shared.fresh[position] = fresh
    shared.added[kept] += 1


def found(lineages: Lineages, ident: np.uint64, now: float) -> int:
    """The slot of a new lineage, or of the one of that id; -1 if every slot holds evidence."""
    known = np.flatnonzero(lineages.ids == ident)
    if known.size:
        return int(known[0])
    idle = lineages.levels <= evidence.NEGLIGIBLE
    if not idle.any():
        lineages.refused[0] += 1
        return -1
    index = int(np.argmin(np.where(idle, lineages.seen, np.inf)))
    lineages.ids[index] = ident
    for array in (lineages.levels, lineages.totals, lineages.peaks, lineages.bases):
        array[index] = 0.0
    lineages.seen[index] = now
    lineages.dirty[index] = 0
    return index
