"""Splits and fits: what is promised, refused and told."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.calibration import rows_for_rank, rows_needed, threshold_rank
from detectors.training import fit as fitting
from detectors.training.estimators import KINDS
from detectors.training.fit import fit
from detectors.training.patterns import PatternRowsError, fit_patterns
from detectors.training.readers import DataError
from detectors.training.splits import (
    MIN_MERGE,
    MIN_TRAIN,
    TooFewRowsError,
    distinct,
    of_any,
    of_some_clients,
    rows_to_calibrate,
    split,
)
from detectors.training.usage import Promise, use_rows


def draw(count, features=4, seed=0):
    return np.random.default_rng(seed).normal(size=(count, features)).astype(np.float32)


@given(
    st.integers(0, 20_000),
    st.sampled_from([0.001, 0.003, 0.01, 0.05, 0.3]),
    st.sampled_from([0.01, 0.05, 0.5]),
)
def test_splits_are_disjoint_and_large_enough(count, alpha, delta):
    need = rows_needed(alpha, delta)
    try:
        parts = split(count, alpha, delta, seed=1)
    except TooFewRowsError as error:
        assert count < need + MIN_TRAIN + MIN_MERGE == error.need
        assert f"{count} distinct rows, {error.need} needed" in str(error)
        return
    together = np.concatenate(parts)
    np.testing.assert_array_equal(np.sort(together), np.arange(count))
    assert len(parts.train) >= MIN_TRAIN
    assert len(parts.merge) >= MIN_MERGE
    assert len(parts.threshold) >= need


@given(st.integers(1, 9), st.floats(0.005, 0.5))
def test_rows_to_calibrate_are_what_a_split_takes(rank, alpha):
    need = rows_for_rank(rank, alpha, 0.05)
    count = rows_to_calibrate(need)
    found = len(split(count, alpha, 0.05, seed=1).threshold)
    assert threshold_rank(found, alpha, 0.05) >= rank
    assert need <= found <= need + 1


def test_the_caps_leave_rows_unused():
    parts = split(400_000, 0.001, 0.05, seed=0)
    assert [len(part) for part in parts] == [20_000, 10_000, 100_000, 270_000]


def test_splits_depend_on_the_seed_only():
    first, again, other = (split(1000, 0.05, 0.05, seed) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not (first.train == other.train).all()


def test_distinct_keeps_the_first_of_each():
    rows = np.array([[1, 0], [2, 0], [1, -0.0], [1, 0], [3, 0]], dtype=np.float32)
    assert distinct(rows).tolist() == [0, 1, 4]


@given(st.integers(160, 3_000), st.integers(0, 1_500))
def test_a_split_leaves_so_many_for_the_threshold(count, least):
    alone = split(count, 0.3, 0.05, seed=1)
    if count < least + MIN_TRAIN + MIN_MERGE:
        with pytest.raises(ValueError, match="leave fewer than"):
            split(count, 0.3, 0.05, seed=1, least=least)
        return
    parts = split(count, 0.3, 0.05, seed=1, least=least)
    assert len(parts.threshold) >= least
    assert len(parts.train) >= MIN_TRAIN
    assert len(parts.merge) >= MIN_MERGE
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(count))
    if least <= len(alone.threshold):
        assert all((a == b).all() for a, b in zip(alone, parts, strict=True))


@given(
    st.integers(0, 4_000),
    st.integers(0, 2_000),
    st.sampled_from([0.01, 0.05, 0.3]),
    st.integers(0, 800),
    st.booleans(),
)
def test_rows_for_fitting_only_calibrate_nothing(free, known, alpha, least, apart):
    count, need = free + known, rows_needed(alpha, 0.05)
    seen = np.zeros(count, bool)
    seen[np.random.default_rng(3).permutation(count)[:known]] = True
    lacking = max(MIN_TRAIN - known, 0)
    given = {"seed": 1, "seen": seen, "least": least, "apart": apart}
    if free < need + MIN_MERGE + lacking:
        with pytest.raises(TooFewRowsError) as caught:
            split(count, alpha, 0.05, **given)
        assert (caught.value.have, caught.value.need) == (free, need + MIN_MERGE + lacking)
        return
    if free < least + MIN_MERGE + lacking:
        with pytest.raises(ValueError, match="leave fewer than"):
            split(count, alpha, 0.05, **given)
        return
    parts = split(count, alpha, 0.05, **given)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(count))
    assert not seen[parts.merge].any()
    assert not seen[parts.threshold].any()
    assert len(parts.train) >= MIN_TRAIN
    assert len(parts.merge) >= MIN_MERGE
    assert len(parts.threshold) >= max(need, least)
    if apart and known >= MIN_TRAIN:
        assert seen[parts.train].all()
    if not known:
        plain = split(count, alpha, 0.05, seed=1, least=least)
        assert all((a == b).all() for a, b in zip(plain, parts, strict=True))


def test_too_few_rows_that_the_model_has_not_seen():
    seen = np.arange(5000) < 2000
    with pytest.raises(TooFewRowsError, match="3000 distinct rows that the model was not") as one:
        split(5000, 0.001, 0.05, seed=0, seen=seen)
    assert "3045 needed (2995 to keep" in str(one.value)
    assert "to fit" not in str(one.value)


def test_a_row_is_seen_if_any_of_its_occurrences_is():
    rows = np.array([[2, 0], [1, 0], [2, 0], [1, -0.0], [3, 0]], dtype=np.float32)
    marks = np.array([False, False, True, False, False])
    assert distinct(rows).tolist() == [0, 1, 4]
    assert of_any(rows, marks).tolist() == [True, False, False]


class TestClients:
    def test_whole_clients_are_chosen(self):
        clients = np.repeat(np.arange(40), 25)
        some = of_some_clients(clients, 450, seed=0)
        assert 400 < some.sum() <= 450
        by_client = some.reshape(40, 25)
        assert (by_client.all(axis=1) | ~by_client.any(axis=1)).all()
        assert (some == of_some_clients(clients, 450, seed=0)).all()
        assert (some != of_some_clients(clients, 450, seed=1)).any()

    @pytest.mark.parametrize(
        "clients",
        [
            np.repeat(np.arange(19), 50),  # too few of them
            np.r_[np.zeros(900, int), np.arange(1, 31)],  # one has nearly all rows
        ],
    )
    def test_too_few_or_too_unequal(self, clients):
        assert of_some_clients(clients, 400, seed=0) is None

    def test_those_who_calibrate_fitted_nothing(self):
        clients = np.repeat(np.arange(50), 20)
        promise = Promise(0.05, 0.05, None)
        usage = use_rows(promise, 1000, 0, seen=None, clients=clients)
        own = {part: set(clients[getattr(usage.parts, part)]) for part in usage.parts._fields}
        assert not own["train"] & (own["merge"] | own["threshold"])
        assert usage.clients == len(own["train"])
        assert usage.seen == len(usage.parts.train)

    def test_with_rows_that_are_for_fitting_anyway(self):
        clients = np.repeat(np.arange(50), 20)
        seen = np.arange(1000) % 10 == 0
        usage = use_rows(Promise(0.05, 0.05, 0.01), 1000, 0, seen=seen, clients=clients)
        held = np.concatenate([usage.parts.merge, usage.parts.threshold])
        assert not seen[held].any()
        fitted = usage.parts.train[~seen[usage.parts.train]]
        assert not set(clients[fitted]) & set(clients[held])
        assert len(usage.parts.threshold) >= 300
        assert usage.clients == len(set(clients[fitted]))

    def test_where_rows_are_scarce_the_split_is_at_random(self):
        clients = np.repeat(np.arange(25), 10)
        usage = use_rows(Promise(0.05, 0.05, None), 250, 0, seen=None, clients=clients)
        plain = split(250, 0.05, 0.05, 0)
        if usage.clients == 0:
            assert all((a == b).all() for a, b in zip(usage.parts, plain, strict=True))
        assert len(usage.parts.train) >= MIN_TRAIN


def test_too_few_rows_says_how_many():
    with pytest.raises(TooFewRowsError, match=r"3144 distinct rows, 3145 needed \(2995 to keep"):
        fit(draw(3144))
    fitted = fit(draw(3145), kinds=("mahalanobis",))
    assert fitted.scorer.calibration.scores.size == 2995


def test_too_few_rows_for_patterns_says_how_many():
    with pytest.raises(PatternRowsError, match="takes 300 distinct rows") as caught:
        fit(draw(449), alpha=0.05, client_alarm_budget=0.01)
    assert (caught.value.have, caught.value.need) == (299, 300)
    fitted = fit(draw(450), kinds=("mahalanobis",), alpha=0.05, client_alarm_budget=0.01)
    assert (fitted.patterns.space, fitted.patterns.streams) == (100, 300)
    assert fitted.patterns.budget == 0.01


def test_patterns_are_calibrated_on_rows_that_fitted_nothing(monkeypatch):
    """On those that set the threshold, each with its p-value against the others."""
    given = {}

    def fake(space, streams, **named):
        given.update(named, space=space, streams=streams)
        return fit_patterns(space, streams, **named)

    monkeypatch.setattr(fitting, "fit_patterns", fake)
    rows = np.vstack([draw(900), draw(900)])
    labels = np.array([str(index % 900 % 3) for index in range(1800)])
    fitted = fit(rows, alpha=0.05, client_alarm_budget=0.01, labels=labels)
    assert fitted.training.classes == {"0": 600, "1": 600, "2": 600}
    parts = split(900, 0.05, 0.05, 0)
    np.testing.assert_array_equal(given["space"], rows[parts.train])
    np.testing.assert_array_equal(given["streams"], rows[parts.threshold])
    np.testing.assert_array_equal(given["stream_labels"], labels[parts.threshold])
    scores = fitted.scorer.score(given["streams"]).merged
    for index in range(0, len(scores), 37):
        others = np.delete(scores, index)
        expected = (1 + (others >= scores[index] - 1e-9).sum()) / (others.size + 1)
        assert given["stream_p"][index] == pytest.approx(expected)
    assert given["seed"] > 2**64


def test_duplicates_do_not_count():
    rows = draw(300)
    fitted = fit(np.vstack([rows, rows, rows[:50]]), alpha=0.05)
    counts = fitted.training.rows
    assert (counts.read, counts.duplicates) == (650, 350)
    parts = counts.duplicates + counts.train + counts.merge + counts.threshold + counts.unused
    assert parts == counts.read
    with pytest.raises(TooFewRowsError, match="1 distinct rows"):
        fit(np.ones((5000, 3), dtype=np.float32))


def test_constant_features_are_told():
    rows = draw(400)
    rows[:, 2] = 8.0
    assert fit(rows, alpha=0.05).training.constant_features == [2]


def test_a_row_too_wide():
    with pytest.raises(DataError, match="at most 65536"):
        fit(np.zeros((1, 70_000), dtype=np.float32), alpha=0.05)


@pytest.mark.parametrize("kinds", [(), ("gmm", "gmm"), ("oracle",)])
def test_kinds(kinds):
    with pytest.raises(ValueError, match=r"detector|named twice"):
        fit(draw(400), kinds=kinds, alpha=0.05)


HARD = {
    "one feature": lambda rng: rng.normal(size=(400, 1)),
    "heavy tails": lambda rng: rng.standard_cauchy(size=(400, 5)) * 1e4,
    "mixed scales": lambda rng: rng.normal(size=(400, 6)) * 10.0 ** np.arange(-18, 18, 6),
    "huge": lambda rng: rng.normal(size=(400, 3)) * 1e30,
    "denormal": lambda rng: rng.normal(size=(400, 3)) * 1e-42,
    "a line": lambda rng: rng.normal(size=(400, 1)) @ np.ones((1, 5)),
    "near constant": lambda rng: (
        np.where(rng.uniform(size=(400, 3)) < 0.01, 1, 0) + rng.normal(size=(400, 3)) * [0, 1, 0]
    ),
    "integers": lambda rng: rng.integers(0, 9, size=(900, 4)),
    "large offset": lambda rng: rng.normal(size=(400, 3)) + 1e6,
    "wide": lambda rng: rng.normal(size=(300, 4096)),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_hard_data(name):
    rng = np.random.default_rng(0)
    rows, fresh = (HARD[name](rng).astype(np.float32) for _ in range(2))
    scorer = fit(rows, kinds=tuple(KINDS), alpha=0.05, engine="numpy").scorer
    assert scorer.score(fresh).flagged.mean() < 0.2
    far = np.full((1, rows.shape[1]), 3e38, dtype=np.float32)
    assert scorer.score(far).flagged.all()


def test_deterministic():
    rows = draw(400)
    first, again = (fit(rows, alpha=0.05, seed=5, kinds=tuple(KINDS)).scorer for _ in range(2))
    np.testing.assert_array_equal(first.calibration.scores, again.calibration.scores)
