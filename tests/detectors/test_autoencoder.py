"""The autoencoders pass every common check, and score as their formulas say."""

import itertools
from dataclasses import fields

import numpy as np
import pytest

from detectors.checks import CHECKS, Subject
from detectors.dense import DenseLayers
from detectors.outlier import Autoencoder, VariationalAutoencoder

FEATURES = (1, 7, 40)
KINDS = (Autoencoder, VariationalAutoencoder)


def network(widths, activations, generator):
    return DenseLayers.of(
        [
            (generator.normal(size=pair) / np.sqrt(4 * pair[0]), np.zeros(pair[1]), activation)
            for pair, activation in zip(itertools.pairwise(widths), activations, strict=True)
        ]
    )


def parts(prefix, layers):
    return {
        f"{prefix}{name}": getattr(layers, name)
        for name in ("widths", "activations", "weights", "biases")
    }


def make(kind, rows, seed=0):
    generator = np.random.default_rng(seed)
    width, code = rows.shape[1], 2
    wide = rows.astype(np.float64)
    scaling = {"mean": wide.mean(axis=0), "scale": wide.std(axis=0)}
    if kind is Autoencoder:
        layers = network([width, 5, code, 5, width], ["relu", "tanh", "relu", "linear"], generator)
        return Autoencoder(**scaling, **parts("", layers))
    return VariationalAutoencoder(
        **scaling,
        **parts("encoder_", network([width, 5, 2 * code], ["relu", "linear"], generator)),
        **parts("decoder_", network([code, 5, width], ["tanh", "linear"], generator)),
        draws=generator.normal(size=(3, code)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def subjects():
    made = {}
    for width in FEATURES:
        generator = np.random.default_rng(width)
        rows = (generator.normal(size=(400, width)) + 3).astype(np.float32)
        far = (generator.normal(size=(40, width)) * 20 + 50).astype(np.float32)
        for kind in KINDS:
            made[kind, width] = Subject(make(kind, rows[:300]), rows[300:], far)
    return made


CASES = [(kind, check, width) for kind in KINDS for check in CHECKS for width in FEATURES]


@pytest.mark.parametrize(("kind", "check", "width"), CASES)
def test_check(subjects, kind, check, width):
    CHECKS[check](subjects[kind, width])


def test_every_check_is_made():
    assert len(CASES) == 2 * 13 * 3


def test_the_formula_of_an_autoencoder(subjects):
    subject = subjects[Autoencoder, 7]
    one, rows = subject.detector, subject.honest
    standard = (rows - one.mean) / one.scale
    layers = DenseLayers(one.widths, one.activations, one.weights, one.biases)
    expected = ((standard - layers(standard)) ** 2).mean(axis=1)
    np.testing.assert_allclose(one.score(rows), expected, rtol=1e-12)


def test_the_formula_of_a_variational_autoencoder(subjects):
    """A draw and a row at a time."""
    subject = subjects[VariationalAutoencoder, 7]
    one, rows = subject.detector, subject.honest[:10]
    halves = {
        half: DenseLayers(
            *(
                getattr(one, f"{half}_{name}")
                for name in ("widths", "activations", "weights", "biases")
            )
        )
        for half in ("encoder", "decoder")
    }
    for row, score in zip((rows - one.mean) / one.scale, one.score(rows), strict=True):
        code = halves["encoder"](row[None])[0]
        errors = [
            (
                (row - halves["decoder"]((code[:2] + np.exp(code[2:] / 2) * draw)[None])[0]) ** 2
            ).mean()
            for draw in one.draws
        ]
        assert score == pytest.approx(np.mean(errors), rel=1e-12)
    assert np.std(errors) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_make_up_the_score(subjects, kind):
    subject = subjects[kind, 7]
    found = subject.detector.parts(subject.honest)
    assert found.shape == subject.honest.shape
    np.testing.assert_allclose(found.sum(axis=1), subject.detector.score(subject.honest))


WRONG = [
    (Autoencoder, {"scale": np.zeros(7)}),
    (Autoencoder, {"mean": np.zeros(6)}),
    (Autoencoder, {"mean": np.full(7, np.nan)}),
    (Autoencoder, {"widths": np.array([7, 5, 2, 5, 6], np.int32)}),
    (VariationalAutoencoder, {"draws": np.zeros((0, 2), np.float32)}),
    (VariationalAutoencoder, {"draws": np.zeros((3, 3), np.float32)}),
    (VariationalAutoencoder, {"draws": np.full((3, 2), np.inf, np.float32)}),
    (VariationalAutoencoder, {"draws": np.zeros((2000, 2), np.float32)}),
    (VariationalAutoencoder, {"scale": np.full(7, -1.0)}),
]


@pytest.mark.parametrize(("kind", "change"), WRONG)
def test_wrong_parts(subjects, kind, change):
    detector = subjects[kind, 7].detector
    given = {field.name: getattr(detector, field.name) for field in fields(kind) if field.init}
    kind(**given)
    with pytest.raises(ValueError):
        kind(**{**given, **change})


def test_an_encoder_and_a_decoder_that_do_not_fit(subjects):
    detector = subjects[VariationalAutoencoder, 7].detector
    given = {f.name: getattr(detector, f.name) for f in fields(type(detector)) if f.init}
    other = network([3, 5, 7], ["tanh", "linear"], np.random.default_rng(0))
    with pytest.raises(ValueError, match="do not fit"):
        VariationalAutoencoder(
            **{**given, **parts("decoder_", other), "draws": np.zeros((1, 3), np.float32)}
        )
