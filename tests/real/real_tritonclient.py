"""``tritonclient`` before any server of the Open Inference Protocol."""

import numpy as np
from real_client import encode
from real_pairs import Pair


class TritonClientPair(Pair):
    """Asks the linear model for one tensor.

    Attributes:
        transport: ``http`` or ``grpc``.
        binary: whether tensors cross in Triton's binary form, over HTTP.
    """

    distribution = "tritonclient"
    environment = "clients"
    program = "tritonclient_driver.py"
    transport = "http"
    binary = True

    def ask(self, driver, guarded, rows, model="linear", *, through=True):
        array = np.array(rows)
        tensor = {
            "name": "x",
            "shape": list(array.shape),
            "datatype": "FP64",
            "data": encode(array),
        }
        port = guarded.port(through, grpc=self.transport == "grpc")
        question = {"model": model, "inputs": [tensor], "outputs": ["probabilities"]}
        if self.transport == "http":
            question["binary"] = self.binary
        answer = driver.ask(
            url=f"127.0.0.1:{port}",
            transport=self.transport,
            infer={**question, "request_id": "one"},
        )
        assert "broken" not in answer, answer
        if "status" in answer:
            answer["exception"] = "tritonclient.utils.InferenceServerException"
            answer["status"] = answer["status"].removeprefix("StatusCode.")
        return answer


class Http(TritonClientPair):
    """Over HTTP, in binary."""

    client = "tritonclient.http"
    way = "v2"
    shown_way = "v2, binary"
    blocked = ("tritonclient.utils.InferenceServerException", "403")
    limited = ("tritonclient.utils.InferenceServerException", "429")


class Grpc(TritonClientPair):
    """Over gRPC."""

    client = "tritonclient.grpc"
    transport = "grpc"
    way = "v2"
    shown_way = "gRPC"
    blocked = ("tritonclient.utils.InferenceServerException", "PERMISSION_DENIED")
    limited = ("tritonclient.utils.InferenceServerException", "RESOURCE_EXHAUSTED")
