"""Paths of OpenAI's API: three calls and the models, and nothing beside them."""

import pytest

from proxy.protocols.base import Call
from proxy.protocols.contract import Contract
from proxy.protocols.openai import OpenAI
from proxy.rules import CONTROL_PATH, METHOD, NO_ROUTE, Refusal


def codec(prefix="/v1", **keywords):
    return OpenAI(prefix, Contract(), **keywords)


def refusal(method, target, **keywords):
    with pytest.raises(Refusal) as caught:
        codec(**keywords).route(method, target)
    return caught.value.rule


@pytest.mark.parametrize(
    ("method", "target", "call"),
    [
        ("POST", "/v1/chat/completions", Call.INFER),
        ("POST", "/v1/completions", Call.INFER),
        ("POST", "/v1/embeddings", Call.INFER),
        ("GET", "/v1/models", Call.METADATA),
        ("GET", "/v1/models/m", Call.METADATA),
        ("GET", "/v1/models/meta-llama/Llama-3.1-8B:free", Call.METADATA),
        ("GET", "/v1/models/a/b/c/d@2", Call.METADATA),
    ],
)
def test_what_passes(method, target, call):
    route = codec().route(method, target)
    assert (route.call, route.method, route.target) == (call, method, target.encode())


@pytest.mark.parametrize(
    "rest",
    [
        "files", "fine_tuning/jobs", "assistants", "threads", "responses", "audio/speech",
        "images/generations", "batches", "vector_stores", "moderations", "realtime", "uploads",
        "load_lora_adapter", "unload_lora_adapter", "chat/completions/id", "models/a/b/c/d/e",
        "rerank", "tokenize",
    ],
)  # fmt: skip
def test_what_else_lies_below_is_restricted(rest):
    for method in ("GET", "POST", "DELETE"):
        assert refusal(method, f"/v1/{rest}") is CONTROL_PATH


@pytest.mark.parametrize(
    "target",
    [
        "/", "/v1/", "/v2/models", "/V1/models", "/v1//models", "/v1/./models", "/v1/models/..",
        "/v1/models?x=1", "/v1/mo%64els", "/v1/chat/completions/", "/v1/models#a", "/v1/models;a",
        "/openai/v1/models", "/v1models", "/health", "*", "",
    ],
)  # fmt: skip
def test_paths_have_one_spelling(target):
    assert refusal("GET", target) is NO_ROUTE


def test_each_path_has_one_method():
    assert refusal("GET", "/v1/chat/completions") is METHOD
    assert refusal("POST", "/v1/models") is METHOD
    assert refusal("DELETE", "/v1/models/m") is METHOD


def test_calls_that_are_not_configured_are_restricted():
    assert refusal("POST", "/v1/chat/completions", calls=("embeddings",)) is CONTROL_PATH
    codec(calls=("embeddings",)).route("POST", "/v1/embeddings")


def test_the_servers_own_path_may_differ():
    route = codec("/team/v1", upstream_prefix="/openai/v3").route("POST", "/team/v1/embeddings")
    assert route.target == b"/openai/v3/embeddings"


@pytest.mark.parametrize("prefix", ["/", "/v", "/v1/chat", "v1", "/v10", "/a b/v1", "/../v1", ""])
def test_what_is_no_such_path_is_an_error(prefix):
    with pytest.raises(ValueError, match=r"\[/BASE\]/v1"):
        codec(prefix)
    with pytest.raises(ValueError, match=r"\[/BASE\]/v1"):
        codec("/v1", upstream_prefix=prefix)


def test_the_list_of_models_is_asked_for_where_that_is_configured():
    assert codec().probe is None
    probe = codec(probe="models", upstream_prefix="/x/v1").probe
    assert (probe.method, probe.target) == ("GET", b"/x/v1/models")
