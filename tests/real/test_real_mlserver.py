"""MLServer, with tritonclient over HTTP and over gRPC."""

from real_bytes_grpc import GrpcBytes
from real_bytes_v2 import V2Bytes
from real_guard import Way
from real_mlserver import MLServer
from real_tritonclient import Grpc, Http

SERVER = MLServer
WAYS = {"v2": Way("v2", "/v2/models/{model}", grpc=True, models={"whole": {}})}


class TestHttp(Http):
    binary = False  # MLServer has no other
    shown_way = "v2, JSON"


class TestGrpc(Grpc):
    pass


class TestBytes(V2Bytes):
    DIRECT = (
        ("duplicate JSON key", "last"),
        ("duplicate tensor name", "first"),
        ("INT64 declared, float data", "truncates"),
        ("numeric strings", "coerces"),
        ("negative dimension", "answers"),
        ("NaN", "422"),
        ("byte order mark", "422"),
        ("UTF-16", "422"),
        ("gzip", "answers"),
        ("deflate", "422"),
        ("content type absent", "answers"),
        ("content type text/plain", "422"),
        ("percent-encoded path", "answers"),
        ("5000 rows in a request", "answers"),
    )
    # Its contract is known: a body of that size is refused before it is parsed.
    THROUGH = (("5000 rows in a request", "BZ-120"),)


class TestGrpcBytes(GrpcBytes):
    DIRECT = (
        ("raw contents", "answers"),
        ("typed contents", "answers"),
        ("typed and raw contents", "takes the typed"),
        ("surplus raw entries", "ignores the rest"),
        ("duplicate tensor name", "first"),
        ("negative dimension", "INTERNAL"),
        ("raw entry of another length", "INTERNAL"),
        ("NaN", "INTERNAL"),
    )
