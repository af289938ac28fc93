"""JSON lists as tensors, and back."""

import json

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocols.contract import Contract, TensorSpec
from proxy.protocols.nested import (
    from_flat,
    from_nested,
    json_bounds,
    json_cheap,
    may_hold_booleans,
    to_nested,
    to_nested_finite,
    unnest,
)
from proxy.protocols.strict_json import check_bounds
from proxy.rules import SHAPE, VALUE, Refusal


def deep(depth, inner):
    for _ in range(depth):
        inner = [inner]
    return inner


def refused(value, spec=None, **told):
    with pytest.raises(Refusal) as refusal:
        from_nested("x", value, spec, **told)
    return refusal.value.rule


INFERRED = [
    ([1, 2], "<i8"),
    ([1, 2.0], "<f8"),
    ([1.0, 2], "<f8"),
    ([[1], [2.5]], "<f8"),
    ([True, False], "?"),
    (["a", ""], object),
    ([2**63 - 1, -(2**63)], "<i8"),
]


@pytest.mark.parametrize("booleans", [True, False])
@pytest.mark.parametrize(("value", "dtype"), INFERRED)
def test_what_is_written_says_what_it_is(value, dtype, booleans):
    if not booleans and dtype == "?":
        booleans = True
    tensor = from_nested("x", value, booleans=booleans)
    assert tensor.dtype == dtype
    assert not tensor.flags.writeable
    flat = [item.encode() if isinstance(item, str) else item for item in unnest("x", value)[0]]
    assert tensor.reshape(-1).tolist() == flat


MIXED = [
    ([1, True], VALUE),
    ([True, 1], VALUE),
    ([1.5, True], VALUE),
    ([True, 1.5], VALUE),
    ([1, "1"], VALUE),
    (["1", 1], VALUE),
    ([1, None], VALUE),
    ([None], VALUE),
    ([None, 1.0], VALUE),
    ([{}], VALUE),
    ([1, {}], VALUE),
    ([2**63], VALUE),
    ([1, 1.5, 2**64], None),
    ([[1], 2], SHAPE),
    ([1, [2]], SHAPE),
    ([1.5, [2]], SHAPE),
    ([[1], [2, 3]], SHAPE),
    ([[1], []], SHAPE),
    ([[], []], SHAPE),
    ([[[1]], [2]], SHAPE),
    ([], SHAPE),
    (1, SHAPE),
    (None, SHAPE),
    ("ab", SHAPE),
    ({"a": 1}, SHAPE),
    (deep(17, 1), SHAPE),
    (deep(1000, 1), SHAPE),
]


def test_what_is_no_tensor_is_refused():
    ran = 0
    for value, rule in MIXED:
        if rule is None:
            assert from_nested("x", value).dtype == "<f8"
        else:
            assert refused(value) is rule, value
        ran += 1
    assert ran == len(MIXED) == 27


def test_the_deepest_nesting():
    assert from_nested("x", deep(16, 1)).shape == (1,) * 16


@pytest.mark.parametrize("value", [[], [[], []], [[[]]]])
def test_answers_may_be_empty(value):
    tensor = from_nested("x", value, smallest=0)
    assert tensor.size == 0
    assert orjson.dumps(to_nested(tensor), option=orjson.OPT_SERIALIZE_NUMPY) == orjson.dumps(value)


SPEC = TensorSpec("x", "FP32", (-1, 2), minimum=0, maximum=10)
HELD = [
    ([[1, 2]], None),
    ([[1, 2], [3.5, 4]], None),
    ([[1, 2, 3]], SHAPE),
    ([1, 2], SHAPE),
    ([[[1, 2]]], SHAPE),
    ([[1, True]], VALUE),
    ([[1, "2"]], VALUE),
    ([[1, 11]], VALUE),
    ([[1, -0.5]], VALUE),
    ([[1, 1e39]], VALUE),
]


def test_a_spec_is_held():
    ran = 0
    for value, rule in HELD:
        if rule is None:
            assert from_nested("x", value, SPEC).dtype == "<f4"
        else:
            assert refused(value, SPEC) is rule, value
        ran += 1
    assert ran == 10


