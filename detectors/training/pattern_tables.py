"""Calibrates the statistics on honest streams: half mixed, half of one class each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detectors.arrays import Floats, Singles
from detectors.patterns import discrepancy, space, statistics
from detectors.patterns.layout import RING
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
from detectors.training.pattern_space import Space

LENGTH: Final = 500
"""Queries of a stream."""
SAMPLES: Final = 20_000
"""Queries of all mixed streams, and again of all streams of one class."""
CLASS_QUANTILE: Final = 0.95
LEVELS: Final = 64
PAIR_FLOOR: Final = 20.0
"""Pair statistics claim no p-value below 1 / (20 rows): streams reuse their rows in new company,
which tells more than the rows alone, but not without end."""
SMALLEST_REGIME: Final = 50
LOW: Final = -1e300

Positions = npt.NDArray[np.int64]


def calibrate(
    fitted: Space,
    rows: Singles,
    labels: npt.NDArray[Any] | None,
    p_values: Floats | None,
    random: np.random.Generator,
) -> PatternModel:
    """The model with its tables, from honest rows that fitted nothing."""
    model = fitted.model
    place = space.sketch(model, rows)
    kinds = labels if labels is not None else place.regime
    mixed = _mixed(len(rows), random)
    single = _single(kinds, random)
    streams = [*mixed, *single]
    is_single = np.concatenate(
        [np.full(stream.size, index >= len(mixed)) for index, stream in enumerate(streams)]
    )
    query = np.concatenate(streams)
    tables = _Tables(model, place.regime[query], is_single, len(rows))

    blocks = space.hashes(model, rows).blocks[:, : model.starts.size]
    squared = _squared(place.sketch, place.sketch)
    agreement = _agreement(blocks, blocks, model.block_weights)
    near, equal, segment = (
        np.concatenate(part)
        for part in zip(*(_pairs(stream, squared, agreement) for stream in streams), strict=True)
    )
    tables.add(NEAR, near, row=False)
    tables.add(EQUAL, equal, row=False)
    tables.add(SEGMENT, segment, row=False)
    tables.add(RESIDUE, place.residue[query], row=True)
    if p_values is not None:
        tables.add(OUTLIER, -np.log(p_values[query]), row=True)
    features = space.features(model, place.sketch, place.regime)
    witnesses = [_witnesses(features[stream]) for stream in streams]
    tables.add(DISCREPANCY, np.concatenate(witnesses), row=False)

    company = space.sketch(model, fitted.rows).sketch
    company_blocks = space.hashes(model, fitted.rows).blocks[:, : model.starts.size]
    company_kinds = space.nearest(company, model.centroids)
    everyone = np.concatenate([place.sketch, company])
    everyone_blocks = np.concatenate([blocks, company_blocks])
    regimes = np.concatenate([place.regime, company_kinds])
    near, equal, asked, single_asked = _shared(
        model, place.sketch, blocks, everyone, everyone_blocks, regimes, random
    )
    shared = _Tables(model, place.regime[asked], single_asked, len(rows))
    shared.add(SHARED_NEAR, near, row=False)
    shared.add(SHARED_EQUAL, equal, row=False)
    offsets, knots, tails = tables.offsets, tables.knots, tables.tails
    for index in (SHARED_NEAR, SHARED_EQUAL):
        offsets[index], knots[index], tails[index] = (
            shared.offsets[index],
            shared.knots[index],
            shared.tails[index],
        )
    return replace(
        model,
        offsets=offsets,
        knots=knots,
        tails=tails,
        rows=len(rows),
        has_outlier=int(p_values is not None),
    )


class _Tables:
    """Offsets and p-value tables, filled in statistic by statistic."""

    def __init__(
        self,
        model: PatternModel,
        regime: Positions,
        is_single: npt.NDArray[np.bool_],
        rows: int,
    ) -> None:
        self.regime = regime
        self.is_single = is_single
        self.rows = rows
        self.offsets = np.zeros((len(STATISTICS), model.classes))
        self.knots = np.full((len(STATISTICS), LEVELS), -LOW)
        self.tails = np.ones((len(STATISTICS), LEVELS))

    def add(self, statistic: int, values: Floats, *, row: bool) -> None:
        """Calibrates one statistic on its values at every query; NaN where it has none."""
        valid = np.isfinite(values)
        single = valid & self.is_single
        common = float(np.quantile(values[single], CLASS_QUANTILE))
        for regime in range(self.offsets.shape[1]):
            inside = values[single & (self.regime == regime)]
            enough = inside.size >= SMALLEST_REGIME
            quantile = float(np.quantile(inside, CLASS_QUANTILE)) if enough else common
            self.offsets[statistic, regime] = quantile
        rest = values[valid] - self.offsets[statistic, self.regime[valid]]
        self.knots[statistic], self.tails[statistic] = _tail(rest, self.rows, row)


def _tail(values: Floats, rows: int, row: bool) -> tuple[Floats, Floats]:
    """Knots and their p-values: p = (c + 1) / (n + 1), with what the rows cannot tell added."""
    falling = np.sort(values)[::-1]
    count = falling.size
    floor = 2.0 / rows if row else 1.0 / (PAIR_FLOOR * rows)
    wanted = np.geomspace(1.0, max(floor / 4 if row else floor, 1.0 / (count + 1)), LEVELS)
    above = np.maximum(np.floor(wanted * (count + 1) + 1e-9).astype(np.int64) - 1, 0)
    above = np.minimum(above, count)
    # Strictly above the value that must not count any more.
    knots = np.where(above < count, np.nextafter(falling[np.minimum(above, count - 1)], np.inf), LOW)
    p = (above + 1.0) / (count + 1.0)
    if row:
        p = np.minimum(p + 2.0 * np.sqrt(p / rows) + 2.0 / rows, 1.0)
    else:
        p = np.maximum(p, floor)
    return knots, p


def _mixed(count: int, random: np.random.Generator) -> list[Positions]:
    length = min(LENGTH, count)
    return [random.permutation(count)[:length] for _ in range(max(1, SAMPLES // length))]


def _single(kinds: npt.NDArray[Any], random: np.random.Generator) -> list[Positions]:
    """Streams of one class each, every class about equally often."""
    names, counts = np.unique(kinds, return_counts=True)
    groups = [np.flatnonzero(kinds == name) for name, n in zip(names, counts, strict=True) if n > 8]
    streams: list[Positions] = []
    for group in groups:
        length = min(LENGTH, group.size)
        for _ in range(max(1, SAMPLES // len(groups) // length)):
            streams.append(random.permutation(group)[:length])
    return streams


def _squared(left: Floats, right: Floats) -> npt.NDArray[np.float32]:
    a, b = left.astype(np.float64), right.astype(np.float64)
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2.0 * (a @ b.T)
    return np.maximum(squared, 0.0).astype(np.float32)


def _agreement(left: Any, right: Any, weights: Floats) -> npt.NDArray[np.float32]:
    total = np.zeros((len(left), len(right)), dtype=np.float32)
    for index, weight in enumerate(weights):
        if weight > 0:
            same = left[:, index, None] == right[None, :, index]
            total += same * np.float32(weight)
    return total


def _pairs(stream: Positions, squared: Any, agreement: Any) -> tuple[Floats, Floats, Floats]:
    """near, equal, segment at each query of a stream; NaN at the first few."""
    count = stream.size
    before = np.arange(count)[:, None] - 1 - np.arange(RING)[None, :]
    held = before >= 0
    entries = stream[np.maximum(before, 0)]
    distance = np.where(held, squared[stream[:, None], entries], statistics.FAR).astype(np.float64)
    same = np.where(held, agreement[stream[:, None], entries], 0.0)
    anchors = np.argsort(distance, axis=1, kind="stable")[:, : statistics.ANCHORS]
    ends = np.take_along_axis(entries, anchors, axis=1)
    between = squared[ends[:, :, None], entries[:, None, :]].astype(np.float64)
    found = (
        statistics.near(distance),
        statistics.equal(same),
        statistics.segment(distance, anchors, between),
    )
    for values in found:
        values[: statistics.NEIGHBOUR] = np.nan
    return found


def _witnesses(features: Floats) -> Floats:
    before = np.cumsum(features, axis=0) - features
    return discrepancy.witness(before, features)


def _shared(
    model: PatternModel,
    position: Floats,
    blocks: Any,
    everyone: Floats,
    everyone_blocks: Any,
    regimes: Positions,
    random: np.random.Generator,
) -> tuple[Floats, Floats, Positions, npt.NDArray[np.bool_]]:
    """shared_near and shared_equal of each row in mixed company, and in that of its own regime."""
    squared = _squared(position, everyone)
    agreement = _agreement(blocks, everyone_blocks, model.block_weights)
    rows = np.arange(len(position))
    squared[rows, rows] = np.float32(statistics.FAR)
    agreement[rows, rows] = 0.0
    near: list[Floats] = []
    equal: list[Floats] = []
    asked: list[Positions] = []
    single: list[npt.NDArray[np.bool_]] = []
    size = min(model.shared, len(everyone))
    for _ in range(6):
        some = random.permutation(len(everyone))[:size]
        near.append(statistics.near(squared[:, some].astype(np.float64)))
        equal.append(statistics.equal(agreement[:, some]).astype(np.float64))
        asked.append(rows)
        single.append(np.zeros(rows.size, dtype=np.bool_))
    for regime in range(model.classes):
        inside = np.flatnonzero(regimes[: len(position)] == regime)
        alike = np.flatnonzero(regimes == regime)
        if inside.size == 0 or alike.size <= statistics.NEIGHBOUR:
            continue
        for _ in range(6):
            some = random.permutation(alike)[: max(size // 2, 4)]
            near.append(statistics.near(squared[np.ix_(inside, some)].astype(np.float64)))
            equal.append(statistics.equal(agreement[np.ix_(inside, some)]).astype(np.float64))
            asked.append(inside)
            single.append(np.ones(inside.size, dtype=np.bool_))
    return (
        np.concatenate(near),
        np.concatenate(equal),
        np.concatenate(asked),
        np.concatenate(single),
    )
