"""The conformance suite over JSON of one's own making."""

import json

import numpy as np
from conformance import CodecConformance
from conformance_bodies import JsonBodies
from conformance_wire import Wire
from plain_json import (
    INFERRED,
    alone,
    columns,
    of_columns,
    of_records,
    records,
    tensor,
    written,
)

from proxy.protocols.custom_json import CustomJson


class OverJson(JsonBodies, CodecConformance):
    kind = CustomJson

    def target(self):
        return "/predict"


class TestRows(OverJson):
    """As LitServe's examples have it."""

    wire = Wire(names=("rows",), typed=False, answers=INFERRED, answer_names=("answer",))

    def codec(self, contract, **bounds):
        return CustomJson("/predict", contract, rows="$.input", answer="$.output", **bounds)

    def write(self, named):
        return written({"input": alone(named)})

    def parse(self, headers, body):
        return {"rows": tensor(json.loads(body)["input"])}

    def write_answer(self, named):
        return written({"output": alone(named), "took": 0.5})

    def parse_answer(self, headers, body):
        return {"answer": tensor(json.loads(body)["output"])}


class TestWholeDocument(OverJson):
    """As a plain web service has it."""

    wire = Wire(typed=False, answers=INFERRED)

    def codec(self, contract, **bounds):
        return CustomJson("/predict", contract, rows="$", answer="$", **bounds)

    def write(self, named):
        return written(records(named))

    def parse(self, headers, body):
        return of_records(json.loads(body))

    def write_answer(self, named):
        return written(columns(named))

    def parse_answer(self, headers, body):
        return of_columns(json.loads(body))


class TestOneRow(OverJson, without={"test_too_many_rows": "a request is one row"}):
    """One row a request, deep in a document, with something beside it."""

    wire = Wire(names=("rows",), typed=False, rows=1, answers=INFERRED, answer_names=("answer",))

    def codec(self, contract, **bounds):
        return CustomJson(
            "/predict",
            contract,
            rows="$.data['the rows'][0].x",
            answer="$.data[1].y",
            single=True,
            others=("threshold",),
            **bounds,
        )

    def write(self, named):
        (row,) = alone(named)
        return written({"threshold": 0.5, "data": {"the rows": [{"x": row}]}})

    def parse(self, headers, body):
        document = json.loads(body)
        assert document.keys() <= {"threshold", "data"}
        return {"rows": tensor([document["data"]["the rows"][0]["x"]])}

    def answer(self):
        return {"answer": ("FP64", np.arange(1.0, 4).reshape(1, 3))}

    def write_answer(self, named):
        (row,) = alone(named)
        return written({"data": [None, {"y": row}]})

    def parse_answer(self, headers, body):
        return {"answer": tensor([json.loads(body)["data"][1]["y"]])}
