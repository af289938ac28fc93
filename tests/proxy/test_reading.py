"""What a model server says, in the detectors' words: every form, and every way to be of no use."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocols.base import InferResponse
from proxy.reading import AnswerReader, MissingAnswer, UnreadableAnswer

THREE = ("cat", "dog", "eel")
DIGITS = ("0", "1", "2")
SCORES = np.array([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]])
LABELS = {"labels"}
BOTH = {"labels", "probabilities"}


def reader(classes=THREE, needs=LABELS, **how):
    return AnswerReader(classes, len(classes), frozenset(needs), **how)


def regression(outputs=1, **how):
    return AnswerReader(None, outputs, frozenset({"values"}), **how)


def response(**tensors):
    return InferResponse({name: np.asarray(tensor) for name, tensor in tensors.items()}, 1)


def texts(*items, shape=None):
    array = np.array([item.encode() for item in items], object)
    return array if shape is None else array.reshape(shape)


PROBABLE = {
    "doubles": SCORES,
    "floats": SCORES.astype(np.float32),
    "halves": SCORES.astype(np.float16),
    "a pixel each": SCORES.reshape(2, 3, 1, 1),
    "logits": np.log(SCORES) + 5,
}


@pytest.mark.parametrize("name", PROBABLE)
def test_scores_are_probabilities(name):
    answers = reader(needs=BOTH).read(response(y=PROBABLE[name]), 2)
    assert answers.probabilities == pytest.approx(SCORES, abs=1e-3)
    assert answers.labels.tolist() == [1, 0]


@pytest.mark.parametrize("decimals", [1, 2, 3])
def test_probabilities_of_few_decimals_are_no_logits(decimals):
    given = np.round(np.random.default_rng(decimals).dirichlet(np.ones(3), 50), decimals)
    given = given[given.sum(axis=1) > 0]
    answers = reader(needs=BOTH).read(response(y=given), len(given))
    assert answers.probabilities == pytest.approx(given / given.sum(axis=1, keepdims=True))


def test_logits_may_be_as_far_apart_as_doubles_are():
    answers = reader(needs=BOTH).read(response(y=[[1e308, -1e308, 0.0]]), 1)
    assert answers.probabilities.tolist() == [[1.0, 0.0, 0.0]]


def test_what_is_told_to_be_logits_or_probabilities_is():
    same = [[0.2, 0.3, 0.5]]
    told = reader(needs=BOTH, kind="logits").read(response(y=same), 1)
    assert told.probabilities == pytest.approx(np.exp(same) / np.exp(same).sum())
    with pytest.raises(UnreadableAnswer, match="do not sum to 1"):
        reader(kind="probabilities").read(response(y=[[0.2, 0.3, 0.9]]), 1)


LABELLED = {
    "names": (THREE, texts("dog", "cat")),
    "a column of names": (THREE, texts("dog", "cat", shape=(2, 1))),
    "places": (THREE, np.array([1, 0])),
    "a column of places": (THREE, np.array([[1], [0]], np.uint8)),
    "numbers that are names": (("7", "5"), np.array([5, 7], np.int32)),
    "floats": (DIGITS, np.array([1.0, 0.0])),
    "booleans": (("0", "1"), np.array([True, False])),
    "negative": (("-1", "1"), np.array([1, -1])),
}


@pytest.mark.parametrize("name", LABELLED)
def test_labels(name):
    classes, tensor = LABELLED[name]
    answers = reader(classes).read(response(y=tensor), 2)
    assert answers.labels.tolist() == [1, 0]
    assert answers.probabilities is None


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_one_score_of_a_binary_classifier_is_its_second_class(shape):
    chances = np.array([0.9, 0.2]).reshape(shape)
    answers = reader(("no", "yes"), needs=BOTH).read(response(y=chances), 2)
    assert answers.probabilities == pytest.approx(np.array([[0.1, 0.9], [0.8, 0.2]]))
    odds = np.log(chances / (1 - chances))
    told = reader(("no", "yes"), needs=BOTH, kind="logits").read(response(y=odds), 2)
    assert told.probabilities == pytest.approx(answers.probabilities)
    with pytest.raises(UnreadableAnswer, match="leave"):
        reader(("no", "yes")).read(response(y=odds), 2)


def test_the_columns_follow_the_configured_order():
    order = ("eel", "cat", "dog")
    one = reader(needs=BOTH, order=order)
    answers = one.read(response(y=[[0.1, 0.7, 0.2]]), 1)  # eel, cat, dog
    assert answers.probabilities == pytest.approx(np.array([[0.7, 0.2, 0.1]]))
    labels = reader(order=order)
    assert labels.read(response(y=np.array([0, 1, 2])), 3).labels.tolist() == [2, 0, 1]
    assert labels.read(response(y=texts("dog")), 1).labels.tolist() == [1]
    swapped = reader(("no", "yes"), needs=BOTH, order=("yes", "no"))
    assert swapped.read(response(y=np.array([0.9])), 1).probabilities == pytest.approx(
        np.array([[0.9, 0.1]])
    )


def test_scores_are_taken_before_labels_and_other_outputs():
    said = response(
        predict=np.array([2, 2]), predict_proba=SCORES, embedding=np.zeros((2, 9)), n=np.zeros(1)
    )
    answers = reader(needs=BOTH).read(said, 2)
    assert answers.labels.tolist() == [1, 0]
    assert reader(output="predict").read(said, 2).labels.tolist() == [2, 2]


def test_an_unbatched_model_answers_without_a_batch():
    answers = reader(needs=BOTH).read(response(y=SCORES[0]), 1)
    assert answers.probabilities == pytest.approx(SCORES[:1])


VALUES = {
    "flat": (np.array([1.5, -2]), 1),
    "a column": (np.array([[1.5], [-2]]), 1),
    "whole": (np.array([1, -2]), 1),
    "two": (np.array([[1.5, 2], [-2, 3]]), 2),
}


@pytest.mark.parametrize("name", VALUES)
def test_values(name):
    tensor, outputs = VALUES[name]
    answers = regression(outputs).read(response(y=tensor), 2)
    assert answers.values.tolist() == tensor.reshape(2, outputs).tolist()
    assert answers.labels is None


UNFIT = {
    "nothing": ({}, {}, "no output holds 2"),
    "of other rows": ({"y": SCORES[:1]}, {}, "no output holds 2"),
    "of other classes": ({"y": SCORES[:, :2]}, {}, "no output holds 2"),
    "of three dimensions": ({"y": np.zeros((2, 3, 2))}, {}, "no output holds 2"),
    "two that fit": ({"y": SCORES, "z": SCORES}, {}, "y, z"),
    "not the named": ({"z": SCORES}, {"output": "y"}, "no output 'y'"),
    "the named does not fit": ({"y": SCORES[:1]}, {"output": "y"}, "not 2 answers"),
    "NaN": ({"y": np.full((2, 3), np.nan)}, {}, "finite"),
    "infinite": ({"y": [[np.inf, 0, 0], [0, 0, 1.0]]}, {}, "finite"),
    "an unknown name": ({"y": texts("dog", "fox")}, {}, "no known class"),
    "an unknown place": ({"y": np.array([0, 3])}, {}, "none of 3 classes"),
    "a negative place": ({"y": np.array([0, -1])}, {}, "none of 3 classes"),
    "an unknown number": ({"y": np.array([0, 7])}, {"classes": DIGITS}, "no known class"),
    "half a label": ({"y": np.array([0.5, 1])}, {}, "whole"),
    "a huge label": ({"y": np.array([1e300, 1])}, {}, "whole"),
    "a label that wraps": (
        {"y": np.array([2**64 - 1, 1], np.uint64)},
        {"classes": ("-1", "1")},
        "no known class",
    ),
    "NaN for a label": ({"y": np.array([np.nan, 1])}, {}, "whole"),
    "Triton's rankings": ({"y": texts("0.9:1:dog", "0.5:0:cat")}, {}, "no known class"),
    "Triton's rankings of a number": (
        {"y": texts("7:0", "1:0", shape=(2, 1))},
        {"classes": DIGITS},
        "no known class",
    ),
    "Triton's two best": (
        {"y": texts("0.9:1:dog", "0.1:0:cat", "0.5:0:cat", "0.25:2:eel", shape=(2, 2))},
        {},
        "no output holds 2",
    ),
    "bytes that are no text": ({"y": np.array([b"\xff", b"dog"], object)}, {}, "no known class"),
    "labels where more is needed": ({"y": np.array([0, 1])}, {"needs": BOTH}, "no probabilities"),
    "scores where labels are told": ({"y": SCORES}, {"kind": "labels"}, "no output holds 2"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_is_of_no_use_says_why(name):
    tensors, how, why = UNFIT[name]
    one = reader(**how)
    for _ in range(2):  # what was seen before is no better
        with pytest.raises(UnreadableAnswer, match=why):
            one.read(response(**tensors), 2)


CHOSEN = {
    "all": ({"y", "label"}, {"y", "label"}, {}, True),
    "all, and they differ": ({"y", "other"}, {"y", "other"}, {}, True),
    "more than are declared": ({"y", "label", "z"}, {"y", "label"}, {}, True),
    "labels without the scores": ({"label"}, {"y", "label"}, {}, True),
    "scores without the labels": ({"y"}, {"y", "label"}, {}, True),
    "one of unknown": ({"y"}, set(), {}, True),
    "two that say the same": ({"y", "label"}, set(), {}, True),
    "two of three that say the same": ({"y", "label"}, {"y", "label", "z"}, {}, True),
    "two that do not": ({"y", "other"}, set(), {}, False),
    "two of three that do not": ({"y", "other"}, {"y", "other", "z"}, {}, False),
    "one that is no answer": ({"y", "z"}, set(), {}, False),
    "one that is of no class": ({"y", "strange"}, set(), {}, False),
    "one that is not finite": ({"label", "y", "endless"}, set(), {}, False),
    "one beside labels that is not finite": ({"label", "endless"}, set(), {}, False),
    "none that is an answer": ({"z"}, set(), {}, False),
    "the named": ({"y"}, {"y", "label"}, {"output": "y"}, True),
    "the named, of unknown": ({"y", "z"}, set(), {"output": "y"}, True),
    "not the named": ({"label"}, {"y", "label"}, {"output": "y"}, False),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_what_leaves_is_what_was_judged_whatever_the_client_wants_to_see(name):
    names, among, how, read = CHOSEN[name]
    tensors = {
        "y": SCORES,
        "label": np.array([1, 0]),
        "other": np.array([2, 2]),
        "strange": np.array([1, 9]),
        "z": np.zeros((2, 9)),
        "endless": np.full((2, 3), np.inf),
    }
    said = response(**{one: tensors[one] for one in sorted(names)})
    one = reader(**how)
    for _ in range(2):
        if read:
            assert one.read(said, 2, among).labels.tolist() == [1, 0]
        else:
            with pytest.raises(UnreadableAnswer):
                one.read(said, 2, among)


def test_of_several_values_one_must_be_named():
    said = response(y=np.zeros(2), z=np.zeros((2, 3)))
    assert regression().read(said, 2).values.tolist() == [[0], [0]]
    with pytest.raises(MissingAnswer):
        regression().read(said, 2, ())
    assert len(regression(output="y").read(said, 2, ())) == 2


def test_a_regression_has_values_only():
    with pytest.raises(UnreadableAnswer):
        regression().read(response(y=np.array([np.nan])), 1)
    with pytest.raises(UnreadableAnswer):
        regression().read(response(y=texts("1.5")), 1)


@pytest.mark.parametrize(
    "how",
    [
        {"order": ("cat", "dog")},
        {"order": ("cat", "dog", "fox")},
        {"order": ("cat", "cat", "dog")},
        {"kind": "values"},
    ],
)
def test_a_configuration_that_cannot_fit_is_refused(how):
    with pytest.raises(ValueError):
        reader(**how)


@pytest.mark.parametrize("how", [{"order": ("a",)}, {"kind": "labels"}])
def test_a_regression_has_no_classes(how):
    with pytest.raises(ValueError):
        regression(**how)


def test_a_choice_that_was_made_does_not_outlive_the_answers_make():
    one = reader()
    assert one.read(response(y=SCORES), 2).labels.tolist() == [1, 0]
    assert one.read(response(y=np.array([2, 2])), 2).labels.tolist() == [2, 2]
    with pytest.raises(UnreadableAnswer):
        one.read(response(y=SCORES), 3)
    for n in range(1, 200):
        assert len(one.read(response(y=np.zeros(n, np.int64)), n)) == n


@given(
    st.sampled_from(["<f2", "<f4", "<f8", "<i1", "<u8", "?", "O"]),
    st.lists(st.integers(0, 4), max_size=4),
    st.binary(min_size=64, max_size=64),
    st.sampled_from(["auto", "probabilities", "logits", "labels"]),
)
def test_whatever_comes_is_read_or_refused(dtype, shape, data, kind):
    size = int(np.prod(shape, dtype=int))
    if dtype == "O":
        flat = np.array([data[i : i + 3] for i in range(size)] + [b""], object)[:size]
    elif dtype == "?":
        flat = np.array([bool(data[i % 64] & 1) for i in range(size)])
    else:
        flat = np.frombuffer(data * (1 + 8 * size // 64), dtype)[:size]
    try:
        answers = reader(kind=kind).read(response(y=flat.reshape(shape)), 2)
    except UnreadableAnswer:
        return
    assert len(answers) == 2
    assert ((answers.labels >= 0) & (answers.labels < 3)).all()
    if answers.probabilities is not None:
        assert np.isfinite(answers.probabilities).all()
