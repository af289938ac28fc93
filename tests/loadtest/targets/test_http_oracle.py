"""Oracles over HTTP, for every protocol, against a server that speaks it."""

import numpy as np
import pytest
from spoken_stub import CLASSES, FEATURES, Stub, model, serving

from loadtest.targets.base import Said
from loadtest.targets.open import Endpoint
from loadtest.targets.settings import Target

TENSOR = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, FEATURES]}]}
COLUMNS = {"columns": [{"name": f"c{i}"} for i in range(FEATURES)]}
CASES = {
    "v2": ("/v2/models/m", {}),
    "v2 stated": ("/v2/models/m", {"contract": TENSOR}),
    "v2 binary": ("/v2/models/m", {"binary": True}),
    "v1": ("/v1/models/m", {"protocol": "v1"}),
    "v1 tensor": ("/v1/models/m", {"protocol": "v1", "contract": TENSOR}),
    "mlflow": ("/invocations", {"protocol": "invocations", "contract": COLUMNS}),
    "mlflow tensor": ("/invocations", {"protocol": "invocations", "contract": TENSOR}),
    "sagemaker": (
        "/invocations",
        {"protocol": {"name": "invocations", "server": "sagemaker"}, "contract": TENSOR},
    ),
    "sagemaker csv": (
        "/invocations",
        {"protocol": {"name": "invocations", "server": "sagemaker"}, "contract": COLUMNS},
    ),
    "torchserve": ("/predictions/m", {"protocol": "torchserve"}),
    "seldon": ("/api/v1.0/predictions", {"protocol": "seldon"}),
    "json": (
        "/predict",
        {"protocol": {"name": "json", "rows": "$.rows", "answer": "$.scores"}, "contract": TENSOR},
    ),
}


@pytest.fixture
def stub():
    with serving(Stub()) as one:
        yield one


def opened(stub, path="/v2/models/m", **keys):
    values = {"direct": stub.url + path, **keys}
    return Endpoint.open(Target.model_validate(values), features=FEATURES)


def ask(endpoint, row, client=None):
    with endpoint.oracle("direct") as oracle:
        return oracle.ask(row, client or endpoint.clients[0])


@pytest.mark.parametrize("case", CASES)
def test_a_row_comes_to_the_model_as_it_is_and_its_scores_come_back(stub, case):
    path, keys = CASES[case]
    endpoint = opened(stub, path, **keys)
    row = np.random.default_rng(1).normal(size=FEATURES).astype(np.float32)
    reply = ask(endpoint, row)
    assert reply.said is Said.ANSWERED, reply.body
    expected = model(row[None])[0]
    np.testing.assert_allclose(reply.scores, expected, rtol=1e-12)
    assert reply.label == expected.argmax()
    assert reply.status == 200
    assert reply.seconds > 0


def test_every_protocol_was_tried():
    assert len(CASES) == 12
