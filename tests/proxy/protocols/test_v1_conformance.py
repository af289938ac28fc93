"""The conformance suite over V1: rows, columns, named and unnamed, base64, and examples."""

import base64
import json

from conformance import OF_ANSWERS, CodecConformance
from conformance_bodies import JsonBodies
from conformance_wire import Wire
from plain_json import INFERRED, alone, columns, of_columns, of_records, records, tensor, written

from proxy.protocols.v1 import V1


class OverV1(JsonBodies, CodecConformance):
    kind = V1
    wire = Wire(typed=False, answers=INFERRED)

    def codec(self, contract, **bounds):
        calls = ("predict", "classify", "regress")
        return V1("/v1/models/digits", contract, calls=calls, **bounds)

    def target(self):
        return "/v1/models/digits:predict"


class TestRows(OverV1):
    wire = Wire(names=("instances",), typed=False, answers=INFERRED, answer_names=("predictions",))

    def write(self, named):
        return written({"instances": alone(named)})

    def parse(self, headers, body):
        document = json.loads(body)
        assert list(document) == ["instances"]
        return {"instances": tensor(document["instances"])}

    def write_answer(self, named):
        return written({"predictions": alone(named), "seen": [None, {"a": 1}]})

    def parse_answer(self, headers, body):
        document = json.loads(body)
        assert document["seen"] == [None, {"a": 1}]
        return {"predictions": tensor(document["predictions"])}


class TestNamedRows(OverV1):
    def write(self, named):
        return written({"signature_name": "serving_default", "instances": records(named)})

    def parse(self, headers, body):
        document = json.loads(body)
        assert document["signature_name"] == "serving_default"
        return of_records(document["instances"])

    def write_answer(self, named):
        return written({"predictions": records(named)})

    def parse_answer(self, headers, body):
        return of_records(json.loads(body)["predictions"])


class TestColumn(OverV1):
    wire = Wire(names=("inputs",), typed=False, answers=INFERRED, answer_names=("outputs",))

    def write(self, named):
        return written({"inputs": alone(named)})

    def parse(self, headers, body):
        return {"inputs": tensor(json.loads(body)["inputs"])}

    def write_answer(self, named):
        return written({"outputs": alone(named)})

    def parse_answer(self, headers, body):
        return {"outputs": tensor(json.loads(body)["outputs"])}


class TestNamedColumns(OverV1):
    def write(self, named):
        return written({"inputs": columns(named)})

    def parse(self, headers, body):
        return of_columns(json.loads(body)["inputs"])

    def write_answer(self, named):
        return written({"outputs": columns(named)})

    def parse_answer(self, headers, body):
        return of_columns(json.loads(body)["outputs"])


def packed(value):
    """Nested lists with each string as base64."""
    if isinstance(value, list):
        return [packed(inner) for inner in value]
    if isinstance(value, dict):
        return {name: packed(inner) for name, inner in value.items()}
    return {"b64": base64.b64encode(value.encode()).decode()} if isinstance(value, str) else value


def unpacked(value):
    if isinstance(value, list):
        return [unpacked(inner) for inner in value]
    if isinstance(value, dict):
        if list(value) == ["b64"]:
            return base64.b64decode(value["b64"])
        return {name: unpacked(inner) for name, inner in value.items()}
    return value


class TestBase64(TestNamedColumns):
    wire = Wire({"BYTES", "FP32"}, typed=False, answers={"BYTES", "FP64"})

    def wrong(self, datatype):
        if datatype == "FP32":
            yield from super().wrong(datatype)
            return
        headers, body = self.write(self.wire.example(datatype))
        assert body.count(b'"YTA="') == 1
        for literal in ("1", "null", "{}", '["YTA="]', '"YTA"', '"YTA= "', '"Y=A="', '"é"'):
            yield headers, body.replace(b'"YTA="', literal.encode())

    def write(self, named):
        return written(packed({"inputs": columns(named)}))

    def parse(self, headers, body):
        return of_columns(unpacked(json.loads(body))["inputs"])

    def write_answer(self, named):
        return written(packed({"outputs": columns(named)}))

    def parse_answer(self, headers, body):
        return of_columns(unpacked(json.loads(body))["outputs"])


class TestExamples(
    OverV1, without=dict.fromkeys(OF_ANSWERS, "pairs of class and score: see test_v1.py")
):
    wire = Wire(typed=False, shape=lambda rows: (rows,))

    def target(self):
        return "/v1/models/digits/versions/3:classify"

    def write(self, named):
        return written({"examples": records(named)})

    def parse(self, headers, body):
        return of_records(json.loads(body)["examples"])
