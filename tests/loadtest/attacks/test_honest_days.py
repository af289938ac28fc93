import numpy as np
import pytest

from loadtest.attacks.datasets import load
from loadtest.attacks.honest import DAY, KINDS, STRESSORS, shares, stressed

SPLIT = load("digits", 1)
PART = SPLIT.honest
KNOWN = {row.tobytes() for row in PART.rows}
AS_THEY_ARE = sorted(set(KINDS) - {"drifting"})


def day(kind, seed=0):
    return {**KINDS, **STRESSORS}[kind](PART, np.random.default_rng(seed), SPLIT.image)


@pytest.mark.parametrize("kind", sorted({**KINDS, **STRESSORS}))
def test_a_day_is_float32_repeats_by_seed_and_ends(kind):
    one, again, other = day(kind), day(kind), day(kind, 1)
    assert one.rows.dtype == np.float32
    assert np.isfinite(one.rows).all()
    assert one.sizes.sum() == len(one.rows)
    assert (one.sizes > 0).all()
    assert np.array_equal(one.rows, again.rows)
    assert not np.array_equal(one.rows, other.rows)
    assert len(np.unique(one.rows, axis=0)) <= DAY


@pytest.mark.parametrize("kind", AS_THEY_ARE)
def test_rows_are_the_parts_own(kind):
    assert all(row.tobytes() in KNOWN for row in day(kind).rows)


@pytest.mark.parametrize("kind", sorted(set(AS_THEY_ARE) - {"retries"}))
def test_no_row_is_asked_twice(kind):
    rows = day(kind).rows
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_retries_are_exact_and_near():
    rows = day("retries").rows
    places = {}
    for place, row in enumerate(rows):
        places.setdefault(row.tobytes(), []).append(place)
    again = [found for found in places.values() if len(found) > 1]
    assert len(places) == len(PART.rows)
    assert len(again) > len(places) / 4
    assert max(found[-1] - found[0] for found in again) < 256  # what the firewall remembers


def test_one_class_is_one_class():
    labels = {row.tobytes(): label for row, label in zip(PART.rows, PART.labels, strict=True)}
    assert len({labels[row.tobytes()] for row in day("one class").rows}) == 1


def test_bursty_days_come_in_requests_of_several_rows():
    assert 1 < day("bursty").sizes.mean() <= 16


def test_frames_resemble_the_one_before():
    rows = day("frames").rows.astype(float)
    steps = np.linalg.norm(np.diff(rows, axis=0), axis=1)
    mixed = np.linalg.norm(np.diff(day("mixed").rows.astype(float), axis=0), axis=1)
    assert np.median(steps) < np.median(mixed) / 5


def test_exploration_moves_one_feature():
    rows = day("exploration").rows
    changed = (rows[1:] != rows[:-1]).sum(axis=1)
    assert np.median(changed) == 1


@pytest.mark.parametrize("kind", sorted(STRESSORS))
def test_what_a_stressed_endpoint_is_fitted_on_is_one_row_of_each(kind):
    part = stressed(kind, SPLIT.fit, np.random.default_rng(0), SPLIT.image)
    assert 0.95 * len(SPLIT.fit.rows) < len(part.rows) <= len(SPLIT.fit.rows)
    assert len(np.unique(part.rows, axis=0)) == len(part.rows) == len(part.labels)
    fitted = {row.tobytes() for row in SPLIT.fit.rows}
    same = sum(row.tobytes() in fitted for row in part.rows)
    assert same < len(part.rows) / 2  # a feature may be moved to where it was


def test_shares_are_all_rows_and_share_none():
    pieces = shares(PART, 20, np.random.default_rng(0))
    assert len(pieces) == 20
    assert {row.tobytes() for piece in pieces for row in piece} == KNOWN
    assert sum(len(piece) for piece in pieces) == len(KNOWN)
