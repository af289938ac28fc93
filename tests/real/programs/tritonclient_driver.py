"""The real client, driven from outside: run by the Python of the clients' environment.

Reads one JSON call a line, writes one JSON answer a line. Tensors cross as base64 of their
little-endian bytes, so that answers can be compared bit for bit; a BYTES tensor as a list.
``{"url", "transport", "method", "arguments", "keywords"}`` calls that method of
``InferenceServerClient``, over ``http`` or ``grpc``; ``{"url", "transport", "infer": {…}}`` builds
an inference. An ``InferenceServerException`` is an answer too.
"""

import base64
import json
import sys

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

LIBRARIES = {"http": http, "grpc": grpc}


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


def infer(library, client, model, inputs, outputs, binary=True, **keywords):
    form = {"binary_data": binary} if library is http else {}  # gRPC has no other form
    sent = []
    for tensor in inputs:
        item = library.InferInput(tensor["name"], tensor["shape"], tensor["datatype"])
        item.set_data_from_numpy(decode(tensor), **form)
        sent.append(item)
    asked = [library.InferRequestedOutput(name, **form) for name in outputs]
    result = client.infer(model, sent, outputs=asked, **keywords)
    answer = result.get_response(**({"as_json": True} if library is grpc else {}))
    return {
        "model": answer.get("model_name"),
        "version": answer.get("model_version"),
        "id": answer.get("id"),
        "outputs": {name: encode(result.as_numpy(name)) for name in outputs},
    }


def ask(client, library, call):
    if "infer" in call:
        return infer(library, client, **call["infer"])
    method = getattr(client, call["method"])
    keywords = call.get("keywords", {})
    if library is grpc and call["method"].startswith("get_"):
        keywords = {"as_json": True, **keywords}
    return method(*call.get("arguments", ()), **keywords)


def main():
    clients = {}
    for line in sys.stdin:
        call = json.loads(line)
        transport = call.get("transport", "http")
        library = LIBRARIES[transport]
        key = transport, call["url"]
        if key not in clients:
            clients[key] = library.InferenceServerClient(call["url"])
        try:
            answer = {"result": ask(clients[key], library, call)}
        except InferenceServerException as refused:
            answer = {"status": refused.status(), "message": refused.message()}
        except OSError as broken:  # the connection, not the answer
            answer = {"broken": repr(broken)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


main()
