"""Strict JSON: the verdicts of JSONTestSuite, duplicate keys, and arrays taken apart."""

import base64
import json
from types import SimpleNamespace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocols.contract import Contract
from proxy.protocols.strict_json import Bounds, check_bounds, loads, split_arrays, strict_json
from proxy.protocols.v2 import V2
from proxy.rules import DUPLICATE_KEY, SYNTAX, Refusal

# What the suite leaves to the parser: zero for too small a number, the nearest double for too
# large an integer. All else is refused.
ACCEPTED_BY_CHOICE = {
    "i_number_double_huge_neg_exp.json",
    "i_number_real_underflow.json",
    "i_number_too_big_neg_int.json",
    "i_number_too_big_pos_int.json",
    "i_number_very_big_negative_int.json",
}
# Accepted by the grammar, refused here: they name a key twice.
DUPLICATES = {"y_object_duplicated_key.json", "y_object_duplicated_key_and_value.json"}

CODEC = V2("/v2/models/m", Contract())
ROUTE = CODEC.route("POST", "/v2/models/m/infer")


def verdict(read, text):
    try:
        read(text)
    except Refusal as refusal:
        return refusal.rule
    return None


def infer(text):
    return CODEC.decode_request({}, text, ROUTE)


def whole_or_double(digits):
    return int(digits) if -(2**63) <= int(digits) < 2**64 else float(digits)


@pytest.fixture
def suite(shared):
    cases = json.loads(shared("vectors/json_parsing.json").read_text())
    assert len(cases) == 318
    return [(case["id"], case["expect"], base64.b64decode(case["b64"])) for case in cases]


def test_strict_verdicts(suite):
    counted = {"accept": 0, "reject": 0, "either": 0}
    for name, expect, text in suite:
        counted[expect] += 1
        rule = verdict(strict_json, text)
        if expect == "accept":
            assert rule is (DUPLICATE_KEY if name in DUPLICATES else None), name
        elif expect == "reject":
            assert rule is SYNTAX, name
        else:
            assert rule is (None if name in ACCEPTED_BY_CHOICE else SYNTAX), name
    assert counted == {"accept": 95, "reject": 188, "either": 35}


def test_no_case_passes_as_a_body(suite):
    for name, _, text in suite:
        assert verdict(infer, text) is not None, name


ONE = b'{"inputs":[{"name":"a","shape":[1],"datatype":"%s","data":%s}]%s}'
FRAMES = [  # and how many cases are honest requests inside
    (ONE % (b"FP32", b"%s", b""), 23),
    (ONE % (b"FP32", b"[%s]", b""), 2),
    (ONE % (b"BYTES", b"%s", b""), 45),
    (ONE % (b"FP32", b"[1]", b',"parameters":%s'), 1),
    (ONE % (b"FP32", b"[1]", b',"parameters":{"a":%s}'), 0),
    (ONE % (b"FP32", b"[1]", b',"id":%s'), 3),
]


@pytest.mark.parametrize(("frame", "honest"), FRAMES)
def test_what_is_rejected_is_rejected_inside_a_request(suite, frame, honest):
    passed = 0
    for name, expect, text in suite:
        body = frame.replace(b"%s", text)
        if verdict(infer, body) is None:
            assert expect != "reject", name
            assert strict_json(body) == json.loads(body, parse_int=whole_or_double), name
            passed += 1
    assert passed == honest


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'{"a":{"b":1,"b":2}}',
        b'[{"":0,"":0}]',
        b'{"a:":1,"a:":2}',
        b'{"\\"":1,"\\u0022":2}',
        b'{"a":{"x":1},"a":{}}',
        b'{"a":"::::","a":1}',
        b'{"a\\\\":1,"a\\u005c":2}',
        b'{"\xc3\xa9":1,"\\u00e9":2}',
    ],
)
def test_duplicate_keys_in_any_spelling(text):
    assert verdict(strict_json, text) is DUPLICATE_KEY


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":":","b":"\\":","c":["{\\"a\\":1}"]}',
        b'{":":1,"::":2}',
        b'{"a\\\\":1,"a":2}',
        b'{"a":{"a":{"a":1}}}',
        b'[{"a":1},{"a":1}]',
    ],
)
def test_colons_and_equal_keys_elsewhere_are_no_duplicates(text):
    assert strict_json(text) == json.loads(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["data", "a", ":", '"', "\\", "]", "é"]), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@given(json_values, st.booleans(), st.sampled_from([None, 1]))
def test_all_that_the_standard_library_writes_is_read(value, ascii_only, indent):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert strict_json(text) == value


