"""Fully connected layers as flat arrays."""

import numpy as np
import pytest

from detectors.dense import ACTIVATIONS, DenseLayers

GENERATOR = np.random.default_rng(0)
FUNCTIONS = {
    "linear": lambda x: x,
    "relu": lambda x: np.where(x > 0, x, 0.0),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def layer(takes, gives, activation):
    weights = GENERATOR.normal(size=(takes, gives)).astype(np.float32)
    return weights, GENERATOR.normal(size=gives).astype(np.float32), activation


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_layer_after_layer(activation):
    layers = [layer(5, 7, activation), layer(7, 1, "linear"), layer(1, 3, activation)]
    rows = GENERATOR.normal(size=(11, 5))
    expected = rows
    for weights, bias, name in layers:
        expected = FUNCTIONS[name](expected @ weights.astype(np.float64) + bias)
    network = DenseLayers.of(layers)
    assert (network.takes, network.gives) == (5, 3)
    np.testing.assert_allclose(network(rows), expected, rtol=1e-12, atol=1e-12)
    again = DenseLayers(network.widths, network.activations, network.weights, network.biases)
    np.testing.assert_array_equal(again(rows), network(rows))


def test_all_activations_are_tried():
    assert set(FUNCTIONS) == set(ACTIVATIONS)


def test_the_rows_are_left_alone():
    rows = GENERATOR.normal(size=(4, 3))
    before = rows.copy()
    DenseLayers.of([layer(3, 3, "relu")])(rows)
    np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_stays(activation):
    rows = np.zeros((2, 3))
    rows[1, 0] = np.nan
    found = DenseLayers.of([layer(3, 2, activation), layer(2, 2, activation)])(rows)
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()


GOOD = DenseLayers.of([layer(3, 2, "relu"), layer(2, 3, "linear")])
PARTS = {name: getattr(GOOD, name) for name in ("widths", "activations", "weights", "biases")}
WRONG = {
    "no layer": {"widths": PARTS["widths"][:1]},
    "too many layers": {"widths": np.ones(18, np.int32)},
    "a width of nothing": {"widths": np.array([3, 0, 3], np.int32)},
    "a huge width": {"widths": np.array([3, 1 << 30, 3], np.int32)},
    "too few activations": {"activations": PARTS["activations"][:1]},
    "an unknown activation": {"activations": np.array([1, 4], np.int32)},
    "a negative activation": {"activations": np.array([1, -1], np.int32)},
    "too few weights": {"weights": PARTS["weights"][:-1]},
    "too many weights": {"weights": np.append(PARTS["weights"], np.float32(1))},
    "weights of another dtype": {"weights": PARTS["weights"].astype(np.float64)},
    "a weight that is not finite": {"weights": np.full(12, np.nan, np.float32)},
    "a bias that is not finite": {"biases": np.full(5, np.inf, np.float32)},
    "too few biases": {"biases": PARTS["biases"][:-1]},
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_parts(case):
    with pytest.raises(ValueError):
        DenseLayers(**{**PARTS, **WRONG[case]})


def test_wrong_layers():
    for layers in (
        [layer(3, 2, "relu"), layer(3, 3, "linear")],
        [layer(3, 2, "softmax")],
        [(np.ones(3, np.float32), np.ones(3, np.float32), "relu")],
        [(np.ones((3, 2), np.float32), np.ones(3, np.float32), "relu")],
        [],
    ):
        with pytest.raises(ValueError):
            DenseLayers.of(layers)
