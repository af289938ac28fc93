"""SageMaker beside the conformance suite: its paths, headers, bodies and errors."""

import io
import json

import numpy as np
import pytest

from proxy.protocols.base import Call
from proxy.protocols.columns import columns_contract
from proxy.protocols.contract import Contract
from proxy.protocols.npy import write_npy
from proxy.protocols.sagemaker import SageMaker
from proxy.rules import (
    DUPLICATE_KEY,
    MEDIA_TYPE,
    METHOD,
    NO_ROUTE,
    PARAMETER,
    RULES,
    SHAPE,
    SYNTAX,
    TENSOR_NAME,
    UPSTREAM_INVALID,
    VALUE,
    Refusal,
)

PATH = "/invocations"
CSV, JSON, LINES, NPY = "text/csv", "application/json", "application/jsonlines", "application/x-npy"


def ask(media, body, contract=None, **headers):
    made = SageMaker(PATH, Contract() if contract is None else contract)
    head = {b"content-type": media.encode()}
    head |= {name.replace("_", "-").encode(): b"1" for name in headers}
    request = made.decode_request(head, body, made.route("POST", PATH))
    lines, written = made.encode_request(request)
    assert lines == b"Content-Type: %b\r\n" % media.partition(";")[0].encode()
    return request, written


def rule_of(media, body, contract=None, **headers):
    with pytest.raises(Refusal) as refusal:
        ask(media, body, contract, **headers)
    return refusal.value.rule


def test_paths():
    made = SageMaker("/endpoints/digits/invocations", None)
    route = made.route("POST", "/endpoints/digits/invocations")
    assert (route.call, route.target) == (Call.INFER, b"/invocations")
    assert made.probe.target == b"/ping"
    made = SageMaker("/base/invocations", None)
    assert made.route("POST", "/base/invocations").target == b"/base/invocations"
    assert made.route("GET", "/base/ping").call is Call.HEALTH
    made = SageMaker("/endpoints/digits/invocations", None, upstream_prefix="/a/invocations")
    assert made.route("POST", "/endpoints/digits/invocations").target == b"/a/invocations"


@pytest.mark.parametrize(
    ("method", "target", "rule"),
    [
        ("GET", "/invocations", METHOD),
        ("POST", "/ping", METHOD),
        ("POST", "/invocations/", NO_ROUTE),
        ("POST", "/endpoints/a/invocations", NO_ROUTE),
        ("POST", "/invocations-response-stream", NO_ROUTE),
        ("POST", "/models", NO_ROUTE),
        ("GET", "/models/a/invoke", NO_ROUTE),
        ("GET", "/execution-parameters", NO_ROUTE),
    ],
)
def test_other_paths(method, target, rule):
    with pytest.raises(Refusal) as refusal:
        SageMaker(PATH, None).route(method, target)
    assert refusal.value.rule is rule


def test_another_match():
    with pytest.raises(ValueError, match="/invocations"):
        SageMaker("/predict", None)
    with pytest.raises(ValueError, match="parameters"):
        SageMaker(PATH, None, parameters=("a",))


@pytest.mark.parametrize(
    ("body", "written"),
    [
        (b"1,2\n3,4\n", b"1,2\n3,4"),
        (b"1,2.5\r\n3,4\r\n", b"1,2.5\n3,4.0"),
        (b"1.0,2e3", b"1.0,2000.0"),
        (b"9007199254740993,0.5", b"9007199254740992,0.5"),
        (b"7", b"7"),
    ],
)
def test_csv_columns_stay_integers(body, written):
    """A reader that infers types column by column takes the same ones as from the client's text."""
    request, forwarded = ask(CSV, body)
    assert forwarded == written
    scored = np.genfromtxt(io.BytesIO(forwarded), delimiter=",", dtype=np.float64, ndmin=2)
    assert np.array_equal(request.rows, scored.astype(np.float32))


def test_csv_integers_beyond_64_bits_are_doubles():
    _, written = ask(CSV, b"1,18446744073709551616")
    assert written.startswith(b"1,1.8446744073709552e")


def test_csv_integers_among_floats_that_are_declared():
    contract = Contract.from_config([{"name": "x", "datatype": "FP32", "shape": [-1, 2]}])
    request, written = ask(CSV, b"1,2.5\n3,0.1", contract)
    assert request.tensors["x"].dtype == np.float32
    assert written == b"1,2.5\n3,0.10000000149011612"
    made = SageMaker(PATH, contract)
    rows = np.array([[1.4, 0.5], [2.6, 0.25], [9, 9]], np.float32)
    other = made.with_rows(request, rows, np.array([0, 1, 1]))
    assert made.encode_request(other)[1] == b"1,0.5\n3,0.25\n9,9.0"
    assert other.tensors["x"].tolist() == [[1, 0.5], [3, 0.25], [9, 9]]


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b"", SYNTAX),
        (b"\n", SYNTAX),
        (b"1,2\n\n3,4", SYNTAX),
        (b"\xef\xbb\xbf1,2", SYNTAX),
        (b"1,2\n3", SHAPE),
        (b"a,b\n1,2", VALUE),
        (b"1,", VALUE),
        (b"1,nan", VALUE),
        (b"1,inf", VALUE),
        (b"1,1e999", VALUE),
        (b"1, 2", VALUE),
        (b"1,0x1", VALUE),
        (b"1,1_0", VALUE),
        (b"1,+1", VALUE),
        (b"1,.5", VALUE),
        (b"01,2", VALUE),
        (b'"1",2', VALUE),
        (b"# 1,2", VALUE),
        (b"1;2", VALUE),
        (b"true,1", VALUE),
    ],
)
def test_csv_that_is_none(body, rule):
    assert rule_of(CSV, body) is rule


