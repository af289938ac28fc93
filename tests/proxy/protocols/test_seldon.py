"""Seldon's version 1: what only it has: names, meta, paths, and what is never inspected."""

import json

import pytest

from proxy.protocols.base import Call
from proxy.protocols.columns import columns_contract
from proxy.protocols.contract import Contract
from proxy.protocols.seldon import Seldon
from proxy.rules import (
    CLIENT_RATE,
    CONTROL_PATH,
    DUPLICATE_KEY,
    MEDIA_TYPE,
    METHOD,
    NO_ROUTE,
    OUTLIER,
    PARAMETER,
    ROWS_PER_REQUEST,
    SHAPE,
    SYNTAX,
    TENSOR_NAME,
    UPSTREAM_INVALID,
    VALUE,
    Refusal,
)

PATH = "/api/v1.0/predictions"


def codec(*inputs, **told):
    return Seldon(PATH, Contract.from_config(inputs), **told)


def decode(one, document, head=None):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return one.decode_request(head or {}, body, one.route("POST", PATH))


def refused(one, document, head=None):
    with pytest.raises(Refusal) as refusal:
        decode(one, document, head)
    return refusal.value.rule


def data(**told):
    return {"data": told}


def tensor(shape, values):
    return data(tensor={"shape": shape, "values": values})


FORWARDED = [
    (data(ndarray=[[1, 2]]), b'{"data":{"ndarray":[[1,2]]}}'),
    (data(ndarray=[[1, 2.0]]), b'{"data":{"ndarray":[[1.0,2.0]]}}'),
    (data(ndarray=[["a", "b"]]), b'{"data":{"ndarray":[["a","b"]]}}'),
    (tensor([1, 2], [1, 2.5]), b'{"data":{"tensor":{"shape":[1,2],"values":[1.0,2.5]}}}'),
    (data(names=[], ndarray=[[1]]), b'{"data":{"ndarray":[[1]]}}'),
    (data(ndarray=[[1]], names=["a"]), b'{"data":{"names":["a"],"ndarray":[[1]]}}'),
    (
        tensor([1, 1], [1]) | {"meta": {"puid": "p1", "tags": {}, "metrics": []}},
        b'{"data":{"tensor":{"shape":[1,1],"values":[1]}},"meta":{"puid":"p1"}}',
    ),
    (data(ndarray=[[1]]) | {"meta": {"puid": ""}}, b'{"data":{"ndarray":[[1]]}}'),
]


def test_the_form_stays():
    ran = 0
    for document, body in FORWARDED:
        one = codec()
        assert one.encode_request(decode(one, document)) == (
            b"Content-Type: application/json\r\n",
            body,
        )
        ran += 1
    assert ran == 8


