from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from proxy.settings.grpc import EndpointGrpc, Grpc, GrpcUpstream

_upstream = TypeAdapter(GrpcUpstream)


@pytest.mark.parametrize(
    ("text", "host", "port", "tls"),
    [
        ("grpc://127.0.0.1:8001", "127.0.0.1", 8001, False),
        ("grpcs://model.example:443", "model.example", 443, True),
        ("grpc://[::1]:8001/", "::1", 8001, False),
    ],
)
def test_upstreams(text, host, port, tls):
    origin = _upstream.validate_python(text)
    assert (origin.address.host, origin.address.port, origin.tls) == (host, port, tls)
    assert _upstream.dump_python(origin) == text.rstrip("/")
    assert _upstream.validate_python(origin) is origin


def test_an_upstream_may_be_a_unix_socket():
    origin = _upstream.validate_python("unix:/run/model.sock")
    assert origin.address.path == "/run/model.sock"
    assert _upstream.dump_python(origin) == "unix:/run/model.sock"


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8001",
        "127.0.0.1:8001",
        "grpc://127.0.0.1",
        "grpc://127.0.0.1:8001/path",
        "grpc://user@127.0.0.1:8001",
        "grpc://127.0.0.1:8001?a",
        "dns:///model:8001",
        "grpc://model:0",
        "",
        5,
    ],
)
def test_what_is_no_upstream(text):
    with pytest.raises(ValidationError):
        _upstream.validate_python(text)


def test_one_upstream_or_several():
    one = EndpointGrpc.model_validate({"upstream": "grpc://a:1"})
    two = EndpointGrpc.model_validate({"upstream": ["grpc://a:1", "grpc://b:1"]})
    assert (len(one.upstream), len(two.upstream), one.stream) == (1, 2, "inspect")
    for upstream, words in (
        ([], "at least 1"),
        (["grpc://a:1", "grpc://a:1"], "listed twice"),
    ):
        with pytest.raises(ValidationError, match=words):
            EndpointGrpc.model_validate({"upstream": upstream})


def test_tls_that_would_do_nothing():
    tls = {"upstream_tls": {}, "upstream": "grpc://a:1"}
    with pytest.raises(ValidationError, match="do nothing"):
        EndpointGrpc.model_validate(tls)
    EndpointGrpc.model_validate({**tls, "upstream": ["grpc://a:1", "grpcs://a:1"]})


def test_the_listener_s_bounds():
    assert Grpc().listen.is_local
    for key, value in (
        ("message_bytes", 2**31),
        ("metadata_bytes", 10),
        ("streams", 0),
        ("calls", 0),
        ("connections", 0),
        ("idle_seconds", 0),
        ("reflection", True),
    ):
        with pytest.raises(ValidationError):
            Grpc.model_validate({key: value})
