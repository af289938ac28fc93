"""V1: what only it has: forms, signatures, base64, examples, and what its servers declare."""

import json
import tracemalloc

import numpy as np
import pytest

from proxy.protocols.columns import columns_contract
from proxy.protocols.contract import Contract, ContractError
from proxy.protocols.v1 import V1
from proxy.rules import (
    DATATYPE,
    DUPLICATE_KEY,
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

PREFIX = "/v1/models/m"
ALL = ("predict", "classify", "regress")


def codec(*inputs, **told):
    return V1(PREFIX, Contract.from_config(inputs), calls=ALL, **told)


def spec(name, datatype, shape, **more):
    return {"name": name, "datatype": datatype, "shape": shape, **more}


def decode(one, document, call="predict"):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return one.decode_request({}, body, one.route("POST", f"{PREFIX}:{call}"))


def forwarded(one, document, call="predict"):
    lines, body = one.encode_request(decode(one, document, call))
    assert lines == b"Content-Type: application/json\r\n"
    return body


def refused(one, document, call="predict"):
    with pytest.raises(Refusal) as refusal:
        decode(one, document, call)
    return refusal.value.rule


FORWARDED = [
    ({"instances": [[1, 2], [3, 4]]}, b'{"instances":[[1,2],[3,4]]}'),
    ({"instances": [[1, 2.0], [3, 4]]}, b'{"instances":[[1.0,2.0],[3.0,4.0]]}'),
    ({"instances": [1.0, 2]}, b'{"instances":[1.0,2.0]}'),
    ({"inputs": [[1, 2]]}, b'{"inputs":[[1,2]]}'),
    ({"instances": ["a", "b"]}, b'{"instances":["a","b"]}'),
    (
        {"instances": [{"b": [1, 2], "a": 1.5}, {"a": 2, "b": [3, 4]}]},
        b'{"instances":[{"b":[1,2],"a":1.5},{"b":[3,4],"a":2.0}]}',
    ),
    ({"inputs": {"a": [1, 2], "b": [[1.5], [2]]}}, b'{"inputs":{"a":[1,2],"b":[[1.5],[2.0]]}}'),
    (
        {"instances": [[1]], "signature_name": "serving_default"},
        b'{"signature_name":"serving_default","instances":[[1]]}',
    ),
    ({"instances": [{"b64": "aGk="}]}, b'{"instances":[{"b64":"aGk="}]}'),
    ({"instances": [[{"b64": ""}]]}, b'{"instances":[[{"b64":""}]]}'),
    (
        {"instances": [{"image": {"b64": "/+8="}, "k": 1}]},
        b'{"instances":[{"image":{"b64":"/+8="},"k":1}]}',
    ),
    ({"instances": [{"instances": 1}]}, b'{"instances":[{"instances":1}]}'),
]


def test_the_form_stays():
    ran = 0
    for document, body in FORWARDED:
        assert forwarded(codec(), document) == body
        ran += 1
    assert ran == 12


REFUSED = [
    ([], SYNTAX),
    ({}, SYNTAX),
    (b"null", SYNTAX),
    ({"instances": [[1]], "inputs": [[2]]}, SYNTAX),
    ({"instances": [[1]], "parameters": {}}, SYNTAX),
    ({"instances": [[1]], "data": [[2]], "specversion": "1.0"}, SYNTAX),
    ({"instances": {"a": [1]}}, SYNTAX),
    ({"inputs": 1}, SYNTAX),
    ({"instances": [[1]], "signature_name": "other"}, PARAMETER),
    ({"instances": [[1]], "signature_name": None}, PARAMETER),
    ({"instances": []}, SHAPE),
    ({"instances": [{}]}, TENSOR_NAME),
    ({"inputs": {}}, TENSOR_NAME),
    ({"instances": [{"a": 1}, {"b": 1}]}, TENSOR_NAME),
    ({"instances": [{"a": 1}, {"a": 1, "b": 2}]}, TENSOR_NAME),
    ({"instances": [{"a": 1}, [1]]}, TENSOR_NAME),
    ({"instances": [[1], {"a": 1}]}, SHAPE),
    ({"instances": [[{"a": 1}]]}, VALUE),
    ({"inputs": {"a": [1], "b": [1, 2]}}, SHAPE),
    ({"inputs": {"a": 1}}, SHAPE),
    ({"inputs": {"": [1]}}, SYNTAX),
    ({"inputs": {"a\n": [1]}}, SYNTAX),
    ({"inputs": {f"a{i}": [1] for i in range(257)}}, TENSOR_NAME),
    ({"instances": [{"b64": "aGk"}]}, VALUE),
    ({"instances": [{"b64": "aGl="}]}, VALUE),
    ({"instances": [{"b64": "aG k="}]}, VALUE),
    ({"instances": [{"b64": "aGk=\n"}]}, VALUE),
    ({"instances": [{"b64": "\u00e9"}]}, VALUE),
    ({"instances": [{"b64": 1}]}, VALUE),
    ({"instances": [{"b64": "aGk="}, "hi"]}, VALUE),
    ({"instances": ["hi", {"b64": "aGk="}]}, VALUE),
    ({"instances": [{"b64": "aGk="}, {"b64": "aGk=", "x": 1}]}, VALUE),
    ({"instances": [[1]] * 257}, ROWS_PER_REQUEST),
    ({"instances": [{"a": 1}] * 257}, ROWS_PER_REQUEST),
    ({"inputs": {"a": [1] * 257}}, ROWS_PER_REQUEST),
    (b'{"instances":[1],"instances":[1]}', DUPLICATE_KEY),
    (b'{"instances":[{"a":1,"\\u0061":2}]}', DUPLICATE_KEY),
    (b'{"instances":[{"b64":"aGk=","b64":"aGk="}]}', DUPLICATE_KEY),
    (b'{"inputs":{"a":[1],"a":[2]}}', DUPLICATE_KEY),
    (b'{"instances":[1]} ', None),
    (b'{"instances":[1e400]}', SYNTAX),
]


def test_what_it_refuses():
    ran = 0
    for document, rule in REFUSED:
        if rule is None:
            decode(codec(), document)
        else:
            assert refused(codec(), document) is rule, document
        ran += 1
    assert ran == 41


def test_the_contract_names_the_only_input():
    one = codec(spec("x", "FP32", [-1, 2]))
    request = decode(one, {"instances": [[1, 2]]})
    assert list(request.tensors) == ["x"]
    assert request.tensors["x"].dtype == "<f4"
    assert forwarded(one, {"instances": [[1, 0.1]]}) == (
        b'{"instances":[[1.0,%b]]}' % repr(float(np.float32(0.1))).encode()
    )
    assert decode(one, {"inputs": {"x": [[1, 2]]}}).rows.tolist() == [[1, 2]]
    assert refused(one, {"inputs": {"instances": [[1, 2]]}}) is TENSOR_NAME
    assert refused(one, {"instances": [["1", "2"]]}) is VALUE
    assert refused(one, {"instances": [{"b64": "aGk="}]}) is DATATYPE
    assert refused(one, {"instances": [[1, 2, 3]]}) is SHAPE


def test_the_contract_gives_the_order():
    one = codec(spec("a", "FP32", [-1]), spec("b", "INT64", [-1, 2]))
    for document in (
        {"instances": [{"b": [1, 2], "a": 0.5}]},
        {"instances": [{"a": 0.5, "b": [1, 2]}]},
        {"inputs": {"b": [[1, 2]], "a": [0.5]}},
    ):
        assert decode(one, document).rows.tolist() == [[0.5, 1, 2]]
    assert forwarded(one, {"instances": [{"b": [1, 2], "a": 0.5}]}) == (
        b'{"instances":[{"a":0.5,"b":[1,2]}]}'
    )
    assert refused(one, {"instances": [[0.5, 1, 2]]}) is TENSOR_NAME
    assert refused(one, {"instances": [{"a": 1}]}) is TENSOR_NAME


def test_what_may_be_left_out_may_be():
    one = codec(spec("a", "FP32", [-1, 1]), spec("b", "INT64", [-1], optional=True))
    assert decode(one, {"instances": [[1], [2]]}).rows.shape == (2, 1)
    assert decode(one, {"instances": [{"a": [1], "b": 2}]}).rows.shape == (1, 2)


def test_a_width_is_held():
    one = V1(PREFIX, Contract().with_width(3))
    assert decode(one, {"instances": [[1, 2, 3]]}).n == 1
    assert refused(one, {"instances": [[1, 2]]}) is SHAPE
    assert refused(one, {"instances": [["1", "2", "3"]]}) is TENSOR_NAME


def test_an_unbatched_model_takes_one_sample():
    one = codec(spec("x", "FP32", [2, 3]))
    request = decode(one, {"inputs": [[1, 2, 3], [4, 5, 6]]})
    assert (request.n, request.rows.tolist()) == (1, [[1, 2, 3, 4, 5, 6]])
    assert one.batch(request) == 1


def test_the_columns_of_a_data_frame():
    contract = columns_contract(
        [
            {"name": "age", "missing": 30},
            {"name": "job", "type": "category", "values": ["a", "b"], "encoding": "one_hot"},
        ]
    )
    one = V1(PREFIX, contract)
    for document in (
        {"instances": [[1.5, "b"], [None, "a"]]},
        {"instances": [{"job": "b", "age": 1.5}, {"age": None, "job": "a"}]},
        {"inputs": {"age": [1.5, None], "job": ["b", "a"]}},
    ):
        request = decode(one, document)
        assert request.rows.tolist() == [[1.5, 0, 1], [30, 1, 0]]
        assert json.loads(one.encode_request(request)[1]) == document
        asked = one.with_rows(request, request.rows[[1]], np.array([1]))
        again = decode(one, one.encode_request(asked)[1])
        assert again.rows.tolist() == [[30, 1, 0]]
        assert again.tensors["job"].tolist() == [b"a"]
    for document, rule in (
        ({"instances": [[1.5]]}, SHAPE),
        ({"instances": [1.5]}, SHAPE),
        ({"instances": [[1.5, "c"]]}, VALUE),
        ({"instances": [[1.5, None]]}, VALUE),
        ({"instances": [["x", "a"]]}, VALUE),
        ({"instances": [{"age": 1}]}, TENSOR_NAME),
        ({"inputs": {"age": 1, "job": ["a"]}}, SHAPE),
        ({"instances": []}, SHAPE),
    ):
        assert refused(one, document) is rule, document


def test_the_context_is_part_of_each_example():
    one = codec()
    document = {"examples": [{"a": 1}, {"a": 2}], "context": {"c": ["x"], "d": 0.5}}
    assert forwarded(one, document, "classify") == (
        b'{"examples":[{"c":["x"],"d":0.5,"a":1},{"c":["x"],"d":0.5,"a":2}]}'
    )
    assert decode(one, document, "regress").rows.tolist() == [[0.5, 1], [0.5, 2]]
    for odd, rule in (
        ({"examples": [{"a": 1}], "context": {"a": 1}}, TENSOR_NAME),
        ({"examples": [{"a": 1}], "context": []}, SYNTAX),
        ({"examples": [1]}, SYNTAX),
        ({"examples": []}, SHAPE),
        ({"examples": {}}, SYNTAX),
        ({"instances": [{"a": 1}]}, SYNTAX),
        ({"examples": [{"a": 1}] * 257, "context": {"c": 1}}, ROWS_PER_REQUEST),
        (b'{"examples":[{"a":1}],"context":{"c":1,"c":2}}', DUPLICATE_KEY),
        (b'{"examples":[{"a":1,"a":1},{"a":1}],"context":{"c":1}}', DUPLICATE_KEY),
    ):
        assert refused(one, odd, "classify") is rule, odd
    assert refused(one, {"examples": [{"a": 1}]}) is SYNTAX


def test_a_context_is_not_multiplied_before_the_examples_are_counted():
    context = {f"f{i}": i for i in range(200)}
    body = json.dumps({"examples": [{}] * 5000, "context": context}).encode()
    tracemalloc.start()
    try:
        assert refused(codec(), body, "classify") is ROWS_PER_REQUEST
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()


def test_base64_has_the_shape_of_the_contract():
    one = codec(spec("x", "BYTES", [-1, 2]))
    assert decode(one, {"instances": [[{"b64": "aGk="}] * 2]}).n == 1
    assert refused(one, {"instances": [[{"b64": "aGk="}]]}) is SHAPE


@pytest.mark.parametrize("unit", ["0", "[0]", '"a"', '{"a":0}'])
def test_what_no_request_can_hold_is_not_parsed(unit):
    body = ('{"instances":[' + f"{unit}," * 40_000 + f"{unit}]}}").encode()
    assert refused(codec(spec("x", "FP32", [-1, 3])), body) is SYNTAX


ANSWERS = [
    ({"predictions": [[0.25, 0.75]]}, {"predictions": [[0.25, 0.75]]}, 1),
    ({"outputs": [1, 2]}, {"outputs": [1, 2]}, 2),
    (
        {"predictions": [{"p": [0.5, 0.5], "c": 1}]},
        {"p": [[0.5, 0.5]], "c": [1]},
        1,
    ),
    ({"outputs": {"p": [[0.5]], "c": ["x"]}}, {"p": [[0.5]], "c": [b"x"]}, 1),
    ({"predictions": {"p": [1, 2], "q": [3]}}, {"p": [1, 2], "q": [3]}, 1),
    ({"result": [1.5, 2.5]}, {"result": [1.5, 2.5]}, 2),
    (
        {"result": [[["a", 0.5], ["", 0.25]]]},
        {"classes": [[b"a", b""]], "scores": [[0.5, 0.25]]},
        1,
    ),
    ({"predictions": []}, {"predictions": []}, 0),
    ({"predictions": [{"b64": "aGk="}]}, {"predictions": [b"hi"]}, 1),
    ({"id": "7", "predictions": [1]}, {"predictions": [1]}, 1),
]


def test_answers_are_tensors():
    ran = 0
    for document, tensors, n in ANSWERS:
        one = codec()
        response = one.decode_response({}, json.dumps(document).encode())
        assert {name: tensor.tolist() for name, tensor in response.tensors.items()} == tensors
        assert response.n == n
        assert json.loads(one.encode_response(response)[1]) == document
        ran += 1
    assert ran == 10


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"error": "x"},
        {"predictions": 1},
        {"predictions": "a"},
        {"predictions": [None]},
        {"predictions": [1], "outputs": [1]},
        {"predictions": [{"a": {"b": 1}}]},
        {"predictions": [{"a": 1}, {"b": 1}]},
        {"result": [[["a", 0.5], ["b"]]]},
        {"result": [[["a", "b"]], [[1, 2]]]},
        {"result": [[["a", "x"]]]},
        {"result": [[["a", True]]]},
        {"result": [[["a", 0.5, "b", 0.5]]]},
        {"result": [[[1, 2]]]},
        {"result": [[1, 2]]},
    ],
)
def test_what_is_no_answer(document):
    with pytest.raises(Refusal) as refusal:
        codec().decode_response({}, json.dumps(document).encode())
    assert refusal.value.rule is UPSTREAM_INVALID


