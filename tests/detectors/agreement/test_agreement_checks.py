"""Every agreement detector and every second opinion passes every common check."""

import agreement_worlds as made
import numpy as np
import pytest

from detectors.agreement import OPINIONS, REGISTRY
from detectors.agreement.base import Answers
from detectors.agreement.checks import CHECKS, OPINION_CHECKS, OpinionSubject, Subject
from detectors.checks import CheckError
from detectors.training.agreement_witnesses import FITTERS, OPINION_FITTERS

KEYS = [
    (kind, world)
    for world, shape in made.SHAPES.items()
    for kind in FITTERS
    if shape or kind not in made.GRADIENT_KINDS
] + [("residual_agreement", "values")]
CASES = [(kind, world, check) for kind, world in KEYS for check in CHECKS]
OPINION_CASES = [
    (kind, world, check)
    for kind in OPINION_FITTERS
    for world in ("table", "image")
    for check in OPINION_CHECKS
]


@pytest.fixture(scope="module")
def subjects():
    return made.subjects()


@pytest.fixture(scope="module")
def opinions():
    return made.opinion_subjects()


def test_every_detector_meets_every_check(subjects, opinions):
    assert {kind for kind, _ in KEYS} == set(REGISTRY)
    assert set(OPINION_FITTERS) <= set(OPINIONS)
    assert set(subjects) == set(KEYS)
    assert len(CASES) == (2 * 4 + 3 * 6 + 1) * 15
    assert len(OPINION_CASES) == 2 * 2 * 7
    assert len(opinions) == 4


@pytest.mark.parametrize(("kind", "world", "check"), CASES)
def test_check(subjects, kind, world, check):
    CHECKS[check](subjects[kind, world])


@pytest.mark.parametrize(("kind", "world", "check"), OPINION_CASES)
def test_opinion_check(opinions, kind, world, check):
    OPINION_CHECKS[check](opinions[kind, world])


class Broken:
    """Wraps a detector and breaks one promise at a time."""

    name = "kernel_agreement"
    needs = "labels"
    outputs = 3

    def __init__(self, inner, how):
        self.inner, self.how = inner, how

    @property
    def features(self):
        return self.inner.features

    def score(self, rows, answers):
        return self.how(self.inner.score, rows, answers)


def _clipped(score, rows, answers):
    known = answers.labels is not None
    return score(rows, Answers(np.clip(answers.labels, 0, 2)) if known else answers)


BREAKS = {
    "registered": lambda score, rows, answers: score(rows, answers),
    "polarity": lambda score, rows, answers: -score(rows, answers),
    "output": lambda score, rows, answers: score(rows, answers).astype(np.float32),
    "empty": lambda score, rows, answers: score(rows, answers)[None],
    "rows_are_independent": lambda score, rows, answers: (
        score(rows, answers) - score(rows, answers).mean()
    ),
    "shape_error": lambda score, rows, answers: np.zeros(len(rows)),
    "answer_error": _clipped,
    "not_finite": lambda score, rows, answers: score(np.nan_to_num(rows), answers),
    "extremes": lambda score, rows, answers: score(rows, answers) + 0.0 * (rows**2).sum(axis=1),
    "input_is_left_alone": lambda score, rows, answers: score(
        np.multiply(rows, 2, out=rows), answers
    ),
}


@pytest.mark.parametrize("check", BREAKS)
def test_a_check_sees_what_it_is_for(subjects, check):
    whole = subjects["kernel_agreement", "table"]
    CHECKS[check](whole)
    broken = Subject(
        Broken(whole.detector, BREAKS[check]),
        whole.rows.copy(),
        whole.agreeing,
        whole.disagreeing,
    )
    with np.errstate(all="ignore"), pytest.raises(CheckError):
        CHECKS[check](broken)


class Fickle:
    """A second opinion whose views differ from call to call."""

    name = "noise_consistency"
    needs = "probabilities"

    def __init__(self, inner):
        self.inner, self.calls = inner, 0
        self.features, self.copies = inner.features, inner.copies

    def views(self, rows):
        self.calls += 1
        return self.inner.views(rows) + np.float32(self.calls)

    def score(self, answers, again):
        return -self.inner.score(answers, again)


@pytest.mark.parametrize("check", ["opinion_is_registered", "opinion_views", "opinion_polarity"])
def test_an_opinion_check_sees_what_it_is_for(opinions, check):
    whole = opinions["noise_consistency", "table"]
    broken = OpinionSubject(
        Fickle(whole.opinion), whole.rows, whole.answers, whole.standing, whole.fallen
    )
    with pytest.raises(CheckError):
        OPINION_CHECKS[check](broken)
