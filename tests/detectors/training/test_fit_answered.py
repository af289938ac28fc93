"""Fits with the model's answers: which rows do what, and what is promised."""

import numpy as np
import pytest
from small_models import CENTRES, classify, draw, regress

from detectors.agreement.base import Answers
from detectors.training import fit as fitting
from detectors.training.answered import fit_answered
from detectors.training.fit import fit
from detectors.training.readers import DataError
from detectors.training.splits import TooFewRowsError

QUICK = {"kinds": ("mahalanobis",), "alpha": 0.05, "engine": "numpy"}


def words(labels):
    return np.array([str(label) for label in labels])


@pytest.fixture
def portions(monkeypatch):
    """What the witnesses were fitted on and calibrated with."""
    seen = {}

    def spy(plan, train, a, b, **given):
        seen.update(train=train, a=a, b=b, **given)
        return fit_answered(plan, train, a, b, **given)

    monkeypatch.setattr(fitting, "fit_answered", spy)
    return seen


def positions(rows, portion):
    place = {row.tobytes(): index for index, row in enumerate(rows)}
    return np.array([place[row.tobytes()] for row in portion.rows])


def test_rows_that_the_model_was_trained_on_calibrate_nothing(portions):
    rows, labels = draw(600)
    seen = np.random.default_rng(1).random(600) < 0.5
    fitted = fit(rows, labels=words(labels), answers=classify(rows), seen=seen, **QUICK)
    for part in ("a", "b"):
        assert not seen[positions(rows, portions[part])].any()
    assert set(np.flatnonzero(seen)) <= set(positions(rows, portions["train"]))
    training = fitted.agreement.training
    assert training.seen == seen.sum()
    assert training.fitted_on == len(portions["train"].rows) == fitted.training.rows.train
    assert len(portions["b"].rows) == fitted.training.rows.threshold


def test_answers_and_labels_stay_with_their_rows(portions):
    rows, labels = draw(500)
    rows = np.vstack([rows, rows[:50]])
    said = classify(rows)
    fit(rows, labels=words(np.r_[labels, labels[:50]]), answers=said, **QUICK)
    for part in ("train", "a", "b"):
        portion = portions[part]
        own = positions(rows[:500], portion)
        np.testing.assert_array_equal(portion.truth.labels, labels[own])
        np.testing.assert_array_equal(portion.truth.answers.probabilities, said.probabilities[own])


def test_a_duplicate_of_a_seen_row_is_seen(portions):
    rows, labels = draw(500)
    twice = np.vstack([rows, rows[:200]])
    seen = np.arange(700) >= 500
    fit(
        twice,
        labels=words(np.r_[labels, labels[:200]]),
        answers=classify(twice),
        seen=seen,
        **QUICK,
    )
    for part in ("a", "b"):
        assert (positions(rows, portions[part]) >= 200).all()


def test_the_budget_holds_on_rows_of_its_own():
    """Over many draws of the calibration rows, the joint rate of false alarms is within 5 %."""
    rates = []
    fresh = draw(2000, seed=99)[0]
    said = classify(fresh)
    for seed in range(8):
        rows, labels = draw(500, seed=seed)
        fitted = fit(rows, labels=words(labels), answers=classify(rows), **QUICK)
        before = fitted.scorer.score(fresh)
        after = fitted.agreement.scorer.score(fresh, said, before.merged)
        # Step 1 never flags what the whole would not: the input's threshold follows from J's.
        assert not (before.flagged & ~after.flagged).any()
        rates.append(after.flagged.mean())
    assert np.mean(rates) < 0.05
    assert np.quantile(rates, 0.75) < 0.06


def test_an_answer_that_does_not_fit_is_found():
    rows, labels = draw(600)
    scorer = fit(rows, labels=words(labels), answers=classify(rows), **QUICK)
    fresh = draw(300, seed=3)[0]
    wrong = Answers.of_probabilities(np.roll(classify(fresh).probabilities, 1, axis=1))
    merged = scorer.scorer.score(fresh).merged
    assert scorer.agreement.scorer.score(fresh, wrong, merged).flagged.mean() > 0.95


def test_the_models_own_mistakes_are_told():
    rows, labels = draw(600)
    said = classify(rows).probabilities.copy()
    wrong = np.random.default_rng(2).random(600) < 0.1
    said[wrong] = np.roll(said[wrong], 1, axis=1)
    fitted = fit(rows, labels=words(labels), answers=Answers.of_probabilities(said), **QUICK)
    training = fitted.agreement.training
    assert training.model_accuracy == pytest.approx(0.9, abs=0.04)
    assert training.mistakes == pytest.approx(0.1, abs=0.06)
    assert training.accuracy["knn_agreement"] > 0.95


def test_the_model_is_asked_only_where_it_has_to_be():
    rows, labels = draw(600)
    asked = []

    def ask(given):
        asked.append(len(given))
        return classify(given)

    fit(rows, labels=words(labels), ask=ask, **QUICK)
    assert asked == [600]
    asked.clear()
    fit(rows, labels=words(labels), answers=classify(rows), ask=ask, **QUICK)
    assert asked == []
    fitted = fit(rows, answers=classify(rows), ask=ask, opinions=("noise_consistency",), **QUICK)
    copies = fitted.agreement.scorer.opinions[0].copies
    counts = fitted.training.rows
    assert sorted(asked) == sorted([copies * counts.merge, copies * counts.threshold])


