"""Where a model declares no inputs: what is scored is what it reads, in the order it reads it."""

import json

import pytest

from proxy.protocols.contract import Contract
from proxy.protocols.custom_json import CustomJson
from proxy.protocols.invocations import Invocations
from proxy.protocols.json_codec import JsonCodec
from proxy.protocols.sagemaker import SageMaker
from proxy.protocols.seldon import Seldon
from proxy.protocols.torchserve import TorchServe
from proxy.protocols.v1 import V1
from proxy.rules import SHAPE, TENSOR_NAME, Refusal

WIDE = Contract().with_width(4)
JSON = {b"content-type": b"application/json"}
LINES = {b"content-type": b"application/jsonlines"}


def v1(**told):
    return V1("/v1/models/m", WIDE, **told), "/v1/models/m:predict"


def torchserve(**told):
    return TorchServe("/predictions/m", WIDE, **told), "/predictions/m"


def sagemaker(**told):
    return SageMaker("/invocations", WIDE, **told), "/invocations"


def mlflow(**told):
    return Invocations("/invocations", WIDE, **told), "/invocations"


def custom(**told):
    return CustomJson("/p", WIDE, rows="$.instances", **told), "/p"


def single(**told):
    return CustomJson("/p", WIDE, rows="$.instances[0]", single=True, **told), "/p"


# Each way to name tensors: the codec, and the body around rows or columns.
NAMING = {
    "v1": (v1, JSON, lambda row: {"instances": [row]}),
    "v1 columns": (v1, JSON, lambda row: {"inputs": {key: [row[key]] for key in row}}),
    "torchserve": (torchserve, JSON, lambda row: {"data": [row]}),
    "sagemaker": (sagemaker, JSON, lambda row: {"instances": [row]}),
    "sagemaker lines": (sagemaker, LINES, lambda row: row),
    "mlflow": (mlflow, JSON, lambda row: {"instances": [row]}),
    "mlflow columns": (mlflow, JSON, lambda row: {"inputs": {key: [row[key]] for key in row}}),
    "custom": (custom, JSON, lambda row: {"instances": [row]}),
    "custom, one row": (single, JSON, lambda row: {"instances": [row]}),
}


def test_every_codec_of_json_is_here():
    kinds = {type(codec()[0]) for codec, _, _ in NAMING.values()}
    assert {kind for kind in JsonCodec.__subclasses__() if kind is not Seldon} <= kinds


@pytest.fixture(params=NAMING)
def ask(request):
    make, head, body = NAMING[request.param]

    def asked(row, **told):
        codec, path = make(**told)
        text = json.dumps(body(row)).encode()
        read = codec.decode_request(head, text, codec.route("POST", path))
        return read, json.loads(codec.encode_request(read)[1]), body

    return asked


def rule(ask, row, **told):
    with pytest.raises(Refusal) as refusal:
        ask(row, **told)
    return refusal.value.rule


@pytest.mark.parametrize(
    "row",
    [
        {"d": 4, "c": 3, "b": 2, "a": 1},
        {"x": [1, 2], "y": [3, 4]},
        {"ignored": [0, 0, 0, 0], "input": ["6.1", "7", "8", "9"]},
        {"input": ["6.1", "7", "8", "9"]},
        {"input": ["6.1"], "ignored": [0, 0, 0, 0]},
    ],
)
def test_one_tensor_of_numbers_is_taken(ask, row):
    """With several, names, order and meaning would be the client's choice, not the model's."""
    assert rule(ask, row) is TENSOR_NAME
    read, written, body = ask({"input": [1, 2, 3, 4]})
    assert (read.n, read.rows.tolist()) == (1, [[1, 2, 3, 4]])
    assert written == body({"input": [1, 2, 3, 4]})


def test_features_by_name_are_put_in_the_order_in_which_they_are_scored(ask):
    names = ("a", "b", "c", "d")
    read, written, body = ask({"d": 4, "b": 2, "c": 3, "a": 1}, names=names)
    assert read.rows.tolist() == [[1, 2, 3, 4]]
    assert written == body({"a": 1, "b": 2, "c": 3, "d": 4})
    assert list(read.tensors) == list(names)
    assert ask({"input": [1, 2, 3, 4]}, names=names)[0].rows.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"a": 1, "b": 2, "c": 3}, TENSOR_NAME),
        ({"a": 1, "b": 2, "c": 3, "e": 4}, TENSOR_NAME),
        ({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, TENSOR_NAME),
        ({"a": 1, "b": 2, "c": 3, "d": "4"}, TENSOR_NAME),
        ({"a": "1", "b": [2, 2], "c": 3, "d": 4}, TENSOR_NAME),  # as many numbers as features
        ({"a": [1, 1], "b": 2, "c": 3, "d": 4}, SHAPE),
    ],
)
def test_names_that_are_not_the_features_are_refused(ask, row, expected):
    assert rule(ask, row, names=("a", "b", "c", "d")) is expected


def test_as_many_features_as_there_are_may_be_named():
    names = [f"f{number}" for number in range(300)]
    codec = V1("/v1/models/m", Contract().with_width(300), names=names)
    row = {name: place for place, name in enumerate(names)}
    body = json.dumps({"instances": [dict(reversed(row.items()))] * 256}).encode()
    read = codec.decode_request(JSON, body, codec.route("POST", "/v1/models/m:predict"))
    assert read.rows.tolist() == [list(range(300))] * 256


@pytest.mark.parametrize("value", [["1", "2", "3", "4"], [True, "2", 3, 4]])
def test_texts_are_not_taken_for_numbers_without_names_either(value):
    codec = Seldon("/predict", WIDE)
    with pytest.raises(Refusal):
        body = json.dumps({"data": {"ndarray": [value]}}).encode()
        codec.decode_request(JSON, body, codec.route("POST", "/predict"))
