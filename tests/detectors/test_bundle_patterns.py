"""Patterns in a bundle: covered, checked and versioned as everything else in it."""

import io
import json
import random

import numpy as np
import pytest
from bundle_edits import at, members_of, put, put_key, rebuilder

from detectors import bundle as bundles
from detectors.bundle import BundleError, load_bundle
from detectors.manifest import PATTERNS_VERSION, SCHEMA_VERSION
from detectors.patterns.tracker import PatternTracker
from detectors.training.fit import fit, write
from detectors.training.readers import Table

CREATED = "2026-01-01T00:00:00+00:00"
BUDGET = 0.01


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6))).astype(np.float32)


def fit_small(rows, **changed):
    given = {"kinds": ("mahalanobis", "pca"), "alpha": 0.05, "engine": "numpy"}
    return fit(rows, **{**given, "client_alarm_budget": BUDGET, **changed})


@pytest.fixture(scope="module")
def fitted(rows):
    return fit_small(rows)


@pytest.fixture(scope="module")
def path(tmp_path_factory, fitted, rows):
    path = tmp_path_factory.mktemp("patterns") / "patterns.bundle"
    write(fitted, path, Table(rows, None, (6,)), created=CREATED)
    return path


@pytest.fixture(scope="module")
def members(path):
    return members_of(path)


@pytest.fixture
def rebuild(tmp_path, members):
    return rebuilder(tmp_path / "variant.bundle", members)


@pytest.mark.parametrize("engine", ["numpy", "auto"])
def test_round_trip(path, fitted, engine):
    loaded = load_bundle(path, engine=engine)
    assert loaded.manifest.schema_version == PATTERNS_VERSION
    assert loaded.manifest.patterns.budget == BUDGET
    (parameters, arrays), (found, same) = (
        model.parts() for model in (fitted.patterns.model, loaded.patterns)
    )
    assert parameters == found
    assert arrays.keys() == same.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, same[name])


def test_what_it_serves_is_what_was_fitted(path, fitted, rows):
    trackers = [
        PatternTracker(model, clients=2, engine="numpy")
        for model in (fitted.patterns.model, load_bundle(path, engine="numpy").patterns)
    ]
    for tracker in trackers:
        tracker.observe("c", "s", rows[:50] * np.float32(1.01), None, 1.0)
    assert trackers[0].standing("c") == trackers[1].standing("c")


def test_a_bundle_without_patterns_is_as_it_was(tmp_path, rows):
    plain = tmp_path / "plain.bundle"
    write(fit_small(rows, client_alarm_budget=None), plain, Table(rows, None, (6,)), created="")
    loaded = load_bundle(plain)
    assert loaded.patterns is None
    manifest = json.loads(members_of(plain)["manifest.json"])
    assert manifest["schema_version"] == SCHEMA_VERSION
    assert "patterns" not in manifest  # a key that the first version refuses


def test_the_outlier_scorer_does_not_change(fitted, rows):
    alone = fit_small(rows, client_alarm_budget=None).scorer
    # Here 40 % of 500 rows are fewer than the patterns take; with enough rows nothing changes.
    assert fitted.scorer.calibration.scores.size == 300
    assert alone.calibration.scores.size == 200
    many = np.random.default_rng(1).normal(size=(900, 3)).astype(np.float32)
    both, one = (fit_small(many, client_alarm_budget=b).scorer for b in (BUDGET, None))
    np.testing.assert_array_equal(both.calibration.scores, one.calibration.scores)


def _without(manifest, _):
    del manifest["patterns"]


def _nothing_left(manifest, new):
    manifest["schema_version"] = 1
    del manifest["patterns"]


