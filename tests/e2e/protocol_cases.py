"""One honest question and its answer in each protocol over HTTP: rows to bodies, and back."""

import json
from dataclasses import dataclass, field

import pytest

from loadtest.wire import render_request

FEATURES = 64
CONTRACT = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, FEATURES]}]}
JSON = [("Content-Type", "application/json")]


def of_json(key):
    return lambda rows: json.dumps({key: rows.tolist()}).encode()


def under(*keys):
    def read(body):
        document = json.loads(body)
        for key in keys:
            document = document[key]
        return document

    return read


def v2(rows):
    tensor = {"name": "input", "datatype": "FP32", "shape": list(rows.shape)}
    return json.dumps({"inputs": [{**tensor, "data": rows.ravel().tolist()}]}).encode()


def v2_answer(rows):
    tensor = {"name": "scores", "datatype": "FP64", "shape": list(rows.shape)}
    outputs = [{**tensor, "data": rows.ravel().tolist()}]
    return json.dumps({"model_name": "digits", "outputs": outputs}).encode()


def csv(rows):
    return "".join(",".join(map(str, row)) + "\n" for row in rows.tolist()).encode()


def says(*keys):
    """Checks that a refusal's message lies at these keys."""

    def check(answer):
        message = under(*keys)(answer.body)
        assert isinstance(message, str) and message, answer.body

    return check


def sagemaker(answer):
    assert answer.headers["x-amzn-errortype"]
    says("Message")(answer)


def seldon(answer):
    status = json.loads(answer.body)["status"]
    assert status["status"] == "FAILURE" or status["status"] == 1, status
    assert isinstance(status["info"], str) and isinstance(status["code"], int)


def torchserve(answer):
    document = json.loads(answer.body)
    assert document["code"] == answer.status
    assert document["type"] and isinstance(document["message"], str)


@dataclass(frozen=True)
class Case:
    """One protocol.

    Attributes:
        write: rows to a client's body; ``read`` finds them in what is forwarded.
        refused: checks the shape of a refusal.
        answer: what a model says to a body; ``said`` finds it in what a client gets.
    """

    name: str
    protocol: object
    match: str
    target: str
    write: object
    read: object
    refused: object
    content_type: str = "application/json"
    upstream: dict = field(default_factory=dict)
    forwarded: str = ""
    answer: object = of_json("predictions")
    said: object = under("predictions")

    def request(self, body, **headers):
        given = [(name.replace("_", "-"), value) for name, value in headers.items()]
        headers = [("Content-Type", self.content_type), *given]
        return render_request("POST", self.target, "localhost", body, headers)

    def endpoint(self, url, **more):
        return {
            "name": self.name,
            "match": self.match,
            "upstream": url,
            "protocol": self.protocol,
            "contract": CONTRACT,
            **self.upstream,
            **more,
        }


CASES = [
    Case(
        "v2", "v2", "/v2/models/digits", "/v2/models/digits/infer", v2,
        under("inputs", 0, "data"), says("error"), answer=v2_answer,
        said=lambda body: [under("outputs", 0, "data")(body)],
    ),
    Case(
        "v1", "v1", "/v1/models/digits", "/v1/models/digits:predict", of_json("instances"),
        under("instances"), says("error"),
    ),
    Case(
        "mlflow", "invocations", "/mlflow/invocations", "/mlflow/invocations", of_json("inputs"),
        under("inputs"), says("message"), upstream={"upstream_path": "/invocations"},
        forwarded="/invocations",
    ),
    Case(
        "sagemaker", {"name": "invocations", "server": "sagemaker"},
        "/endpoints/digits/invocations", "/endpoints/digits/invocations", csv,
        lambda body: [list(map(float, line.split(","))) for line in body.decode().split()],
        sagemaker, "text/csv", upstream={"upstream_path": "/invocations"},
        forwarded="/invocations",
    ),
    Case(
        "torchserve", "torchserve", "/predictions/digits", "/predictions/digits",
        of_json("instances"), under("instances"), torchserve,
        answer=lambda rows: json.dumps(rows.tolist()).encode(), said=under(),
    ),
    Case(
        "seldon", "seldon", "/api/v1.0/predictions", "/api/v1.0/predictions",
        lambda rows: json.dumps({"data": {"ndarray": rows.tolist()}}).encode(),
        under("data", "ndarray"), seldon,
        answer=lambda rows: json.dumps({"data": {"ndarray": rows.tolist()}, "meta": {}}).encode(),
        said=under("data", "ndarray"),
    ),
    Case(
        "json", {"name": "json", "rows": "$.input", "answer": "$.output"}, "/predict", "/predict",
        of_json("input"), under("input"), says("error"), answer=of_json("output"),
        said=under("output"),
    ),
]  # fmt: skip
EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
