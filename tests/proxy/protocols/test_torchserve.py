"""TorchServe beside the conformance suite: its paths, what its handlers take, its errors."""

import json

import numpy as np
import pytest
from test_torchserve_conformance import png

from proxy.protocols.base import Call
from proxy.protocols.columns import columns_contract
from proxy.protocols.contract import Contract, ContractError
from proxy.protocols.torchserve import TorchServe
from proxy.rules import (
    CONTROL_PATH,
    MEDIA_TYPE,
    METHOD,
    NO_ROUTE,
    OUTLIER,
    ROWS_PER_REQUEST,
    SHAPE,
    SYNTAX,
    TENSOR_NAME,
    Refusal,
)

JSON = {b"content-type": b"application/json"}
PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
IMAGE = {"width": 4, "height": 3, "channels": 1}


def codec(contract=None, **how):
    return TorchServe("/predictions/m", Contract() if contract is None else contract, **how)


def ask(body, head=JSON, contract=None, **how):
    made = codec(contract, **how)
    request = made.decode_request(head, body, made.route("POST", "/predictions/m"))
    return request, made.encode_request(request)


def rule_of(body, head=JSON, contract=None, **how):
    with pytest.raises(Refusal) as refusal:
        ask(body, head, contract, **how)
    return refusal.value.rule


def test_paths():
    made = TorchServe("/base/predictions/m", None, upstream_prefix="/predictions/other")
    route = made.route("POST", "/base/predictions/m")
    assert (route.call, route.target, route.model) == (Call.INFER, b"/predictions/other", "m")
    route = made.route("PUT", "/base/predictions/m/2.0")
    assert (route.method, route.target) == ("POST", b"/predictions/other/2.0")
    assert route.version == "2.0"
    assert made.route("GET", "/base/ping").target == b"/ping"
    assert made.probe == made.route("GET", "/base/ping")
    one = TorchServe("/predictions/m/1", None)
    assert one.route("POST", "/predictions/m/1").version == "1"


@pytest.mark.parametrize(
    ("method", "target", "rule"),
    [
        ("GET", "/predictions/m", METHOD),
        ("DELETE", "/predictions/m", METHOD),
        ("PUT", "/ping", METHOD),
        ("POST", "/predictions/n", NO_ROUTE),
        ("POST", "/predictions/mm", NO_ROUTE),
        ("POST", "/predictions/m/1/2", NO_ROUTE),
        ("POST", "/predictions/m/..", NO_ROUTE),
        ("POST", "/predictions/m/", NO_ROUTE),
        ("POST", "/predictions/m?a=b", NO_ROUTE),
        ("POST", "/predictions/%6d", NO_ROUTE),
        ("POST", "/Predictions/m", NO_ROUTE),
        ("POST", "/other/m", NO_ROUTE),
        ("POST", "/models", CONTROL_PATH),
        ("GET", "/models/m", CONTROL_PATH),
        ("DELETE", "/models/m/1.0", CONTROL_PATH),
        ("POST", "/explanations/m", CONTROL_PATH),
        ("POST", "/wfpredict/m", CONTROL_PATH),
        ("POST", "/workflows", CONTROL_PATH),
        ("GET", "/metrics", CONTROL_PATH),
        ("GET", "/api-description", CONTROL_PATH),
    ],
)
def test_other_paths(method, target, rule):
    with pytest.raises(Refusal) as refusal:
        codec().route(method, target)
    assert refusal.value.rule is rule


@pytest.mark.parametrize("prefix", ["/", "/predictions", "/predictions/a/b/c", "/v1/models/m", ""])
def test_another_match(prefix):
    with pytest.raises(ValueError, match="predictions/MODEL"):
        TorchServe(prefix, None)


