"""MLflow's ``/invocations``: bodies, answers, refusals and paths, beside the conformance suite."""

import json

import numpy as np
import pytest

from proxy.protocols.base import Call, InferResponse
from proxy.protocols.columns import columns_contract, numbers_contract
from proxy.protocols.contract import Contract, ContractError
from proxy.protocols.invocations import Invocations
from proxy.rules import (
    CLIENT_RATE,
    DUPLICATE_KEY,
    MEDIA_TYPE,
    METHOD,
    NO_ROUTE,
    OUTLIER,
    OVERLOADED,
    PARAMETER,
    ROWS_PER_REQUEST,
    SHAPE,
    SYNTAX,
    TENSOR_NAME,
    UPSTREAM_INVALID,
    VALUE,
    Refusal,
)

JSON = {b"content-type": b"application/json"}
CSV = {b"content-type": b"text/csv"}
ABC = numbers_contract("abc")
MIXED = columns_contract(
    [
        {"name": "x", "missing": 0},
        {"name": "c", "type": "category", "values": ["red", "NA"], "missing": "red"},
        {"name": "s", "type": "string"},
        {"name": "b", "type": "boolean"},
    ]
)
MATRIX = Contract.from_config([{"name": "m", "datatype": "FP32", "shape": [-1, 3]}])


def codec(contract=ABC, **options):
    return Invocations("/invocations", contract, **options)


def read(body, head=JSON, contract=ABC, **options):
    one = codec(contract, **options)
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return one.decode_request(head, text, one.route("POST", "/invocations"))


def refused(*arguments, **options):
    with pytest.raises(Refusal) as refusal:
        read(*arguments, **options)
    return refusal.value


def forwarded(*arguments, **options):
    lines, body = codec().encode_request(read(*arguments, **options))
    assert lines == b"Content-Type: application/json\r\n"
    return json.loads(body)


ROWS = [[1, 2.5, 3], [4, 5.5, 6]]
RECORDS = [dict(zip("abc", row, strict=True)) for row in ROWS]
SPLIT = {"columns": ["a", "b", "c"], "data": ROWS}


@pytest.mark.parametrize(
    ("body", "canonical"),
    [
        ({"dataframe_split": SPLIT}, {"dataframe_split": SPLIT}),
        ({"dataframe_split": {"index": [7, "x"], **SPLIT}}, {"dataframe_split": SPLIT}),
        ({"dataframe_records": RECORDS}, {"dataframe_split": SPLIT}),
        ({"instances": ROWS}, {"instances": ROWS}),
        ({"instances": RECORDS}, {"instances": RECORDS}),
        ({"inputs": ROWS}, {"inputs": ROWS}),
        ({"inputs": RECORDS}, {"inputs": RECORDS}),
        (
            {"inputs": {"c": [3, 6], "a": [1, 4], "b": [2.5, 5.5]}},
            {"inputs": {"a": [1, 4], "b": [2.5, 5.5], "c": [3, 6]}},
        ),
    ],
)
def test_each_form_goes_on_in_the_contracts_order(body, canonical):
    request = read(body)
    assert request.rows.tolist() == ROWS
    found = forwarded(body)
    assert found == canonical
    assert json.dumps(found) == json.dumps(canonical), "integers stay integers"


@pytest.mark.parametrize("order", ["abc", "cab", "bca"])
def test_the_order_of_columns_is_free(order):
    rows = [[dict(zip("abc", row, strict=True))[name] for name in order] for row in ROWS]
    body = {"dataframe_split": {"columns": list(order), "data": rows}}
    assert forwarded(body) == {"dataframe_split": SPLIT}
    text = "\r\n".join([",".join(order), *(",".join(map(str, row)) for row in rows)])
    assert forwarded(text.encode(), CSV) == {"dataframe_split": SPLIT}
    records = [dict(zip(order, row, strict=True)) for row in rows]
    assert forwarded({"dataframe_records": records}) == {"dataframe_split": SPLIT}
    records[1] = dict(reversed(records[1].items()))
    assert forwarded({"dataframe_records": records}) == {"dataframe_split": SPLIT}


def test_words_and_missing_elements_stay_what_they_are():
    rows = [[None, "NA", 'a,"b"\n', True], [1.5, None, "NA", False]]
    body = {"dataframe_split": {"columns": ["x", "c", "s", "b"], "data": rows}}
    request = read(body, contract=MIXED)
    assert request.rows.tolist() == [[0, 1, 1], [1.5, 0, 0]]
    assert forwarded(body, contract=MIXED) == body
    text = b'b,s,c,x\ntrue,"a,""b""\n",NA,\nFalse,NA,,1.5\n'
    assert forwarded(text, CSV, contract=MIXED) == body


