"""The model in numpy: its gradient is the gradient, its file keeps it, nonsense is refused."""

import numpy as np
import pytest

from loadtest.mlp import Mlp, fgsm


@pytest.fixture
def model():
    rng = np.random.default_rng(1)
    shapes = [(5, 7), (7, 6), (6, 3)]
    return Mlp(
        [rng.normal(size=s).astype(np.float32) for s in shapes],
        [rng.normal(size=s[1]).astype(np.float32) for s in shapes],
    )


def _loss(model, rows, labels):
    return -np.log(model.probabilities(rows)[np.arange(len(rows)), labels].astype(float))


def test_the_gradient_agrees_with_finite_differences(model):
    rng = np.random.default_rng(2)
    rows, labels = rng.random((4, 5)).astype(np.float32), np.array([0, 1, 2, 0])
    gradient, step = model.loss_gradient(rows, labels), 1e-3
    for j in range(5):
        nudge = np.zeros(5, np.float32)
        nudge[j] = step
        slope = (_loss(model, rows + nudge, labels) - _loss(model, rows - nudge, labels)) / 2 / step
        np.testing.assert_allclose(gradient[:, j], slope, rtol=0.02, atol=0.02)


def test_probabilities_sum_to_one_even_for_huge_inputs(model):
    rows = np.full((2, 5), 1e6, np.float32)
    probabilities = model.probabilities(rows)
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)


def test_fgsm_stays_within_its_size_and_raises_the_loss(model):
    rows = np.random.default_rng(3).random((20, 5)).astype(np.float32)
    labels = model.probabilities(rows).argmax(axis=1)
    crafted = fgsm(model, rows, labels, 0.05)
    assert np.abs(crafted - rows).max() <= 0.05 + 1e-6
    assert crafted.min() >= 0
    assert crafted.max() <= 1
    assert _loss(model, crafted, labels).mean() > _loss(model, rows, labels).mean()


def test_a_saved_model_is_the_same_model(model, tmp_path):
    path = tmp_path / "m.npz"
    model.save(path)
    loaded = Mlp.load(path)
    rows = np.ones((1, 5), np.float32)
    assert np.array_equal(loaded.probabilities(rows), model.probabilities(rows))
    assert (loaded.features, loaded.classes) == (5, 3)


def test_a_file_with_other_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(2), b=np.ones(2))
    with pytest.raises(ValueError, match="lacks"):
        Mlp.load(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("weights", "biases", "word"),
    [
        ([], [], "at least one"),
        ([np.ones((2, 3))], [np.ones(2)], "do not fit"),
        ([np.ones((2, 3)), np.ones((2, 2))], [np.ones(3), np.ones(2)], "do not chain"),
        ([np.full((2, 3), np.nan)], [np.ones(3)], "finite"),
    ],
)
def test_layers_that_do_not_fit_are_refused(weights, biases, word):
    with pytest.raises(ValueError, match=word):
        Mlp(weights, biases)
