"""KServe's server, with its own client and with tritonclient."""

import json

import pytest
from real_bytes import A, B, Bytes, Probe, dumps
from real_bytes_grpc import GrpcBytes
from real_bytes_json import EVERYWHERE, joined, json_probes
from real_bytes_v2 import V2Bytes
from real_guard import Way
from real_kserve import KServe
from real_pairs import Pair
from real_tritonclient import Grpc

SERVER = KServe
WAYS = {
    "v2": Way("v2", "/v2/models/{model}", grpc=True, models={"whole": {}}),
    "v1": Way("v1", "/v1/models/{model}"),
}


class KServePair(Pair):
    distribution = "kserve"
    environment = "kserve"
    program = "kserve_driver.py"
    blocked = ("httpx.HTTPStatusError", "403")
    limited = ("httpx.HTTPStatusError", "429")

    def ask(self, driver, guarded, rows, model="linear", *, through=True):
        base = f"http://127.0.0.1:{guarded.port(through)}"
        return driver.ask(base=base, model=model, protocol=self.way, rows=rows)


class TestV2(KServePair):
    client = "kserve REST"
    way = "v2"


class TestV1(KServePair):
    client = "kserve REST"
    way = "v1"


class TestGrpc(KServePair):
    client = "kserve gRPC"
    way = "v2"
    shown_way = "gRPC"
    blocked = ("grpc.aio._call.AioRpcError", "PERMISSION_DENIED")
    limited = ("grpc.aio._call.AioRpcError", "RESOURCE_EXHAUSTED")

    def ask(self, driver, guarded, rows, model="linear", *, through=True):
        target = f"127.0.0.1:{guarded.port(through, grpc=True)}"
        return driver.ask(base=target, model=model, protocol="grpc", rows=rows)


class TestTritonClient(Grpc):
    pass


class TestBytes(V2Bytes):
    DIRECT = (
        ("duplicate JSON key", "last"),
        ("duplicate tensor name", "first"),
        ("INT64 declared, float data", "truncates"),
        ("numeric strings", "coerces"),
        ("negative dimension", "answers"),
        ("NaN", "NaN"),
        ("byte order mark", "answers"),
        ("UTF-16", "answers"),
        ("gzip", "400"),
        ("deflate", "400"),
        ("content type absent", "400"),
        ("content type text/plain", "400"),
        ("percent-encoded path", "answers"),
        ("5000 rows in a request", "answers"),
    )


class TestGrpcBytes(GrpcBytes):
    DIRECT = (
        ("raw contents", "answers"),
        ("typed contents", "answers"),
        ("typed and raw contents", "INVALID_ARGUMENT"),
        ("surplus raw entries", "INVALID_ARGUMENT"),
        ("duplicate tensor name", "first"),
        ("negative dimension", "answers"),
        ("raw entry of another length", "INTERNAL"),
        ("NaN", "NaN"),
    )


def v1_document(rows):
    return {"instances": rows}


V1_PROBES = [
    *json_probes(v1_document, joined(dumps(v1_document([A])), dumps(v1_document([B])))),
    Probe(
        "instances and inputs",
        dumps({"instances": [A], "inputs": [B]}),
        readings=(("takes instances", [A]), ("takes inputs", [B])),
    ),
    Probe("percent-encoded path", dumps(v1_document([A])), model="%6cinear"),
]


class TestV1Bytes(Bytes):
    protocol = "v1"
    DIRECT = (
        ("5000 rows in a request", "answers"),
        ("NaN", "400"),
        ("UTF-16", "400"),
        ("byte order mark", "400"),
        ("content type absent", "answers"),
        ("duplicate JSON key", "last"),
        ("gzip", "400"),
        ("instances and inputs", "takes inputs"),
        ("numeric strings", "coerces"),
        ("percent-encoded path", "answers"),
    )
    EVERYWHERE = (
        *EVERYWHERE,
        ("instances and inputs", "BZ-120"),
        ("percent-encoded path", "BZ-100"),
    )

    def extract(self, body):
        return json.loads(body)["predictions"]

    @pytest.mark.parametrize("probe", V1_PROBES, ids=lambda probe: probe.name)
    def test_bytes(self, guarded, observe, probe):
        self.compare(guarded, observe, probe, f"/v1/models/{probe.model}:predict")
