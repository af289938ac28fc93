"""KServe's own server with the linear model, in V1, V2 and gRPC: ``kserve_linear.py NAME…``."""

import sys

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from linear import probabilities


class Linear(Model):
    def __init__(self, name):
        super().__init__(name)
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        if not isinstance(payload, InferRequest):
            columns = payload.get("inputs")
            rows = payload["instances"] if columns is None else columns
            return {"predictions": probabilities(rows).tolist()}
        answer = probabilities(payload.inputs[0].as_numpy())
        output = InferOutput("probabilities", list(answer.shape), "FP64")
        output.set_data_from_numpy(answer, binary_data=payload.from_grpc)
        return InferResponse(payload.id or "none", self.name, [output])


if __name__ == "__main__":
    names = sys.argv[sys.argv.index("--") + 1 :]
    ModelServer().start([Linear(name) for name in names])