def test_a_number_of_csv_is_the_double_that_was_scored():
    body = b"a,b,c\n0.1,2.675,-1e-7\n"
    assert forwarded(body, CSV)["dataframe_split"]["data"] == [[0.1, 2.675, -1e-7]]


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ([], SYNTAX),
        ({}, SYNTAX),
        ({"dataframe_split": SPLIT, "instances": ROWS}, SYNTAX),
        ({"instances": ROWS, "inputs": ROWS}, SYNTAX),
        ({"instances": ROWS, "signature_name": "x"}, SYNTAX),
        ({"messages": [{"role": "user", "content": "x"}]}, SYNTAX),
        ({"params": {}}, SYNTAX),
        ({"dataframe_split": []}, SYNTAX),
        ({"dataframe_split": {"columns": ["a"]}}, SYNTAX),
        ({"dataframe_split": {**SPLIT, "dtypes": []}}, SYNTAX),
        ({"dataframe_split": {**SPLIT, "index": [0]}}, SYNTAX),
        ({"dataframe_split": {**SPLIT, "index": [0, None]}}, SYNTAX),
        ({"dataframe_split": {**SPLIT, "index": [0, [1]]}}, SYNTAX),
        ({"dataframe_split": {**SPLIT, "columns": "abc"}}, SYNTAX),
        ({"dataframe_split": {**SPLIT, "columns": ["a", "b", 1]}}, SYNTAX),
        ({"dataframe_split": {**SPLIT, "columns": [["a", "b"], "c"]}}, SYNTAX),
        ({"dataframe_split": {**SPLIT, "data": RECORDS}}, SYNTAX),
        ({"dataframe_split": {**SPLIT, "data": {}}}, SYNTAX),
        ({"dataframe_split": {**SPLIT, "columns": ["a", "b", "b"]}}, TENSOR_NAME),
        ({"dataframe_split": {**SPLIT, "columns": ["a", "b", "d"]}}, TENSOR_NAME),
        ({"dataframe_split": {**SPLIT, "columns": [0, 1, 2]}}, TENSOR_NAME),
        ({"dataframe_split": {"data": ROWS}}, TENSOR_NAME),
        ({"dataframe_split": {**SPLIT, "columns": ["a", "b"]}}, SHAPE),
        ({"dataframe_split": {**SPLIT, "data": [[1, 2, 3], [4, 5]]}}, SHAPE),
        ({"dataframe_split": {**SPLIT, "data": []}}, SHAPE),
        ({"dataframe_split": {**SPLIT, "data": [[1, 2, "3"]]}}, VALUE),
        ({"dataframe_split": {**SPLIT, "data": [[1, 2, [3]]]}}, VALUE),
        ({"dataframe_split": {**SPLIT, "data": [[1, 2, None]]}}, VALUE),
        ({"dataframe_split": {**SPLIT, "data": [[1, 2, True]]}}, VALUE),
        ({"dataframe_records": {}}, SYNTAX),
        ({"dataframe_records": ROWS}, SYNTAX),
        ({"dataframe_records": []}, SYNTAX),
        ({"dataframe_records": [{"a": 1, "b": 2}]}, TENSOR_NAME),
        ({"dataframe_records": [{"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2}]}, TENSOR_NAME),
        ({"dataframe_records": [{"a": 1, "b": 2, "c": 3}, [1, 2, 3]]}, TENSOR_NAME),
        ({"instances": {"a": [1]}}, SYNTAX),
        ({"instances": "abc"}, SYNTAX),
        ({"instances": [[1, 2]]}, SHAPE),
        ({"instances": [1, 2, 3]}, SHAPE),
        ({"inputs": {"a": [1], "b": [2], "c": [3, 4]}}, SHAPE),
        ({"inputs": {"a": 1, "b": 2, "c": 3}}, SHAPE),
        ({"inputs": ROWS, "params": {"a": 1}}, PARAMETER),
        ({"inputs": ROWS, "params": []}, SYNTAX),
        ({"inputs": ROWS * 200}, ROWS_PER_REQUEST),
        ({"dataframe_split": {**SPLIT, "data": ROWS * 200}}, ROWS_PER_REQUEST),
        ({"dataframe_records": RECORDS * 130}, ROWS_PER_REQUEST),
        (b'{"instances":[[1,2,3]],"instances":[[1,2,3]]}', DUPLICATE_KEY),
        (b'{"dataframe_records":[{"a":1,"b":2,"c":3,"c":4}]}', DUPLICATE_KEY),
        (b'{"dataframe_split":{"columns":["a","b","c"],"data":[[1,2,3]],"data":[]}}', SHAPE),
        (b'{"instances":[[1,2,3]],"params":{},"params":{}}', DUPLICATE_KEY),
        (b'{"instances":[[1,2,NaN]]}', SYNTAX),
        (b'{"instances":[[1,2,1e999]]}', SYNTAX),
    ],
)
def test_what_is_refused(body, rule):
    assert refused(body).rule is rule


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b"1,2,3\n1,2,3\n", TENSOR_NAME),
        (b"a,b,d\n1,2,3\n", TENSOR_NAME),
        (b"a,b\n1,2\n", TENSOR_NAME),
        (b"a,b,b\n1,2,3\n", TENSOR_NAME),
        (b"a, b,c\n1,2,3\n", TENSOR_NAME),
        (b",a,b,c\n0,1,2,3\n", SYNTAX),
        (b"a,b,c\n", SHAPE),
        (b"a,b,c\n1,2\n", SHAPE),
        (b"a,b,c\n1,2,3,4\n", SHAPE),
        (b"a,b,c\n1,2,\n", VALUE),
        (b"a,b,c\n1,2,nan\n", VALUE),
        (b"a,b,c\n1,2, 3\n", VALUE),
        (b"a,b,c\n1,2,3\n\n", SYNTAX),
        (b"a,b,c\n" + b"1,2,3\n" * 257, ROWS_PER_REQUEST),
        (b'a,b,c\n"1",2,3\n' + b"1,2,3\n" * 256, ROWS_PER_REQUEST),
    ],
)
def test_csv_that_is_refused(body, rule):
    assert refused(body, CSV).rule is rule


