"""Agreement in a bundle: covered, checked and versioned as everything else in it."""

import json
import random

import numpy as np
import pytest
from bundle_edits import at, members_of, put, put_key, rebuilder
from small_models import classify, draw, regress

from detectors.agreement import REGISTRY
from detectors.agreement.base import Answers
from detectors.bundle import BundleError, load_bundle
from detectors.calibration import BudgetError
from detectors.examples import Examples
from detectors.manifest import ANSWERS_VERSION
from detectors.scorer import Scorer
from detectors.training.fit import fit, write
from detectors.training.readers import Table

CREATED = "2026-01-01T00:00:00+00:00"
OPINIONS = ("noise_consistency", "feature_squeezing")


def fit_small(rows, **changed):
    given = {"kinds": ("mahalanobis", "pca"), "alpha": 0.05, "engine": "numpy"}
    return fit(rows, **{**given, **changed})


def written(fitted, path, rows):
    write(fitted, path, Table(rows, None, (6,)), created=CREATED)
    return path


@pytest.fixture(scope="module")
def rows():
    return draw(500)[0]


@pytest.fixture(scope="module")
def fitted(rows):
    return fit_small(
        rows,
        labels=np.array(["abc"[label] for label in draw(500)[1]]),
        answers=classify(rows),
        opinions=OPINIONS,
        ask=classify,
        keep_examples=7,
        row_shape=(2, 3),
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory, fitted, rows):
    return written(fitted, tmp_path_factory.mktemp("agreement") / "a.bundle", rows)


@pytest.fixture(scope="module")
def members(path):
    return members_of(path)


@pytest.fixture
def rebuild(tmp_path, members):
    return rebuilder(tmp_path / "variant.bundle", members)


def probe():
    """Rows and answers, some of which do not fit each other."""
    rows = draw(60, seed=5)[0]
    said = classify(rows).probabilities.copy()
    said[::3] = np.roll(said[::3], 1, axis=1)
    return rows, Answers.of_probabilities(said)


@pytest.mark.parametrize("engine", ["numpy", "auto"])
def test_round_trip(path, fitted, engine):
    loaded = load_bundle(path, engine=engine)
    assert loaded.manifest.schema_version == ANSWERS_VERSION
    before, after = fitted.agreement.scorer, loaded.agreement
    assert after.classes == ("a", "b", "c")
    assert after.names == before.names
    assert [one.name for one in after.opinions] == [one.name for one in before.opinions]
    assert {one.name for one in after.opinions} == set(OPINIONS)
    assert (after.handicap, after.suspicion) == (before.handicap, before.suspicion)
    assert after.threshold == before.threshold
    assert loaded.scorer.threshold == before.input_threshold == fitted.scorer.threshold
    rows, said = probe()
    merged = loaded.scorer.score(rows).merged
    again = [classify(one.views(rows)) for one in after.opinions]
    first, second = before.score(rows, said, merged), after.score(rows, said, merged)
    np.testing.assert_allclose(second.merged, first.merged, rtol=1e-9)
    assert second.flagged[::3].mean() > 0.9
    assert second.flagged[1::3].mean() < 0.2
    asked = [one.reconsider(rows, said, merged, again).merged for one in (before, after)]
    np.testing.assert_allclose(asked[0], asked[1], rtol=1e-9)


def test_what_goes_with_it(path, fitted, rows):
    loaded = load_bundle(path)
    assert (loaded.features, loaded.row_shape) == (6, (2, 3))
    assert len(loaded.examples.rows) == 7
    words = [loaded.examples.classes[label] for label in loaded.examples.labels]
    found = {row.tobytes(): "abc"[label] for row, label in zip(*draw(500), strict=True)}
    assert words == [found[row.tobytes()] for row in loaded.examples.rows]
    told = loaded.manifest.agreement.training
    assert told == fitted.agreement.training
    assert told.labels == "given"
    assert told.accuracy["knn_agreement"] > 0.9
    assert told.model_accuracy > 0.9
    assert 0 <= told.mistakes < 0.1


