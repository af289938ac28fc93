"""Noise of an input: the same to whoever asks again, and nothing to be had from asking often."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays

from proxy.protocols.base import InferRequest, InferResponse
from proxy.shaping import Style, noise_key, shape
from proxy.shaping_noise import beside, noise

KEY = noise_key(b"secret", "digits")
OTHER = noise_key(b"secret", "faces")
RANDOM = np.random.default_rng(7)
ROWS = 4 * RANDOM.random((400, 64), np.float32)  # far apart: their smooth halves differ
LOGITS = 3 * RANDOM.standard_normal((400, 10))
LOGITS.flags.writeable = ROWS.flags.writeable = False


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def request(rows, **tensors):
    return InferRequest(tensors or {"x": rows}, rows, len(rows))


def shaped(rows=ROWS, **tensors):
    how = {key: tensors.pop(key) for key in list(tensors) if key in Style.__dataclass_fields__}
    style = Style("noise", **({"key": KEY} | how))
    return shape(InferResponse(tensors, len(rows)), style, request(rows)).tensors


def moved(**how):
    """(n, 10) what noise does to the logarithms of probabilities, centred."""
    found = np.log(shaped(y=softmax(LOGITS), keep_best=False, **how)["y"]) - np.log(softmax(LOGITS))
    return found - found.mean(axis=1, keepdims=True)


class TestNoise:
    def test_a_row_has_its_own_wherever_it_stands(self):
        whole = noise(KEY, ROWS, 10)
        for size in (1, 3, 256):
            parts = [noise(KEY, ROWS[i : i + size], 10) for i in range(0, len(ROWS), size)]
            assert np.array_equal(np.concatenate(parts), whole)
        assert np.array_equal(noise(KEY, ROWS[::-1], 10), whole[::-1])
        strided = np.repeat(ROWS, 2, axis=1)[:, ::2]
        assert np.array_equal(noise(KEY, strided, 10), whole)

    @pytest.mark.parametrize("width", [1, 2, 7, 4097, 9000])
    def test_wider_answers_go_on_where_narrow_ones_end(self, width):
        assert np.array_equal(noise(KEY, ROWS[:3], 10_000)[:, :width], noise(KEY, ROWS[:3], width))

    @pytest.mark.parametrize("features", [1, 8, 64, 784, 3000])
    def test_it_is_standard_normal_over_keys(self, features):
        row = np.random.default_rng(1).random((1, features), np.float32)
        keys = [noise_key(b"secret", str(number)) for number in range(150)]
        drawn = np.concatenate([noise(key, row, 20) for key in keys])
        assert abs(drawn.mean()) < 0.08
        assert abs(drawn.std() - 1) < 0.08
        # 9 of 3000 beyond three deviations are expected.
        assert 1 <= (np.abs(drawn) > 3).sum() <= 25

    def test_another_key_is_another_noise(self):
        assert not np.isclose(noise(KEY, ROWS, 10), noise(OTHER, ROWS, 10)).mean() > 0.01
        assert noise_key(b"a", "bc") != noise_key(b"ab", "c")
        assert len(KEY) == 32

    def test_a_zero_of_either_sign(self):
        rows = np.zeros((1, 5), np.float32)
        assert np.array_equal(noise(KEY, rows, 3), noise(KEY, -rows, 3))

    @given(arrays.arrays("<f4", (3, 4), elements={"allow_nan": False, "allow_infinity": False}))
    def test_any_finite_row_has_finite_noise(self, rows):
        assert np.isfinite(noise(KEY, rows, 4)).all()

    def test_it_does_not_change_from_release_to_release(self):
        """Replicas of two releases answer the same."""
        rows = np.array([[0.0, 1.0, -2.5, 1e6]], np.float32)
        drawn = noise(noise_key(b"secret", "digits"), rows, 4)[0]
        assert drawn.tolist() == [
            -1.713623046875,
            -0.65789794921875,
            -1.393157958984375,
            -0.2505645751953125,
        ]

    def test_what_cannot_be_keyed_is_refused(self):
        with pytest.raises(ValueError, match="32"):
            noise(b"short", ROWS, 1)

    def test_the_average_over_near_duplicates_keeps_the_smooth_half(self):
        steps = 0.01 * np.random.default_rng(2).standard_normal((500, 64))
        kept, rough = [], []
        for row in ROWS[:20]:
            near = noise(KEY, (row + steps).astype(np.float32), 10)
            kept.append(near.mean(axis=0))
            rough.append(near.std(axis=0))
        assert 0.8 < np.sqrt(2) * np.std(kept) < 1.2
        assert 0.9 < np.sqrt(2) * np.mean(rough) < 1.1

    def test_the_difference_of_near_duplicates_has_the_rough_half(self):
        one = noise(KEY, ROWS, 10)
        two = noise(KEY, ROWS + np.float32(1e-6), 10)
        assert 0.95 < (one - two).std() < 1.05

    def test_distant_rows_share_little(self):
        far = np.random.default_rng(3).random((200, 64), np.float32) * 20
        drawn = noise(KEY, far, 50)
        drawn = drawn - drawn.mean(axis=0)
        correlations = [np.corrcoef(one, two)[0, 1] for one, two in pairwise(drawn)]
        assert abs(np.mean(correlations)) < 0.1


class TestInputs:
    """What tells rows apart where float32 does not."""

    def draw(self, **tensors):
        n = len(next(iter(tensors.values())))
        numbers = [t.reshape(n, -1) for t in tensors.values() if not t.dtype.hasobject]
        rows = np.concatenate([np.empty((n, 0)), *numbers], axis=1).astype(np.float32)
        return noise(KEY, rows, 4, beside(InferRequest(tensors, rows, n)))

    def test_numbers_that_float32_holds_are_the_same_in_every_datatype(self):
        whole = np.array([[1, 2, 3], [-4, 5, 0]])
        plain = noise(KEY, whole.astype("<f4"), 4)
        for dtype in ("<f2", "<f4", "<f8", "i1", "<i2", "<i4", "<i8"):
            assert np.array_equal(self.draw(x=whole.astype(dtype)), plain)

    @pytest.mark.parametrize(
        ("one", "other"),
        [(0.1, 0.1 + 1e-12), (2**24, 2**24 + 1), (-0.1, -0.1 - 1e-12)],
    )
    def test_what_float32_rounds_away_has_rough_noise_of_its_own(self, one, other):
        pair = np.array([[one], [other]])
        assert np.float32(one) == np.float32(other)
        first, second = self.draw(x=pair)
        assert np.abs(first - second).min() > 1e-3
        assert np.array_equal(self.draw(x=pair[:1])[0], first)

    def test_text(self):
        texts = np.array([[b"a", b"bc"], [b"ab", b"c"], [b"a", b"bc"]], object)
        numbers = np.ones((3, 2), "<f4")
        for tensors in ({"t": texts}, {"x": numbers, "t": texts}):
            drawn = self.draw(**tensors)
            assert np.array_equal(drawn[0], drawn[2])
            assert np.abs(drawn[0] - drawn[1]).min() > 1e-3
        assert np.array_equal(self.draw(t=texts, x=numbers), drawn)

    def test_text_alone_has_noise_of_the_whole_deviation(self):
        texts = np.array([[b"%d" % number] for number in range(1000)], object)
        assert abs(self.draw(t=texts).std() - 1) < 0.05

    def test_tensors_do_not_run_into_each_other(self):
        rows = np.zeros((1, 1), np.float32)
        one = InferRequest({"a": np.array([b"1:x"], object), "b": np.array([b""], object)}, rows, 1)
        two = InferRequest({"a": np.array([b""], object), "b": np.array([b"1:x"], object)}, rows, 1)
        assert beside(one) != beside(two)

    def test_a_tensor_for_all_rows(self):
        rows = np.zeros((2, 1), np.float32)
        tensors = {"x": rows, "prompt": np.array([b"a", b"b", b"c"], object)}
        one, two = beside(InferRequest(tensors, rows, 2))
        assert one == two
        assert beside(InferRequest({"x": rows}, rows, 2)) is None

    def test_differences_below_float32_do_not_tell_the_model(self):
        """Two answers a hair apart: without noise their difference is the slope."""
        wide = np.full((2, 4), 0.1) + np.array([[0.0], [1e-12]])
        asked = InferRequest({"x": wide}, wide.astype(np.float32), 2)
        answers = np.repeat(softmax(LOGITS[:1]), 2, axis=0)
        found = shape(InferResponse({"p": answers}, 2), Style("noise", key=KEY), asked).tensors["p"]
        assert np.abs(np.log(found[0]) - np.log(found[1])).max() > 0.1


class TestAnswers:
    @pytest.mark.parametrize("strength", [0.3, 1.0, 3.0])
    def test_the_log_odds_of_two_classes_move_by_the_deviation_stated(self, strength):
        change = moved(noise=strength)
        odds = change[:, 0] - change[:, 1]
        assert 0.85 < odds.std() / strength < 1.15

    def test_the_same_in_every_datatype_and_batch(self):
        probabilities = softmax(LOGITS)
        whole = shaped(y=probabilities)["y"]
        for dtype in ("<f4", "<f2"):
            narrow = shaped(y=probabilities.astype(dtype))["y"]
            assert narrow.dtype == np.dtype(dtype)
            assert np.allclose(narrow, whole, atol=4 * np.finfo(dtype).eps)
        single = [shaped(ROWS[i : i + 1], y=probabilities[i : i + 1])["y"] for i in range(30)]
        assert np.array_equal(np.concatenate(single), whole[:30])

    @pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
    @pytest.mark.parametrize("strength", [0.1, 1.0, 10.0])
    def test_probabilities_stay_a_distribution_with_the_same_best(self, dtype, strength):
        tensor = softmax(LOGITS).astype(dtype)
        found = shaped(y=tensor, noise=strength)["y"]
        assert np.array_equal(found.argmax(1), tensor.argmax(1))
        assert ((found >= 0) & (found <= 1)).all()
        sums = found.sum(axis=1, dtype=float)
        assert np.allclose(sums, tensor.sum(axis=1, dtype=float), atol=10 * np.finfo(dtype).eps)

    @pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
    def test_no_probability_passes_1_where_a_server_sums_to_more(self, dtype):
        tensor = np.zeros((400, 10), dtype)
        tensor[:, :2] = 0.503, 0.502
        assert (shaped(y=tensor, noise=10.0)["y"] <= 1).all()

    def test_the_outputs_of_one_answer_are_no_second_opinion(self):
        probabilities = softmax(LOGITS)
        found = shaped(
            p=probabilities,
            again=probabilities.astype("<f4"),
            logs=np.log(probabilities),
            logits=LOGITS + 20,
        )
        assert np.allclose(found["again"], found["p"], atol=1e-6)
        assert np.allclose(np.exp(found["logs"]), found["p"], rtol=1e-9)
        assert np.allclose(softmax(found["logits"]), found["p"], rtol=1e-9)

    @pytest.mark.parametrize("keep_best", [True, False])
    def test_one_column_says_what_two_columns_say(self, keep_best):
        both = softmax(LOGITS[:, :2] / 4)
        found = shaped(both=both, one=both[:, 1:], flat=both[:, 1], keep_best=keep_best)
        assert np.allclose(found["one"], found["both"][:, 1:], rtol=1e-9)
        assert np.allclose(found["flat"], found["both"][:, 1], rtol=1e-9)
        for pair in (both, LOGITS[:, :2] / 4):
            odds = (LOGITS[:, 1:2] - LOGITS[:, :1]) / 4
            how = {"output": "odds", "kind": "logits", "keep_best": keep_best}
            odds = shaped(odds=odds, pair=pair, **how)["odds"]
            assert np.allclose(1 / (1 + np.exp(-odds)), found["one"], rtol=1e-9)
        stays = ((found["one"] > 0.5) == (both[:, 1:] > 0.5)).mean()
        assert (stays == 1) == keep_best

    def test_shares_are_disturbed_each_on_its_own(self):
        shares = RANDOM.uniform(0.1, 0.9, (400, 5))
        found = shaped(y=shares, keep_best=False)["y"]
        change = np.log(found / (1 - found)) - np.log(shares / (1 - shares))
        assert 0.85 < change.std() < 1.15

    def test_values_are_disturbed_by_their_last_decimal(self):
        values = RANDOM.normal(50, 20, (400, 2))
        for decimals in (0, 1, 2):
            found = shaped(y=values, kind="values", noise=2.0, decimals=decimals)["y"]
            assert 0.85 < (found - values).std() / (2.0 * 10.0**-decimals) < 1.15
        again = shaped(y=values[:, 0], kind="values")["y"]
        assert np.isclose(again, values[:, 0]).mean() < 0.02

    def test_repeats_average_to_nothing_more(self):
        probabilities = softmax(LOGITS)
        once = shaped(y=probabilities)["y"]
        many = shaped(np.repeat(ROWS, 5, axis=0), y=np.repeat(probabilities, 5, axis=0))["y"]
        mean = many.reshape(400, 5, 10).mean(axis=1)
        assert np.allclose(mean, once, rtol=1e-12)

    def test_without_a_request_only_labels_are_left(self):
        tensors = {"p": softmax(LOGITS), "v": LOGITS[:, 0] + 100}
        response = InferResponse(tensors, 400)
        found = shape(response, Style("noise", key=KEY)).tensors
        assert np.array_equal(found["p"], np.eye(10)[LOGITS.argmax(1)])
        assert np.array_equal(found["v"], np.round(tensors["v"], 1))
        values = Style("noise", key=KEY, kind="values")
        assert np.array_equal(shape(response, values).tensors["v"], found["v"])

    def test_rows_of_another_number_are_one_input(self):
        probabilities = softmax(LOGITS[:7])
        response = InferResponse({"y": probabilities}, 7)
        style = Style("noise", key=KEY)
        found = shape(response, style, request(ROWS[:3])).tensors["y"]
        assert np.array_equal(shape(response, style, request(ROWS[:3].copy())).tensors["y"], found)
        assert (
            not np.isclose(shape(response, style, request(ROWS[1:4])).tensors["y"], found)
            .all(axis=1)
            .any()
        )

    def test_near_duplicates_do_not_tell_the_model(self):
        """What is left after averaging 50 of them is still most of half the variance."""
        steps = 0.003 * np.random.default_rng(4).standard_normal((50, 64))
        left = []
        for row, logits in zip(ROWS[:40], LOGITS, strict=False):
            rows = (row + steps).astype(np.float32)
            tensor = np.repeat(softmax(logits)[None], 50, axis=0)
            found = np.log(shaped(rows, y=tensor, keep_best=False)["y"]).mean(axis=0)
            odds = (found - logits) - (found - logits)[0]
            left.append(odds[1:])
        assert np.std(left) > 0.6


class TestLabels:
    """What stands beside scores whose best class noise may change."""

    NAMES = tuple("abcdefghij")

    def noisy(self, labels, **how):
        tensors = {"p": softmax(LOGITS), "label": labels}
        found = shaped(noise=3.0, keep_best=False, **tensors, **how)
        changed = found["p"].argmax(1) != LOGITS.argmax(1)
        return found["p"].argmax(1), found["label"], changed

    @pytest.mark.parametrize("dtype", ["<i8", "<i4", "<u1", "<f4", "<f8"])
    @pytest.mark.parametrize("column", [False, True])
    def test_indices_follow(self, dtype, column):
        labels = LOGITS.argmax(1).astype(dtype)
        best, found, changed = self.noisy(labels[:, None] if column else labels)
        assert found.dtype == labels.dtype
        assert np.array_equal(found.ravel(), best)
        assert 0.1 < changed.mean() < 0.9

    def test_names_follow(self):
        labels = np.array([self.NAMES[i].encode() for i in LOGITS.argmax(1)], object)
        best, found, changed = self.noisy(labels, classes=self.NAMES)
        assert found.tolist() == [self.NAMES[i].encode() for i in best]
        assert changed.any()

    def test_numbers_that_name_classes_follow(self):
        labels = LOGITS.argmax(1) * 10 + 5
        best, found, changed = self.noisy(labels, classes=tuple(str(10 * i + 5) for i in range(10)))
        assert np.array_equal(found, best * 10 + 5)
        assert changed.any()

    def test_a_binary_label_beside_one_column(self):
        share = softmax(LOGITS[:, :2] / 4)[:, 1]
        label = (share > 0.5).astype(np.int64)
        found = shaped(p=share, label=label, keep_best=False, noise=2.0)
        assert np.array_equal(found["label"], found["p"] > 0.5)
        assert (found["label"] != label).any()

    @pytest.mark.parametrize(
        "labels",
        [
            LOGITS.argmax(1) + 100,  # none of the classes
            np.array([b"who knows"] * 400, object),
            LOGITS.argmin(1),  # not what the scores say
            LOGITS.argmin(1).astype("<f8") + 3000.0,
        ],
        ids=["others", "text", "worst", "floats"],
    )
    def test_a_row_whose_label_cannot_follow_keeps_its_verdict(self, labels):
        _, found, changed = self.noisy(labels)
        assert not changed.any()
        assert np.array_equal(found, labels)

    def test_names_that_the_datatype_cannot_hold(self):
        labels = LOGITS.argmax(1).astype("<u1")
        names = (*map(str, range(9)), "300")
        _, found, changed = self.noisy(labels, classes=names)
        assert not changed.any()
        assert np.array_equal(found, labels)

    def test_each_row_on_its_own(self):
        labels = LOGITS.argmax(1)
        labels[::2] += 100
        best, found, changed = self.noisy(labels)
        assert not changed[::2].any()
        assert np.array_equal(found[1::2], best[1::2])
        assert changed[1::2].any()

    @pytest.mark.parametrize("start", [0, 17, 399])
    @pytest.mark.parametrize("output", ["another", None])
    def test_scores_alone_may_change_theirs(self, start, output):
        rows, tensor = ROWS[start:], softmax(LOGITS[start:])
        kept = shaped(rows, y=tensor, noise=3.0)["y"]
        free = shaped(rows, y=tensor, noise=3.0, keep_best=False, output=output)["y"]
        assert np.array_equal(kept.argmax(1), tensor.argmax(1))
        same = free.argmax(1) == tensor.argmax(1)
        assert np.array_equal(free[same], kept[same])
        assert output is not None or start == 399 or not same.all()
        assert output is None or same.all()  # no scores that labels could hang on
