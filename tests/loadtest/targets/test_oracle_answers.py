"""Answers as a client reads them."""

import numpy as np
import pytest

from loadtest.targets.answers import Reader, Unreadable
from proxy.protocols.base import InferResponse
from proxy.settings.answers import Answer


def read(tensors, count=0, **answer):
    reader = Reader(Answer(**answer), count)
    scores, label = reader.read(InferResponse(tensors, 1))
    return reader, scores, label


def test_probabilities_stay_as_they_are():
    for row in ([0.2, 0.5, 0.3], [0.3, 0.3, 0.3], [1.0, 0.0, 0.0]):
        _, scores, label = read({"p": np.array([row])})
        assert scores.tolist() == row
        assert label == int(np.argmax(row))


def test_logits_become_a_softmax_for_good():
    reader = Reader(Answer())
    scores, label = reader.read(InferResponse({"p": np.array([[-3.0, 2.0, 900.0]])}, 1))
    assert label == 2
    assert scores.sum() == pytest.approx(1)
    again, _ = reader.read(InferResponse({"p": np.array([[0.2, 0.5, 0.3]])}, 1))
    assert again.tolist() != [0.2, 0.5, 0.3]


def test_scores_tell_more_than_labels():
    tensors = {"label": np.array([2]), "p": np.array([[0.7, 0.3]], np.float32)}
    _, scores, label = read(tensors)
    assert label == 0
    assert scores.size == 2
    assert read(tensors, 3, output="label")[2] == 2


def test_labels_that_do_not_show_all_classes_mislead_nobody():
    reader, scores, _ = read({"p": np.array([[0.2, 0.3, 0.5]])}, 2)
    assert (reader.classes, scores.size) == (3, 3)
    tensors = {"features": np.zeros((1, 5)), "p": np.array([[0.2, 0.3, 0.5]])}
    assert read(tensors, 3)[1].size == 3


def test_labels_by_place_and_by_name():
    assert read({"y": np.array([1])}, 3)[1].tolist() == [0, 1, 0]
    assert read({"y": np.array([2.0], np.float32)}, 3)[2] == 2
    named = {"classes": ("cat", "dog")}
    assert read({"y": np.array([b"dog"], object)}, **named)[2] == 1
    assert read({"y": np.array([1])}, **named)[2] == 1


def test_a_chance_of_the_second_class():
    assert read({"p": np.array([[0.8]])}, 2)[1].tolist() == pytest.approx([0.2, 0.8])
    assert read({"p": np.array([[-2.0]])}, 2, kind="logits")[2] == 0


def test_values_have_no_label():
    reader, scores, label = read({"y": np.array([[3.5]])})
    assert (label, scores.tolist(), reader.classes) == (-1, [3.5], 0)
    assert read({"y": np.array([[1, 2]])}, kind="values")[2] == -1


@pytest.mark.parametrize(
    ("tensors", "classes", "answer"),
    [
        ({}, 3, {}),
        ({"p": np.array([[np.nan, 1.0]])}, 2, {}),
        ({"p": np.array([[np.inf]])}, 0, {}),
        ({"y": np.array([5])}, 3, {}),
        ({"y": np.array([-1])}, 3, {}),
        ({"y": np.array([1])}, 0, {}),
        ({"y": np.array([0.5])}, 3, {}),
        ({"y": np.array([b"bird"], object)}, 0, {"classes": ("cat", "dog")}),
        ({"p": np.array([[0.5, 0.5]])}, 2, {"output": "other"}),
        ({"p": np.array([[0.2, 0.3, 0.5]])}, 0, {"classes": ("cat", "dog")}),
        ({"p": np.zeros((1, 0))}, 0, {}),
    ],
)
def test_what_says_nothing_is_told_in_words(tensors, classes, answer):
    with pytest.raises(Unreadable, match=r"\w"):
        read(tensors, classes, **answer)
