"""A model server for example configurations: any model of version 2, four features, in threads of
the test's own; with TLS, for clients of one authority alone.
"""

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FEATURES, CLASSES = 4, 2


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        name = self.path.split("/")[-1]
        inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, FEATURES]}]
        outputs = [{"name": "probabilities", "datatype": "FP32", "shape": [-1, CLASSES]}]
        self._answer({"name": name, "platform": "", "inputs": inputs, "outputs": outputs})

    def do_POST(self):
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        rows = sent["inputs"][0]["shape"][0]
        told = {"name": "probabilities", "datatype": "FP32", "shape": [rows, CLASSES]}
        self.server.asked += 1
        self._answer({"model_name": "x", "outputs": [{**told, "data": [0.75, 0.25] * rows}]})

    def _answer(self, document):
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    asked = 0

    def handle_error(self, *_):
        """A connection that ends early, or without a certificate, is no error of the test's."""


class ExampleServer:
    """Serves until :meth:`stop`.

    Args:
        tls: paths of certificate, key and the authority that its clients are to be of; None: HTTP.
    """

    def __init__(self, tls=None):
        self._server = _Server(("127.0.0.1", 0), _Handler)
        if tls is not None:
            certificate, key, authority = tls
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            context.load_verify_locations(authority)
            context.verify_mode = ssl.CERT_REQUIRED
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def asked(self):
        """Inferences so far."""
        return self._server.asked

    def stop(self):
        """Ends it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
