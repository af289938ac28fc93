"""JSON of one's own making: paths, what is beside the rows, answers, the words of refusals."""

import json

import numpy as np
import pytest

from proxy.protocols.base import Call
from proxy.protocols.columns import columns_contract
from proxy.protocols.contract import Contract
from proxy.protocols.custom_json import CustomJson
from proxy.protocols.json_path import steps_of
from proxy.rules import (
    DUPLICATE_KEY,
    METHOD,
    NO_ROUTE,
    OUTLIER,
    ROWS_PER_REQUEST,
    SHAPE,
    SYNTAX,
    TENSOR_NAME,
    UPSTREAM_INVALID,
    VALUE,
    Refusal,
)


def codec(rows="$.input", *, inputs=(), **told):
    return CustomJson("/predict", Contract.from_config(inputs), rows=rows, **told)


def decode(one, document):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return one.decode_request({}, body, one.route("POST", "/predict"))


def forwarded(one, document):
    return one.encode_request(decode(one, document))[1]


def refused(one, document):
    with pytest.raises(Refusal) as refusal:
        decode(one, document)
    return refusal.value.rule


STEPS = [
    ("$", ()),
    ("$.a", ("a",)),
    ("$.a.b", ("a", "b")),
    ("$['a b'][\"c\"]", ("a b", "c")),
    ("$.a[0].b", ("a", 0, "b")),
    ("$[1]", (1,)),
    ("$['\\u00e9\\'']", ("\u00e9'",)),
    ("$.\u00e9", ("\u00e9",)),
]
NO_STEPS = [
    "",
    "a",
    "a.b",
    " $.a",
    "$.",
    "$..a",
    "$.*",
    "$[*]",
    "$[-1]",
    "$[0:1]",
    "$['a','b']",
    "$[?@.a]",
    "$.a b",
    "$['a",
    "$.a|$.b",
    "$[9007199254740993]",
    "$[" * 500,
]


def test_a_path_leads_to_one_place():
    ran = 0
    for path, steps in STEPS:
        assert steps_of(path) == steps
        ran += 1
    for path in NO_STEPS:
        with pytest.raises(ValueError, match="JSONPath"):
            steps_of(path)
        ran += 1
    assert ran == 25


FORWARDED = [
    ({}, {"input": [[1, 2]]}, b'{"input":[[1,2]]}'),
    ({}, {"input": [[1, 2.5]]}, b'{"input":[[1.0,2.5]]}'),
    ({}, {"input": [{"b": 1, "a": "x"}]}, b'{"input":[{"b":1,"a":"x"}]}'),
    ({"rows": "$"}, [[1]], b"[[1]]"),
    ({"rows": "$.a[0]['%s']"}, {"a": [{"%s": [1]}]}, b'{"a":[{"%s":[1]}]}'),
    ({"single": True}, {"input": [1, 2.5]}, b'{"input":[1.0,2.5]}'),
    ({"single": True}, {"input": 1}, b'{"input":1}'),
    ({"single": True}, {"input": True}, b'{"input":true}'),
    ({"single": True}, {"input": "x"}, b'{"input":"x"}'),
    ({"single": True}, {"input": {"a": 1, "b": [2]}}, b'{"input":{"a":1,"b":[2]}}'),
    (
        {"others": ("top", "k")},
        {"top": 1, "input": [[1]], "k": None},
        b'{"top":1,"k":null,"input":[[1]]}',
    ),
    ({"others": ("top", "k")}, {"input": [[1]]}, b'{"input":[[1]]}'),
    (
        {"rows": "$.a[0].b", "others": ("k",)},
        {"a": [{"b": [[1]]}], "k": "v"},
        b'{"k":"v","a":[{"b":[[1]]}]}',
    ),
]


def test_the_document_stays():
    ran = 0
    for told, document, body in FORWARDED:
        one = codec(**told)
        assert forwarded(one, document) == body
        ran += 1
    assert ran == 13