def test_a_version_that_is_fixed_has_none_below_it():
    made = TorchServe("/predictions/m", None, upstream_prefix="/predictions/m/1")
    assert made.route("POST", "/predictions/m").target == b"/predictions/m/1"
    for one, target in (
        (made, "/predictions/m/2"),
        (TorchServe("/predictions/m/1", None), "/predictions/m/1/2"),
        (TorchServe("/predictions/m/1", None), "/predictions/m/2"),
    ):
        with pytest.raises(Refusal) as refusal:
            one.route("POST", target)
        assert refusal.value.rule is NO_ROUTE


@pytest.mark.parametrize(
    ("body", "rows", "forwarded"),
    [
        (b"[1, 2]", [[1], [2]], b"[1,2]"),
        (b"[[1, 2.5]]", [[1, 2.5]], b"[[1.0,2.5]]"),
        (b'{"data": [1, 2]}', [[1], [2]], b'{"data":[1,2]}'),
        (b'["t1", "t2", "t3"]', [[], [], []], b'["t1","t2","t3"]'),
        (b'{"inputs": [[1], [2]]}', [[1], [2]], b'{"inputs":[[1],[2]]}'),
        (b'{"instances": [{"data": [1, 2]}]}', [[1, 2]], b'{"instances":[{"data":[1,2]}]}'),
        (b"[[[1], [2]]]", [[1, 2]], b"[[[1],[2]]]"),
    ],
)
def test_what_handlers_take(body, rows, forwarded):
    request, (lines, written) = ask(body)
    assert request.rows.tolist() == rows
    assert (lines, written) == (b"Content-Type: application/json\r\n", forwarded)


def test_what_nothing_says_is_a_row_counts_as_one():
    """To a handler of texts a list of them is a batch: it is not to pass for one row."""
    texts = json.dumps({"inputs": ["text"] * 257}).encode()
    assert rule_of(texts) is ROWS_PER_REQUEST
    pair = Contract().with_width(2)
    for body in (b"[1, 2]", b'{"data": [1, 2]}'):
        request, (_, written) = ask(body, contract=pair)
        assert (request.n, request.rows.tolist()) == (1, [[1, 2]])
        assert written == body.replace(b" ", b"")
    assert rule_of(b"[1, 2, 3]", contract=pair) is SHAPE


def test_one_row_is_told_by_the_contract():
    image = Contract.from_config([{"name": "x", "datatype": "FP32", "shape": [-1, 1, 2, 2]}])
    request, (_, written) = ask(b"[[[1, 2], [3, 4]]]", contract=image)
    assert (request.n, request.tensors["x"].shape) == (1, (1, 1, 2, 2))
    assert written == b"[[[1.0,2.0],[3.0,4.0]]]"
    made = codec(image)
    assert made.batch(request) == 1
    with pytest.raises(ValueError, match="fit"):
        made.with_rows(request, np.zeros((2, 4), np.float32), np.zeros(2, np.int64))
    several, _ = ask(b"[[[[1, 2], [3, 4]]], [[[1, 2], [3, 4]]]]", contract=image)
    assert several.n == 2
    assert rule_of(b"[1, 2]", contract=image) is SHAPE


def test_a_data_frame():
    contract = columns_contract(
        [{"name": "a", "type": "number"}, {"name": "b", "type": "category", "values": ["x", "y"]}]
    )
    request, (_, written) = ask(b'{"instances": [{"b": "y", "a": 1}]}', contract=contract)
    assert request.rows.tolist() == [[1, 1]]
    assert json.loads(written) == {"instances": [{"a": 1, "b": "y"}]}
    assert ask(b'[[1.5, "x"]]', contract=contract)[0].rows.tolist() == [[1.5, 0]]


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b'{"instances": [[1]], "data": [[1]]}', SYNTAX),
        (b'{"instances": [[1]], "x": 1}', SYNTAX),
        (b'{"body": [[1]]}', SYNTAX),
        (b"{}", SYNTAX),
        (b"7", SYNTAX),
        (b"null", SYNTAX),
        (b'"aGk="', SYNTAX),
        (b"[]", SHAPE),
        (b"[[]]", SHAPE),
        (b"[[1], [1, 2]]", SHAPE),
        (b'[{"a": [1]}, {"b": [1]}]', TENSOR_NAME),
    ],
)
def test_what_handlers_do_not_take(body, rule):
    assert rule_of(body) is rule


