"""Shaping: what is left of an answer, and what a client may still rely on."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from proxy.protocols.base import InferRequest, InferResponse
from proxy.shaping import Style, noise_key, shape

FLOATS = ("<f2", "<f4", "<f8")
KEY = noise_key(b"secret", "digits")
MODES = ("round", "top_k", "label", "noise")


def request(rows):
    return InferRequest({"x": rows}, rows, len(rows))


def answer(**tensors):
    first = {len(tensor) for tensor in tensors.values()}
    return InferResponse(tensors, first.pop() if len(first) == 1 else 1)


def shaped(tensor, mode="round", rows=None, **how):
    """One output, shaped. Noise is keyed on the numbers of the rows."""
    if rows is None:
        rows = np.arange(len(tensor), dtype=np.float32)[:, None]
    style = Style(mode, key=KEY, **how)
    return shape(answer(y=tensor), style, request(rows) if len(rows) else None).tensors["y"]


def floats(shapes, **elements):
    """Tensors of every floating datatype."""
    return st.sampled_from(FLOATS).flatmap(
        lambda dtype: arrays.arrays(dtype, shapes, elements=elements or None)
    )


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def logit(shares):
    return np.log(shares) - np.log1p(-shares)


MATRICES = arrays.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6)
SCORES = floats(MATRICES, allow_nan=False, allow_infinity=False)


@st.composite
def distributions(draw):
    logits = draw(
        arrays.arrays(
            "<f8",
            st.tuples(st.integers(1, 5), st.integers(2, 8)),
            elements={
                "min_value": -12,
                "max_value": 12,
            },
        )
    )
    return softmax(logits).astype(draw(st.sampled_from(FLOATS)))


class TestRound:
    CASES = (
        ([[0.12, 0.88]], [[0.1, 0.9]]),
        ([[0.34, 0.33, 0.33]], [[0.4, 0.3, 0.3]]),
        ([[0.33, 0.34, 0.33]], [[0.3, 0.4, 0.3]]),
        ([[0.33, 0.33, 0.34]], [[0.3, 0.3, 0.4]]),
        ([[0.51, 0.49], [0.49, 0.51]], [[0.6, 0.5], [0.5, 0.6]]),
        ([[0.5, 0.5]], [[0.5, 0.5]]),  # level before, level after
        ([[0.5, 0.5, 0.49]], [[0.5, 0.5, 0.4]]),
        ([[-7.26, -7.34]], [[-7.3 + 0.1, -7.3]]),
        ([[-0.01, -0.02]], [[0.1, 0.0]]),
        ([[0.46], [0.54], [0.5]], [[0.4], [0.6], [0.5]]),  # 0.5 is not crossed, and not reached
        ([0.46, 0.54, -0.04], [0.4, 0.6, 0.0]),
        ([0.34, 0.96, 1.04], [0.3, 1.0, 1.0]),
        ([[0.98, 0.97, 0.02]], [[1.0, 0.9, 0.0]]),  # no share passes 1,
        ([[0.46, 0.44, 0.02]], [[0.4, 0.3, 0.0]]),  # and none comes to 0.5 from below
        ([1e30, 1.04, -1e30], [1e30, 1.0, -1e30]),
        ([[[0.34, 0.33]], [[0.33, 0.34]]], [[[0.4, 0.3]], [[0.3, 0.4]]]),
    )

    @pytest.mark.parametrize(("given_values", "expected"), CASES)
    @pytest.mark.parametrize("dtype", ["<f4", "<f8"])
    def test_cases(self, given_values, expected, dtype):
        result = shaped(np.array(given_values, dtype))
        assert result.dtype == np.dtype(dtype)
        assert np.array_equal(result, np.round(np.array(expected), 1).astype(dtype))

    def test_half_precision(self):
        result = shaped(np.array([[0.3333, 0.334, 0.3325], [65504, -65504, 6e-8]], "<f2"))
        assert np.array_equal(result, np.array([[0.3, 0.4, 0.3], [65504, -65504, 0]], "<f2"))

    @given(SCORES)
    def test_all_that_were_best_stay_best(self, tensor):
        assume(tensor.shape[-1] > 1)
        result = shaped(tensor)
        best, was = result.max(-1, keepdims=True), tensor.max(-1, keepdims=True)
        assert np.array_equal(result == best, tensor == was)

    @given(floats(MATRICES, min_value=-2048, max_value=2048), st.integers(0, 3))
    def test_what_is_left_is_coarse_and_near(self, tensor, decimals):
        result = shaped(tensor, decimals=decimals)
        grid = np.round(result.astype(float), decimals).astype(tensor.dtype)
        assert np.array_equal(result, grid)
        # Half a step of rounding, a step for the verdict, and the datatype's own.
        slack = np.spacing(np.abs(tensor).astype(tensor.dtype)).astype(float)
        assert (np.abs(result.astype(float) - tensor) <= 1.5001 * 10.0**-decimals + 2 * slack).all()

    @given(floats(arrays.array_shapes(max_dims=3), min_value=-0.046875, max_value=0.046875))
    def test_zero_does_not_tell_its_sign(self, tensor):
        assert not np.signbit(shaped(tensor)).any()

    def test_logits_of_one_column_keep_their_sign(self):
        tensor = np.array([[0.04], [-0.04], [0.0], [3.14]])
        found = shaped(tensor, kind="logits", output="y")
        assert found.ravel().tolist() == [0.1, -0.1, 0.0, 3.1]

    def test_values_are_only_rounded(self):
        tensor = np.array([[0.46, 0.44], [0.54, 2.26]])
        found = shaped(tensor, kind="values")
        assert found.tolist() == [[0.5, 0.4], [0.5, 2.3]]


class TestTopK:
    CASES = (
        (1, [[0.5, 0.25, 0.15, 0.1]], [[0.5, 0.5 / 3, 0.5 / 3, 0.5 / 3]]),
        (2, [[0.1, 0.5, 0.15, 0.25]], [[0.125, 0.5, 0.125, 0.25]]),
        (3, [[0.1, 0.5, 0.15, 0.25]], [[0.1, 0.5, 0.15, 0.25]]),
        (4, [[0.1, 0.5, 0.15, 0.25]], [[0.1, 0.5, 0.15, 0.25]]),
        (1000, [[0.1, 0.9]], [[0.1, 0.9]]),
        (1, [[0.4, 0.4, 0.15, 0.05]], [[0.4, 0.4, 0.1, 0.1]]),  # what equals the last stays too
        (2, [[1.0, 0.0, 0.0, 0.0]], [[1.0, 0.0, 0.0, 0.0]]),
        (1, [[5.0, np.log(2), np.log(4)]], [[5.0, np.log(3), np.log(3)]]),
        (1, [[0.9, 0.8, 0.6, 0.1]], [[0.9, 0.5, 0.5, 0.5]]),  # several labels
        (1, [[0.26], [0.46], [3.26]], [[0.3], [0.4], [3.3]]),
    )

    @pytest.mark.parametrize(("k", "given_values", "expected"), CASES)
    def test_cases(self, k, given_values, expected):
        found = shaped(np.array(given_values), "top_k", top_k=k)
        assert np.allclose(found, expected, rtol=0, atol=1e-12)

    @given(distributions(), st.integers(1, 9))
    def test_the_best_stay_as_they_are_and_the_others_tell_nothing(self, tensor, k):
        found = shaped(tensor, "top_k", top_k=k)
        for row, was in zip(found, tensor, strict=True):
            least = np.sort(was)[::-1][min(k, was.size) - 1]
            assert np.array_equal(row[was >= least], was[was >= least])
            assert np.unique(row[was < least]).size <= 1
            assert abs(float(row.sum(dtype=float) - was.sum(dtype=float))) < 1e-2 * (
                np.finfo(tensor.dtype).eps / np.finfo("<f2").eps
            )

    @given(distributions(), st.integers(1, 4))
    def test_probabilities_and_logits_tell_the_same(self, tensor, k):
        tensor = tensor.astype(float) + 1e-9
        logits = np.log(tensor) + 3.25
        one, two = (shaped(given, "top_k", top_k=k) for given in (tensor, logits))
        assert np.allclose(softmax(two) * tensor.sum(1, keepdims=True), one, rtol=1e-9)


class TestLabel:
    CASES = (
        ([[0.2, 0.7, 0.1], [0.4, 0.4, 0.2]], [[0, 1, 0], [1, 0, 0]]),
        ([[-3.0, 2.0, 5.0]], [[-8, -8, 8]]),
        ([[3.0, -2.0, 0.0]], [[8, -8, -8]]),
        (np.log([[0.25, 0.75]]).tolist(), [[-16, 0]]),
        ([[0.9, 0.8, 0.3]], [[1, 0.75, 0]]),  # several labels: each side of 0.5, and the best
        ([[0.3, 0.4, 0.1]], [[0, 0.25, 0]]),
        ([[0.3], [0.7], [0.5]], [[0], [1], [0.5]]),
        ([0.3, 0.7, 4.0, 3.26], [0, 1, 4, 3.3]),
    )

    @pytest.mark.parametrize(("given_values", "expected"), CASES)
    @pytest.mark.parametrize("dtype", ["<f4", "<f8"])
    def test_cases(self, given_values, expected, dtype):
        found = shaped(np.array(given_values, dtype), "label")
        assert np.array_equal(found, np.array(expected, dtype))

    def test_logits_of_one_column(self):
        found = shaped(np.array([[0.2], [-0.2], [0.0]]), "label", kind="logits")
        assert found.ravel().tolist() == [8.0, -8.0, 0.0]

    @given(distributions())
    def test_nothing_but_the_best_class_is_left(self, tensor):
        for given_values in (tensor, np.log(tensor.astype(float) + 1e-9), tensor * 9 + 2):
            found = shaped(given_values, "label")
            assert np.array_equal(found.argmax(1), given_values.argmax(1))
            assert np.array_equal(np.sort(found, axis=1), np.sort(np.roll(found, 1, 0), axis=1))


class TestEveryMode:
    @pytest.mark.parametrize("mode", MODES)
    @given(tensor=SCORES)
    def test_the_best_of_every_row_stays_best(self, mode, tensor):
        result = shaped(tensor, mode)
        assert (result.shape, result.dtype) == (tensor.shape, tensor.dtype)
        assert np.array_equal(result.argmax(axis=-1), tensor.argmax(axis=-1))

    @pytest.mark.parametrize("mode", MODES)
    @given(tensor=floats(MATRICES, min_value=0, max_value=1))
    def test_shares_stay_shares_on_their_side(self, mode, tensor):
        distribution = np.abs(tensor.sum(-1, dtype=float) - 1) < 0.02
        assume(tensor.shape[-1] == 1 or not distribution.any())
        result = shaped(tensor, mode)
        assert ((result >= 0) & (result <= 1)).all()
        assert np.array_equal(result.argmax(axis=-1), tensor.argmax(axis=-1))
        if mode == "top_k" and tensor.shape[-1] > 1:
            return  # the others have one level together
        assert not ((tensor < 0.5) & (result >= 0.5)).any()
        assert not ((tensor > 0.5) & (result <= 0.5)).any()

    @pytest.mark.parametrize("mode", ["round", "top_k", "label"])
    @given(tensor=floats(MATRICES))
    def test_shaping_twice_is_shaping_once_and_leaves_its_argument(self, mode, tensor):
        before = tensor.copy()
        once = shaped(tensor, mode)
        twice = shaped(once, mode)
        if mode == "label" and (tensor == 0.5).any():
            return  # two shares of 0.5 and nothing else are a distribution
        eps = np.finfo(tensor.dtype).eps
        assert np.allclose(twice, once, rtol=2 * eps, atol=0, equal_nan=True)
        assert tensor.tobytes() == before.tobytes()

    @pytest.mark.parametrize("mode", MODES)
    @given(tensor=floats(MATRICES))
    def test_what_is_not_finite_stays_and_nothing_else_becomes_so(self, mode, tensor):
        result = shaped(tensor, mode)
        finite = np.isfinite(tensor)
        assert np.array_equal(result[~finite], tensor[~finite], equal_nan=True)
        assert np.isfinite(result[finite]).all()

    ODD = (
        [np.nan, 0.34, 0.33],
        [np.inf, 0.34, 0.33],
        [-np.inf, 0.33, 0.34],
        [np.nan] * 3,
        [np.inf, np.inf, 0.3],
        [-np.inf] * 3,
    )

    @pytest.mark.parametrize("row", ODD)
    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("mode", MODES)
    def test_a_row_that_is_not_finite_is_rounded_and_spoils_no_other(self, mode, row, dtype):
        tensor = np.array([row, [0.33, 0.34, 0.33]], dtype)
        result = shaped(tensor, mode)
        alone = shaped(tensor[1:], mode, np.ones((1, 1), np.float32))
        assert np.array_equal(result[0], shaped(tensor[:1])[0], equal_nan=True)
        assert np.array_equal(result[1:], alone)

    @pytest.mark.parametrize("mode", MODES)
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
    def test_the_rest_is_left_alone(self, mode, tensor):
        assert shaped(tensor, mode) is tensor

    @pytest.mark.parametrize("mode", MODES)
    def test_labels_written_as_floats_stay(self, mode):
        tensor = np.array([0.0, 1.0, 7.0, -3.0], "<f4")
        assert np.array_equal(shaped(tensor, mode), tensor)

    @pytest.mark.parametrize("mode", MODES)
    def test_everything_else_is_kept(self, mode):
        options = {"id": "a", "binary": frozenset({"y"})}
        tensors = {"y": np.array([[0.12, 0.88]]), "label": np.array([1])}
        asked = request(np.ones((1, 4), np.float32))
        result = shape(InferResponse(tensors, 1, options), Style(mode, key=KEY), asked)
        assert list(result.tensors) == ["y", "label"]
        assert (result.n, result.options) == (1, options)
        assert result.tensors["label"] is tensors["label"]

    @pytest.mark.parametrize("mode", MODES)
    def test_an_answer_without_a_first_dimension_of_rows(self, mode):
        """Some servers answer one row with the classes alone."""
        tensor = np.array([0.2, 0.7, 0.1])
        row = request(np.ones((1, 4), np.float32))
        style = Style(mode, key=KEY)
        alone = shape(InferResponse({"y": tensor}, 3), style, row).tensors["y"]
        batched = shape(InferResponse({"y": tensor[None]}, 1), style, row).tensors["y"]
        assert np.array_equal(alone, batched[0])

    @pytest.mark.parametrize("mode", MODES)
    def test_integers_that_are_scores(self, mode):
        tensor = np.array([[3, 250, 2]], "<u1")
        result = shaped(tensor, mode, output="y", kind="probabilities")
        assert result.dtype == tensor.dtype
        assert result.tolist() == [[0, 255, 0]]
        signed = shaped(np.array([[-3, -5]], "<i1"), mode, output="y", kind="logits")
        assert signed.tolist() == [[127, -128]]


class TestTexts:
    """What Triton answers to the parameter ``classification``."""

    def test_rounded(self):
        strings = np.array(
            [[b"0.873412:5:cat", b"0.126588:0"], [b"-13.040000:2:a:b", b"1:2"]], object
        )
        assert shaped(strings).tolist() == [
            [b"0.900000:5:cat", b"0.100000:0"],
            [b"-13.000000:2:a:b", b"1:2"],
        ]
        assert shaped(np.array([b"-0.010000:1"], object)).tolist() == [b"0.000000:1"]

    @pytest.mark.parametrize("mode", ["label", "noise"])
    def test_neither_label_nor_noise_tells_who_came_second(self, mode):
        strings = np.array(
            [[b"0.60:5:cat", b"0.30:0:dog", b"0.10:1"], [b"3.1:2", b"2.0:1", b"1.5:0"]], object
        )
        assert shaped(strings, mode).tolist() == [
            [b"1.000000:5:cat"] * 3,
            [b"8.000000:2"] * 3,
        ]

    @pytest.mark.parametrize(
        ("strings", "kind", "expected"),
        [
            ([b"0.92:1", b"0.81:0"], "auto", b"1.000000:1"),  # several labels
            ([b"0.5:1", b"-3.0:0"], "auto", b"1.000000:1"),  # the best alone tells
            ([b"0.5:1", b"-3.0:0"], "logits", b"8.000000:1"),
            ([b"-1.0:1", b"-3.0:0"], "auto", b"8.000000:1"),
        ],
    )
    def test_the_level_of_a_label(self, strings, kind, expected):
        found = shaped(np.array([strings], object), "label", output="y", kind=kind)
        assert found.tolist() == [[expected] * 2]

    @pytest.mark.parametrize("k", [1, 2, 3])
    def test_top_k_repeats_the_last_that_it_leaves(self, k):
        strings = np.array([[b"0.60:5:cat", b"0.30:7:dog", b"0.07:3", b"0.03:2"]], object)
        left = [b"0.600000:5:cat", b"0.300000:7:dog", b"0.070000:3"][:k]
        assert shaped(strings, "top_k", top_k=k).tolist() == [left + left[-1:] * (4 - k)]

    @pytest.mark.parametrize("mode", ["top_k", "label", "noise"])
    @given(tensor=distributions(), k=st.integers(1, 3), logits=st.booleans())
    def test_a_longer_list_tells_no_more(self, mode, tensor, k, logits):
        """The client chooses how many classes are listed."""
        scores = np.log(tensor[0].astype(float) + 1e-9) if logits else tensor[0].astype(float)
        order = np.argsort(-scores, kind="stable")
        texts = [b"%f:%d" % (scores[place], place) for place in order]
        lists = [
            shaped(np.array([texts[:many]], object), mode, top_k=k).tolist()[0]
            for many in range(2, len(texts) + 1)
        ]
        told = set(lists[min(max(k, 2), len(texts)) - 2])
        assert len(told) <= (k if mode == "top_k" else 1)
        assert all(set(one) <= told for one in lists)

    def test_a_list_of_one_is_rounded_by_top_k_as_one_column_is(self):
        assert shaped(np.array([[b"0.873:0"]], object), "top_k").tolist() == [[b"0.900000:0"]]

    @pytest.mark.parametrize("mode", MODES)
    def test_a_row_with_other_strings_is_rounded(self, mode):
        strings = np.array([[b"3.14:2", b"nan:1", b"1.52:0"]], object)
        assert shaped(strings, mode).tolist() == [[b"3.100000:2", b"nan:1", b"1.500000:0"]]

    @pytest.mark.parametrize("mode", ["round", "top_k", "noise"])
    def test_values_are_rounded(self, mode):
        found = shaped(np.array([[b"3.26:0"]], object), mode, output="y", kind="values")
        assert found.tolist() == [[b"3.300000:0"]]

    def test_absurd_indices(self):
        text = b"0.123456:" + b"9" * 300
        for mode in ("round", "label", "noise"):
            assert not shaped(np.array([[text]], object), mode)[0, 0].startswith(b"0.123456")


class TestStyle:
    def test_decimals(self):
        assert shaped(np.array([0.123456]), decimals=3).tolist() == [0.123]
        assert shaped(np.array([[1.4, 1.3]]), decimals=0).tolist() == [[2.0, 1.0]]

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"decimals": -1}, "0 to 6"),
            ({"decimals": 7}, "0 to 6"),
            ({"top_k": 0}, "at least 1"),
            ({"noise": 0.0}, "above 0"),
            ({"noise": float("nan")}, "above 0"),
            ({"mode": "noise"}, "key of 32"),
            ({"mode": "noise", "key": b"short"}, "key of 32"),
            ({"mode": "label", "kind": "values"}, "no labels"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, settings, words):
        with pytest.raises(ValueError, match=words):
            Style(**settings)
