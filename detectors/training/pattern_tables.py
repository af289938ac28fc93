"""Calibrates the statistics on honest streams: half mixed, half of one class each."""

from __future__ import annotations

import math
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
CLASS_QUANTILE: Final = 0.98
LEVELS: Final = 64
PAIR_FLOOR: Final = 20.0
"""Pair statistics claim no p-value below 1 / (20 rows): streams reuse their rows in new company,
which tells more than the rows alone, but not without end."""
SMALLEST_REGIME: Final = 50
COMPANY_CAP: Final = 3000
"""Rows that streams are made of: their distances to each other fill a table."""
GAIN: Final = 0.03
"""By how much an honest client's instrument may drift: a small shift, however long, is no theft."""
SHARED_ROUNDS: Final = 6
SHARED_ASKED: Final = 1000
CROWDING: Final = 1.5
"""By how much more than measured a fuller ring is taken to be denser."""
MIXED: Final = -9
"""The kind of a client that asks about everything."""
DOUBT: Final = 4.0
"""Standard errors, roughly, by which a quantile from few rows is raised."""
LOW: Final = -1e300

Positions = npt.NDArray[np.int64]


def calibrate(
    fitted: Space,
    rows: Singles,
    labels: npt.NDArray[Any] | None,
    p_values: Floats | None,
    random: np.random.Generator,
) -> PatternModel:
    """The model with its tables, from honest rows that fitted nothing.

    The rows that the space was fitted on keep them company in the streams, without being judged
    themselves: a client of one class sends more than the few of it that calibrate.
    """
    model, count = fitted.model, len(rows)
    place = space.sketch(model, rows)
    company = random.permutation(len(fitted.rows))[: max(COMPANY_CAP - count, 0)]
    everyone = np.concatenate([rows, fitted.rows[company]])
    position = np.concatenate([place.sketch, space.sketch(model, fitted.rows[company]).sketch])
    regime = space.nearest(position, model.centroids)
    kinds = regime
    if labels is not None and fitted.labels is not None:
        kinds = np.concatenate([labels, fitted.labels[company]])
    blocks = space.hashes(model, everyone).blocks[:, : model.starts.size]
    squared = _squared(position)
    agreement = _agreement(blocks, model.weights_of(blocks))

    mixed = _mixed(len(everyone), random)
    together, company_of = _alike(position, kinds, regime, random)
    streams = [*mixed, *together]
    alike = np.concatenate([np.full(len(mixed), MIXED), company_of])
    sizes = [stream.size for stream in streams]
    query = np.concatenate(streams)
    judged = query < count
    tables = _Tables(model.classes, regime, count)
    tables.ask(query[judged], np.repeat(alike, sizes)[judged])
    pairs = zip(*(_pairs(stream, squared, agreement) for stream in streams), strict=True)
    for statistic, part in zip((NEAR, EQUAL, SEGMENT), pairs, strict=True):
        tables.add(statistic, np.concatenate(part)[judged], row=False)
    tables.add(RESIDUE, place.residue[query[judged]], row=True)
    if p_values is not None:
        tables.add(OUTLIER, -np.log(p_values[query[judged]]), row=True)
    gains = [_gained(model, rows, gain) for gain in (1.0 - GAIN, 1.0, 1.0 + GAIN)]
    asked = [stream[stream < count] for stream in streams]
    witnesses = [_witnesses(gains[i % len(gains)][one]) for i, one in enumerate(asked)]
    twice = np.concatenate([np.tile(one, 2) for one in asked])
    tables.ask(twice, np.repeat(alike, [2 * one.size for one in asked]))
    tables.add(DISCREPANCY, np.concatenate(witnesses), row=False)

    shared = _shared(model, squared[:count], agreement[:count], (regime, kinds), random)
    near, equal, *questions = shared
    tables.ask(*questions)
    tables.add(SHARED_NEAR, near, row=False)
    tables.add(SHARED_EQUAL, equal, row=False)
    return replace(
        model,
        offsets=tables.offsets,
        knots=tables.knots,
        tails=tables.tails,
        rows=count,
        has_outlier=int(p_values is not None),
    )


