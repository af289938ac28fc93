"""Shaping: what is left of an answer, and what a client may still rely on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from proxy.protocols.base import InferResponse
from proxy.shaping import shape

FLOATS = ("<f2", "<f4", "<f8")


def shaped(tensor, **how):
    """One output, shaped."""
    return shape(InferResponse({"y": tensor}, 1), **how).tensors["y"]


def floats(shapes, **elements):
    """Tensors of every floating datatype."""
    return st.sampled_from(FLOATS).flatmap(
        lambda dtype: arrays.arrays(dtype, shapes, elements=elements or None)
    )


MATRICES = arrays.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6)


CASES = [
    ([[0.12, 0.88]], [[0.1, 0.9]]),
    ([[0.34, 0.33, 0.33]], [[0.4, 0.3, 0.3]]),
    ([[0.33, 0.34, 0.33]], [[0.3, 0.4, 0.3]]),
    ([[0.33, 0.33, 0.34]], [[0.3, 0.3, 0.4]]),
    ([[0.51, 0.49], [0.49, 0.51]], [[0.6, 0.5], [0.5, 0.6]]),
    ([[0.5, 0.5]], [[0.5, 0.5]]),  # level before, level after
    ([[0.5, 0.5, 0.49]], [[0.6, 0.6, 0.5]]),
    ([[-7.26, -7.34]], [[-7.3 + 0.1, -7.3]]),
    ([[-0.01, -0.02]], [[0.1, 0.0]]),
    ([[0.46], [0.54]], [[0.5], [0.5]]),
    ([0.34, 0.33, -0.04], [0.3, 0.3, 0.0]),
    ([1e30, 1.04, -1e30], [1e30, 1.0, -1e30]),
    ([[[0.34, 0.33]], [[0.33, 0.34]]], [[[0.4, 0.3]], [[0.3, 0.4]]]),
]


@pytest.mark.parametrize(("given_values", "expected"), CASES)
@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_cases(given_values, expected, dtype):
    result = shaped(np.array(given_values, dtype))
    assert result.dtype == np.dtype(dtype)
    assert np.array_equal(result, np.round(np.array(expected), 1).astype(dtype))


def test_half_precision():
    result = shaped(np.array([[0.3333, 0.334, 0.3325], [65504, -65504, 6e-8]], "<f2"))
    assert np.array_equal(result, np.array([[0.3, 0.4, 0.3], [65504, -65504, 0]], "<f2"))


@given(floats(MATRICES, allow_nan=False, allow_infinity=False))
def test_the_best_of_every_row_stays_best(tensor):
    result = shaped(tensor)
    assert (result.shape, result.dtype) == (tensor.shape, tensor.dtype)
    assert np.array_equal(result.argmax(axis=-1), tensor.argmax(axis=-1))
    if tensor.shape[-1] > 1:
        best, was = result.max(-1, keepdims=True), tensor.max(-1, keepdims=True)
        assert np.array_equal(result == best, tensor == was)


@given(floats(MATRICES, min_value=-2048, max_value=2048), st.integers(0, 3))
def test_what_is_left_is_coarse_and_near(tensor, decimals):
    result = shaped(tensor, decimals=decimals)
    grid = np.round(result.astype(float), decimals).astype(tensor.dtype)
    assert np.array_equal(result, grid)
    # Half a step of rounding, a step for a winner that was level, and the datatype's own.
    slack = np.spacing(np.abs(tensor).astype(tensor.dtype)).astype(float)
    assert (np.abs(result.astype(float) - tensor) <= 1.5001 * 10.0**-decimals + 2 * slack).all()


@given(floats(MATRICES))
def test_shaping_twice_is_shaping_once_and_leaves_its_argument(tensor):
    before = tensor.copy()
    once = shaped(tensor)
    assert np.array_equal(shaped(once), once, equal_nan=True)
    assert tensor.tobytes() == before.tobytes()
    finite = np.isfinite(tensor)
    assert np.array_equal(once[~finite], tensor[~finite], equal_nan=True)
    assert np.isfinite(once[finite]).all()


@given(floats(arrays.array_shapes(max_dims=3), min_value=-0.046875, max_value=0.046875))
def test_zero_does_not_tell_its_sign(tensor):
    result = shaped(tensor)
    assert not np.signbit(result).any()


@pytest.mark.parametrize(
    "row",
    [
        [np.nan, 0.34, 0.33],
        [np.inf, 0.34, 0.33],
        [-np.inf, 0.33, 0.34],
        [np.nan] * 3,
        [np.inf, np.inf, 0.3],
        [-np.inf] * 3,
    ],
)
@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_not_finite_stays(row, dtype):
    tensor = np.array([row, [0.33, 0.34, 0.3]], dtype)
    result = shaped(tensor)
    odd = ~np.isfinite(tensor)
    assert np.array_equal(result[odd], tensor[odd], equal_nan=True)
    assert np.array_equal(result.argmax(axis=1), tensor.argmax(axis=1))
    assert np.array_equal(result[1], np.array([0.3, 0.4, 0.3], dtype))


@pytest.mark.parametrize(
    "tensor",
    [
        np.array([[3, 7]], "<i8"),
        np.array([2**64 - 1], "<u8"),
        np.array([[True, False]]),
        np.array([[b"0.873 apples"], [b"12:30"]], object),
        np.array([b"", b"\xff"], object),
        np.empty((0, 3), "<f4"),
        np.empty((3, 0), "<f4"),
        np.empty((0,), object),
    ],
    ids=str,
)
def test_the_rest_is_left_alone(tensor):
    assert shaped(tensor) is tensor


def test_scores_do_not_leave_as_text():
    strings = np.array([[b"0.873412:5:cat", b"0.126588:0"], [b"-13.040000:2:a:b", b"1:2"]], object)
    result = shaped(strings)
    assert result.tolist() == [
        [b"0.900000:5:cat", b"0.100000:0"],
        [b"-13.000000:2:a:b", b"1:2"],
    ]
    assert shaped(np.array([b"-0.010000:1"], object)).tolist() == [b"0.000000:1"]


def test_everything_else_is_kept():
    options = {"id": "a", "binary": frozenset({"y"})}
    response = InferResponse({"y": np.array([[0.12, 0.88]]), "label": np.array([1])}, 1, options)
    result = shape(response)
    assert list(result.tensors) == ["y", "label"]
    assert (result.n, result.options) == (1, options)


def test_decimals():
    assert shaped(np.array([0.123456]), decimals=3).tolist() == [0.123]
    assert shaped(np.array([[1.4, 1.3]]), decimals=0).tolist() == [[2.0, 1.0]]
    for decimals in (-1, 7):
        with pytest.raises(ValueError, match="0 to 6"):
            shaped(np.array([0.1]), decimals=decimals)
