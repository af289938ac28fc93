"""Labels and answers in one order of classes, or a clear word."""

import numpy as np
import pytest

from detectors.agreement.base import Answers
from detectors.training.readers import DataError
from detectors.training.supervision import Supervision

THREE = Answers.of_probabilities(np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.2, 0.5, 0.3]]))


def words(*labels):
    return np.array(labels, dtype=np.str_)


def test_numbers_are_in_the_order_of_their_values():
    answers = Answers.of_probabilities(np.eye(3))
    truth = Supervision.of(answers, labels=words("10", "9", "-1"))
    assert truth.classes == ("-1", "9", "10")
    assert truth.labels.tolist() == [2, 1, 0]
    assert truth.source == "given"


def test_an_order_that_is_given():
    truth = Supervision.of(THREE, labels=words("b", "a", "c"), classes=("b", "c", "a"))
    assert truth.labels.tolist() == [0, 2, 1]
    assert truth.model_accuracy() == 1.0


def test_a_class_that_no_row_has():
    truth = Supervision.of(THREE, labels=words("x", "x", "z"), classes=("x", "y", "z"))
    assert truth.model_accuracy() == pytest.approx(1 / 3)


def test_without_labels_the_models_own_count():
    truth = Supervision.of(THREE)
    assert truth.classes == ("0", "1", "2")
    assert truth.labels.tolist() == [0, 2, 1]
    assert (truth.source, truth.model_accuracy()) == ("answers", None)
    alone = Supervision.of(Answers.of_labels([0, 0]))
    assert alone.classes == ("0", "1")


def test_values():
    said = Answers.of_values([[1.0, 2.0], [3.0, 5.0]])
    truth = Supervision.of(said)
    np.testing.assert_array_equal(truth.targets, said.values)
    assert (truth.classes, truth.labels, truth.model_accuracy()) == (None, None, None)
    truth = Supervision.of(said, targets=np.array([[1.0, 2.0], [3.0, 6.0]]))
    assert truth.model_accuracy() == pytest.approx(1 - 1 / 10)
    one = Supervision.of(Answers.of_values([1.0, 3.0]), targets=np.array([1.0, 3.0]))
    assert one.model_accuracy() == 1.0


def test_targets_without_spread():
    said = Answers.of_values([2.0, 2.0])
    assert Supervision.of(said, targets=np.array([2.0, 2.0])).model_accuracy() == 1.0
    assert Supervision.of(said, targets=np.array([3.0, 3.0])).model_accuracy() == 0.0


def test_parts():
    parts = Supervision.of(THREE, labels=words("a", "b", "c")).parts([1, 0, 2])
    assert [len(part.answers) for part in parts] == [1, 0, 2]
    assert parts[2].labels.tolist() == [1, 2]
    assert parts[2].answers.probabilities.tolist() == THREE.probabilities[1:].tolist()


VALUES = Answers.of_values([1.0, 2.0, 3.0])
REFUSED = {
    "too few labels": ({"labels": words("a", "b")}, "2 labels for 3 answers"),
    "a class too few": ({"labels": words("a", "b", "a")}, "name 2 classes, the answers have 3"),
    "a class too many": ({"classes": tuple("abcd")}, "4 classes are named, the answers have 3"),
    "a class twice": ({"classes": ("a", "b", "a")}, "named twice"),
    "a class without a name": ({"classes": ("a", "", "b")}, "by nothing"),
    "a label of no class": (
        {"labels": words("a", "b", "q"), "classes": tuple("abc")},
        "label 'q' is none of the classes a, b, c",
    ),
    "targets of a classifier": ({"targets": np.zeros(3)}, "targets are values"),
    "labels of a regression": ({"answers": VALUES, "labels": words(*"abc")}, "labels are classes"),
    "too few targets": ({"answers": VALUES, "targets": np.zeros(2)}, "targets of shape"),
    "targets of other width": ({"answers": VALUES, "targets": np.zeros((3, 2))}, "of shape"),
    "targets not finite": ({"answers": VALUES, "targets": np.full(3, np.nan)}, "not finite"),
    "targets too large": ({"answers": VALUES, "targets": np.full(3, 1e300)}, "beyond 1e\\+100"),
    "values too large": ({"answers": Answers.of_values([1.0, -1e300, 1.0])}, "beyond 1e\\+100"),
    "no answers": ({"answers": Answers()}, "neither classes nor values"),
    "labels beyond the classes": (
        {"answers": Answers.of_labels([0, 1, 5]), "labels": words(*"aba")},
        "name 2 classes, the answers tell 6",
    ),
    "one class": (
        {"answers": Answers.of_labels([0, 0, 0]), "labels": words(*"aaa")},
        "name 1 classes, the answers tell 2",
    ),
}


def test_every_refusal_is_listed():
    assert len(REFUSED) == 16


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    given, word = REFUSED[name]
    with pytest.raises(DataError, match=word):
        Supervision.of(**{"answers": THREE, **given})
