"""Why a row was flagged: the merged score and the agreement's evidence, in parts that sum up."""

from types import SimpleNamespace

import numpy as np
import pytest
from explained_scorers import scorer_of

from detectors.agreement.base import Answers
from detectors.agreement.scorer import AnswerScorer
from detectors.calibration import Calibration
from detectors.explanation import (
    expectations,
    explain_answer,
    explain_input,
    nearest,
    witnesses,
)
from detectors.scorer import ScoreFault
from detectors.training.tails import fit_tail

FEATURES = 10
KINDS = ("mahalanobis", "isolation_forest", "pca", "knn", "gmm", "one_class_svm")


def draw(seed, count=1000):
    """Two classes, that feature 0 tells apart; the other features are noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    rows = rng.normal(size=(count, FEATURES))
    rows[:, 0] += 8.0 * labels
    return rows.astype(np.float32), labels


@pytest.fixture(scope="module")
def scorer():
    return scorer_of(draw(0)[0], KINDS)


class NearestMean:
    """A witness: how much nearer another class's mean is than the answer's."""

    name, needs, outputs, features = "nearest_mean", "labels", 2, FEATURES

    def score(self, rows, answers):
        means = np.zeros((2, FEATURES))
        means[1, 0] = 8.0
        away = np.square(rows[:, None] - means).sum(axis=2)
        mine = away[np.arange(len(rows)), answers.labels]
        other = away[np.arange(len(rows)), 1 - answers.labels]
        return mine - other


class Norm:
    """A density: it does not look at the answer."""

    name, needs, outputs, features = "norm", "labels", 2, FEATURES

    def score(self, rows, answers):
        return np.square(rows, dtype=np.float64).sum(axis=1)


@pytest.fixture(scope="module")
def judge(scorer):
    rows, labels = draw(1)
    answers = Answers.of_labels(labels)
    merged = scorer.score(rows).merged
    detectors = (NearestMean(), Norm())
    scores = [detector.score(rows, answers) for detector in detectors]
    tails = [fit_tail(one) for one in scores]
    entry = fit_tail(merged)
    evidence = [tail(one) for tail, one in zip(tails, scores, strict=True)]
    total = fit_tail(entry(merged) + sum(evidence))

    def made(joint):
        calibration = Calibration.of(joint, 0.05, 0.05)
        return AnswerScorer(
            detectors, tails, entry=entry, total=total, calibration=calibration, classes=("a", "b")
        )

    return made(made(merged).score(rows, answers, merged).merged)


@pytest.mark.parametrize("factor", [0.0, 1.0, 4.0, 1e5])
def test_the_merged_score_is_its_baseline_and_its_contributions(scorer, factor):
    row = draw(2)[0][:1] * np.float32(factor)
    told = explain_input(scorer, row, evaluations=200)
    verdicts = scorer.score(row)
    assert told.merged == verdicts.merged[0]
    assert told.p_value == verdicts.p_values[0]
    assert told.flagged == verdicts.flagged[0]
    assert told.threshold == scorer.threshold
    assert told.baseline + told.contributions.sum() == pytest.approx(told.merged, abs=1e-9)
    assert [finding.name for finding in told.findings] == list(KINDS)
    for k, finding in enumerate(told.findings):
        assert finding.score == verdicts.scores[0, k]
        assert finding.p_value == verdicts.detector_p_values[0, k]
        assert finding.attribution.is_complete(1e-6)
        base = float(scorer.tails[k](np.array([finding.attribution.baseline]))[0])
        assert finding.evidence - base == pytest.approx(finding.nats.sum(), abs=1e-9)


@pytest.mark.parametrize("planted", [0, 3, 9])
def test_a_planted_feature_leads(scorer, planted):
    row = np.zeros((1, FEATURES), np.float32)
    row[0, planted] = -30.0
    told = explain_input(scorer, row, evaluations=400)
    assert told.flagged
    assert told.contributions.argmax() == planted
    for finding in told.findings:
        assert finding.nats.argmax() == planted


def test_an_explanation_is_repeatable(scorer):
    row = draw(3)[0][:1] * 3
    first, again = (explain_input(scorer, row, evaluations=100) for _ in range(2))
    assert (first.contributions == again.contributions).all()


def test_through_an_embedding_raw_features_are_credited(scorer):
    # The embedding turns the features round: the last of a raw row is the first that is scored.
    row = np.zeros((1, FEATURES), np.float32)
    row[0, -1] = -30.0

    def embed(rows):
        return np.ascontiguousarray(rows[:, ::-1])

    told = explain_input(scorer, row, embed=embed, references=np.zeros_like(row), evaluations=400)
    assert told.merged == scorer.score(embed(row)).merged[0]
    assert told.contributions.argmax() == FEATURES - 1
    assert all(finding.attribution.method == "sampled" for finding in told.findings)
    assert told.baseline + told.contributions.sum() == pytest.approx(told.merged, abs=1e-9)


def test_a_row_that_is_not_finite_is_a_fault(scorer):
    with pytest.raises(ScoreFault):
        explain_input(scorer, np.full((1, FEATURES), np.nan, np.float32))


def test_a_wrong_answer_is_explained_by_what_tells_the_classes_apart(scorer, judge):
    rows, labels = draw(4)
    row = rows[labels == 1][:1]
    merged = float(scorer.score(row).merged[0])
    wrong = Answers.of_labels(np.array([0]))
    told = explain_answer(judge, row, wrong, merged, references=rows[labels == 0][:20])
    verdicts = judge.score(row, wrong, np.array([merged]))
    assert told.joint == verdicts.merged[0]
    assert told.flagged and verdicts.flagged[0]
    evidence = sum(finding.evidence for finding in told.findings)
    assert told.baseline + told.contributions.sum() == pytest.approx(evidence, abs=1e-9)
    assert told.findings[0].nats.argmax() == 0
    assert told.findings[0].nats[0] > 0.9 * told.findings[0].nats.sum()


def test_witnesses_say_what_they_would_have_answered(judge):
    rows, labels = draw(5)
    heard = witnesses(judge.detectors, rows[labels == 1][:1])
    # What doubts all answers alike is no witness.
    assert [one.name for one in heard] == ["nearest_mean"]
    assert heard[0].answer == 1
    assert heard[0].doubts[0] == -heard[0].doubts[1] > 0


def test_a_regression_witness_says_what_it_expected():
    witness = SimpleNamespace(
        name="residual", needs="values", predict=lambda rows: rows[:, :1] * 2.0
    )
    silent = SimpleNamespace(name="other", needs="values")
    told = expectations([witness, silent], np.full((1, 3), 4.0, np.float32))
    assert {name: values.tolist() for name, values in told.items()} == {"residual": [8.0]}


def test_the_nearest_examples_are_found_in_units_of_their_spread():
    examples = np.array([[0, 0], [1, 0], [0, 100], [5, 300]], np.float32)
    near = nearest(examples, np.array([[0, 90]], np.float32), labels=np.array([7, 8, 9, 7]), most=2)
    assert [one.index for one in near] == [2, 0]
    assert [one.label for one in near] == [9, 7]
    assert near[0].values.tolist() == [0, 100]
    assert 0 < near[0].distance < near[1].distance


def test_constant_examples_have_neighbours_too():
    near = nearest(np.ones((3, 2), np.float32), np.array([[1, 2]], np.float32))
    assert [one.index for one in near] == [0, 1, 2]
    assert near[0].label is None
    assert np.isfinite(near[0].distance)
