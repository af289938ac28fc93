"""The compiled step against the numpy one: the same state, bit for bit where it is exchanged."""

import gc
from functools import cache, partial

import numpy as np
import pytest
from handwritten import digits
from hypothesis import given, settings
from hypothesis import strategies as st

native = pytest.importorskip("detectors.patterns.native", reason="the fast extra is missing")

from detectors.patterns import native_kernels, reference  # noqa: E402 - after the skip
from detectors.patterns.layout import RETRIES, RING  # noqa: E402
from detectors.patterns.tracker import PatternTracker  # noqa: E402
from detectors.scorer import ENGINE_VARIABLE, ScoreFault  # noqa: E402
from detectors.training.patterns import fit_patterns  # noqa: E402

NATS = 1e-9
RECORDS = ("levels", "totals", "peaks", "sums", "pending", "marks", "seen", "coverage")
RINGS = ("sketch", "blocks", "content", "added", "fresh")
SHARED = (*RINGS, "lineage", "slot")
LINEAGES = ("ids", "levels", "totals", "peaks", "bases", "seen", "dirty", "refused")


def wide(rng):
    """More features than the basis holds: the residue has a rest."""
    return rng.normal(size=(700, 8)) @ rng.normal(size=(8, 150)) + rng.normal(size=(700, 150))


DATA = {
    "digits": lambda rng: digits()[:1400] / 16.0,
    "wide": wide,
    "narrow": lambda rng: rng.normal(size=(700, 2)),
    "whole numbers": lambda rng: np.unique(rng.poisson(4.0, size=(1500, 6)), axis=0),
    "one feature": lambda rng: rng.normal(size=(700, 1)),
}


@cache
def honest(name):
    return np.ascontiguousarray(DATA[name](np.random.default_rng(0)), dtype=np.float32)


@cache
def fitted(name, outlier=True):
    rows = honest(name)
    half = len(rows) // 2
    p_values = np.random.default_rng(1).uniform(0.01, 1.0, len(rows) - half) if outlier else None
    return fit_patterns(rows[:half], rows[half:], stream_p=p_values, seed=7, budget=0.01)


def hostile(rows, count, seed):
    """Honest rows, repetitions, walks along lines, changes of one feature, and far rows."""
    rng = np.random.default_rng(seed)
    stream = []
    while len(stream) < count:
        base = rows[rng.integers(len(rows))].astype(np.float64)
        kind = rng.integers(6)
        if kind == 0 and stream:
            stream.append(stream[rng.integers(len(stream))])
        elif kind == 1:
            step = rng.normal(size=base.size) * 0.01
            stream += [base + step * length for length in range(6)]
        elif kind == 2:
            for _ in range(4):
                base = base.copy()
                base[rng.integers(base.size)] += rng.choice([-1.0, 0.5, 1.0])
                stream.append(base)
        elif kind == 3:
            stream.append(rng.normal(size=base.size) * 10.0 ** rng.uniform(-3, 6))
        else:
            stream.append(base)
    stream[count // 2] = np.zeros_like(base)
    return np.array(stream[:count], dtype=np.float32)


def pair(model, **settings):
    return [PatternTracker(model, clients=8, engine=e, **settings) for e in ("numpy", "native")]


def assert_same(one, two):
    a, b = one._arena, two._arena
    for parts in ("clients", "groups", "lineages"):
        for name in LINEAGES if parts == "lineages" else RECORDS:
            x, y = (getattr(getattr(arena, parts), name) for arena in (a, b))
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=NATS, err_msg=f"{parts}.{name}")
    for parts, names in (("rings", RINGS), ("shared", SHARED)):
        for name in names:
            x, y = (getattr(getattr(arena, parts), name) for arena in (a, b))
            np.testing.assert_array_equal(x, y, err_msg=f"{parts}.{name}")
    np.testing.assert_array_equal(a.told, b.told)
    np.testing.assert_array_equal(a.p_values, b.p_values)


def test_it_is_what_auto_takes(monkeypatch):
    model = fitted("narrow")
    monkeypatch.delenv(ENGINE_VARIABLE, raising=False)
    assert not isinstance(PatternTracker(model, clients=1)._step, partial)
    monkeypatch.setenv(ENGINE_VARIABLE, "numpy")
    assert isinstance(PatternTracker(model, clients=1)._step, partial)
    assert not isinstance(PatternTracker(model, clients=1, engine="native")._step, partial)


@pytest.mark.parametrize("outlier", [True, False])
@pytest.mark.parametrize("name", DATA)
def test_equal_on_hostile_streams(name, outlier):
    model = fitted(name, outlier)
    rng = np.random.default_rng(3)
    one, two = pair(model, profile="default")
    alarms, client, subnet = 0, "c0", ""
    for index, row in enumerate(hostile(honest(name), 400, seed=4)):
        if rng.uniform() < 0.1:
            client = f"c{rng.integers(12)}"  # more than have room
            subnet = ("", "s", "t", "u")[rng.integers(4)]
        p_value = np.array([rng.uniform(1e-4, 1.0)]) if index % 5 else None
        found, same = (
            tracker.observe(client, subnet, row[None], p_value, 10.0 * index)
            for tracker in (one, two)
        )
        assert [(a.family, a.scope, a.key) for a in found] == [
            (a.family, a.scope, a.key) for a in same
        ]
        alarms += len(found)
        np.testing.assert_array_equal(one._arena.told, two._arena.told)
        if index % 20 == 19:
            assert_same(one, two)
    assert alarms > 0 or name == "whole numbers"  # where honest rows agree in much
    assert one._arena.clients.peaks.max() > 1.0
    assert one._arena.lineages.ids.any()