REFUSED = [
    ({}, [], SYNTAX),
    ({}, {}, SYNTAX),
    ({}, {"inputs": [[1]]}, SYNTAX),
    ({}, {"input": {"a": [1]}}, SYNTAX),
    ({}, {"input": 1}, SYNTAX),
    ({}, {"input": []}, SHAPE),
    ({}, {"input": [[1], [1, 2]]}, SHAPE),
    ({}, {"input": [[1, "x"]]}, VALUE),
    ({}, {"input": [[1, None]]}, VALUE),
    ({}, {"input": [{"b64": {"a": 1}}]}, VALUE),
    ({}, {"input": [[1]], "more": 1}, SYNTAX),
    ({}, {"input": [[1]] * 257}, ROWS_PER_REQUEST),
    ({"others": ("k",)}, {"input": [[1]], "k": [1]}, SYNTAX),
    ({"others": ("k",)}, {"input": [[1]], "k": {}}, SYNTAX),
    ({"others": ("k",)}, {"input": [[1]], "j": 1}, SYNTAX),
    ({"rows": "$.a.b", "others": ("k",)}, {"a": {"b": [[1]], "k": 1}}, SYNTAX),
    ({"rows": "$.a.b"}, {"a": {"b": [[1]]}, "k": 1}, SYNTAX),
    ({"rows": "$.a.b"}, {"a": [[1]]}, SYNTAX),
    ({"rows": "$.a[0]"}, {"a": [[[1]], [[2]]]}, SYNTAX),
    ({"rows": "$.a[0]"}, {"a": []}, SYNTAX),
    ({"rows": "$.a[0]"}, {"a": {"0": [[1]]}}, SYNTAX),
    ({"single": True}, {"input": []}, SHAPE),
    ({"single": True}, {"input": None}, VALUE),
    ({"single": True}, {"input": {"a": 1, "b": [1, True]}}, VALUE),
    ({}, {"input": [[1, True]]}, VALUE),
    ({}, {"input": [1.5, False]}, VALUE),
    ({}, b'{"input":[[1]],"input":[[2]]}', DUPLICATE_KEY),
    ({"others": ("k",)}, b'{"k":1,"input":[[1]],"k":2}', DUPLICATE_KEY),
    ({}, b'{"input":[{"a":1,"a":2}]}', DUPLICATE_KEY),
    ({"rows": "$.a[0].b"}, b'{"a":[{"b":[[1]],"b":[[2]]}]}', DUPLICATE_KEY),
]


def test_what_it_refuses():
    ran = 0
    for told, document, rule in REFUSED:
        assert refused(codec(**told), document) is rule, (told, document)
        ran += 1
    assert ran == 30


def test_a_key_that_is_not_declared_is_named():
    with pytest.raises(Refusal) as refusal:
        decode(codec(), {"input": [[1]], "temperature": 1})
    assert "'temperature'" in refusal.value.message


def test_the_contract_is_held():
    inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    one = codec(inputs=inputs)
    request = decode(one, {"input": [[1, 0.1]]})
    assert (request.tensors["x"].dtype, request.rows.tolist()) == (
        np.float32,
        [[1, np.float32(0.1)]],
    )
    assert refused(one, {"input": [[1, 2, 3]]}) is SHAPE
    assert refused(one, {"input": [["1", "2"]]}) is VALUE
    assert refused(one, {"input": [{"y": [1, 2]}]}) is TENSOR_NAME


def test_a_boolean_before_any_list_is_no_number():
    inputs = [
        {"name": "a", "datatype": "FP32", "shape": [-1]},
        {"name": "b", "datatype": "FP32", "shape": [-1, 1]},
    ]
    one = codec(single=True, inputs=inputs)
    assert decode(one, {"input": {"a": 1, "b": [1]}}).n == 1
    assert refused(one, {"input": {"a": True, "b": [1]}}) is VALUE


def test_one_row_a_request():
    one = codec(single=True, inputs=[{"name": "x", "datatype": "FP32", "shape": [-1, 2]}])
    request = decode(one, {"input": [1, 2]})
    assert (request.n, one.batch(request)) == (1, 1)
    asked = one.with_rows(request, np.float32([[3, 4]]), np.array([0]))
    assert one.encode_request(asked)[1] == b'{"input":[3.0,4.0]}'
    with pytest.raises(ValueError, match="fit"):
        one.with_rows(request, np.float32([[3, 4], [5, 6]]), np.array([0, 0]))


def test_the_columns_of_a_data_frame():
    contract = columns_contract(
        [{"name": "age", "missing": 30}, {"name": "job", "type": "category", "values": ["a", "b"]}]
    )
    row = {"age": None, "job": "b"}
    one = CustomJson("/predict", contract, rows="$", single=True)
    request = decode(one, row)
    assert request.rows.tolist() == [[30, 1]]
    assert json.loads(one.encode_request(request)[1]) == row
    many = CustomJson("/predict", contract, rows="$")
    assert decode(many, [[1, "a"], [None, "b"]]).rows.tolist() == [[1, 0], [30, 1]]
    assert json.loads(forwarded(many, [[1.5, "a"], [None, "b"]])) == [[1.5, "a"], [None, "b"]]


ANSWERS = [
    ({}, {"output": [[0.25]], "took": 1}, {"answer": [[0.25]]}),
    ({}, {"output": ["a", "b"]}, {"answer": [b"a", b"b"]}),
    ({}, {"output": {"p": [[0.5]], "c": ["x"]}}, {"p": [[0.5]], "c": [b"x"]}),
    ({}, {"output": [{"p": [0.5], "c": 1}]}, {"p": [[0.5]], "c": [1]}),
    ({"answer": "$"}, [[1, 2]], {"answer": [[1, 2]]}),
    ({"answer": "$[1].y"}, [None, {"y": [1], "z": None}], {"answer": [1]}),
    ({"single": True}, {"output": [0.25, 0.75]}, {"answer": [[0.25, 0.75]]}),
    ({"single": True}, {"output": 0.25}, {"answer": [0.25]}),
    ({"single": True}, {"output": "cat"}, {"answer": [b"cat"]}),
    ({"single": True}, {"output": {"p": 0.5, "c": "x"}}, {"p": [0.5], "c": [b"x"]}),
]


