"""A Triton Python model: the linear model of the other servers."""

import triton_python_backend_utils as pb_utils
from linear import probabilities


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("probabilities", probabilities(self.rows(request)))]
            )
            for request in requests
        ]

    def rows(self, request):
        return pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
