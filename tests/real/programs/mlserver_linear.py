"""An MLServer runtime of the linear model."""

from linear import probabilities
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Linear(MLModel):
    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        answer = probabilities(NumpyCodec.decode_input(payload.inputs[0]))
        output = NumpyCodec.encode_output("probabilities", answer)
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[output])
