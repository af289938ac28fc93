"""Triton, with tritonclient over HTTP and over gRPC."""

from real_bytes_grpc import GrpcBytes
from real_bytes_v2 import V2Bytes
from real_guard import Way
from real_triton import Triton
from real_tritonclient import Grpc, Http

SERVER = Triton
WAYS = {"v2": Way("v2", "/v2/models/{model}", grpc=True, models={"whole": {}})}


class TestHttp(Http):
    pass


class TestJson(Http):
    client = "tritonclient.http, JSON"
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