FRAME = columns_contract(
    [
        {"name": "age", "type": "integer"},
        {"name": "kind", "type": "category", "values": ["a", "b,c"], "encoding": "one_hot"},
        {"name": "size", "type": "number", "missing": 0.5},
        {"name": "note", "type": "string"},
        {"name": "old", "type": "boolean"},
    ]
)


def test_csv_of_a_data_frame():
    request, written = ask(CSV, b'1,"b,c",2.5,"say ""x""",true\r\n2,a,,y,False\r\n', FRAME)
    assert request.rows.tolist() == [[1, 0, 1, 2.5, 1], [2, 1, 0, 0.5, 0]]
    assert written == b'1,"b,c",2.5,"say ""x""",true\n2,"a",,"y",false'
    assert ask(CSV, written, FRAME)[1] == written
    assert rule_of(CSV, b"1,a,1,x", FRAME) is SHAPE
    assert rule_of(CSV, b"1,d,1,x,true", FRAME) is VALUE
    assert rule_of(CSV, b"1.5,a,1,x,true", FRAME) is VALUE
    assert rule_of(NPY, write_npy(np.ones((1, 5))), FRAME) is TENSOR_NAME


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "\x0b", "\x0c", "\x1e", "\x85", "\u2028"])
def test_no_cell_holds_another_row(end):
    """What is one row here is one to a container that splits lines, too."""
    contract = columns_contract([{"name": "a"}, {"name": "note", "type": "string"}])
    assert rule_of(CSV, f'1,"x{end}2"'.encode(), contract) is SYNTAX
    assert ask(CSV, "1,x\t2\n3,ü\n".encode(), contract)[1] == '1,"x\t2"\n3,"ü"'.encode()


def test_a_missing_element_leaves_no_empty_line():
    contract = columns_contract([{"name": "a", "missing": 7}])
    request, written = ask(CSV, b'1.5\n""\n2\n', contract)
    assert (request.rows.tolist(), written) == ([[1.5], [7], [2]], b'1.5\n""\n2.0')
    assert ask(CSV, written, contract)[1] == written


def test_csv_of_columns_of_numbers():
    contract = columns_contract(
        [{"name": "a", "type": "integer"}, {"name": "b", "type": "number", "missing": 0.5}]
    )
    assert ask(CSV, b"1,2\n3,4.5", contract)[1] == b"1,2.0\n3,4.5"
    assert ask(CSV, b"1,2\n3,4", contract)[1] == b"1,2\n3,4"
    request, written = ask(CSV, b"1,\n3,4", contract)
    assert (request.rows.tolist(), written) == ([[1, 0.5], [3, 4]], b"1,\n3,4.0")
    assert rule_of(CSV, b"1.0,2", contract) is VALUE


@pytest.mark.parametrize("media", [JSON, LINES])
def test_json_of_a_data_frame(media):
    body = b'{"old":true,"note":"x","size":null,"kind":"a","age":3}'
    request, written = ask(media, body if media == LINES else b"[%b]" % body, FRAME)
    assert request.rows.tolist() == [[3, 1, 0, 0.5, 1]]
    row = json.loads(written) if media == LINES else json.loads(written)[0]
    assert list(row.items()) == [
        ("age", 3), ("kind", "a"), ("size", None), ("note", "x"), ("old", True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "written"),
    [
        (b"[1, 2]", b"[1,2]"),
        (b"[[1, 2], [3, 4]]", b"[[1,2],[3,4]]"),
        (b'{"features": [1, 2]}', b'{"features":[1,2]}'),
        (b'{"instances": [{"features": [1.5]}]}', b'{"instances":[{"features":[1.5]}]}'),
        (b'{"instances": [[1.5], [2.5]]}', b'{"instances":[[1.5],[2.5]]}'),
        (b'{"inputs": [[1.5]]}', b'{"inputs":[[1.5]]}'),
    ],
)
def test_json(body, written):
    assert ask(JSON, body)[1] == written


