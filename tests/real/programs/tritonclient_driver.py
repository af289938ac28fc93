"""The real client, driven from outside: run by the Python of the tritonclient environment.

Reads one JSON call a line, writes one JSON answer a line. Tensors cross as base64 of their
little-endian bytes, so that answers can be compared bit for bit; a BYTES tensor as a list.
``{"url", "method", "arguments", "keywords"}`` calls that method of ``InferenceServerClient``;
``{"url", "infer": {…}}`` builds an inference. An ``InferenceServerException`` is an answer too.
"""

import base64
import json
import sys

import numpy as np
import tritonclient.http as http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype


def decode(tensor):
    shape = tensor["shape"]
    if tensor["datatype"] == "BYTES":
        parts = [base64.b64decode(part) for part in tensor["data"]]
        return np.array(parts, dtype=np.object_).reshape(shape)
    raw = base64.b64decode(tensor["data"])
    return np.frombuffer(raw, triton_to_np_dtype(tensor["datatype"])).reshape(shape)


def encode(array):
    datatype = np_to_triton_dtype(array.dtype)
    if datatype == "BYTES":
        parts = [part.encode() if isinstance(part, str) else part for part in array.ravel()]
        data = [base64.b64encode(part).decode() for part in parts]
    else:
        data = base64.b64encode(array.tobytes()).decode()
    return {"datatype": datatype, "shape": list(array.shape), "data": data}


def infer(client, model, inputs, outputs, binary=True, **keywords):
    sent = []
    for tensor in inputs:
        item = http.InferInput(tensor["name"], tensor["shape"], tensor["datatype"])
        item.set_data_from_numpy(decode(tensor), binary_data=binary)
        sent.append(item)
    asked = [http.InferRequestedOutput(name, binary_data=binary) for name in outputs]
    result = client.infer(model, sent, outputs=asked, **keywords)
    answer = result.get_response()
    return {
        "model": answer["model_name"],
        "version": answer.get("model_version"),
        "id": answer.get("id"),
        "outputs": {name: encode(result.as_numpy(name)) for name in outputs},
    }


def main():
    clients = {}
    for line in sys.stdin:
        call = json.loads(line)
        url = call["url"]
        if url not in clients:
            clients[url] = http.InferenceServerClient(url)
        client = clients[url]
        try:
            if "infer" in call:
                result = infer(client, **call["infer"])
            else:
                method = getattr(client, call["method"])
                result = method(*call.get("arguments", ()), **call.get("keywords", {}))
            answer = {"result": result}
        except InferenceServerException as refused:
            answer = {"status": refused.status(), "message": refused.message()}
        except OSError as broken:  # the connection, not the answer
            answer = {"broken": repr(broken)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


main()
