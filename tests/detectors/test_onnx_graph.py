"""What an ONNX model may hold is checked before anything loads it."""

import numpy as np
import onnx_models as build
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.onnx_graph import MODEL_CAP, check_graph

WEIGHTS = np.ones((3, 2), np.float32)
GOOD = build.dense(WEIGHTS, np.zeros(2))
IN, OUT = [build.value("x", ["n", 3])], [build.value("y", ["n", 2])]
GRAPH = build.block(1, build.node("Relu", ["x"], ["y"]))


def _with(*nodes, tensors=(), extra=b""):
    return build.model(nodes, IN, OUT, tensors, extra=extra)


def _attribute(field):
    """A node with a graph as an attribute: a branch or a loop."""
    inside = build.block(1, "body") + build.block(field, GRAPH)
    return build.node("If", ["x"], ["y"], extra=build.block(5, inside))


EXTERNAL = build.block(13, build.block(1, "location") + build.block(2, "/etc/passwd"))
REFUSED = {
    "empty": (b"", "empty"),
    "too large": (b"\0" * (MODEL_CAP + 1), "larger than"),
    "no protocol buffer": (b"\x80\x04not a model", "none|not an ONNX"),
    "a group, which is no wire type of ONNX": (b"\x0b", "not an ONNX"),
    "cut short": (GOOD[:-5], "cut short"),
    "an endless number": (b"\xff" * 20, "not an ONNX"),
    "no operator": (build.model([], IN, OUT), "no operator"),
    "an operator of another domain": (
        _with(build.node("Anything", ["x"], ["y"], domain="com.example")),
        "com.example.Anything",
    ),
    "too many operators": (
        _with(*[build.node("Relu", ["x"], ["y"])] * 10_001),
        "more than 10000 operators",
    ),
    "chance": (_with(build.node("RandomNormalLike", ["x"], ["y"])), "RandomNormalLike"),
    "a branch": (_with(_attribute(6)), "branch"),
    "branches": (_with(_attribute(11)), "branch"),
    "weights in a file": (
        _with(build.node("Relu", ["x"], ["y"]), tensors=[build.tensor("w", WEIGHTS, EXTERNAL)]),
        "other files",
    ),
    "weights said to be elsewhere": (
        _with(
            build.node("Relu", ["x"], ["y"]),
            tensors=[build.tensor("w", WEIGHTS, build.number(14, 1))],
        ),
        "other files",
    ),
    "a constant in a file": (
        _with(
            build.node(
                "Constant",
                [],
                ["y"],
                extra=build.block(5, build.block(5, build.tensor("c", WEIGHTS, EXTERNAL))),
            )
        ),
        "other files",
    ),
    "a sparse weight in a file": (
        build.model([build.node("Relu", ["x"], ["y"])], IN, OUT)
        + build.block(7, build.block(15, build.block(1, build.tensor("w", WEIGHTS, EXTERNAL)))),
        "other files",
    ),
    "chance inside a function": (
        _with(
            build.node("Relu", ["x"], ["y"]),
            extra=build.block(25, build.block(7, build.node("Bernoulli", ["x"], ["y"]))),
        ),
        "Bernoulli",
    ),
}


def test_good_models():
    check_graph(GOOD)
    check_graph(build.convolution(np.ones((2, 1, 3, 3)), 5, 5))


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    data, words = REFUSED[case]
    with pytest.raises(ValueError, match=words):
        check_graph(data)


def test_how_many_were_refused():
    assert len(REFUSED) == 17


@given(st.binary(max_size=300))
def test_any_bytes(data):
    try:
        check_graph(data)
    except ValueError:
        return


@given(st.data())
def test_a_changed_model(data):
    place = data.draw(st.integers(0, len(GOOD) - 1))
    changed = bytearray(GOOD)
    changed[place] = data.draw(st.integers(0, 255))
    try:
        check_graph(bytes(changed))
    except ValueError:
        return