def test_as_many_rows_as_may_be():
    assert read(b"a,b,c\n" + b"1,2,3\n" * 256, CSV).n == 256
    assert read({"instances": [[1, 2, 3]] * 256}).n == 256


def test_a_table_of_words_among_numbers_is_refused():
    """The server makes an array of strings of it all."""
    rows = [[1.5, "red", "x", True]]
    refusal = refused({"instances": rows}, contract=MIXED)
    assert refusal.rule is TENSOR_NAME
    assert "name the columns" in refusal.detail
    missing = columns_contract([{"name": "a", "missing": 0}, {"name": "b"}])
    assert refused({"inputs": [[None, 1]]}, contract=missing).rule is TENSOR_NAME
    assert read({"inputs": [[2, 1]]}, contract=missing).rows.tolist() == [[2, 1]]


@pytest.mark.parametrize(
    "media",
    [
        None,
        b"",
        b"text/plain",
        b"application/x-npy",
        b"application/vnd.apache.parquet",
        b"application/json; charset=utf-16",
        b"application/json; charset=utf-8; charset=utf-16",
        b"text/csv; header=present",
        b"text/csv; charset=latin-1",
    ],
)
def test_media_types_that_are_refused(media):
    head = {} if media is None else {b"content-type": media}
    assert refused({"instances": [[1, 2, 3]]}, head).rule is MEDIA_TYPE


@pytest.mark.parametrize("media", [b"application/json;charset=UTF-8", b"Application/JSON"])
def test_media_types_that_pass(media):
    assert read({"instances": [[1, 2, 3]]}, {b"content-type": media}).n == 1