def test_labels_only():
    rows, labels = draw(600)
    said = Answers.of_labels(classify(rows).labels)
    fitted = fit(rows, labels=words(labels), answers=said, **QUICK)
    assert "confidence" not in fitted.agreement.scorer.names
    assert fitted.agreement.scorer.needs == {"labels"}


def test_no_agreement_is_no_agreement():
    rows, _ = draw(600)
    plain = fit(rows, **QUICK)
    left = fit(rows, answers=classify(rows), agreement=(), **QUICK)
    assert plain.agreement is None
    assert left.agreement is None
    assert left.scorer.threshold == plain.scorer.threshold == plain.scorer.calibration.flag_above


def test_chosen_kinds():
    rows, _ = draw(600)
    fitted = fit(rows, answers=classify(rows), agreement=("kernel_agreement",), **QUICK)
    assert fitted.agreement.scorer.names == ("kernel_agreement",)


def test_clients_are_kept_apart(portions):
    rows, labels = draw(1000)
    clients = np.repeat(np.arange(40), 25)
    fitted = fit(rows, labels=words(labels), answers=classify(rows), clients=clients, **QUICK)
    own = {part: set(clients[positions(rows, portions[part])]) for part in ("train", "a", "b")}
    assert not own["train"] & (own["a"] | own["b"])
    assert fitted.agreement.training.clients == len(own["train"])


def test_patterns_and_input_see_no_difference():
    """Agreement takes nothing from the input's scores: they are what they were."""
    rows, labels = draw(600)
    plain = fit(rows, labels=words(labels), **QUICK)
    both = fit(rows, labels=words(labels), answers=classify(rows), **QUICK)
    np.testing.assert_array_equal(both.scorer.calibration.scores, plain.scorer.calibration.scores)
    assert both.scorer.threshold > plain.scorer.threshold  # part of the budget is the answer's


def test_embedded_rows_are_what_is_scored(portions):
    class Halves:
        """Stands for an ONNX model: the first three features, doubled."""

        features, outputs = 6, 3

        def embed(self, rows):
            return np.ascontiguousarray(rows[:, :3] * np.float32(2))

    rows, labels = draw(600)
    fitted = fit(
        rows,
        labels=words(labels),
        answers=classify(rows),
        embedding=Halves(),
        keep_examples=4,
        **QUICK,
    )
    assert fitted.scorer.features == fitted.agreement.scorer.features == 3
    assert portions["train"].rows.shape[1] == 3
    assert fitted.examples.rows.shape == (4, 6)


def test_an_embedding_that_gives_nan():
    class Nothing:
        features, outputs = 6, 3

        def embed(self, rows):
            return np.full((len(rows), 3), np.nan, np.float32)

    with pytest.raises(DataError, match="embedding of an honest row"):
        fit(draw(600)[0], embedding=Nothing(), **QUICK)


ROWS, LABELS = draw(400)
REFUSED = {
    "too few answers": ({"answers": classify(ROWS[:-1])}, DataError, "399 answers for 400"),
    "too few marks": ({"seen": np.zeros(3, bool)}, DataError, "3 seen for 400"),
    "too few labels": ({"labels": words(LABELS[:-1])}, DataError, "399 labels for 400"),
    "everything seen": (
        {"answers": classify(ROWS), "seen": np.ones(400, bool)},
        TooFewRowsError,
        "0 distinct rows that the model was not trained on, 109 needed",
    ),
    "unknown kind": (
        {"answers": classify(ROWS), "agreement": ("oracle",)},
        DataError,
        "unknown agreement detector 'oracle'",
    ),
    "unknown opinion": (
        {"answers": classify(ROWS), "opinions": ("oracle",), "ask": classify},
        DataError,
        "unknown second opinion 'oracle'",
    ),
    "opinions without a model": (
        {"answers": classify(ROWS), "opinions": ("noise_consistency",)},
        DataError,
        "model to ask",
    ),
    "opinions about labels": (
        {
            "answers": Answers.of_labels(classify(ROWS).labels),
            "opinions": ("noise_consistency",),
            "ask": classify,
        },
        DataError,
        "noise_consistency cannot be fitted",
    ),
    "a kind that needs scores": (
        {
            "answers": Answers.of_labels(classify(ROWS).labels),
            "agreement": ("confidence", "knn_agreement"),
        },
        DataError,
        "confidence cannot be fitted",
    ),
    "a model that skips rows": (
        {"ask": lambda rows: classify(rows[1:])},
        DataError,
        "399 answers to 400 rows",
    ),
    "values and labels": (
        {"answers": regress(ROWS), "labels": words(LABELS)},
        DataError,
        "labels are classes",
    ),
}


def test_every_refusal_is_listed():
    assert len(REFUSED) == 11


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    given, kind, word = REFUSED[name]
    with pytest.raises(kind, match=word):
        fit(ROWS, **{**QUICK, **given})


def test_a_class_that_is_hardly_there():
    """A class of two rows, which may all fall into one part: a fit, or a clear word."""
    rows, labels = draw(600)
    rare = rows[:2] + np.float32(40)
    said = Answers.of_labels(np.r_[labels, 3, 3])
    fitted = fit(np.vstack([rows, rare]), answers=said, **QUICK)
    scorer = fitted.agreement.scorer
    assert scorer.outputs == 4
    merged = fitted.scorer.score(rare).merged
    assert np.isfinite(scorer.score(rare, Answers.of_labels([3, 3]), merged).merged).all()
    assert CENTRES.shape == (3, 6)
