"""``tritonclient.http`` in its own environment, over a pipe."""

import base64
import json
import subprocess
from pathlib import Path

DRIVER = Path(__file__).resolve().parent / "programs" / "tritonclient_driver.py"


def encode(array):
    """An array as the driver reads and writes it: little-endian bytes, or a list of them."""
    if array.dtype.hasobject:
        return [base64.b64encode(part).decode() for part in array.ravel()]
    return base64.b64encode(array.tobytes()).decode()


class Client:
    """Calls cross as they would in a program that uses the library; its exceptions are answers:
    ``{"status": "403", "message": …}``.
    """

    def __init__(self, python):
        self._process = subprocess.Popen(
            [python, DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def call(self, port, method, *arguments, **keywords):
        """Any method of ``InferenceServerClient``: ``{"result": …}`` or an exception."""
        return self._ask(port, method=method, arguments=arguments, keywords=keywords)

    def infer(self, port, model, array, datatype, outputs=("y",), **keywords):
        """One inference on the tensor ``x``: ``{"result": {"outputs": …}}`` or an exception."""
        tensor = {
            "name": "x",
            "shape": list(array.shape),
            "datatype": datatype,
            "data": encode(array),
        }
        return self._ask(
            port, infer={"model": model, "inputs": [tensor], "outputs": list(outputs), **keywords}
        )

    def _ask(self, port, **call):
        self._process.stdin.write(json.dumps({"url": f"127.0.0.1:{port}", **call}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the client program ended"
        return json.loads(line)

    def close(self):
        """Ends the program."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)
