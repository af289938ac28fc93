"""A Triton Python model of two outputs: class scores (FP32) and the best class (INT64).

Its weights lie beside it in ``weights.npz``.
"""

from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, arguments):
        with np.load(Path(__file__).with_name("weights.npz")) as weights:
            self.coefficients, self.intercept = weights["coefficients"], weights["intercept"]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        rows = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        scores = rows @ self.coefficients + self.intercept
        best = scores.argmax(axis=1)[:, None].astype(np.int64)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("scores", scores), pb_utils.Tensor("label", best)]
        )
