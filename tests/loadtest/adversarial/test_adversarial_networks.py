"""The forward pass without torch."""

import numpy as np
import pytest
from crafted_sets import crafted, network

from loadtest.adversarial.crafted import Crafted
from loadtest.adversarial.networks import Layer, Network


def _convolutional(rng):
    def f32(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return Network(
        [
            Layer("conv", f32(2, 1, 3, 3), f32(2)),
            Layer("relu"),
            Layer("pool"),
            Layer("flatten"),
            Layer("dense", f32(8, 3), f32(3)),
        ],
        (4, 4),
        np.zeros(1, np.float32),
        np.ones(1, np.float32),
    )


def test_a_convolution_is_the_sum_that_it_says():
    rng = np.random.default_rng(0)
    net = _convolutional(rng)
    row = rng.normal(size=(1, 16)).astype(np.float32)
    kernel, bias = net.layers[0].weight, net.layers[0].bias
    padded = np.pad(row.reshape(4, 4), 1)
    flat = []
    for c in range(2):
        image = np.array(
            [
                [(padded[i : i + 3, j : j + 3] * kernel[c, 0]).sum() + bias[c] for j in range(4)]
                for i in range(4)
            ]
        )
        image = np.maximum(image, 0)
        flat += [image[i : i + 2, j : j + 2].max() for i in (0, 2) for j in (0, 2)]
    expected = np.array(flat) @ net.layers[4].weight + net.layers[4].bias
    assert net.outputs(row)[0] == pytest.approx(expected, rel=1e-5)


def test_rows_do_not_depend_on_each_other_or_on_the_batch():
    rng = np.random.default_rng(1)
    net = _convolutional(rng)
    rows = rng.normal(size=(600, 16)).astype(np.float32)
    assert net.outputs(rows)[[0, 300, 599]] == pytest.approx(
        np.concatenate([net.outputs(rows[[k]]) for k in (0, 300, 599)]), rel=1e-4, abs=1e-5
    )
    assert net.outputs(rows[:0]).shape == (0, 3)


def test_probabilities_survive_large_logits():
    rows = np.array([[1000, 0, 0, 0], [-1000, 1, 1, 0]], np.float32)
    found = network().probabilities(rows)
    assert found == pytest.approx(np.array([[1, 0, 0], [0, 0.5, 0.5]]))


def test_arrays_make_the_same_network():
    net = _convolutional(np.random.default_rng(2))
    again = Network.of_arrays(net.arrays())
    rows = np.random.default_rng(3).normal(size=(5, 16)).astype(np.float32)
    assert np.array_equal(net.outputs(rows), again.outputs(rows))
    with pytest.raises(ValueError, match="unknown layer"):
        Network.of_arrays(net.arrays() | {"kinds": np.array(["pickle"])})


def test_a_set_comes_back_from_its_file(tmp_path):
    made = crafted()
    made.save(tmp_path / "set.npz")
    again = Crafted.load(tmp_path / "set.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.npz"]
    assert set(again.attacks) == {"pgd-0.5", "fgsm-0.1"}
    for name, attack in made.attacks.items():
        assert np.array_equal(attack.rows, again.attacks[name].rows)
        assert np.array_equal(attack.bases, again.attacks[name].bases)
        assert attack.tried == again.attacks[name].tried
    assert np.array_equal(made.rest_p, again.rest_p)
    assert np.array_equal(again.ask(again.rest_x), made.rest_p)
    assert again.row_shape == (4,)
    assert not again.regression
    assert made.accuracy == again.accuracy > 0.99


def test_the_surrogate_takes_the_victims_place():
    made = crafted().of_surrogate()
    assert made.network is made.surrogate
    assert not made.attacks
    assert np.array_equal(made.rest_p, made.ask(made.rest_x))