class _Tables:
    """Offsets and p-value tables, filled in statistic by statistic."""

    def __init__(self, classes: int, regime: Positions, rows: int) -> None:
        """Tables for ``classes`` regimes from ``rows`` rows; ``regime`` is each row's."""
        self.rows = rows
        self.offsets = np.zeros((len(STATISTICS), classes))
        self.knots = np.full((len(STATISTICS), LEVELS), -LOW)
        self.tails = np.ones((len(STATISTICS), LEVELS))
        self._regime = regime
        self.ask(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))

    def ask(self, query: Positions, alike: Positions) -> None:
        """What is added next are values at these rows, and in the company of these kinds."""
        self.query = query
        self.regime = self._regime[query]
        self.alike = alike

    def add(self, statistic: int, values: Floats, *, row: bool) -> None:
        """Calibrates one statistic on its values at every query; NaN where it has none."""
        valid = np.isfinite(values)
        single = valid & (self.alike != MIXED)
        common = float(np.quantile(values[single], CLASS_QUANTILE))
        for regime in range(self.offsets.shape[1]):
            here = single & (self.regime == regime)
            # Of all kinds of clients that come here the one whose queries are most alike counts.
            quantiles = []
            for kind in np.unique(self.alike[here]):
                found = values[here & (self.alike == kind)]
                if found.size >= SMALLEST_REGIME:
                    low, high = np.quantile(found, [0.5, CLASS_QUANTILE])
                    rows = np.unique(self.query[here & (self.alike == kind)]).size
                    quantiles.append(high + DOUBT * (high - low) / math.sqrt(rows))
            self.offsets[statistic, regime] = max(quantiles, default=common)
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
    last = np.nextafter(falling[np.minimum(above, count - 1)], np.inf)
    knots = np.where(above < count, last, LOW)
    p = (above + 1.0) / (count + 1.0)
    doubted = np.minimum(p + 2.0 * np.sqrt(p / rows) + 2.0 / rows, 1.0)
    return knots, doubted if row else np.maximum(p, floor)


