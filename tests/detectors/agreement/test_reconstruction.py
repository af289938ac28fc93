"""The model is asked again about what an autoencoder makes of the row."""

from dataclasses import fields

import numpy as np
import pytest

from detectors.agreement.base import Answers
from detectors.agreement.checks import OPINION_CHECKS, OpinionSubject
from detectors.agreement.reconstruction import Reconstruction
from detectors.dense import DenseLayers

GENERATOR = np.random.default_rng(0)
WIDTH = 5
ROWS = (GENERATOR.normal(size=(30, WIDTH)) * 2 + 1).astype(np.float32)


def _network():
    shapes = [(WIDTH, 3, "relu"), (3, WIDTH, "linear")]
    return DenseLayers.of(
        [(GENERATOR.normal(size=(a, b)), GENERATOR.normal(size=b), name) for a, b, name in shapes]
    )


NETWORK = _network()
GIVEN = {
    "mean": ROWS.mean(axis=0).astype(np.float64),
    "scale": ROWS.std(axis=0).astype(np.float64),
    "low": ROWS.min(axis=0).astype(np.float64),
    "high": ROWS.max(axis=0).astype(np.float64),
    "widths": NETWORK.widths,
    "activations": NETWORK.activations,
    "weights": NETWORK.weights,
    "biases": NETWORK.biases,
    "temperature": 1.0,
}
OPINION = Reconstruction(**GIVEN)
AGREED = Answers.of_probabilities(np.tile([0.9, 0.1], (3, 1)))
TURNED = Answers.of_probabilities(np.tile([0.2, 0.8], (3, 1)))


SUBJECT = OpinionSubject(
    OPINION,
    ROWS,
    Answers.of_probabilities(np.tile([0.9, 0.1], (len(ROWS), 1))),
    Answers.of_probabilities(np.tile([0.88, 0.12], (len(ROWS), 1))),
    Answers.of_probabilities(np.tile([0.2, 0.8], (len(ROWS), 1))),
)


@pytest.mark.parametrize("check", OPINION_CHECKS)
def test_check(check):
    OPINION_CHECKS[check](SUBJECT)


def test_every_check_is_made():
    assert len(OPINION_CHECKS) == 7


def test_what_it_says_of_itself():
    assert (OPINION.name, OPINION.features, OPINION.needs, OPINION.copies) == (
        "reconstruction",
        WIDTH,
        "probabilities",
        1,
    )
    assert {field.name for field in fields(OPINION) if field.init} == set(GIVEN)


def test_views_are_the_reconstructions_within_the_bounds():
    views = OPINION.views(ROWS)
    assert views.dtype == np.float32 and views.shape == ROWS.shape
    free = GIVEN["mean"] + GIVEN["scale"] * NETWORK((ROWS - GIVEN["mean"]) / GIVEN["scale"])
    assert (free > GIVEN["high"]).any() and (free < GIVEN["low"]).any()
    np.testing.assert_allclose(views, np.clip(free, GIVEN["low"], GIVEN["high"]), rtol=1e-6)


def test_the_same_row_has_the_same_view():
    together = OPINION.views(ROWS)
    alone = np.concatenate([OPINION.views(row[None]) for row in ROWS])
    np.testing.assert_allclose(alone, together, rtol=1e-6)
    np.testing.assert_array_equal(OPINION.views(ROWS), together)


def test_no_rows():
    assert OPINION.views(ROWS[:0]).shape == (0, WIDTH)
    none = Answers.of_probabilities(np.empty((0, 2)))
    assert OPINION.score(none, none).shape == (0,)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_has_no_view(value):
    rows = ROWS.copy()
    rows[4, 2] = value
    views = OPINION.views(rows)
    assert np.isnan(views[4]).all()
    np.testing.assert_array_equal(np.delete(views, 4, 0), np.delete(OPINION.views(ROWS), 4, 0))


def test_an_answer_that_turns_is_suspicious():
    same, turned = OPINION.score(AGREED, AGREED), OPINION.score(AGREED, TURNED)
    np.testing.assert_allclose(same, 0.0, atol=1e-12)
    expected = 0.9 * np.log(0.9 / 0.2) + 0.1 * np.log(0.1 / 0.8)
    np.testing.assert_allclose(turned, expected, rtol=1e-12)


def test_certain_answers_stay_finite():
    sure = Answers.of_probabilities([[1.0, 0.0]])
    opposite = Answers.of_probabilities([[0.0, 1.0]])
    assert 10 < OPINION.score(sure, opposite)[0] < 20


def test_temperature_sharpens_the_first_answer():
    sharp = Reconstruction(**{**GIVEN, "temperature": 0.5})
    first = np.array([0.81, 0.01]) / 0.82
    expected = (first * np.log(first / [0.2, 0.8])).sum()
    np.testing.assert_allclose(sharp.score(AGREED, TURNED), expected, rtol=1e-12)


def test_answers_that_do_not_fit():
    labels = Answers.of_labels(np.array([0, 1, 0]))
    for first, second in ((AGREED, labels), (labels, AGREED), (AGREED, AGREED[:2])):
        with pytest.raises(ValueError, match="do not fit"):
            OPINION.score(first, second)


@pytest.mark.parametrize("rows", [ROWS[:, 1:], ROWS.astype(np.float64), ROWS[0]])
def test_wrong_rows(rows):
    with pytest.raises(ValueError, match="expected rows"):
        OPINION.views(rows)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.0},
        {"temperature": np.nan},
        {"scale": np.zeros(WIDTH)},
        {"low": GIVEN["high"], "high": GIVEN["low"]},
        {"mean": np.full(WIDTH, np.nan)},
        {"mean": np.zeros(WIDTH + 1)},
        {"widths": np.array([WIDTH, 3, 4], np.int32)},
    ],
)
def test_wrong_parts(change):
    with pytest.raises(ValueError):
        Reconstruction(**{**GIVEN, **change})


def test_nothing_can_be_changed():
    for field in fields(OPINION):
        with pytest.raises(AttributeError):
            setattr(OPINION, field.name, None)
        value = getattr(OPINION, field.name)
        if isinstance(value, np.ndarray):
            with pytest.raises(ValueError):
                value.setflags(write=True)