def test_a_score_that_is_not_finite_is_not_written():
    one = codec()
    response = one.decode_response({}, b'{"result":[[["a",0.5]]]}')
    response.tensors["scores"] = np.array([[np.nan]])
    with pytest.raises(ValueError, match="finite"):
        one.encode_response(response)


def test_a_refusal_is_a_string():
    refused = codec().refuse(Refusal(OUTLIER, "secret"))
    assert refused == (b"application/json", b'{"error":"request refused"}', ())


def metadata(inputs, method="tensorflow/serving/predict", name="m"):
    def side(tensors):
        return {
            key: {
                "dtype": dtype,
                "tensor_shape": {
                    "dim": [{"size": str(size), "name": ""} for size in shape],
                    "unknown_rank": False,
                },
                "name": f"{key}:0",
            }
            for key, (dtype, shape) in tensors.items()
        }

    signature = {
        "inputs": side(inputs),
        "outputs": side({"y": ("DT_FLOAT", [-1, 3])}),
        "method_name": method,
    }
    document = {
        "model_spec": {"name": name, "signature_name": "", "version": "3"},
        "metadata": {
            "signature_def": {
                "@type": "type.googleapis.com/tensorflow.serving.SignatureDefMap",
                "signature_def": {"serving_default": signature, "__saved_model_init_op": {}},
            }
        },
    }
    return json.dumps(document).encode()


