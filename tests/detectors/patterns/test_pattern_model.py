"""The fitted model: it comes back from its parts, and refuses parts that are anything else."""

import numpy as np
import pytest
from pattern_subjects import honest, model, send, tracker

from detectors.patterns.model import PatternModel
from detectors.patterns.tracker import PatternTracker


def test_it_comes_back_from_its_parts():
    parameters, arrays = model().parts()
    again = PatternModel.of_parts(parameters, {k: v.copy() for k, v in arrays.items()})
    rows = honest(3)[0][:80]
    levels = []
    for one in (model(), again):
        watch = PatternTracker(one, clients=2, engine="numpy")
        send(watch, "a", rows)
        levels.append(watch.standing("a"))
    assert levels[0] == levels[1]
    assert all(type(value) in {int, float, str} for value in parameters.values())
    assert {array.dtype.str for array in arrays.values()} <= {"<f8", "<f4", "<i4", "<u8"}


def test_no_array_can_be_written_to():
    _, arrays = model().parts()
    for array in (*arrays.values(), model().bets):
        with pytest.raises(ValueError):
            array.setflags(write=True)


def changed(name, value, at=0):
    def change(parameters, arrays):
        array = arrays[name].copy()
        array.flat[at] = value
        arrays[name] = array

    return change


def replaced(name, make):
    def change(parameters, arrays):
        arrays[name] = make(arrays[name])

    return change


def number(name, value):
    def change(parameters, arrays):
        parameters[name] = value

    return change


BROKEN = {
    "missing array": lambda p, a: a.pop("basis"),
    "missing parameter": lambda p, a: p.pop("rest"),
    "unknown array": lambda p, a: a.update(more=np.zeros(1)),
    "unknown parameter": lambda p, a: p.update(more=1),
    "not an array": lambda p, a: a.update(mass=[1.0]),
    "nan": changed("knots", np.nan),
    "infinite": changed("basis", np.inf),
    "dtype": replaced("centroids", lambda x: x.astype(np.float32)),
    "shape": replaced("centre", lambda x: x[:-1].copy()),
    "dimensions": replaced("sketch", lambda x: x.ravel()),
    "sketch width": replaced("sketch", lambda x: x[:, :31].copy()),
    "order repeats": changed("order", 1, 0),
    "order outside": changed("order", 99),
    "starts outside": changed("starts", 99, -1),
    "starts not at 0": changed("starts", 1),
    "even key": changed("keys", 2),
    "negative weight": changed("weights", -1.0),
    "inexact block weight": changed("block_weights", 0.1),
    "no scale": changed("scales", 0.0),
    "mass": changed("mass", 0.9),
    "cells outside": changed("cell_starts", 10_000, -1),
    "p-value above 1": changed("tails", 1.5),
    "p-value 0": changed("tails", 0.0, -1),
    "knots fall": changed("knots", 1e301, 0),
    "shared too large": number("shared", 10**6),
    "shared a float": number("shared", 64.0),
    "rows 0": number("rows", 0),
    "rest negative": number("rest", -1.0),
    "norm nan": number("norm", float("nan")),
    "outlier 2": number("has_outlier", 2),
    "outlier a bool": number("has_outlier", True),
}


@pytest.mark.parametrize("case", BROKEN)
def test_anything_else_is_refused(case):
    parameters, arrays = model().parts()
    BROKEN[case](parameters, arrays)
    with pytest.raises(ValueError):
        PatternModel.of_parts(parameters, arrays)


def test_every_part_was_broken_somehow():
    assert len(BROKEN) == 31


def test_a_row_of_another_width_is_refused():
    with pytest.raises(ValueError, match="features"):
        tracker().observe("a", "", np.zeros((1, 3), dtype=np.float32), None, 0.0)