def _mixed(count: int, random: np.random.Generator) -> list[Positions]:
    length = min(LENGTH, count)
    return [random.permutation(count)[:length] for _ in range(max(1, SAMPLES // length))]


def _alike(
    position: Floats, labels: npt.NDArray[Any], regime: Positions, random: np.random.Generator
) -> tuple[list[Positions], list[int]]:
    """Streams of clients that ask about one kind of thing: one class, one regime, one region of the
    space, or sessions of one class after the other. About equally many queries of each.

    Returns:
        The streams, and of each what kind of client it is: a class's own number, or less than 0.
    """
    count = len(position)
    squares = (position * position).sum(axis=1)
    regions = []
    for centre in random.permutation(count)[: SAMPLES // 4 // max(count // 4, 1) + 8]:
        away = squares - 2.0 * (position @ position[centre])
        regions.append(np.argsort(away)[: max(count // 4, RING)])
    kinds = (_groups(labels), _groups(regime), regions)
    streams: list[Positions] = []
    alike: list[int] = []
    for kind, groups in enumerate(kinds):
        share = max(SAMPLES // (len(kinds) + 1) // max(len(groups), 1), 1)
        for number, group in enumerate(groups):
            length = min(LENGTH, group.size)
            rounds = range(max(1, share // length))
            streams += [random.permutation(group)[:length] for _ in rounds]
            alike += [number if kind == 0 else -kind for _ in rounds]
    most = min(LENGTH, count)
    rounds = range(max(1, SAMPLES // (len(kinds) + 1) // most))
    streams += [_sessions(labels, most, random) for _ in rounds]
    return streams, alike + [-len(kinds)] * len(rounds)


def _groups(names: npt.NDArray[Any]) -> list[Positions]:
    return [
        np.flatnonzero(names == name)
        for name, count in zip(*np.unique(names, return_counts=True), strict=True)
        if count > 2 * statistics.NEIGHBOUR
    ]


def _sessions(labels: npt.NDArray[Any], length: int, random: np.random.Generator) -> Positions:
    """Runs of 5 to 60 queries of one class each, until the rows or the stream are used up."""
    left = {name: random.permutation(np.flatnonzero(labels == name)) for name in np.unique(labels)}
    parts: list[Positions] = []
    while left and sum(part.size for part in parts) < length:
        name = list(left)[int(random.integers(len(left)))]
        run = int(random.integers(5, 61))
        parts.append(left[name][:run])
        left[name] = left[name][run:]
        if not left[name].size:
            del left[name]
    return np.concatenate(parts)[:length]


def _squared(position: Floats) -> Singles:
    """(n, n) squared distances."""
    # Steps are whole numbers of up to 2^15: their products need more than a float32 holds.
    squares = (position * position).sum(axis=1)
    squared = position @ position.T
    squared *= -2.0
    squared += squares[:, None]
    squared += squares
    np.maximum(squared, 0.0, out=squared)
    return squared.astype(np.float32)


def _agreement(blocks: npt.NDArray[np.uint16], weights: Floats) -> Singles:
    """(n, n) summed weights of the blocks in which a row's query finds another equal."""
    total = np.zeros((len(blocks), len(blocks)), dtype=np.float32)
    for column, weight in zip(blocks.T, weights.T.astype(np.float32), strict=True):
        np.add(total, weight[:, None], out=total, where=column[:, None] == column)
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


def _gained(model: PatternModel, rows: Singles, gain: float) -> Floats:
    """The features of rows from an instrument whose gain has drifted."""
    place = space.sketch(model, rows * np.float32(gain))
    return space.features(model, place.sketch, place.regime)


def _witnesses(features: Floats) -> Floats:
    """The witness of each query of a stream, given those before it; and again, given all others: a
    client that goes on asking for one kind of thing points there ever more surely."""
    total = features.sum(axis=0)
    before = np.cumsum(features, axis=0) - features
    sums = np.concatenate([before, total - features])
    return discrepancy.witness(sums, np.concatenate([features, features]))


def _shared(
    model: PatternModel,
    squared: Singles,
    agreement: Singles,
    kinds: tuple[npt.NDArray[Any], ...],
    random: np.random.Generator,
) -> tuple[Floats, Floats, Positions, Positions]:
    """shared_near and shared_equal of the judged rows in mixed company, and in that of their own
    regime or class: values, the rows, and :data:`MIXED` or which."""
    count, size = squared.shape[0], model.shared
    found: list[tuple[Floats, Floats, Positions, Positions]] = []

    def measure(asked: Positions, company: Positions) -> tuple[Floats, Floats]:
        distance = squared[np.ix_(asked, company)].astype(np.float64)
        same = agreement[np.ix_(asked, company)].astype(np.float64)
        itself = asked[:, None] == company
        distance[itself], same[itself] = statistics.FAR, 0.0
        return statistics.near(distance), statistics.equal(same)

    def judge(asked: Positions, company: Positions, alike: int) -> None:
        near, equal = measure(asked, company)
        missing = CROWDING * math.log2(size / company.size)
        if missing > 0 and company.size > 4 * statistics.NEIGHBOUR:
            # A ring full of this kind is denser than these rows: as much again as from half of them
            # to all, for each doubling.
            half = measure(asked, company[: company.size // 2])
            near = near + missing * max(float(np.median(near - half[0])), 0.0)
            equal = equal + missing * max(float(np.median(equal - half[1])), 0.0)
        found.append((near, equal, asked, np.full(asked.size, alike)))

    # Honest queries with near neighbours are taken for descendants: the ring keeps those longer.
    third = np.partition(squared, statistics.NEIGHBOUR, axis=1)[:, statistics.NEIGHBOUR]
    dense = np.argsort(third)[: max(count // 10, 1)]
    for _ in range(SHARED_ROUNDS):
        asked = random.permutation(count)[:SHARED_ASKED]
        company = random.permutation(len(kinds[0]))[:size]
        kept = random.permutation(dense)[: size // 4]
        judge(asked, np.union1d(company[kept.size :], kept), MIXED)
    number = 0
    for groups in (_groups(names) for names in kinds):
        for group in groups:
            inside = group[group < count]
            share = SHARED_ROUNDS * SHARED_ASKED // len(groups)
            for _ in range(min(math.ceil(share / max(inside.size, 1)), 3 * SHARED_ROUNDS)):
                asked = random.permutation(inside)[:share]
                judge(asked, random.permutation(group)[:size], number)
            number += 1
    near, equal, rows, alike = (np.concatenate(part) for part in zip(*found, strict=True))
    return near, equal, rows, alike