@given(json_values, st.booleans())
def test_a_text_taken_apart_is_the_text(value, compact):
    """Putting the arrays back into the frame's document gives the text's document."""
    text = json.dumps(value, separators=(",", ":") if compact else (", ", ": ")).encode()
    frame, arrays, booleans = split_arrays(text)
    rest = iter(arrays)

    def restore(part):
        if isinstance(part, dict):
            return {
                key: next(rest) if key == "data" and arrays and inner == [] else restore(inner)
                for key, inner in part.items()
            }
        if isinstance(part, list):
            return [restore(inner) for inner in part]
        return part

    assert restore(loads(frame)) == value
    assert next(rest, None) is None
    if not booleans:
        assert "true" not in json.dumps(arrays)
        assert "false" not in json.dumps(arrays)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_depth_is_bounded(opening):
    closing = "]" if opening == "[" else "}"

    def nested(depth):
        return (opening * depth + "1" + closing * depth).encode()

    assert strict_json(nested(64)) is not None
    assert strict_json((opening * 63 + "[]" + closing * 63).encode()) is not None
    for depth in (65, 500, 1024, 5000):
        assert verdict(strict_json, nested(depth)) is SYNTAX
    assert verdict(strict_json, (opening * 64 + "[]" + closing * 64).encode()) is SYNTAX


def test_what_an_open_string_holds_does_not_count():
    """A string that nothing ends is one string: its escaped quotes do not begin others."""
    bounds = Bounds(values=0, lists=10, fields=0, strings=10)
    check_bounds(b'"' + b'\\"[' * 11, bounds)
    check_bounds(b'"' + b'\\"[' * 11 + b"\\", bounds)
    with pytest.raises(Refusal):
        check_bounds(b'"\\"' + b"[" * 11 + b'"' + b"[" * 11, bounds)
    for dear in (b'""' * 11, b'"\\\\"' * 21):
        with pytest.raises(Refusal, match="strings"):
            check_bounds(dear, bounds)


NUMBERS = b"0," * 999 + b"0"
FAULTS = [  # and how many times so much is parsed: once more only to say where the fault is
    (ONE % (b"FP32", b"[" + NUMBERS + b"]", b',"a":1'), 2),
    (ONE % (b"FP32", b"[" + NUMBERS + b",]", b""), 2),
    (ONE % (b"FP32", b"[" + NUMBERS + b"]", b",}"), 2),
    (ONE % (b"FP32", b"[" + NUMBERS + b"]", b',"inputs":1'), 2),
    (ONE % (b"FP32", b"[" + NUMBERS + b',""]', b""), 1),
    (ONE % (b"FP64", b"[" + NUMBERS + b",[]]", b""), 2),
    ((ONE % (b"FP32", b"[" + NUMBERS + b"]", b"")).replace(b"data", b"d\\u0061ta"), 1),
    (b'{"inputs":[' + NUMBERS + b"]}", 1),
    (b"[" + NUMBERS + b"]", 1),
]


@pytest.mark.parametrize(("text", "times"), FAULTS)
def test_a_fault_costs_no_further_reading(text, times, monkeypatch):
    read = []

    def counted(part):
        read.append(len(part))
        return orjson.loads(part)

    wrapped = SimpleNamespace(loads=counted, JSONDecodeError=orjson.JSONDecodeError)
    monkeypatch.setattr("proxy.protocols.strict_json.orjson", wrapped)
    with pytest.raises(Refusal):
        infer(text)
    assert round(sum(read) / len(text)) == times


@pytest.mark.parametrize(
    "hidden", [b'" "data":[%s]}', b'"\\5"data":[%s]}"', b'{"data\\":"data":[%s]}']
)
def test_an_open_string_hides_nothing(hidden, monkeypatch):
    """Arrays that look as if in a string are not parsed ahead of the fault before them."""
    read = []

    def counted(part):
        read.append(part)
        return orjson.loads(part)

    wrapped = SimpleNamespace(loads=counted, JSONDecodeError=orjson.JSONDecodeError)
    monkeypatch.setattr("proxy.protocols.strict_json.orjson", wrapped)
    contract = Contract.from_config([{"name": "x", "datatype": "FP32", "shape": [-1, 2]}])
    text = hidden % (b"[1]," * 50_000 + b"[1]")
    with pytest.raises(Refusal) as refusal:
        V2("/v2/models/m", contract).decode_request({}, text, ROUTE)
    assert refusal.value.rule is SYNTAX
    assert read in ([], [text])


def test_a_fault_is_located():
    with pytest.raises(Refusal) as refusal:
        infer(b'{"inputs":[{"name":"a","shape":[3],"datatype":"FP32",\n"data":[1,2,3],}]}')
    assert (
        refusal.value.message == "request body cannot be read: not strict JSON at line 2 column 15"
    )