EDITS = {
    "version without patterns": (_without, "schema version 2"),
    "patterns in the first version": (put_key("schema_version", 1), "schema version 2"),
    "a later version": (put_key("schema_version", 4), "reads 1, 2 and 3"),
    "a version that is no number": (put_key("schema_version", [2]), "reads 1, 2 and 3"),
    "arrays without patterns": (_nothing_left, "belongs to nothing"),
    "patterns of null": (put_key("patterns", None), "schema version 2"),
    "unknown key": (put_key("patterns.surprise", 1), "surprise"),
    "budget": (put_key("patterns.budget", 0.0), "budget"),
    "parameter missing": (lambda m, _: m["patterns"]["parameters"].pop("norm"), "norm"),
    "parameter unknown": (put_key("patterns.parameters.x", 1), "x"),
    "parameter in words": (put_key("patterns.parameters.norm", "large"), "norm"),
    "parameter out of range": (put_key("patterns.parameters.shared", 0), "shared"),
    "parameter changed": (put_key("patterns.parameters.has_outlier", 0), "golden"),
    "array unknown": (
        lambda m, n: (
            m["arrays"].update({"patterns/odd": m["arrays"]["patterns/knots"]}),
            n.update({"patterns/odd.npy": n["patterns/knots.npy"]}),
        ),
        "odd",
    ),
    "array missing": (
        lambda m, n: (m["arrays"].pop("patterns/knots"), n.pop("patterns/knots.npy")),
        "knots",
    ),
    "array too deep": (
        lambda m, n: (
            m["arrays"].update({"patterns/a/b": m["arrays"]["patterns/knots"]}),
            n.update({"patterns/a/b.npy": n["patterns/knots.npy"]}),
        ),
        "a/b",
    ),
    "digest": (put_key("arrays.patterns/keys.sha256", "0" * 64), "changed"),
    "dtype": (put_key("arrays.patterns/keys.dtype", "|b1"), "dtype"),
    "another dtype": (put("patterns/keys", lambda a: a.astype("<i4")), "uint64"),
    "basis not finite": (put("patterns/basis", at(0, np.nan)), "not finite"),
    "knots not finite": (put("patterns/knots", at(0, np.nan)), "not finite"),
    "knots fall": (put("patterns/knots", lambda a: a[:, ::-1]), "knots"),
    "p-value of zero": (put("patterns/tails", at(-1, 0.0)), "p-value"),
    "order with gaps": (put("patterns/order", at(0, 99)), "order"),
    "order negative": (put("patterns/order", at(0, -1)), "order"),
    "cells out of range": (put("patterns/cell_starts", at(-1, 10**6)), "cells"),
    "scale of zero": (put("patterns/scales", at(0, 0.0)), "scale"),
    "keys changed": (put("patterns/keys", at(0, 2)), "even"),
    "model changed": (put("patterns/sketch", lambda a: a * 1.5), "golden"),
    "centroids of other dtype": (put("patterns/centroids", lambda a: a.astype("<f4")), "float64"),
    "another number of features": (
        put("patterns/basis", lambda a: np.vstack([a, a])),
        ".",
    ),
    "golden stream missing": (
        lambda m, n: (m["arrays"].pop("golden/stream"), n.pop("golden/stream.npy")),
        "golden/stream",
    ),
    "golden evidence": (put("golden/evidence", lambda a: a + 0.001), "golden"),
    "golden evidence NaN": (put("golden/evidence", lambda a: a * np.nan), "golden"),
    "golden evidence cut": (put("golden/evidence", lambda a: a[:-1]), "golden"),
    "golden stream empty": (put("golden/stream", lambda a: a[:0]), "golden"),
    "golden stream NaN": (put("golden/stream", lambda a: a * np.float32(np.nan)), "finite"),
    "golden stream of other dtype": (put("golden/stream", lambda a: a.astype("<f8")), "float32"),
}


def test_every_edit_is_listed():
    assert len(EDITS) == 38


@pytest.mark.parametrize("name", EDITS)
def test_a_tampered_bundle_is_refused(rebuild, name):
    edit, word = EDITS[name]
    with pytest.raises(BundleError, match=word):
        load_bundle(rebuild(edit), engine="numpy")


def test_an_untouched_rebuild_loads(rebuild):
    assert load_bundle(rebuild(lambda manifest, new: None), engine="numpy").patterns is not None


def test_patterns_beyond_the_cap(path, fitted, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "PATTERNS_CAP", 1000)
    with pytest.raises(BundleError, match="patterns are larger than"):
        load_bundle(path, engine="numpy")
    with pytest.raises(BundleError, match="patterns are larger than"):
        write(fitted, tmp_path / "large.bundle", Table(rows, None, (6,)), created=CREATED)
    assert not (tmp_path / "large.bundle").exists()


def test_the_golden_stream_says_something(members):
    """Otherwise a changed model would pass."""
    evidence = load_array(members, "golden/evidence")
    assert np.isfinite(evidence).all()
    assert (evidence.max(axis=0) > 0).all()
    assert len(np.unique(evidence[:, 0])) > 5


def load_array(members, name):
    return np.load(io.BytesIO(members[f"{name}.npy"]), allow_pickle=False)


@pytest.mark.parametrize("seed", range(2))
def test_mutated_parameters_and_arrays_with_true_digests(rebuild, members, seed):
    """One typed error, or a sound model: never anything else, and never an index out of bounds."""
    chance = random.Random(seed)
    names = sorted(n.removesuffix(".npy") for n in members if n.startswith("patterns/"))
    assert len(names) > 15
    values = [-1, 0, 1, 2**31 - 1, 2**40, 0.5, -1e308, 1e308]
    refused = 0
    for _ in range(40):
        name, value = chance.choice(names), chance.choice(values)
        place = chance.random()

        def change(array, value=value, place=place):
            if array.dtype.kind in "iu":
                limits = np.iinfo(array.dtype)
                value = min(max(int(value), limits.min), limits.max)
            with np.errstate(over="ignore"):
                array.flat[int(place * array.size)] = value
            return array

        try:
            load_bundle(rebuild(put(name, change)), engine="auto")
        except BundleError:
            refused += 1
    assert refused > 10