class TestTensors:
    def test_one_tensor_takes_rows_without_names(self):
        for body in (
            {"instances": ROWS},
            {"inputs": ROWS},
            {"dataframe_split": {"data": ROWS}},
            {"dataframe_split": {"columns": [0, 1, 2], "index": [0, 1], "data": ROWS}},
        ):
            request = read(body, contract=MATRIX)
            assert list(request.tensors) == ["m"]
            assert request.rows.tolist() == ROWS
            again = forwarded(body, contract=MATRIX)
            assert read(again, contract=MATRIX).rows.tolist() == ROWS

    def test_names_that_no_contract_declares(self):
        for body, head in (
            ({"dataframe_split": SPLIT}, JSON),
            ({"dataframe_records": RECORDS}, JSON),
            (b"a,b,c\n1,2,3\n", CSV),
        ):
            assert refused(body, head, contract=MATRIX).rule is TENSOR_NAME
        wide = {"dataframe_split": {"columns": [0, 1], "data": ROWS}}
        assert refused(wide, contract=MATRIX).rule is SHAPE

    def test_an_open_contract_takes_what_comes(self):
        request = read({"dataframe_split": SPLIT}, contract=Contract())
        assert request.rows.tolist() == ROWS
        assert forwarded(b"z,y\n1,2.5\n", CSV, contract=Contract()) == {
            "dataframe_split": {"columns": ["z", "y"], "data": [[1, 2.5]]}
        }

    @pytest.mark.parametrize("body", [b"1,2\n3,4\n", b"a,1\n3,4\n", b".5,a\n3,4\n", b"a\nx\n"])
    def test_csv_without_a_header_under_an_open_contract(self, body):
        assert refused(body, CSV, contract=Contract()).rule in (TENSOR_NAME, VALUE)

    @pytest.mark.parametrize(
        ("body", "head"),
        [
            ({"dataframe_split": SPLIT}, JSON),
            ({"dataframe_records": RECORDS}, JSON),
            ({"instances": RECORDS}, JSON),
            ({"inputs": {"a": [1], "b": [2], "c": [3]}}, JSON),
            (b"a,b,c\n1,2,3\n", CSV),
        ],
    )
    def test_names_in_an_order_that_nobody_declared_are_not_scored(self, body, head):
        """A model sorts its columns by name: shuffled ones would be scored as another row."""
        refusal = refused(body, head, contract=Contract(width=3))
        assert refusal.rule is TENSOR_NAME
        assert "declared" in refusal.detail
        assert read({"instances": ROWS}, contract=Contract(width=3)).rows.tolist() == ROWS

    @pytest.mark.parametrize(
        ("body", "head"),
        [
            ({"dataframe_split": {"columns": ["c", "a", "b"], "data": [[3, 1, 2]]}}, JSON),
            ({"dataframe_records": [{"c": 3, "a": 1, "b": 2}]}, JSON),
            (b"c,a,b\n3,1,2\n", CSV),
        ],
    )
    def test_names_that_something_else_declares_are_put_in_its_order(self, body, head):
        one = {"contract": Contract(width=3), "names": ("b", "c", "a")}
        assert read(body, head, **one).rows.tolist() == [[2, 3, 1]]
        frame = {"columns": ["b", "c", "a"], "data": [[2, 3, 1]]}
        assert forwarded(body, head, **one) == {"dataframe_split": frame}
        assert refused(body, head, contract=Contract(width=3), names="abd").rule is TENSOR_NAME


class TestParameters:
    def test_those_that_the_operator_vouches_for_pass(self):
        body = {"instances": ROWS, "params": {"t": [1, 2.5], "k": "x"}}
        request = read(body, parameters=("t", "k"))
        assert request.options["parameters"] == {"t": [1, 2.5], "k": "x"}
        assert forwarded(body, parameters=("t", "k")) == body
        assert refused(body, parameters=("t",)).rule is PARAMETER

    @pytest.mark.parametrize("value", [{}, [[1]], None, [None], [{}], [0] * 1025])
    def test_what_is_no_plain_value(self, value):
        refusal = refused({"instances": ROWS, "params": {"t": value}}, parameters=("t",))
        assert refusal.rule is PARAMETER

    def test_none_at_all(self):
        for params in ({}, None):
            body = {"instances": ROWS, "params": params}
            assert forwarded(body) == {"instances": ROWS}
            assert "parameters" not in read(body).options