def test_tensorflow_declares_its_tensors():
    one = codec(server="tensorflow")
    assert one.probe.target == b"/v1/models/m/metadata"
    inputs = {"z": ("DT_FLOAT", [-1, 4]), "a": ("DT_STRING", [-1]), "k": ("DT_INT32", [-1, 1])}
    contract = one.learn(metadata(inputs), None)
    assert [(s.name, s.datatype, s.shape) for s in contract.inputs] == [
        ("a", "BYTES", (-1,)),
        ("k", "INT32", (-1, 1)),
        ("z", "FP32", (-1, 4)),
    ]
    assert [(s.name, s.datatype, s.shape) for s in contract.outputs] == [("y", "FP32", (-1, 3))]
    assert contract.width == 5
    assert one.learn(metadata(inputs), 5) == contract
    for names, order in ((("k", "z", "a"), "kza"), (("k", "z"), "akz"), (("k", "z", "x"), "akz")):
        learnt = codec(server="tensorflow", names=names).learn(metadata(inputs), None)
        assert "".join(spec.name for spec in learnt.inputs) == order
    examples = {"inputs": ("DT_STRING", [-1])}
    for call in ("classify", "regress"):
        learnt = one.learn(metadata(examples, f"tensorflow/serving/{call}"), 7)
        assert learnt == Contract().with_width(7)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        metadata({}, name="other"),
        metadata({"x": ("DT_RESOURCE", [-1])}),
        metadata({"x": ("DT_FLOAT", [])}),
        metadata({"x": ("DT_FLOAT", ["x"])}),
        metadata({"x": ("DT_FLOAT", [-2])}),
        metadata({"x": ("DT_FLOAT", [-1])}).replace(
            b'"unknown_rank": false', b'"unknown_rank": true'
        ),
        metadata({"x": ("DT_FLOAT", [-1])}).replace(b"serving_default", b"other"),
        metadata({"x": ("DT_FLOAT", [-1, 3])}).replace(b'{"size": "3", "name": ""}', b"3"),
        metadata({"x": ("DT_FLOAT", [-1])}).replace(b'"DT_FLOAT"', b"[]"),
    ],
)
def test_metadata_that_declares_nothing(body):
    with pytest.raises(ContractError):
        codec(server="tensorflow").learn(body, None)


