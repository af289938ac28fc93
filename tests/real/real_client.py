"""``tritonclient`` in its own environment, over a pipe."""

import base64

from real_driver import Driver


def encode(array):
    """An array as the driver reads and writes it: little-endian bytes, or a list of them."""
    if array.dtype.hasobject:
        return [base64.b64encode(part).decode() for part in array.ravel()]
    return base64.b64encode(array.tobytes()).decode()


class Client(Driver):
    """Its exceptions are answers: ``{"status": "403", "message": …}``."""

    def __init__(self, python, log):
        super().__init__(python, "tritonclient_driver.py", log)

    def call(self, port, method, *arguments, transport="http", **keywords):
        """Any method of ``InferenceServerClient``: ``{"result": …}`` or an exception."""
        return self.ask(
            url=f"127.0.0.1:{port}",
            transport=transport,
            method=method,
            arguments=arguments,
            keywords=keywords,
        )

    def infer(self, port, model, array, datatype, outputs=("y",), transport="http", **keywords):
        """One inference on the tensor ``x``: ``{"result": {"outputs": …}}`` or an exception."""
        tensor = {
            "name": "x",
            "shape": list(array.shape),
            "datatype": datatype,
            "data": encode(array),
        }
        question = {"model": model, "inputs": [tensor], "outputs": list(outputs), **keywords}
        return self.ask(url=f"127.0.0.1:{port}", transport=transport, infer=question)