def test_another_budget_covers_input_and_answer(path):
    loaded = load_bundle(path)
    lax = loaded.with_budget(0.2, 0.05)
    assert lax.agreement.calibration.alpha == lax.scorer.calibration.alpha == 0.2
    assert lax.agreement.threshold < loaded.agreement.threshold
    assert lax.scorer.threshold == lax.agreement.input_threshold < loaded.scorer.threshold
    assert lax.scorer.engine == loaded.scorer.engine
    with pytest.raises(BudgetError, match="takes 2995"):
        loaded.with_budget(0.001, 0.05)


def test_without_agreement_the_input_keeps_its_own_threshold(tmp_path, rows):
    plain = load_bundle(written(fit_small(rows), tmp_path / "p.bundle", rows))
    assert plain.agreement is None
    assert plain.scorer.threshold == plain.scorer.calibration.flag_above
    assert (plain.manifest.schema_version, plain.row_shape) == (1, (6,))
    lax = plain.with_budget(0.2, 0.05).scorer
    assert lax.threshold == lax.calibration.flag_above


def test_a_regression_model(tmp_path, rows):
    fitted = fit_small(rows, targets=regress(rows).values, answers=regress(rows))
    loaded = load_bundle(written(fitted, tmp_path / "v.bundle", rows))
    assert loaded.agreement.classes is None
    assert loaded.agreement.names == ("residual_agreement",)
    fresh = draw(80, seed=4)[0]
    said = regress(fresh).values.copy()
    said[::2, 0] += 20.0
    merged = loaded.scorer.score(fresh).merged
    flagged = loaded.agreement.score(fresh, Answers.of_values(said), merged).flagged
    assert flagged[::2].mean() > 0.9
    assert flagged[1::2].mean() < 0.2
    training = loaded.manifest.agreement.training
    assert training.accuracy["residual_agreement"] > 0.9
    assert training.model_accuracy == pytest.approx(1.0)
    assert training.mistakes is None


def test_with_patterns(tmp_path, rows):
    fitted = fit_small(rows, answers=classify(rows), client_alarm_budget=0.01)
    loaded = load_bundle(written(fitted, tmp_path / "both.bundle", rows))
    assert loaded.patterns is not None
    assert loaded.agreement is not None
    assert loaded.manifest.agreement.training.labels == "answers"
    assert loaded.manifest.agreement.training.model_accuracy is None


def test_examples_alone_need_the_later_version(tmp_path, rows):
    fitted = fit_small(rows, keep_examples=3)
    loaded = load_bundle(written(fitted, tmp_path / "e.bundle", rows))
    assert loaded.manifest.schema_version == ANSWERS_VERSION
    assert (len(loaded.examples.rows), loaded.examples.labels) == (3, None)


