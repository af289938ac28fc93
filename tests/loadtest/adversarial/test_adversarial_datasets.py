"""What the report attacks was never seen in development."""

import numpy as np
import pytest

from loadtest.adversarial import datasets
from loadtest.adversarial.datasets import DEVELOPMENT, REPORTED, SETS, Unavailable


def _cut(name, seed):
    try:
        return datasets.load(name, seed)
    except Unavailable as problem:
        pytest.skip(str(problem))


def _keys(rows):
    return {row.tobytes() for row in rows}


def _candidates(cut):
    return _keys(cut.rest_x[len(cut.rest_x) - cut.candidates :])


def test_the_partition_is_fixed_and_complete():
    reserved, others = datasets.partition(1000)
    again, _ = datasets.partition(1000)
    assert len(reserved) == 150
    assert sorted([*reserved, *others]) == list(range(1000))
    assert np.array_equal(reserved, again)


@pytest.mark.parametrize("name", ["digits", "friedman", "shuttle", "segment"])
def test_attacked_rows_are_apart(name):
    cuts = [_cut(name, seed) for seed in (DEVELOPMENT, *REPORTED)]
    candidates = [_candidates(cut) for cut in cuts]
    compared = 0
    for k, cut in enumerate(cuts):
        assert not _keys(cut.train_x) & _keys(cut.rest_x)
        assert len(cut.train_x) == cut.kind.train
        assert len(cut.rest_x) <= cut.kind.unseen
        assert 0 < cut.candidates <= 2 * cut.kind.bases
        for other in range(k + 1, len(cuts)):
            assert not candidates[k] & candidates[other]
            compared += 1
    assert compared == 6
    development = _keys(cuts[0].train_x) | _keys(cuts[0].rest_x)
    assert not development & set().union(*candidates[1:])
    # A reported victim was not trained on any reported base, whichever seed's.
    assert not any(_keys(cut.train_x) & set().union(*candidates[1:]) for cut in cuts)


def test_cuts_are_repeatable_and_differ_by_seed():
    one, same, other = (datasets.load("digits", seed) for seed in (1, 1, 2))
    assert np.array_equal(one.train_x, same.train_x)
    assert not np.array_equal(one.train_x, other.train_x)


def test_unknown_seeds_and_sets_are_refused():
    for name, seed in (("digits", 7), ("nothing", 0)):
        with pytest.raises(KeyError):
            datasets.load(name, seed)


def test_every_set_says_what_it_is():
    assert len(SETS) == 5
    assert [name for name, kind in SETS.items() if kind.regression] == ["friedman"]
    assert sum(len(kind.row_shape) == 2 for kind in SETS.values()) == 2


def test_friedman_is_the_published_function():
    rows = np.full((1, 10), 0.5, np.float32)
    assert datasets.friedman(rows) == pytest.approx(10 * np.sin(np.pi / 4) + 0 + 5 + 2.5)