class TestAnswers:
    @pytest.mark.parametrize(
        ("predictions", "tensors"),
        [
            ([1, 2], {"predictions": [1, 2]}),
            ([1.5, 2], {"predictions": [1.5, 2.0]}),
            ([[0.1, 0.9]], {"predictions": [[0.1, 0.9]]}),
            (["a", "b"], {"predictions": [b"a", b"b"]}),
            ([True], {"predictions": [True]}),
            ([{"0": 1, "p": 0.5}], {"0": [1], "p": [0.5]}),
            ({"y": [1, 2], "p": [[0.5], [0.25]]}, {"y": [1, 2], "p": [[0.5], [0.25]]}),
            ([], {"predictions": []}),
        ],
    )
    def test_what_is_read_is_written(self, predictions, tensors):
        text = json.dumps({"predictions": predictions}).encode()
        response = codec().decode_response(JSON, text)
        assert {name: tensor.tolist() for name, tensor in response.tensors.items()} == tensors
        lines, body = codec().encode_response(response)
        assert lines == b"Content-Type: application/json\r\n"
        assert json.loads(body) == {"predictions": predictions}

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b"{}",
            b'{"predictions":5}',
            b'{"predictions":"x"}',
            b'{"predictions":null}',
            b'{"predictions":[NaN]}',
            b'{"predictions":[null]}',
            b'{"predictions":[1,[2]]}',
            b'{"predictions":[{"a":1},{"b":1}]}',
            b'{"predictions":[1],"more":[1]}',
            b'{"predictions":[1],"predictions":[2]}',
        ],
    )
    def test_what_is_invalid(self, body):
        with pytest.raises(Refusal) as refusal:
            codec().decode_response(JSON, body)
        assert refusal.value.rule is UPSTREAM_INVALID

    def test_what_json_cannot_hold(self):
        response = codec().decode_response(JSON, b'{"predictions":[1.5]}')
        odd = InferResponse({"predictions": np.array([np.nan])}, 1, response.options)
        with pytest.raises(ValueError, match="not finite"):
            codec().encode_response(odd)


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (OUTLIER, "PERMISSION_DENIED"),
        (CLIENT_RATE, "REQUEST_LIMIT_EXCEEDED"),
        (SYNTAX, "BAD_REQUEST"),
        (MEDIA_TYPE, "BAD_REQUEST"),
        (NO_ROUTE, "ENDPOINT_NOT_FOUND"),
        (OVERLOADED, "TEMPORARILY_UNAVAILABLE"),
        (UPSTREAM_INVALID, "INTERNAL_ERROR"),
    ],
)
def test_refusals_are_the_servers_own_errors(rule, code):
    refusal = codec().refuse(Refusal(rule))
    assert refusal.content_type == b"application/json"
    assert json.loads(refusal.body) == {"error_code": code, "message": rule.message}


class TestPaths:
    def test_what_passes(self):
        one = Invocations("/gateway/x/invocations", ABC, upstream_prefix="/invocations")
        passed = {
            ("POST", "/gateway/x/invocations"): (Call.INFER, b"/invocations"),
            ("GET", "/gateway/x/ping"): (Call.HEALTH, b"/ping"),
            ("GET", "/gateway/x/health"): (Call.HEALTH, b"/health"),
            ("GET", "/gateway/x/version"): (Call.METADATA, b"/version"),
        }
        for (method, target), (call, upstream) in passed.items():
            route = one.route(method, target)
            assert (route.call, route.target) == (call, upstream)
            with pytest.raises(Refusal) as refusal:
                one.route("DELETE", target)
            assert refusal.value.rule is METHOD
        assert one.probe.target == b"/ping"

    @pytest.mark.parametrize(
        "target",
        [
            "/invocations/",
            "/invocations/x",
            "/invocations?x=1",
            "/Invocations",
            "/%69nvocations",
            "//invocations",
            "/x/invocations",
            "/docs",
            "/openapi.json",
            "/api/2.0/mlflow/experiments/list",
            "",
            "/",
        ],
    )
    def test_what_does_not(self, target):
        with pytest.raises(Refusal) as refusal:
            codec().route("POST", target)
        assert refusal.value.rule is NO_ROUTE

    @pytest.mark.parametrize(
        "prefix", ["", "/", "/invocation", "/a/../invocations", "/invocations/", "//invocations"]
    )
    def test_a_prefix_that_is_not_its_own(self, prefix):
        with pytest.raises(ValueError, match="invocations"):
            Invocations(prefix, ABC)
        with pytest.raises(ValueError, match="invocations"):
            Invocations("/invocations", ABC, upstream_prefix=prefix or "/x")


def test_what_is_learnt():
    assert codec(None).learn(b"\n", 3) == Contract(width=3)
    named = codec(None, names=("a", "b", "c"))
    assert named.learn(b"\n", 3) == ABC
    assert named.with_contract(ABC).contract == ABC
    with pytest.raises(ContractError):
        named.learn(b"\n", 4)


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"inputs":[' + b"{}," * 300_000 + b"{}]}",
        b'{"dataframe_split":{"columns":[' + b'"a",' * 300_000 + b'"a"],"data":[[1]]}}',
        b'{"dataframe_records":[' + b'{"a":1},' * 200_000 + b'{"a":1}]}',
        b'{"instances":[[' + b"1," * 1_000_000 + b"1]]}",
    ],
)
def test_bodies_of_more_than_any_frame_holds(body):
    assert refused(body).rule.status in {400, 413}
