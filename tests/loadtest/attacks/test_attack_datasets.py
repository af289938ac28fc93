from itertools import combinations

import numpy as np
import pytest

from loadtest.attacks import datasets
from loadtest.attacks.datasets import SETS, Unavailable, load

PARTS = ("model", "fit", "honest", "bases", "pool")


def contents(part):
    return {row.tobytes() for row in part.rows}


@pytest.mark.parametrize("name", sorted(set(SETS) - {"mnist"}))  # slow to read, cut alike
def test_parts_share_no_row(name):
    try:
        split = load(name, 1)
    except Unavailable as problem:
        pytest.skip(str(problem))
    held = {part: contents(getattr(split, part)) for part in PARTS}
    pairs = list(combinations(PARTS, 2))
    assert len(pairs) == 10
    for left, right in pairs:
        assert not held[left] & held[right], (left, right)
    for part in PARTS:
        assert len(held[part]) == getattr(SETS[name].sizes, part)  # no row twice within a part
        assert len(getattr(split, part).labels) == len(held[part])
    height, width = split.image
    assert height * width == split.features
    assert (split.low < split.high).all()


def test_a_seed_repeats_and_another_differs():
    first, again, other = load("digits", 1), load("digits", 1), load("digits", 2)
    assert np.array_equal(first.honest.rows, again.honest.rows)
    assert contents(first.honest) != contents(other.honest)


def test_a_set_whose_file_is_absent_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "DATA", tmp_path)
    monkeypatch.setattr(datasets, "_distinct", datasets._distinct.__wrapped__)
    with pytest.raises(Unavailable, match=r"satellite\.npz is not beside the repository"):
        load("satellite", 1)
