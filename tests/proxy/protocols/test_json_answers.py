"""Answers in JSON of any make, and how they are written after shaping."""

import json

import numpy as np
import orjson
import pytest

from proxy.protocols.json_answers import LABEL, SCORES, read_answer, write_answer
from proxy.rules import Refusal


def read(document, **how):
    tensors, form = read_answer(document, **how)
    return {name: tensor.tolist() for name, tensor in tensors.items()}, tensors, form


def text(tensors, form):
    return orjson.dumps(write_answer(tensors, form), option=orjson.OPT_SERIALIZE_NUMPY).decode()


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (7, {"predictions": [7]}),
        (0.5, {"predictions": [0.5]}),
        (True, {"predictions": [True]}),
        ("cat", {"predictions": [b"cat"]}),
        ([1, 2], {"predictions": [1, 2]}),
        ([0.1, 0.9], {"predictions": [0.1, 0.9]}),
        ([[0.1, 0.9], [0.5, 0.5]], {"predictions": [[0.1, 0.9], [0.5, 0.5]]}),
        ([], {"predictions": []}),
        ({"predictions": [[1.5], [2.5]]}, {"predictions": [[1.5], [2.5]]}),
        ({"predictions": [1, 2], "ms": 0.5}, {"predictions": [1, 2], "ms": [0.5]}),
        ({"class": "cat", "score": 0.5}, {"class": [b"cat"], "score": [0.5]}),
        (
            {"predictions": [{"score": 0.5, "label": "a"}, {"score": 0.25, "label": "b"}]},
            {"score": [0.5, 0.25], "label": [b"a", b"b"]},
        ),
        ([{"score": 0.5}, {"score": 0.25}], {"score": [0.5, 0.25]}),
    ],
)
def test_answers_are_written_as_they_were_read(document, expected):
    found, tensors, form = read(document)
    assert found == expected
    assert json.loads(text(tensors, form)) == document


@pytest.mark.parametrize(
    ("document", "label", "scores"),
    [
        ({"tabby": 0.5, "tiger": 0.25}, [b"tabby"], [[0.5, 0.25]]),
        ({"tiger": 0.5, "tabby": 0.25}, [b"tiger"], [[0.25, 0.5]]),
        ({"10": 0.5, "9": 0.25, "-1": 0.125}, [b"10"], [[0.125, 0.25, 0.5]]),
        ({"a": 1, "b": 0}, [b"a"], [[1, 0]]),
        ([{"b": 0.75, "a": 0.25}, {"a": 0.5, "b": 0.5}], [b"b", b"a"], [[0.25, 0.75], [0.5, 0.5]]),
        (
            {"predictions": [{"a": 0.5, "b": 0.25}, {"c": 0.75, "a": 0.125}]},
            [b"a", b"c"],
            [[0.5, 0.25], [0.75, 0.125]],
        ),
        # Not in the order of the scores: as the model has them.
        ({"a": 0.25, "b": 0.5}, [b"b"], [[0.25, 0.5]]),
    ],
)
def test_scores_by_name(document, label, scores):
    found, tensors, form = read(document, labelled=True)
    assert found == {LABEL: label, SCORES: scores}
    assert json.loads(text(tensors, form), object_pairs_hook=list) == json.loads(
        json.dumps(document), object_pairs_hook=list
    )
    assert not any(tensor.flags.writeable for tensor in tensors.values())


def test_a_ranking_of_equal_scores_tells_nothing():
    """Else the order would still tell what rounding took away."""
    written = []
    for document in ({"b": 0.41, "a": 0.39, "c": 0.2}, {"a": 0.41, "b": 0.39, "c": 0.2}):
        _, tensors, form = read(document, labelled=True)
        tensors[SCORES] = np.round(tensors[SCORES], 1)
        written.append(text(tensors, form))
    assert written[0] == written[1] == '{"a":0.4,"b":0.4,"c":0.2}'


def test_not_told_so_names_are_outputs():
    found, _, _ = read({"score": 0.5, "predicted_label": 1})
    assert found == {"score": [0.5], "predicted_label": [1]}


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize(
    "document",
    [
        None,
        [None],
        {},
        {"a": None},
        {"a": {"b": 1}},
        {"a": {"b": [1]}},
        [[1], [1, 2]],
        [1, "a"],
        {"a": [1, None]},
        [{"a": 1}, 2],
        [{"a": 1}, {"a": [1]}],
        [{"a": 1, "b": 2}, {"a": 1}],
        {"a": [{"b": 1}], "c": [1]},
        {"a\0b": [1]},
    ],
)
def test_what_is_no_answer(document, labelled):
    with pytest.raises(Refusal):
        read_answer(document, labelled=labelled)


def test_what_is_not_finite_is_never_written():
    for document in ([0.5], {"a": 0.5}):
        for labelled in (False, True):
            _, tensors, form = read(document, labelled=labelled)
            name = [*tensors][-1]
            tensors[name] = np.full_like(tensors[name], np.nan)
            with pytest.raises(ValueError, match="finite"):
                write_answer(tensors, form)
