"""Triton, with tritonclient over HTTP and over gRPC."""

import base64
import json

import numpy as np
import pytest
from real_bytes import A, Bytes, Probe
from real_bytes_grpc import GrpcBytes
from real_bytes_v2 import V2Bytes, extract, question, tensor
from real_guard import Way
from real_triton import Triton
from real_tritonclient import Grpc, Http

SERVER = Triton
WAYS = {"v2": Way("v2", "/v2/models/{model}", grpc=True, models={"whole": {}})}


class TestHttp(Http):
    pass


class TestJson(Http):
    shown_way = "v2, JSON"
    binary = False


class TestGrpc(Grpc):
    pass


class TestBytes(V2Bytes):
    DIRECT = (
        ("duplicate JSON key", "first"),
        ("duplicate tensor name", "400"),
        ("INT64 declared, float data", "500"),
        ("numeric strings", "500"),
        ("negative dimension", "500"),
        ("NaN", "NaN"),
        ("byte order mark", "answers"),
        ("UTF-16", "500"),
        ("gzip", "answers"),
        ("deflate", "answers"),
        ("content type absent", "answers"),
        ("content type text/plain", "answers"),
        ("percent-encoded path", "404"),
        ("5000 rows in a request", "400"),
    )
    # Its contract is known: a body of that size is refused before it is parsed.
    THROUGH = (("5000 rows in a request", "BZ-120"),)


HEADER = question(tensor(A)).replace(json.dumps(A).encode(), b"0")
HEADER = HEADER.replace(b'"data": 0', b'"parameters": {"binary_data_size": 32}')
TAIL = np.array(A, "<f8").tobytes()


def binary(length):
    """A body of Triton's binary form, with its header's length as it is said here."""
    return (("Inference-Header-Content-Length", length),)


BINARY = [
    Probe("length of the JSON with a sign", HEADER + TAIL, binary(f"+{len(HEADER)}")),
    Probe("length 0: the whole body a tensor", TAIL, binary("0")),
]


class TestBinary(Bytes):
    protocol = "v2, binary"
    DIRECT = (
        ("length of the JSON with a sign", "answers"),
        ("length 0: the whole body a tensor", "answers"),
    )
    EVERYWHERE = (
        ("length of the JSON with a sign", "BZ-122"),
        ("length 0: the whole body a tensor", "BZ-122"),
    )

    def extract(self, body):
        try:
            return extract(body)
        except ValueError:  # it answers in binary, too
            return np.frombuffer(body[-3 * 8 :], "<f8")

    @pytest.mark.parametrize("probe", BINARY, ids=lambda probe: probe.name)
    def test_bytes(self, guarded, observe, probe):
        self.compare(guarded, observe, probe, "/v2/models/linear/infer")


MODEL = """
from pathlib import Path
Path({marker!r}).write_text("ran")
class TritonPythonModel:
    def execute(self, requests):
        return []
"""
CONFIG = {
    "backend": "python",
    "max_batch_size": 1,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [1]}],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [1]}],
}


@pytest.mark.parametrize("through", [False, True], ids=["direct", "through"])
def test_a_load_over_grpc_that_brings_its_own_code(driver, guarded, tmp_path, through):
    """Triton runs the file of an unauthenticated load: here it only writes another file."""
    marker = tmp_path / "ran"
    source = base64.b64encode(MODEL.format(marker=str(marker)).encode()).decode()
    answer = driver("clients", "grpc_driver.py").ask(
        target=f"127.0.0.1:{guarded.port(through, grpc=True)}",
        method="RepositoryModelLoad",
        request={
            "model_name": "brought",
            "parameters": {
                "config": {"string_param": json.dumps(CONFIG)},
                "file:1/model.py": {"bytes_param": source},
            },
        },
    )
    assert marker.exists() is not through
    if through:
        assert answer["status"] in ("PERMISSION_DENIED", "UNIMPLEMENTED"), answer
    else:
        assert answer == {"result": {}}


class TestGrpcBytes(GrpcBytes):
    DIRECT = (
        ("raw contents", "answers"),
        ("typed contents", "answers"),
        ("typed and raw contents", "INVALID_ARGUMENT"),
        ("surplus raw entries", "ignores the rest"),
        ("duplicate tensor name", "INVALID_ARGUMENT"),
        ("negative dimension", "INVALID_ARGUMENT"),
        ("raw entry of another length", "INVALID_ARGUMENT"),
        ("NaN", "NaN"),
    )