@pytest.mark.parametrize("profile", ["frames", "exploration"])
@pytest.mark.parametrize("name", ["digits", "whole numbers", "narrow"])
def test_equal_where_a_scene_counts_once(name, profile):
    model = fitted(name)
    one, two = pair(model, profile=profile)
    for index, row in enumerate(hostile(honest(name), 300, seed=5)):
        for tracker in (one, two):
            tracker.observe("c", "s", row[None], None, 10.0 * index)
        np.testing.assert_array_equal(one._arena.told, two._arena.told)
        if index % 20 == 19:
            assert_same(one, two)
    entered, counted = one._arena.rings.added.sum(), one._arena.clients.sums[:, -1].sum()
    assert counted + 10 < entered, "some resemble those before"


def test_equal_once_rings_have_come_round():
    one, two = pair(fitted("digits"))
    rows = hostile(honest("digits"), 2 * RETRIES + RING, seed=5)
    for tracker in (one, two):
        for start in range(0, len(rows), 50):
            tracker.observe("c", "s", rows[start : start + 50], None, float(start))
    assert one._arena.rings.added[one._clients.find("c")] > RETRIES
    assert one._arena.shared.added.max() > one._arena.shared.half
    assert_same(one, two)


@pytest.mark.parametrize("level", [100.0, 0.0])
def test_equal_when_every_lineage_is_taken(level):
    one, two = pair(fitted("digits"))
    for tracker in (one, two):
        lineages = tracker._arena.lineages
        lineages.ids[:] = np.arange(1, lineages.ids.size + 1)
        lineages.levels[:] = level
        lineages.totals[:] = lineages.peaks[:] = lineages.bases[:] = 3.0
        lineages.dirty[:] = 1
        tracker.observe("c", "", hostile(honest("digits"), 100, seed=6), None, 1.0)
    lineages = one._arena.lineages
    assert (lineages.refused[0] > 0) == (level > 0)
    assert (lineages.ids > lineages.ids.size).any() == (level == 0)
    assert_same(one, two)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["digits", "wide", "one feature"])
def test_what_is_not_finite_surfaces_and_changes_nothing(name, value):
    for tracker in pair(fitted(name)):
        rows = honest(name)[:5].copy()
        tracker.observe("c", "s", rows, None, 0.0)
        arena = tracker._arena
        parts = (arena.clients, arena.groups, arena.rings, arena.shared, arena.lineages)
        before = [array.copy() for part in parts for array in part.arrays()]
        for column in {0, rows.shape[1] - 1}:
            bad = rows[:1] + np.float32(0.5)
            bad[0, column] = value
            with pytest.raises(ScoreFault):
                tracker.observe("c", "s", bad, None, 0.0)
        after = [array for part in parts for array in part.arrays()]
        for x, y in zip(before, after, strict=True):
            np.testing.assert_array_equal(x, y)


@settings(max_examples=150)
@given(st.lists(st.floats(width=32), min_size=6, max_size=6), st.floats(1e-9, 1.0))
def test_equal_on_any_bits(values, p_value):
    one, two = pair(fitted("whole numbers"))
    rows = honest("whole numbers")[:8].copy()
    rows[7] = values
    steps = [tracker._step for tracker in (one, two)]
    for row in rows:
        first, second = (step(1, -1, row[None], p_value, 1.0) for step in steps)
        np.testing.assert_allclose(first, second, rtol=1e-9, atol=NATS)
        assert np.isnan(first) or np.isfinite(row).all()
    assert_same(one, two)


def test_rows_may_be_read_only():
    row = honest("narrow")[:1].copy()
    row.setflags(write=False)
    for tracker in pair(fitted("narrow")):
        tracker.observe("c", "", row, None, 0.0)


def test_the_zero_of_either_sign_is_one_row():
    for tracker in pair(fitted("narrow")):
        tracker.observe("c", "", np.array([[0.0, 1.0]], dtype=np.float32), None, 0.0)
        tracker.observe("c", "", np.array([[-0.0, 1.0]], dtype=np.float32), None, 0.0)
        assert tracker.standing("c").queries == 1


def test_the_step_holds_what_it_points_to():
    def bound():
        tracker = PatternTracker(fitted("narrow"), clients=3, engine="numpy")
        return native.bind(tracker._arena)

    step = bound()
    gc.collect()
    filler = [np.full(10_000, 7.0) for _ in range(50)]
    row = honest("narrow")[:1]
    alone = bound()
    assert step(1, -1, row, 0.5, 1.0) == alone(1, -1, row, 0.5, 1.0)
    assert all((array == 7.0).all() for array in filler)


def test_an_arena_laid_out_otherwise_is_refused():
    arena = PatternTracker(fitted("narrow"), clients=3, engine="numpy")._arena
    arena.rings.sketch = np.ascontiguousarray(arena.rings.sketch)
    with pytest.raises(ValueError, match="laid out"):
        native.bind(arena)


def test_a_kernel_tells_which_constants_it_was_made_of():
    nothing, row = np.zeros(1, dtype=np.int64), np.zeros((1, 1), dtype=np.float32)
    assert native.load()(nothing, np.zeros(1), -1, -1, row, 0.0, 0.0) == native.STAMP


def test_the_reference_is_what_numpy_serves():
    tracker = PatternTracker(fitted("narrow"), clients=1, engine="numpy")
    assert tracker._step.func is reference.step


@pytest.mark.parametrize("reach", [1e-9, 1.0, 1e3, 9.9e4, 1e9, 1e300])
def test_cosines(reach):
    angles = np.random.default_rng(0).uniform(-reach, reach, 1000)
    found = angles.copy()
    native_kernels.cosines(found)
    np.testing.assert_allclose(found, np.cos(angles), rtol=0, atol=1e-11)
