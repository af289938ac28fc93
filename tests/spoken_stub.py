"""A linear model behind every protocol, in a thread, that can misbehave: what oracles are held
against."""

import io
import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

FEATURES, CLASSES = 6, 3
WEIGHTS = np.random.default_rng(5).normal(size=(FEATURES, CLASSES)).astype(np.float32)


def model(rows):
    """(n, 6) to (n, 3) probabilities."""
    logits = np.asarray(rows, np.float64) @ WEIGHTS
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _v2(document):
    return [np.array(t["data"], np.float64).reshape(t["shape"][0], -1) for t in document["inputs"]]


def rows_of(path, headers, body):
    """The rows of a request, read in the protocol's plainest form."""
    if path.endswith("/infer"):
        length = headers.get("inference-header-content-length")
        if length is None:
            return np.hstack(_v2(json.loads(body)))
        head = json.loads(body[: int(length)])
        data = np.frombuffer(body[int(length) :], "<f4")
        return data.reshape(head["inputs"][0]["shape"]).astype(np.float64)
    if headers["content-type"] == "text/csv":
        return np.loadtxt(io.StringIO(body.decode()), delimiter=",", ndmin=2)
    document = json.loads(body)
    if isinstance(document, list):
        return np.array(document, np.float64)
    if "dataframe_split" in document:
        return np.array(document["dataframe_split"]["data"], np.float64)
    if "data" in document:
        return np.array(document["data"]["ndarray"], np.float64)
    for key in ("instances", "inputs", "rows"):
        if key in document:
            value = document[key]
            return np.array(value["x"] if isinstance(value, dict) else value, np.float64)
    raise AssertionError(f"no rows in {document}")


def answer_of(path, scores):
    """The answer, as the protocol's servers write it."""
    if path.endswith("/infer"):
        output = {"name": "p", "datatype": "FP64", "shape": list(scores.shape)}
        return {"model_name": "m", "outputs": [output | {"data": scores.ravel().tolist()}]}
    if path.endswith("api/v1.0/predictions"):
        return {"data": {"names": ["a", "b", "c"], "ndarray": scores.tolist()}, "meta": {}}
    if path.startswith("/predictions/"):
        return scores.tolist()
    if path == "/predict":
        return {"scores": scores.tolist()}
    return {"predictions": scores.tolist()}


class Stub:
    """What it serves, and what it was asked.

    Attributes:
        status: of every inference.
        headers: further ones, of every inference.
        scores: rows to what is answered.
        asked: (path, headers, body, the client's address) of each inference.
        silent: whether it closes the connection instead of answering.
        closing: whether it closes the connection after each answer without saying so.
    """

    def __init__(self):
        self.status = 200
        self.headers = {}
        self.scores = model
        self.asked = []
        self.silent = False
        self.closing = False
        self.connections = 0
        self.port = 0
        self.metadata = {
            "name": "m",
            "versions": ["1"],
            "platform": "test",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, FEATURES]}],
            "outputs": [{"name": "p", "datatype": "FP64", "shape": [-1, CLASSES]}],
        }

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(stub, context=None):
    """Serves on a free port of 127.0.0.1 until the block ends; with a context, over TLS."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self):
            stub.connections += 1
            super().setup()

        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path == "/v1/models/m":
                self._send(200, {"name": "m", "ready": "True"})
            elif self.path == "/v2/models/m":
                self._send(200, stub.metadata)
            else:
                self._send(200, {})

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            stub.asked.append((self.path, headers, body, self.client_address[0]))
            if stub.silent:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if stub.status != 200:
                self._send(stub.status, {"error": "no"}, stub.headers)
                return
            scores = stub.scores(rows_of(self.path, headers, body))
            said = scores if isinstance(scores, dict) else answer_of(self.path, scores)
            self.close_connection = stub.closing  # before the client can change its mind
            self._send(200, said, stub.headers)

        def _send(self, status, document, headers=()):
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    stub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