def test_media_types():
    rows = b"[[1, 2]]"
    assert ask(rows, {})[1] == (b"", rows.replace(b" ", b""))
    octets = {b"content-type": b"application/octet-stream"}
    lines = b"Content-Type: application/octet-stream\r\n"
    assert ask(rows, octets)[1] == (lines, rows.replace(b" ", b""))
    for media in (b"text/plain", b"application/x-www-form-urlencoded", b"image/png", b"text/csv"):
        assert rule_of(rows, {b"content-type": media}) is MEDIA_TYPE
    assert rule_of(png(PIXELS), {}) is MEDIA_TYPE
    assert rule_of(png(PIXELS), JSON, image=IMAGE) is SYNTAX


def test_an_image_is_scored_in_its_scale():
    for head in (
        {},
        {b"content-type": b"image/png"},
        {b"content-type": b"application/octet-stream"},
    ):
        request, (lines, body) = ask(png(PIXELS), head, image=IMAGE | {"scale": (-1, 1)})
        assert request.n == 1
        assert np.allclose(request.rows, PIXELS.reshape(1, -1) / 255 * 2 - 1)
        assert request.tensors["image"].tolist() == PIXELS[None, :, :, None].tolist()
        assert lines == b"Content-Type: image/png\r\n"
        assert body.startswith(b"\x89PNG")
    assert codec(image=IMAGE).inline_bytes == 0
    assert codec().inline_bytes > 0


def test_rows_beside_images():
    body = json.dumps((PIXELS / 255).reshape(1, -1).tolist()).encode()
    request, _ = ask(body, image=IMAGE)
    assert request.rows.shape == (1, 12)
    assert rule_of(b"[[1, 2]]", image=IMAGE) is SHAPE


def test_another_image_is_asked_about():
    made = codec(image=IMAGE)
    request, _ = ask(png(PIXELS), {}, image=IMAGE)
    rows = np.full((1, 12), 0.2, np.float32)
    other = made.with_rows(request, rows, np.zeros(1, np.int64))
    assert set(other.tensors["image"].ravel().tolist()) == {51}
    assert made.batch(request) == 1
    with pytest.raises(ValueError, match="fit"):
        made.with_rows(request, np.zeros((2, 12), np.float32), np.zeros(2, np.int64))


def test_the_fields_of_a_form():
    for name, fine in ((b"data", True), (b"body", True), (b"file", False)):
        head = {b"content-type": b"multipart/form-data; boundary=b"}
        body = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n--b--\r\n' % (
            name,
            png(PIXELS),
        )
        if fine:
            assert b'name="%b"' % name in ask(body, head, image=IMAGE)[1][1]
        else:
            assert rule_of(body, head, image=IMAGE) is SYNTAX


def test_the_width_of_a_contract_is_the_images():
    with pytest.raises(ContractError, match="features"):
        codec(image=IMAGE).learn(b"", 7)
    with pytest.raises(ValueError, match="features"):
        codec(Contract(width=7), image=IMAGE)
    assert codec(image=IMAGE).learn(b"", 12) == Contract(width=12)
    assert codec(image=IMAGE).learn(b"", None) == Contract()


def test_an_answer_has_no_content_type():
    response = codec().decode_response({}, b'{\n  "tabby": 0.5,\n  "tiger": 0.25\n}')
    assert response.n == 1
    assert response.tensors["label"].tolist() == [b"tabby"]
    assert codec().encode_response(response)[1] == b'{"tabby":0.5,"tiger":0.25}'
    assert codec().decode_response({}, b"7").tensors["predictions"].tolist() == [7]
    with pytest.raises(Refusal):
        codec().decode_response({}, b"tabby")


def test_a_refusal():
    refused = codec().refuse(Refusal(OUTLIER))
    assert json.loads(refused.body) == {
        "code": 403,
        "type": "AccessDeniedException",
        "message": "request refused",
    }