def test_metadata_of_another_width():
    with pytest.raises(ContractError, match="4 features"):
        codec(server="tensorflow").learn(metadata({"x": ("DT_FLOAT", [-1, 4])}), 5)


def test_a_model_has_the_name_of_its_server():
    for server, body in (
        ("kserve", b'{"name":"inner","ready":true}'),
        ("tensorflow", metadata({"x": ("DT_FLOAT", [-1, 4])}, name="inner")),
    ):
        one = codec(server=server, upstream_prefix="/v1/models/inner")
        assert one.learn(body, 4).width == 4
        with pytest.raises(ContractError, match="inner"):
            one.learn(body.replace(b"inner", b"m"), 4)


@pytest.mark.parametrize(
    ("document", "fine"),
    [
        ({"name": "m", "ready": True}, True),
        ({"name": "m", "ready": "True"}, True),
        ({"name": "m", "ready": False}, False),
        ({"name": "other", "ready": True}, False),
        ({"model_version_status": [{"version": "1", "state": "AVAILABLE"}]}, True),
        ({"model_version_status": [{"version": "1", "state": "LOADING"}]}, False),
        ({"model_version_status": [1]}, False),
        ([], False),
    ],
)
def test_a_status_shows_that_the_model_is_there(document, fine):
    one = codec()
    assert one.probe.target == b"/v1/models/m"
    body = json.dumps(document).encode()
    if fine:
        assert one.learn(body, 4) == Contract().with_width(4)
    else:
        with pytest.raises(ContractError):
            one.learn(body, 4)