REFUSED = [
    ([], SYNTAX),
    ({}, SYNTAX),
    ({"data": []}, SYNTAX),
    (data(), SYNTAX),
    ({"strData": "1,2"}, PARAMETER),
    ({"binData": "aGk="}, PARAMETER),
    ({"jsonData": [[1]]}, PARAMETER),
    ({"customData": {}}, PARAMETER),
    (data(ndarray=[[1]]) | {"strData": "1"}, PARAMETER),
    (data(ndarray=[[1]]) | {"status": {}}, PARAMETER),
    (data(tftensor={}), PARAMETER),
    (data(ndarray=[[1]], tftensor={}), PARAMETER),
    (data(ndarray=[[1]], tensor={"shape": [1], "values": [2]}), SYNTAX),
    (data(ndarray={"a": [1]}), SHAPE),
    (data(ndarray=[{"a": 1}]), VALUE),
    (data(ndarray=[[1, "a"]]), VALUE),
    (data(ndarray=[[1, None]]), VALUE),
    (data(ndarray=[[1], [1, 2]]), SHAPE),
    (data(ndarray=[]), SHAPE),
    (data(ndarray=[[1]] * 257), ROWS_PER_REQUEST),
    (data(tensor=[1]), SYNTAX),
    (data(tensor={"values": [1]}), SYNTAX),
    (data(tensor={"shape": [1], "values": [1], "x": 1}), SYNTAX),
    (tensor([], [1]), SHAPE),
    (tensor([-1], [1]), SHAPE),
    (tensor([2**40, 2**40], [1]), SHAPE),
    (tensor([1.0], [1]), SHAPE),
    (tensor([2], [1]), SHAPE),
    (tensor([1, 2], [[1, 2]]), SHAPE),
    (tensor([1], [[1]]), SHAPE),
    (tensor([1], {"a": 1}), SHAPE),
    (tensor([257], [1] * 257), ROWS_PER_REQUEST),
    (data(ndarray=[[1]], names="a"), SYNTAX),
    (data(ndarray=[[1]], names=[1]), SYNTAX),
    (data(ndarray=[[1]], names=["a", "b"]), SHAPE),
    (data(ndarray=[1], names=["a"]), SHAPE),
    (data(ndarray=[[1, 2]], names=["a", "a"]), TENSOR_NAME),
    (data(ndarray=[[1]]) | {"meta": []}, SYNTAX),
    (data(ndarray=[[1]]) | {"meta": {"puid": 1}}, SYNTAX),
    (data(ndarray=[[1]]) | {"meta": {"puid": "a\nb"}}, SYNTAX),
    (data(ndarray=[[1]]) | {"meta": {"tags": {"a": 1}}}, PARAMETER),
    (data(ndarray=[[1]]) | {"meta": {"routing": {"r": 1}}}, PARAMETER),
    (data(ndarray=[[1]]) | {"meta": {"x": 0}}, PARAMETER),
    (b'{"data":{"ndarray":[[1]],"ndarray":[[2]]}}', DUPLICATE_KEY),
    (b'{"data":{"ndarray":[[1]]},"data":{"ndarray":[[2]]}}', DUPLICATE_KEY),
    (b'{"data":{"tensor":{"shape":[1],"values":[1],"values":[2]}}}', DUPLICATE_KEY),
    (b'{"data":{"ndarray":[[1]]},"meta":{"puid":"a","puid":"b"}}', DUPLICATE_KEY),
]


def test_what_it_refuses():
    ran = 0
    for document, rule in REFUSED:
        assert refused(codec(), document) is rule, document
        ran += 1
    assert ran == 47


@pytest.mark.parametrize(
    "media", [b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=b"]
)
def test_no_form_predicts(media):
    body = b"json=%7B%22data%22%3A%7B%22ndarray%22%3A%5B%5B1%5D%5D%7D%7D"
    assert refused(codec(), body, {b"content-type": media}) is MEDIA_TYPE


def test_names_are_the_features_in_their_order():
    one = Seldon(PATH, Contract().with_width(2), features=("a", "b"))
    assert decode(one, data(names=["a", "b"], ndarray=[[1, 2]])).rows.tolist() == [[1, 2]]
    assert decode(one, data(ndarray=[[1, 2]])).n == 1
    for names in (["b", "a"], ["a"], ["a", "b", "c"]):
        assert refused(one, data(names=names, ndarray=[[1, 2]])) is TENSOR_NAME


def test_the_columns_of_a_data_frame():
    contract = columns_contract(
        [
            {"name": "age", "missing": 30},
            {"name": "job", "type": "category", "values": ["a", "b"], "encoding": "one_hot"},
        ]
    )
    one = Seldon(PATH, contract, features=("age", "job=a", "job=b"))
    for document in (
        data(ndarray=[[1.5, "b"], [None, "a"]]),
        data(names=["age", "job"], ndarray=[[1.5, "b"], [None, "a"]]),
        tensor([2, 2], [1.5, "b", None, "a"]),
    ):
        request = decode(one, document)
        assert request.rows.tolist() == [[1.5, 0, 1], [30, 1, 0]]
        assert json.loads(one.encode_request(request)[1]) == document
    assert refused(one, data(names=["job", "age"], ndarray=[[1, "a"]])) is TENSOR_NAME
    assert refused(one, tensor([4], [1.5, "b", 2.5, "a"])) is SHAPE
    assert refused(one, tensor([1, 1], [1.5])) is SHAPE


def test_a_contract_of_several_tensors_has_no_place_on_this_wire():
    inputs = [{"name": name, "datatype": "FP32", "shape": [-1, 1]} for name in "ab"]
    assert refused(codec(*inputs), data(ndarray=[[1]])) is TENSOR_NAME


ANSWERS = [
    (data(names=["t:0"], ndarray=[[0.25]]) | {"meta": {"puid": "a"}}, [[0.25]], 1),
    (data(tensor={"shape": [2, 1], "values": [1, 2]}), [[1], [2]], 2),
    (data(ndarray=["a", "b"]), [b"a", b"b"], 2),
    (data(tensor={"shape": [0], "values": []}, names=[]), [], 0),
]


def test_answers_are_tensors():
    ran = 0
    for document, values, n in ANSWERS:
        one = codec()
        response = one.decode_response({}, json.dumps(document).encode())
        assert response.tensors["data"].tolist() == values
        assert response.n == n
        assert json.loads(one.encode_response(response)[1]) == document
        ran += 1
    assert ran == 4


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"strData": "a"},
        {"jsonData": {}},
        data(),
        data(ndarray=[[None]]),
        data(ndarray=[{"a": 1}]),
        data(ndarray=1),
        data(tensor={"shape": [2], "values": [1]}),
    ],
)
def test_what_is_no_answer(document):
    with pytest.raises(Refusal) as refusal:
        codec().decode_response({}, json.dumps(document).encode())
    assert refusal.value.rule is UPSTREAM_INVALID