def test_the_same_fit_makes_the_same_bytes(tmp_path, rows):
    files = [
        written(fit_small(rows, answers=classify(rows), seed=3), tmp_path / name, rows)
        for name in ("a", "b")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def swap(first, second):
    """An edit that changes two arrays' places."""

    def edit(manifest, new):
        for table, ending in ((manifest["arrays"], ""), (new, ".npy")):
            one, two = f"{first}{ending}", f"{second}{ending}"
            table[one], table[two] = table[two], table[one]

    return edit


def drop(name):
    """An edit that leaves an array out."""

    def edit(manifest, new):
        del manifest["arrays"][name]
        del new[f"{name}.npy"]

    return edit


def both(*edits):
    def edit(manifest, new):
        for one in edits:
            one(manifest, new)

    return edit


def _twice(manifest, _):
    manifest["agreement"]["detectors"].append(manifest["agreement"]["detectors"][0])


def _other_order(manifest, _):
    manifest["agreement"]["detectors"].reverse()


def _no_key(manifest, _):
    del manifest["agreement"]


def _unknown_kind(manifest, _):
    entry = manifest["agreement"]
    entry["parameters"]["oracle"] = entry["parameters"].pop("knn_agreement")
    entry["detectors"][0]["kind"] = "oracle"


E = "agreement"
EDITS = {
    "left out": (_no_key, "belongs to nothing"),
    "null": (put_key(E, None), "belongs to nothing"),
    "in the first version": (put_key("schema_version", 1), "schema version 1"),
    "in the second version": (put_key("schema_version", 2), "schema version 2"),
    "unknown key": (put_key(f"{E}.surprise", 1), "surprise"),
    "kind": (put_key(f"{E}.kind", "values"), "classes"),
    "kind unknown": (put_key(f"{E}.kind", "ranks"), "kind"),
    "classes missing": (put_key(f"{E}.classes", None), "classes"),
    "classes twice": (put_key(f"{E}.classes", ["a", "b", "a"]), "twice"),
    "a class too few": (put_key(f"{E}.classes", ["a", "b"]), "2 classes"),
    "a class too many": (put_key(f"{E}.classes", list("abcd")), "4 classes"),
    "one class": (put_key(f"{E}.classes", ["a"]), "classes"),
    "no detectors": (put_key(f"{E}.detectors", []), "detectors"),
    "a detector twice": (_twice, "names"),
    "unknown detector": (_unknown_kind, "oracle"),
    "opinions without their step": (put_key(f"{E}.final", None), "final"),
    "a step without opinions": (put_key(f"{E}.opinions", []), "final"),
    "an opinion as a detector": (put_key(f"{E}.detectors.0.kind", "noise_consistency"), "names"),
    "parameter missing": (
        lambda m, _: m[E]["parameters"]["knn_agreement"].popitem(),
        "knn_agreement",
    ),
    "parameter unknown": (put_key(f"{E}.parameters.knn_agreement.x", 1), "x"),
    "parameter in words": (put_key(f"{E}.parameters.knn_agreement.scale", "big"), "number"),
    "parameter out of range": (put_key(f"{E}.parameters.knn_agreement.scale", -1.0), "scale"),
    "parameter changed": (put_key(f"{E}.parameters.kernel_agreement.scale", 3.0), "golden"),
    "another number of classes": (put_key(f"{E}.parameters.knn_agreement.classes", 4), "."),
    "handicap below zero": (put_key(f"{E}.handicap", -1.0), "handicap"),
    "handicap changed": (put_key(f"{E}.handicap", 1.1), "golden"),
    "suspicion changed": (put_key(f"{E}.suspicion", 1000.0), "golden"),
    "tail shape": (put_key(f"{E}.detectors.0.tail.shape", 0.0), "shape"),
    "entry's scale": (put_key(f"{E}.entry.scale", -1.0), "scale"),
    "total changed": (put_key(f"{E}.total.scale", 77.0), "golden"),
    "final changed": (put_key(f"{E}.final.scale", 77.0), "golden"),
    "threshold": (put_key(f"{E}.calibration.threshold", 1e9), "belong together"),
    "rank": (put_key(f"{E}.calibration.rank", 1), "belong together"),
    "promise": (put_key(f"{E}.calibration.alpha", 0.0001), "promises too much"),
    "confidence": (put_key(f"{E}.calibration.delta", 1e-9), "promises too much"),
    "calibration rows": (put_key(f"{E}.calibration.rows", 5), "calibration scores"),
    "another promise than the input's": (
        put_key("calibration.delta", 0.0501),
        "different budgets",
    ),
    "calibration unsorted": (
        put(f"{E}_calibration/scores", lambda a: a[::-1]),
        "belong together",
    ),
    "calibration NaN": (put(f"{E}_calibration/scores", at(3, np.nan)), "not finite"),
    "calibration in single": (
        put(f"{E}_calibration/scores", lambda a: a.astype("<f4")),
        "calibration scores",
    ),
    "scores of the other calibration": (
        swap(f"{E}_calibration/scores", "calibration/scores"),
        "belong together",
    ),
    "knots fall": (put(f"{E}_tail/class_density/knots", lambda a: a[::-1]), "knots"),
    "evidence NaN": (put(f"{E}_step/entry/evidence", at(0, np.nan)), "not finite"),
    "evidence falls": (put(f"{E}_step/total/evidence", lambda a: a[::-1]), "evidence"),
    "tail missing": (drop(f"{E}_tail/class_density/knots"), "missing"),
    "step missing": (drop(f"{E}_step/final/knots"), "missing"),
    "bank missing": (drop(f"{E}/knn_agreement/bank"), "bank"),
    "space missing": (drop(f"{E}/space/weights"), "weights"),
    "bank NaN": (put(f"{E}/knn_agreement/bank", at(0, np.nan)), "finite"),
    "bank changed": (put(f"{E}/knn_agreement/bank", lambda a: a[::-1]), "golden"),
    "bank of other dtype": (put(f"{E}/knn_agreement/bank", lambda a: a.astype("<f8")), "."),
    "bank cut": (put(f"{E}/knn_agreement/bank", lambda a: a[:-1]), "."),
    "space for other rows": (
        put(f"{E}/space/weights", lambda a: np.hstack([a, a])),
        ".",
    ),
    "means of other classes": (put(f"{E}/class_density/means", lambda a: a[:-1]), "."),
    "array in a room of its own": (
        lambda m, n: (
            m["arrays"].update({f"{E}_odd/x": m["arrays"]["golden/joint"]}),
            n.update({f"{E}_odd/x.npy": n["golden/joint.npy"]}),
        ),
        "belongs to nothing",
    ),
    "array too many": (
        lambda m, n: (
            m["arrays"].update({f"{E}/space/odd": m["arrays"]["golden/joint"]}),
            n.update({f"{E}/space/odd.npy": n["golden/joint.npy"]}),
        ),
        "odd",
    ),
    "noise changed": (put(f"{E}/noise_consistency/noise", lambda a: a * 0.5), "golden"),
    "noise NaN": (put(f"{E}/noise_consistency/noise", at(0, np.nan)), "finite"),
    "golden answers missing": (drop("golden/answers"), "golden/answers"),
    "golden answers in single": (put("golden/answers", lambda a: a.astype("<f4")), "float64"),
    "golden answers NaN": (put("golden/answers", at(0, np.nan)), "."),
    "golden answers cut": (put("golden/answers", lambda a: a[:-1]), "."),
    "golden answers of one class": (put("golden/answers", lambda a: a[:, :1]), "."),
    "golden agreement": (put("golden/agreement", lambda a: a * 1.001), "golden"),
    "golden agreement NaN": (put("golden/agreement", lambda a: a * np.nan), "golden"),
    "golden joint": (put("golden/joint", lambda a: a + 0.01), "golden"),
    "golden opinions": (put("golden/opinions", lambda a: a + 0.01), "golden"),
    "golden reconsidered": (put("golden/reconsidered", lambda a: a + 0.01), "golden"),
    "golden views": (put("golden_views/noise_consistency", at(0, 9.0)), "golden"),
    "golden again": (drop("golden_again/noise_consistency"), "golden_again"),
    "examples cut": (put("examples/rows", lambda a: a[:-1]), "examples"),
    "examples NaN": (put("examples/rows", at(0, np.nan)), "finite"),
    "examples unlabelled": (put_key("examples.classes", None), "belongs to nothing"),
    "example of no class": (put("examples/labels", at(0, 3)), "names no class"),
    "examples without rows": (drop("examples/rows"), "examples/rows"),
    "layout of another size": (put_key("layout.0.shape", [2, 4]), "layout"),
    "layout of nothing": (put_key("layout.0.shape", []), "layout"),
    "layout of zero": (put_key("layout.0.shape", [0, 6]), "layout"),
}


def test_every_edit_is_listed():
    assert len(EDITS) == 78


@pytest.mark.parametrize("name", EDITS)
def test_a_tampered_bundle_is_refused(rebuild, name):
    edit, word = EDITS[name]
    with pytest.raises(BundleError, match=word):
        load_bundle(rebuild(edit), engine="numpy")


def test_an_untouched_rebuild_loads(rebuild):
    assert load_bundle(rebuild(lambda manifest, new: None), engine="numpy").agreement is not None


def test_the_entries_order_is_the_detectors_order(rebuild, members):
    """The tails are stored by kind: another order is another, equal, scorer."""
    before = json.loads(members["manifest.json"])["agreement"]["detectors"]
    reverse = both(
        _other_order,
        put("golden/agreement", lambda a: a[:, ::-1]),
        put(
            "golden/opinions",
            lambda a: np.hstack([a[:, : len(before)][:, ::-1], a[:, len(before) :]]),
        ),
    )
    loaded = load_bundle(rebuild(reverse), engine="numpy")
    assert loaded.agreement.names == tuple(entry["kind"] for entry in before[::-1])


def test_the_golden_vectors_say_something(members, path):
    """Otherwise a changed model would pass: every kind tells the golden rows apart."""
    with np.load(path) as arrays:
        scores = arrays["golden/agreement"]
    assert scores.shape[1] == len(json.loads(members["manifest.json"])["agreement"]["detectors"])
    assert scores.shape[1] >= 3
    assert (scores.std(axis=0) > 0.01).all()


@pytest.mark.parametrize("seed", range(2))
def test_mutated_arrays_and_parameters_with_true_digests(rebuild, members, seed):
    """One typed error, or a sound scorer: never anything else."""
    chance = random.Random(seed)
    names = sorted(n.removesuffix(".npy") for n in members if n.startswith("agreement"))
    assert len(names) > 20
    values = [-1, 0, 1, 2**31 - 1, 0.5, -1e308, 1e308, float("nan"), float("inf")]
    refused = 0
    for _ in range(60):
        name, value, place = chance.choice(names), chance.choice(values), chance.random()

        def change(array, value=value, place=place):
            if array.dtype.kind in "iu":
                limits = np.iinfo(array.dtype)
                value = 0 if value != value else min(max(int(min(value, 2**40)), 0), limits.max)
            with np.errstate(over="ignore"):
                array.flat[int(place * array.size)] = value
            return array

        try:
            loaded = load_bundle(rebuild(put(name, change)), engine="numpy")
        except BundleError:
            refused += 1
        else:
            rows, said = probe()
            found = loaded.agreement.score(rows, said, loaded.scorer.score(rows).merged)
            assert np.isfinite(found.merged).all()
    assert refused > 10


@pytest.mark.parametrize("seed", range(2))
def test_mutated_entries(rebuild, seed):
    chance = random.Random(seed)
    values = [None, -1, 0, 2**40, 1.5, 1e308, "", "x", [], {}, True, [[]], "knn_agreement"]

    def places(value, found):
        if isinstance(value, dict | list):
            for key in value if isinstance(value, dict) else range(len(value)):
                found.append((value, key))
                places(value[key], found)
        return found

    refused = 0
    for _ in range(80):

        def edit(manifest, _):
            parent, key = chance.choice(places(manifest["agreement"], []))
            parent[key] = chance.choice(values)

        try:
            load_bundle(rebuild(edit), engine="numpy")
        except BundleError:
            refused += 1
    assert refused > 50


def test_kinds_are_those_of_the_registry(fitted):
    assert set(fitted.agreement.scorer.names) <= set(REGISTRY)


class TestExamples:
    def test_nothing_is_no_example(self):
        with pytest.raises(ValueError, match="no examples"):
            Examples(np.empty((0, 3), np.float32))

    @pytest.mark.parametrize(
        "given", [(np.array([0, 1]), ()), (None, ("a",)), (np.array([0, 2]), ("a", "b"))]
    )
    def test_labels_and_classes_go_together(self, given):
        with pytest.raises(ValueError, match="label"):
            Examples(np.zeros((2, 3), np.float32), *given)


def test_a_threshold_of_its_own(fitted):
    scorer = fitted.scorer
    parts = (scorer.detectors, scorer.tails, scorer.calibration)
    rows = draw(50, seed=2)[0]
    low = Scorer(*parts, flag_above=-1.0, engine="numpy").score(rows)
    assert low.flagged.all()
    assert (low.p_values == scorer.score(rows).p_values).all()
    high = Scorer(*parts, flag_above=np.inf, engine="numpy")
    assert not high.score(rows).flagged.any()
    assert high.score_row(rows[:1])[2] is False
    with pytest.raises(ValueError, match="must be a number"):
        Scorer(*parts, flag_above=np.nan)