@pytest.mark.parametrize(
    ("media", "body", "rule"),
    [
        (JSON, b'{"instances": [[1]], "inputs": [[2]]}', SYNTAX),
        (JSON, b'{"features": [[1], [2]]}', SHAPE),
        (JSON, b'{"features": [1], "features": [2]}', DUPLICATE_KEY),
        (JSON, b'{"x": [1]}', SYNTAX),
        (JSON, b"[1] [2]", SYNTAX),
        (LINES, b"[1\n2]", SYNTAX),
        (LINES, b"[1],[2]", SYNTAX),
        (LINES, b"[1]\n\n[2]", SYNTAX),
        (LINES, b"1\n2", SYNTAX),
        (LINES, b"", SYNTAX),
        (LINES, b'[1]\n{"features": [2]}', SHAPE),
        (LINES, b'{"features": [1]}\n{"features": [1], "features": [2]}', DUPLICATE_KEY),
        (NPY, b"", SYNTAX),
    ],
)
def test_bodies_that_readers_take_differently(media, body, rule):
    assert rule_of(media, body) is rule


def test_json_lines():
    request, written = ask(LINES, b'{"features": [1, 2]}\r\n{"features": [3, 4]}\n')
    assert request.rows.tolist() == [[1, 2], [3, 4]]
    assert written == b'{"features":[1,2]}\n{"features":[3,4]}'
    assert ask(LINES, b"[1.5]\n[2]")[1] == b"[1.5]\n[2.0]"


@pytest.mark.parametrize(
    "media",
    [
        "application/x-npz",
        "application/x-recordio-protobuf",
        "application/x-parquet",
        "application/python-pickle",
        "application/x-image",
        "text/libsvm",
        "text/csv; charset=utf-16",
        "text/csv; header=present",
        "text/csv; label_size=1",
        "application/x-npy; charset=utf-8",
        "",
    ],
)
def test_media_types_that_are_not_read(media):
    assert rule_of(media, b"1,2") is MEDIA_TYPE


def test_charset():
    assert ask("text/csv; charset=UTF-8", b"1")[1] == b"1"
    assert ask('application/json;charset="utf-8"', b"[1]")[1] == b"[1]"


@pytest.mark.parametrize(
    "header",
    [
        "custom-attributes",
        "enable-explanations",
        "inference-component",
        "session-id",
        "target-container-hostname",
        "target-model",
        "target-variant",
    ],
)
def test_headers_that_choose_another_model(header):
    assert rule_of(CSV, b"1", **{f"x-amzn-sagemaker-{header}": 1}) is PARAMETER
    assert ask(CSV, b"1", **{"x-amzn-sagemaker-inference-id": 1})


@pytest.mark.parametrize(
    ("media", "body", "tensors"),
    [
        (CSV, b"0.5,0.25\n0.5,1.5", {"predictions": [[0.5, 0.25], [0.5, 1.5]]}),
        (CSV, b"1\n2", {"predictions": [[1], [2]]}),
        (CSV, b'cat\n"d,og"', {"predictions": [b"cat", b"d,og"]}),
        (JSON, b"[[0.5,0.5]]", {"predictions": [[0.5, 0.5]]}),
        (JSON, b'{"predictions":[{"score":0.5,"label":1}]}', {"score": [0.5], "label": [1]}),
        (LINES, b'{"score":0.5}\n{"score":0.25}', {"score": [0.5, 0.25]}),
        (LINES, b"[0.5]\n[0.25]", {"predictions": [[0.5], [0.25]]}),
        (NPY, write_npy(np.ones((2, 3))), {"predictions": [[1, 1, 1]] * 2}),
    ],
)
def test_answers_are_written_as_they_were_read(media, body, tensors):
    made = SageMaker(PATH, Contract())
    response = made.decode_response({b"content-type": media.encode()}, body)
    assert {name: tensor.tolist() for name, tensor in response.tensors.items()} == tensors
    lines, written = made.encode_response(response)
    assert (lines, written) == (b"Content-Type: %b\r\n" % media.encode(), body)


@pytest.mark.parametrize(
    ("media", "body"),
    [
        (CSV, b""),
        (CSV, b"1,a"),
        (CSV, b"nan,1"),
        (NPY, write_npy(np.full((1, 2), np.nan))),
        ("text/html", b"1"),
        ("application/x-npz", b"PK\3\4"),
    ],
)
def test_answers_that_are_not_read(media, body):
    with pytest.raises(Refusal) as refusal:
        SageMaker(PATH, Contract()).decode_response({b"content-type": media.encode()}, body)
    assert refusal.value.rule is UPSTREAM_INVALID


def test_refusals_are_the_services_own_errors():
    """Those that its client retries are never a block."""
    told = {}
    for rule in RULES.values():
        refused = SageMaker(PATH, None).refuse(Refusal(rule))
        ((name, kind),) = refused.headers
        assert name == b"x-amzn-errortype"
        assert json.loads(refused.body) == {"Message": rule.message}
        told.setdefault(rule.status, set()).add(kind)
    assert told[403] == {b"AccessDeniedException"}
    assert told[429] == {b"ThrottlingException"}
    assert told[400] == told[413] == told[415] == told[404] == {b"ValidationError"}
    assert told[502] == told[504] == {b"ModelError"}
    assert told[503] == {b"ServiceUnavailable"}
    assert len(told) >= 11