def test_answers_are_tensors():
    ran = 0
    for told, document, tensors in ANSWERS:
        one = codec(**{"answer": "$.output", **told})
        body = json.dumps(document).encode()
        response = one.decode_response({}, body)
        assert {name: tensor.tolist() for name, tensor in response.tensors.items()} == tensors
        for _ in range(2):  # what was read is not changed by being written
            assert json.loads(one.encode_response(response)[1]) == document
        ran += 1
    assert ran == 10


@pytest.mark.parametrize(
    ("answer", "document"),
    [
        (None, {"output": [1]}),
        ("$.output", {}),
        ("$.output", []),
        ("$.output", {"output": None}),
        ("$.output", {"output": 1}),
        ("$.output", {"output": [None]}),
        ("$.output", {"output": [{"a": {"b": 1}}]}),
        ("$.output[2]", {"output": [1]}),
        ("$.output[0]", {"output": "abc"}),
        ("$[0]", {"0": [1]}),
        ("$.output[0][1]", {"output": ["abc"]}),
        ("$.output.a", {"output": "abc"}),
    ],
)
@pytest.mark.parametrize("single", [False, True])
def test_what_is_no_answer(answer, document, single):
    if single and document == {"output": 1}:
        return  # of one row a number may be
    with pytest.raises(Refusal) as refusal:
        codec(answer=answer, single=single).decode_response({}, json.dumps(document).encode())
    assert refusal.value.rule is UPSTREAM_INVALID


def refusal_of(template):
    return json.loads(codec(refusal=template).refuse(Refusal(OUTLIER, "secret")).body)


def test_a_refusal_is_worded_by_its_template():
    assert json.loads(codec().refuse(Refusal(OUTLIER)).body) == {"error": "request refused"}
    assert refusal_of({"detail": [{"msg": "no: {message}", "n": 1}], "code": "{status}"}) == {
        "detail": [{"msg": "no: request refused", "n": 1}],
        "code": 403,
    }
    assert refusal_of({"a": "{rule}/{status}", "b": None, "c": True, "d": "{}{1}"}) == {
        "a": "BZ-300/403",
        "b": None,
        "c": True,
        "d": "{}{1}",
    }


def test_what_a_message_holds_is_not_filled_in_again():
    one = codec(refusal={"error": "{message}"})
    body = one.refuse(Refusal(SYNTAX, "unknown key '{status}\"'")).body
    assert json.loads(body)["error"].endswith("unknown key '{status}\"'")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"rows": "$..a"}, "JSONPath"),
        ({"rows": "$.a[1]"}, r"use \[0\]"),
        ({"answer": "$.*"}, "JSONPath"),
        ({"rows": "$", "others": ("k",)}, "no others"),
        ({"rows": "$[0]", "others": ("k",)}, "no others"),
        ({"rows": "$.k", "others": ("k",)}, "no others"),
        ({"refusal": {"a": ["{request}"]}}, r"no \{request\}"),
        ({"health": "/predict"}, "infers"),
        ({"reads": ("/predict",)}, "infers"),
        ({"reads": ("/a/",)}, "plain path"),
        ({"health": "/a?b"}, "plain path"),
        ({"upstream_prefix": "/a/../b"}, "plain path"),
    ],
)
def test_what_has_no_sense_is_told_at_start(told, words):
    with pytest.raises(ValueError, match=words):
        codec(**told)


def test_paths():
    one = codec(upstream_prefix="/api/go", health="/healthz", reads=("/schema.json",))
    route = one.route("POST", "/predict")
    assert (route.call, route.target) == (Call.INFER, b"/api/go")
    assert one.probe == one.route("GET", "/healthz")
    assert (one.probe.call, one.probe.target) == (Call.HEALTH, b"/healthz")
    assert one.route("GET", "/schema.json").target == b"/schema.json"
    assert codec().probe is None
    for method, target, rule in (
        ("GET", "/predict", METHOD),
        ("POST", "/healthz", METHOD),
        ("POST", "/predict/", NO_ROUTE),
        ("POST", "/predict?x", NO_ROUTE),
        ("GET", "/metrics", NO_ROUTE),
        ("POST", "/shutdown", NO_ROUTE),
    ):
        with pytest.raises(Refusal) as refusal:
            one.route(method, target)
        assert refusal.value.rule is rule
