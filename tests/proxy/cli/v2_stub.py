"""A model server for the command line to ask: one model, in a thread, that can misbehave."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from small_models import classify

CLASSIFIER = {
    "name": "blobs",
    "versions": ["1"],
    "platform": "test",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 6]}],
    "outputs": [{"name": "p", "datatype": "FP64", "shape": [-1, 3]}],
}


def probabilities(rows):
    said = classify(rows).probabilities
    return [{"name": "p", "datatype": "FP64", "shape": list(said.shape), "data": said.ravel()}]


class Stub:
    """What it serves, and what it was asked.

    Attributes:
        metadata: of the model.
        answer: (n, d) rows to the outputs of an answer.
        status: of every inference.
        asked: the shape of each inference's first input.
        targets: of all requests.
    """

    def __init__(self, metadata=None, answer=probabilities):
        self.metadata = CLASSIFIER if metadata is None else metadata
        self.answer = answer
        self.status = 200
        self.asked = []
        self.targets = []
        self.url = ""

    def infer(self, document):
        parts = []
        for tensor in document["inputs"]:
            count = tensor["shape"][0]
            parts.append(np.array(tensor["data"], np.float32).reshape(count, -1))
        self.asked.append(document["inputs"][0]["shape"])
        outputs = self.answer(np.hstack(parts))
        for output in outputs:
            output["data"] = np.asarray(output["data"]).tolist()
        return {"model_name": "blobs", "outputs": outputs}


@contextmanager
def serving(stub):
    """Serves on a free port of 127.0.0.1 until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            stub.targets.append(self.path)
            self.reply(200, stub.metadata)

        def do_POST(self):
            stub.targets.append(self.path)
            data = self.rfile.read(int(self.headers["content-length"]))
            said = stub.infer(json.loads(data)) if stub.status == 200 else {"error": "no <thanks>"}
            self.reply(stub.status, said)

        def reply(self, status, document):
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}/v2/models/blobs"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
