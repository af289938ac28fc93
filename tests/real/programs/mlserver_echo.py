"""An MLServer runtime that answers with its own input, whatever its datatype."""

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Echo(MLModel):
    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        sent = payload.inputs[0]
        return InferenceResponse(
            id=payload.id,
            model_name=self.name,
            outputs=[
                ResponseOutput(name="y", shape=sent.shape, datatype=sent.datatype, data=sent.data)
            ],
        )
