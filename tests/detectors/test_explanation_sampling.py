"""Shapley values over sampled orders: efficient, fair, repeatable, and near the exact ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.explanation_sampling import blocks, sampled


def one(score, row, references, **options):
    """The only attribution of one score."""
    (found,) = sampled(
        lambda rows: score(rows.astype(np.float64))[:, None],
        np.asarray(row, np.float32)[None],
        np.atleast_2d(np.asarray(references, np.float32)),
        **options,
    )
    return found


def rough(rows):
    """A score that is neither additive nor smooth."""
    return np.abs(rows).max(axis=1) + rows[:, 0] * rows[:, -1] + (rows.sum(axis=1) > 1)


@given(
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(0, 2**31),
    st.sampled_from([16, 100, 1000]),
)
def test_they_sum_to_the_score_above_its_baseline(features, references, seed, evaluations):
    rng = np.random.default_rng(seed)
    row, others = rng.normal(size=features) * 5, rng.normal(size=(references, features))
    found = one(rough, row, others, seed=seed, evaluations=evaluations)
    assert found.score == pytest.approx(rough(row.astype(np.float32)[None].astype(float))[0])
    assert found.baseline + found.contributions.sum() == pytest.approx(found.score, abs=1e-9)


def test_the_same_seed_yields_the_same():
    row, reference = np.arange(6.0), np.zeros(6)
    first, again, other = (
        one(rough, row, reference, seed=seed, evaluations=30).contributions for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_an_additive_score_is_found_exactly():
    weights = np.array([3.0, -1, 0, 2])
    found = one(lambda rows: rows @ weights, [1, 2, 3, 4], [1, 1, 1, 1])
    np.testing.assert_allclose(found.contributions, weights * [0, 1, 2, 3], atol=1e-12)
    assert found.method == "sampled"


def test_a_product_is_shared_equally():
    # Each order and its reverse are walked: a pair's interaction is halved, whatever the orders.
    found = one(lambda rows: rows[:, 0] * rows[:, 1], [4, 5, 6], [0, 0, 0], evaluations=16)
    np.testing.assert_allclose(found.contributions, [10, 10, 0])


def test_a_feature_that_is_as_in_the_reference_adds_nothing():
    found = one(rough, [3, 1, 2], [0, 1, 0])
    assert found.contributions[1] == 0


def test_several_scores_are_explained_at_once():
    row, reference = np.ones((1, 3), np.float32), np.zeros((1, 3), np.float32)
    found = sampled(lambda rows: np.stack([rows[:, 0], rows.sum(axis=1)], 1), row, reference)
    np.testing.assert_allclose([one.contributions for one in found], [[1, 0, 0], [1, 1, 1]])


def test_a_score_that_is_not_finite_yields_nothing_and_spoils_no_other():
    def scores(rows):
        return np.stack([np.where(rows[:, 0] > 0, np.nan, 1.0), rows[:, 1]], axis=1)

    row, reference = np.ones((1, 2), np.float32), np.zeros((1, 2), np.float32)
    lost, kept = sampled(scores, row, reference)
    assert lost is None
    np.testing.assert_allclose(kept.contributions, [0, 1])


def test_the_number_of_rows_is_bounded():
    asked = []

    def scores(rows):
        asked.append(len(rows))
        return rows.astype(np.float64).sum(axis=1, keepdims=True)

    row = np.ones((1, 5000), np.float32)
    (found,) = sampled(scores, row, np.zeros_like(row), evaluations=400)
    assert sum(asked) <= 400
    # Features were grouped, and share what their group is credited.
    np.testing.assert_allclose(found.contributions, 1.0)


@pytest.mark.parametrize(
    ("shape", "most", "groups"),
    [
        ((6,), 10, 6),
        ((6,), 3, 3),
        ((28, 28), 784, 784),
        ((28, 28), 200, 14 * 14),
        ((3, 8, 8), 16, 16),
        ((8, 8, 3), 16, 16),
        ((8, 8, 3), 1, 1),
        ((2, 3, 4, 5), 7, 7),
    ],
)
def test_blocks(shape, most, groups):
    found = blocks(shape, most)
    assert found.shape == (int(np.prod(shape)),)
    assert np.unique(found).tolist() == list(range(groups))


def test_a_tile_is_square_and_holds_all_channels():
    tiles = blocks((4, 4, 3), 4).reshape(4, 4, 3)
    assert (tiles[:2, :2] == 0).all()
    assert (tiles[:2, 2:] == 1).all()
    assert (tiles[2:, :2] == 2).all()
    first = blocks((3, 4, 4), 4).reshape(3, 4, 4)
    assert (first == tiles.transpose(2, 0, 1)).all()
