"""Contracts of data frames: how they are declared, read, encoded and asked about again."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.protocols.columns import (
    check_features,
    columns_contract,
    feature_names,
    numbers_contract,
)
from proxy.protocols.contract import ContractError
from proxy.protocols.frames import column_values, read_cells, read_column, read_frame
from proxy.protocols.number_frames import NumberFrames
from proxy.protocols.rows import MISSING, other_rows, scored_rows
from proxy.protocols.v2 import V2
from proxy.rules import DATATYPE, SHAPE, TENSOR_NAME, VALUE, Refusal

COLUMNS = [
    {"name": "age", "type": "integer", "min": 0, "max": 120},
    {"name": "income", "missing": -1.5},
    {"name": "member", "type": "boolean", "missing": False},
    {
        "name": "colour",
        "type": "category",
        "values": ["red", "green", "blue"],
        "encoding": "one_hot",
        "missing": "blue",
    },
    {"name": "size", "type": "category", "values": [40, 30, 50]},
    {"name": "note", "type": "string", "optional": True},
]
FRAME = columns_contract(COLUMNS)
ROWS = {
    "note": ["a", "b"],
    "size": [30, 50],
    "colour": ["green", None],
    "member": [True, None],
    "income": [2, None],
    "age": [7, 120],
}


def refused(call, *arguments, **options):
    with pytest.raises(Refusal) as refusal:
        call(*arguments, **options)
    return refusal.value


def test_what_a_frame_is_scored_as():
    request = read_frame(FRAME, ROWS, 2)
    assert list(request.tensors) == ["age", "income", "member", "colour", "size", "note"]
    # age, income, member, three colours, the place of the size; no note.
    assert request.rows.tolist() == [[7, 2, 1, 0, 1, 0, 1], [120, -1.5, 0, 0, 0, 1, 2]]
    assert request.rows.dtype == np.float32
    assert FRAME.width == 7
    assert feature_names(FRAME) == (
        *("age", "income", "member"),
        *("colour=red", "colour=green", "colour=blue"),
        "size",
    )
    written = {
        name: column_values(tensor, request.options[MISSING].get(name))
        for name, tensor in request.tensors.items()
    }
    assert written == ROWS
    assert type(written["income"][0]) is float, "beside a missing element pandas has floats"


def test_a_column_that_may_be_left_out():
    contract = columns_contract(
        [
            {"name": "a"},
            {"name": "b", "optional": True, "missing": 4},
            {"name": "c", "type": "category", "values": ["x", "y"], "optional": True,
             "missing": "y"},
            {"name": "d", "type": "string", "optional": True},
        ]
    )  # fmt: skip
    request = read_frame(contract, {"a": [1, 2]}, 2)
    assert list(request.tensors) == ["a"]
    assert request.rows.tolist() == [[1, 4, 1], [2, 4, 1]]
    assert not request.options
    assert refused(read_frame, contract, {"b": [1]}, 1).rule is TENSOR_NAME


@pytest.mark.parametrize(
    ("column", "values", "rule", "words"),
    [
        ("age", [7.0, 8], VALUE, "age has an element that is not an integer"),
        ("age", [7, 121], VALUE, "age must lie in [0, 120]"),
        ("age", [-1, 8], VALUE, "age must lie in [0, 120]"),
        ("age", [None, 8], VALUE, "age has an element that is missing"),
        ("age", [True, 8], VALUE, "age has an element that is not an integer"),
        ("age", ["7", 8], VALUE, "age has an element that is not an integer"),
        ("income", ["7", 8], VALUE, "income has an element that is not a number"),
        ("income", [[7], 8], VALUE, "income has an element that is not a number"),
        ("income", [{}, 8], VALUE, "income has an element that is not a number"),
        ("income", [True, 8], VALUE, "income has an element that is not a number"),
        ("income", [2**63, 8], VALUE, "income has an element that is not a number"),
        ("income", [1e39, 8.0], VALUE, "income has an element beyond the range of FP32"),
        ("member", [1, 0], VALUE, "member has an element that is not true or false"),
        ("colour", ["pink", "red"], VALUE, "colour has a category that is not declared"),
        ("colour", ["", "red"], VALUE, "colour has a category that is not declared"),
        ("colour", [1, "red"], VALUE, "colour has an element that is not a string"),
        ("size", [31, 30], VALUE, "size has a category that is not declared"),
        ("size", ["30", 30], VALUE, "size has an element that is not an integer"),
        ("size", [30.0, 30], VALUE, "size has an element that is not an integer"),
        ("note", [None, "a"], VALUE, "note has an element that is missing"),
        ("note", [1, "a"], VALUE, "note has an element that is not a string"),
        ("notes", ["a", "b"], TENSOR_NAME, "the column 'notes' is not one of the model's"),
    ],
)
def test_each_refusal_names_its_column(column, values, rule, words):
    refusal = refused(read_frame, FRAME, ROWS | {column: values}, 2)
    assert (refusal.rule, refusal.detail) == (rule, words)


@pytest.mark.parametrize("column", [column["name"] for column in COLUMNS[:-1]])
def test_a_column_that_is_missing(column):
    rest = {name: values for name, values in ROWS.items() if name != column}
    refusal = refused(read_frame, FRAME, rest, 2)
    assert refusal.rule is TENSOR_NAME
    assert column in refusal.detail


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([], "no columns"),
        ([{}], "no name"),
        ([{"name": ""}], "no name"),
        ([{"name": "a"}, {"name": "a"}], "declared twice"),
        ([{"name": "a", "kind": "number"}], "unknown key 'kind'"),
        ([{"name": "a", "type": "float"}], "not one of"),
        ([{"name": "a", "type": []}], "not one of"),
        ([{"name": "a", "type": "category"}], "values"),
        ([{"name": "a", "type": "category", "values": []}], "values"),
        ([{"name": "a", "type": "category", "values": ["x", 1]}], "neither"),
        ([{"name": "a", "type": "category", "values": [True, False]}], "neither"),
        ([{"name": "a", "type": "category", "values": ["x", "x"]}], "twice"),
        ([{"name": "a", "type": "category", "values": [2**63]}], "64 bits"),
        ([{"name": "a", "type": "category", "values": ["\ud800"]}], "not text"),
        ([{"name": "a", "type": "category", "values": ["x"], "encoding": "hash"}], "encoding"),
        ([{"name": "a", "type": "category", "values": ["x"], "missing": "y"}], "among"),
        ([{"name": "a", "type": "category", "values": ["x"], "min": 1}], "has no min"),
        ([{"name": "a", "values": ["x"]}], "only a category"),
        ([{"name": "a", "encoding": "ordinal"}], "only a category"),
        ([{"name": "a", "min": 2, "max": 1}], "empty"),
        ([{"name": "a", "min": float("nan")}], "finite"),
        ([{"name": "a", "min": True}], "finite"),
        ([{"name": "a", "missing": float("nan")}], "too large"),
        ([{"name": "a", "missing": "x"}], "not a number"),
        ([{"name": "a", "missing": True}], "not a number"),
        ([{"name": "a", "type": "integer", "missing": 1.5}], "not a integer"),
        ([{"name": "a", "type": "boolean", "missing": 1}], "not a boolean"),
        ([{"name": "a", "type": "boolean", "max": 1}], "has no max"),
        ([{"name": "a", "optional": True}], "optional needs missing"),
        ([{"name": "a", "optional": 1}], "neither true nor false"),
    ],
)
def test_a_declaration_without_sense(columns, words):
    with pytest.raises(ContractError, match=words):
        columns_contract(columns)


def test_columns_and_bundle_agree_or_the_difference_is_named():
    assert columns_contract(COLUMNS, width=7, names=feature_names(FRAME)) == FRAME
    with pytest.raises(ContractError, match="7 features per row, not 6"):
        columns_contract(COLUMNS, width=6)
    with pytest.raises(ContractError, match="feature 1 of the columns is 'b', that of the bundle"):
        check_features(numbers_contract("ab"), ["a", "c"])
    with pytest.raises(ContractError, match="2 features, the bundle was fitted with 3"):
        columns_contract([{"name": "a"}, {"name": "b"}], names=["a", "b", "c"])
    with pytest.raises(ContractError, match="no features"):
        columns_contract([{"name": "a", "type": "string"}], width=1)
    words = columns_contract([{"name": "a", "type": "string"}])
    assert read_frame(words, {"a": ["x"]}, 1).rows.shape == (1, 0)


def test_contracts_are_equal_if_the_same_requests_satisfy_them():
    assert columns_contract(COLUMNS) == FRAME
    other = [dict(column) for column in COLUMNS]
    other[3]["values"] = ["green", "red", "blue"]
    assert columns_contract(other) != FRAME


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "-0", "7"], [1, 0, 7]),
        (["1", "2.5"], [1.0, 2.5]),
        (["1e3", "-1E-2", "0.1"], [1000.0, -0.01, 0.1]),
        (["123456789012345678"], [123456789012345678]),
        (["123456789012345678901"], [123456789012345678901.0]),
    ],
)
def test_cells_of_numbers(cells, values):
    tensor, mask = read_cells("a", cells)
    assert mask is None
    assert tensor.tolist() == values
    assert list(map(type, tensor.tolist())) == list(map(type, values))


@pytest.mark.parametrize(
    "cell",
    ["+1", "1.", ".5", "01", "1_0", "0x1", "nan", "inf", "-Infinity", " 1", "1 ", "1,0", "१", "e5",
     "1e", "--1", "true", "", "9" * 401, "1e999", "[1]", "null", "1,2", "12345678901234567890"],
)  # fmt: skip
def test_a_cell_is_a_json_number_or_refused(cell):
    assert refused(read_cells, "a", ["1", cell]).rule is VALUE


def test_an_empty_cell_is_missing():
    note = columns_contract([{"name": "a", "type": "string", "missing": ""}]).inputs[0]
    tensor, mask = read_cells("a", ["x", "", "NA"], note)
    assert column_values(tensor, mask) == ["x", None, "NA"]
    number = FRAME.inputs[1]
    tensor, mask = read_cells("income", ["", "3"], number)
    assert tensor.tolist() == [-1.5, 3.0]
    assert mask.tolist() == [True, False]


def test_an_open_column_is_what_its_values_are():
    for values, dtype in (
        ([1, 2], "<i8"),
        ([1, 2.0], "<f8"),
        ([True], "?"),
        (["x"], object),
    ):
        tensor, mask = read_column("a", values)
        assert (tensor.dtype, mask) == (np.dtype(dtype), None)
    for values in ([1, "x"], [True, 1.5], [None], [[1]], [{}]):
        assert refused(read_column, "a", values).rule in (VALUE, DATATYPE)


def test_other_rows_change_numbers_alone():
    request = read_frame(FRAME, ROWS, 2)
    rows = np.array([[130.4, 0.5, 0.7, 1, 0, 0, 0]] * 3, np.float32)
    asked = other_rows(FRAME, request, rows, np.array([1, 0, 1]), 10)
    assert asked.n == 3
    assert asked.rows is rows
    written = {
        name: column_values(tensor, asked.options[MISSING].get(name))
        for name, tensor in asked.tensors.items()
    }
    assert written == {
        "age": [120, 120, 120],  # to the edge of its range
        "income": [None, 0.5, None],
        "member": [None, True, None],
        "colour": [None, "green", None],
        "size": [50, 30, 50],
        "note": ["b", "a", "b"],
    }


def test_numbers_that_came_whole_are_asked_about_with_fractions():
    contract = columns_contract([{"name": "a"}])
    request = read_frame(contract, {"a": [1]}, 1)
    asked = other_rows(contract, request, np.array([[1.5]], np.float32), np.array([0]), 1)
    assert asked.tensors["a"].tolist() == [1.5]


def test_without_a_contract_rows_are_joined_as_they_are():
    tensors = {"a": np.array([1.0, 2.0], "<f4"), "b": np.array([3, 4])}
    assert scored_rows(tensors, 2).tolist() == [[1, 3], [2, 4]]


PLAIN = columns_contract(
    [
        {"name": "a", "min": -50},
        {"name": "b", "type": "integer", "max": 50},
        {"name": "c", "missing": 0},
    ]
)
NUMBER = st.one_of(st.integers(-45, 45), st.floats(-45, 45))
ODD = st.one_of(
    st.integers(-60, 60),
    st.sampled_from([2**53, 2**53 + 1, -(2**60), 2**63, 10**400, 1e39, 1e308, True, None, "1"]),
    st.lists(st.integers(), max_size=1),
)


def three(element):
    return st.lists(element, min_size=3, max_size=3)


class TestNumberFrames:
    @settings(max_examples=300)
    @given(
        st.permutations("abc"),
        st.lists(
            st.one_of(three(st.integers(-45, 45)), three(NUMBER), three(NUMBER | ODD)),
            min_size=1,
            max_size=3,
        ),
    )
    def test_what_it_reads_is_what_the_slow_way_reads(self, names, rows):
        found = NumberFrames(PLAIN, 8).read(names, rows)
        if found is None:
            return
        columns = dict(zip(names, zip(*rows, strict=True), strict=True))
        request = read_frame(PLAIN, columns, len(rows))
        tensors, scored = found
        assert list(tensors) == list(request.tensors)
        for name, tensor in tensors.items():
            assert tensor.dtype == request.tensors[name].dtype
            assert tensor.tobytes() == request.tensors[name].tobytes()
        assert scored.tobytes() == request.rows.tobytes()
        assert scored.flags.c_contiguous

    def test_how_often_it_reads(self):
        read = NumberFrames(PLAIN, 2).read
        names = ["a", "b", "c"]
        assert read(names, [[1.5, 2, 3.5]]) is not None
        assert read(["c", "b", "a"], [[1.5, 2, 3.5], [1, 2, 3]]) is not None
        left = [
            (names, [[1.5, 2.5, 3.5]]),
            (names, [[-50.5, 2, 3]]),
            (names, [[1, 51, 3]]),
            (names, [[1, 2, None]]),
            (names, [[1, 2, True]]),
            (names, [[1, 2, "3"]]),
            (names, [[1, 2, 2**53]]),
            (names, [[1, 2, 10**400]]),
            (names, [[1, 2, 1e39]]),
            (names, [[1, 2]]),
            (names, [[1, 2, 3]] * 3),
            (names, []),
            (names, None),
            (names, [1, 2, 3]),
            (["a", "b", "d"], [[1, 2, 3]]),
            (["a", "b", "a"], [[1, 2, 3]]),
            (["a", "b"], [[1, 2, 3]]),
            (["a", "b", []], [[1, 2, 3]]),
        ]
        assert [read(*one) for one in left] == [None] * 18
        assert NumberFrames(FRAME, 2).read(list(ROWS), [[1] * 6]) is None


def test_tensors_of_v2_under_a_contract_of_columns():
    """An endpoint of several protocols has one contract: what its columns are holds for each."""
    contract = columns_contract(
        [
            {"name": "colour", "type": "category", "values": ["red", "green"],
             "encoding": "one_hot"},
            {"name": "size"},
            {"name": "age", "optional": True, "missing": 3, "max": 9},
        ]
    )  # fmt: skip
    codec = V2("/v2/models/m", contract)
    route = codec.route("POST", "/v2/models/m/infer")

    def read(colours):
        tensors = [
            {"name": "size", "shape": [2], "datatype": "FP64", "data": [1, 2.5]},
            {"name": "colour", "shape": [2], "datatype": "BYTES", "data": colours},
        ]
        return codec.decode_request({}, json.dumps({"inputs": tensors}).encode(), route)

    request = read(["green", "red"])
    assert request.rows.tolist() == [[0, 1, 1, 3], [1, 0, 2.5, 3]]
    _, body = codec.encode_request(request)
    assert [item["name"] for item in json.loads(body)["inputs"]] == ["colour", "size"]
    assert refused(read, ["green", "blue"]).detail == "colour has a category that is not declared"
    alone = columns_contract([{"name": "c", "type": "category", "values": ["x", "y"]}])
    body = b'{"inputs":[{"name":"c","shape":[1],"datatype":"BYTES","data":["y"]}]}'
    assert V2("/v2/models/m", alone).decode_request({}, body, route).rows.tolist() == [[1]]


def test_a_frame_of_another_width():
    contract = numbers_contract("ab")
    assert read_frame(contract, {"b": [1], "a": [2]}, 1).rows.tolist() == [[2, 1]]
    open_one = type(contract)(width=3)
    assert refused(read_frame, open_one, {"a": [1], "b": [2]}, 1).rule is SHAPE