def test_integers_are_those_of_the_spec():
    spec = TensorSpec("x", "UINT64", (-1,))
    assert from_nested("x", [2**64 - 1], spec).tolist() == [2**64 - 1]
    assert refused([1.0], spec) is VALUE
    assert refused([-1], spec) is VALUE


def test_where_no_boolean_can_be_none_is_found():
    texts = [b"[1,2.5e3,-1E-2]", b'{"instances":[[1.5,2]]}']
    assert not any(map(may_hold_booleans, texts))
    assert all(map(may_hold_booleans, [b"[true]", b"[false]", b'{"a":[1,true]}']))
    assert may_hold_booleans(b'{"values":[1]}')
    assert not may_hold_booleans(b'{"values":[1]}', lists=True)
    assert may_hold_booleans(b'{"values":[[1],[false]]}', lists=True)
    assert may_hold_booleans(b"true", lists=True)


def test_flat_elements_take_a_shape():
    assert from_flat("x", [1, 2, 3, 4], (2, 2)).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(Refusal) as refusal:
        from_flat("x", [1, [2]], (2,))
    assert refusal.value.rule is SHAPE


@given(st.data())
def test_what_is_read_is_written(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    count = int(np.prod(shape))
    elements = data.draw(
        st.sampled_from(
            [
                st.integers(-(2**63), 2**63 - 1),
                st.floats(allow_nan=False, allow_infinity=False),
                st.booleans(),
                st.text(max_size=3),
            ]
        )
    )
    flat = data.draw(st.lists(elements, min_size=count, max_size=count))
    value = np.array(flat, object).reshape(shape).tolist()
    tensor = from_nested("x", value)
    assert tensor.shape == shape
    text = orjson.dumps(to_nested(tensor), option=orjson.OPT_SERIALIZE_NUMPY)
    again = from_nested("x", orjson.loads(text))
    assert (again.dtype, again.shape) == (tensor.dtype, tensor.shape)
    assert again.tolist() == tensor.tolist()
    if tensor.dtype != object:
        assert json.loads(text) == value


def test_a_narrow_float_goes_as_the_double_that_equals_it():
    value = np.float32(7.038531e-26)
    text = orjson.dumps(to_nested(np.array([[value]])), option=orjson.OPT_SERIALIZE_NUMPY)
    ((read,),) = json.loads(text)
    assert read == float(value)
    assert to_nested(np.array(value)) == float(value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_json_has_no_number_for_is_not_written(value):
    with pytest.raises(ValueError, match="finite"):
        to_nested_finite("x", np.array([1, value], np.float32))


CONTRACTS = [
    ([{"name": "x", "datatype": "FP32", "shape": [-1, 3]}], [[1.5] * 3] * 8),
    ([{"name": "x", "datatype": "FP32", "shape": [-1, 2, 2]}], [[[1.5] * 2] * 2] * 8),
    ([{"name": "x", "datatype": "BYTES", "shape": [-1, 2]}], [["a", "b,[{"]] * 8),
    ([{"name": "x", "datatype": "FP32", "shape": [2, 3]}], [[1.5] * 3] * 2),
    ([{"name": "x", "datatype": "INT8", "shape": [-1]}], [1] * 8),
    ([], [[1.5] * 100] * 8),
]


def test_bounds_let_in_what_the_contract_does():
    ran = 0
    for inputs, value in CONTRACTS:
        contract = Contract.from_config(inputs)
        bounds = json_bounds(contract, 8)
        check_bounds(orjson.dumps({"instances": value}), bounds)
        assert 4096 <= json_cheap(bounds, 8) <= 32768
        ran += 1
    assert ran == 6


@pytest.mark.parametrize("piece", [b"0,", b"[],", b'{"a":1},', b'"",'])
def test_bounds_keep_out_what_it_does_not(piece):
    contract = Contract.from_config([{"name": "x", "datatype": "FP32", "shape": [-1, 3]}])
    text = b"[" + piece * 2000 + b"0]"
    with pytest.raises(Refusal):
        check_bounds(text, json_bounds(contract, 8))
