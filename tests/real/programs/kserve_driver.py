"""KServe's own client: ``{"base", "model", "protocol": "v1" or "v2" or "grpc", "rows"}``."""

import asyncio

import numpy as np
from calls import answer_calls
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)


def call(base, model, protocol, rows):
    return loop.run_until_complete(infer(base, model, protocol, rows))


def question(model, rows):
    tensor = InferInput("x", [len(rows), len(rows[0])], "FP64")
    tensor.set_data_from_numpy(np.array(rows, dtype=np.float64), binary_data=False)
    return InferRequest(model, [tensor], request_id="one")


async def infer(base, model, protocol, rows):
    if protocol == "grpc":
        client = InferenceGRPCClient(base)
        try:
            answer = await client.infer(question(model, rows))
        finally:
            await client.close()
        return {"probabilities": answer.outputs[0].as_numpy().tolist()}
    client = InferenceRESTClient(RESTConfig(protocol=protocol))
    try:
        if protocol == "v1":
            return await client.infer(base, {"instances": rows}, model_name=model)
        answer = await client.infer(base, question(model, rows), model_name=model)
    finally:
        await client.close()
    return {"id": answer.id, "probabilities": answer.outputs[0].as_numpy().tolist()}


def status(fault):
    if hasattr(fault, "response"):
        return fault.response.status_code
    return fault.code().name if hasattr(fault, "code") else None


answer_calls(call, status)
