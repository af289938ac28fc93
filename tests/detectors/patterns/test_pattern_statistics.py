"""The statistics are what their formulas say, for one query and for many."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pattern_subjects import honest, model

from detectors.patterns import space, statistics


def segment_of(query, entries):
    squared = ((entries - query) ** 2).sum(axis=1)
    anchors = np.argsort(squared, kind="stable")[: statistics.ANCHORS]
    between = ((entries[anchors, None] - entries[None]) ** 2).sum(axis=2)
    return float(statistics.segment(squared, anchors, between))


def test_near_is_the_third_neighbour():
    squared = np.array([9.0, 1.0, 4.0, 100.0])
    assert statistics.near(squared) == pytest.approx(-0.5 * math.log(10.0))


def test_equal_is_the_third_largest():
    assert statistics.equal(np.array([1.0, 7.0, 5.0, 3.0])) == 3.0


def test_a_point_on_a_line_stands_out():
    random = np.random.default_rng(0)
    entries = random.normal(size=(20, 32)) * 1e4
    off = segment_of(random.normal(size=32) * 1e4, entries)
    on = segment_of(entries[3] + 0.4 * (entries[7] - entries[3]), entries)
    beyond = segment_of(entries[3] + 1.7 * (entries[7] - entries[3]), entries)
    assert off < 1.0
    assert min(on, beyond) > 5.0


def test_points_that_nearly_coincide_draw_no_line():
    entries = np.zeros((4, 32))
    entries[1, 0] = 1.0
    entries[2:, 1] = 1e6
    query = np.full(32, 5e3)
    assert segment_of(query, entries[:2]) == 0.0


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(3, 64))
def test_the_order_of_entries_does_not_matter(seed, count):
    random = np.random.default_rng(seed)
    entries = np.rint(random.normal(size=(count, 32)) * 1000)
    query = np.rint(random.normal(size=32) * 1000)
    squared = ((entries - query) ** 2).sum(axis=1)
    turned = random.permutation(count)
    assert statistics.near(squared) == statistics.near(squared[turned])
    assert statistics.equal(squared) == statistics.equal(squared[turned])
    assert segment_of(query, entries) == pytest.approx(segment_of(query, entries[turned]), abs=1e-9)


def test_many_at_once_are_the_same():
    random = np.random.default_rng(1)
    entries = np.rint(random.normal(size=(5, 16, 32)) * 1000)
    query = np.rint(random.normal(size=(5, 32)) * 1000)
    squared = ((entries - query[:, None]) ** 2).sum(axis=2)
    anchors = np.argsort(squared, axis=1, kind="stable")[:, : statistics.ANCHORS]
    ends = np.take_along_axis(entries, anchors[..., None], axis=1)
    between = ((ends[:, :, None] - entries[:, None]) ** 2).sum(axis=3)
    together = statistics.segment(squared, anchors, between)
    alone = [segment_of(query[i], entries[i]) for i in range(5)]
    assert together == pytest.approx(alone, abs=1e-12)


def test_what_is_not_finite_has_no_residue():
    rows = honest()[0][:3].copy()
    rows[1, 2] = np.nan
    rows[2, 0] = np.inf
    residue = space.sketch(model(), rows).residue
    assert np.isfinite(residue).tolist() == [True, False, False]


def test_hashes_tell_rows_apart_and_the_sign_of_zero_does_not_count():
    rows = honest()[0]
    hashes = space.hashes(model(), rows)
    assert len(set(hashes.content.tolist())) == len(rows)
    zero = np.zeros((2, rows.shape[1]), dtype=np.float32)
    zero[1] = -0.0
    content, blocks = space.hashes(model(), zero)
    assert content[0] == content[1] != 0
    assert (blocks[0] == blocks[1]).all()


def test_a_changed_feature_changes_its_block_only():
    row = honest()[0][:1]
    other = row.copy()
    other[0, 4] += 1.0
    before, after = space.hashes(model(), row).blocks, space.hashes(model(), other).blocks
    assert (before != after).sum() == 1