def test_a_refusal_is_a_status():
    def status(rule):
        return json.loads(codec().refuse(Refusal(rule, "secret")).body)["status"]

    told = {"info": "request refused", "reason": "FORBIDDEN", "status": "FAILURE"}
    assert status(OUTLIER) == {"code": 403, **told}
    assert status(CLIENT_RATE)["reason"] == "TOO_MANY_REQUESTS"


PASSED = [
    ("POST", "/s/api/v1.0/predictions", Call.INFER, b"/predict"),
    ("GET", "/s/health/ping", Call.HEALTH, b"/health/ping"),
    ("GET", "/s/health/status", Call.HEALTH, b"/health/status"),
    ("GET", "/s/api/v1.0/health/status", Call.HEALTH, b"/api/v1.0/health/status"),
    ("GET", "/s/metadata", Call.METADATA, b"/metadata"),
    ("GET", "/s/api/v1.0/metadata", Call.METADATA, b"/api/v1.0/metadata"),
    ("GET", "/s/ready", Call.HEALTH, b"/ready"),
]
BLOCKED = [
    ("GET", "/s/api/v1.0/predictions", METHOD),
    ("POST", "/s/health/ping", METHOD),
    ("POST", "/s/predict", NO_ROUTE),
    ("GET", "/s/predict?json=%7B%7D", NO_ROUTE),
    ("POST", "/s/api/v1.0/feedback", CONTROL_PATH),
    ("POST", "/s/api/v0.1/predictions", CONTROL_PATH),
    ("POST", "/s/send-feedback", CONTROL_PATH),
    ("POST", "/s/transform-input", CONTROL_PATH),
    ("POST", "/s/transform-output", CONTROL_PATH),
    ("POST", "/s/route", CONTROL_PATH),
    ("POST", "/s/aggregate", CONTROL_PATH),
    ("GET", "/s/seldon.json", CONTROL_PATH),
    ("GET", "/s/metrics", CONTROL_PATH),
    ("GET", "/s/prometheus", CONTROL_PATH),
    ("POST", "/s/api/v1.0/predictions/", NO_ROUTE),
    ("POST", "/s/api/v1.0/%70redictions", NO_ROUTE),
    ("GET", "/api/v1.0/metadata", NO_ROUTE),
    ("GET", "/s/other", NO_ROUTE),
]


def test_paths():
    one = Seldon("/s/api/v1.0/predictions", Contract(), upstream_prefix="/predict", health="/ready")
    assert one.probe.target == b"/ready"
    ran = 0
    for method, target, call, upstream in PASSED:
        route = one.route(method, target)
        assert (route.call, route.method, route.target) == (call, method, upstream)
        ran += 1
    for method, target, rule in BLOCKED:
        with pytest.raises(Refusal) as refusal:
            one.route(method, target)
        assert refusal.value.rule is rule, target
        ran += 1
    assert ran == 25


@pytest.mark.parametrize("prefix", ["", "/", "/predictions", "/predict/", "/v1/models/m"])
def test_a_prefix_of_another_protocol(prefix):
    with pytest.raises(ValueError, match="predict"):
        Seldon(prefix, None)


def test_the_server_says_no_more_than_that_it_is_there():
    assert codec().learn(b"pong", 4) == Contract().with_width(4)
