"""Which paths pass, in which spelling, and which never do."""

import pytest

from proxy.protocols.base import Call
from proxy.protocols.contract import Contract, ContractError
from proxy.protocols.v2 import V2
from proxy.rules import CONTROL_PATH, METHOD, NO_ROUTE, Refusal

CODEC = V2("/v2/models/digits", Contract())
PASS = {
    ("POST", "/v2/models/digits/infer"): (Call.INFER, "digits", ""),
    ("POST", "/v2/models/digits/versions/3/infer"): (Call.INFER, "digits", "3"),
    ("POST", "/v2/models/digits/versions/v1.2_a-b/infer"): (Call.INFER, "digits", "v1.2_a-b"),
    ("GET", "/v2/models/digits"): (Call.METADATA, "digits", ""),
    ("GET", "/v2/models/digits/versions/3"): (Call.METADATA, "digits", "3"),
    ("GET", "/v2/models/digits/ready"): (Call.HEALTH, "digits", ""),
    ("GET", "/v2/models/digits/versions/3/ready"): (Call.HEALTH, "digits", "3"),
    ("GET", "/v2"): (Call.METADATA, "", ""),
    ("GET", "/v2/health/live"): (Call.HEALTH, "", ""),
    ("GET", "/v2/health/ready"): (Call.HEALTH, "", ""),
}
CONTROL = [
    "/v2/models/digits/config",
    "/v2/models/digits/stats",
    "/v2/models/digits/versions/3/config",
    "/v2/models/digits/versions/3/stats",
    "/v2/models/digits/versions/3/trace/setting",
    "/v2/models/digits/versions",
    "/v2/models/digits/generate",
    "/v2/models/digits/generate_stream",
    "/v2/models/digits/infer_stream",
    "/v2/models/digits/infer/infer",
    "/v2/models/digits/trace/setting",
    "/v2/models/digits/load",
    "/v2/models/digits/unload",
    "/v2/models",
    "/v2/models/stats",
    "/v2/repository/index",
    "/v2/repository/models/digits/load",
    "/v2/repository/models/digits/unload",
    "/v2/systemsharedmemory/status",
    "/v2/systemsharedmemory/region/a/register",
    "/v2/cudasharedmemory/status",
    "/v2/cudasharedmemory/unregister",
    "/v2/logging",
    "/v2/trace/setting",
    "/v2/health",
    "/v2/health/startup",
    "/v2/docs",
    "/v2/anything",
]
NOWHERE = [
    "",
    "/",
    "*",
    "/v2/",
    "/V2/models/digits",
    "/v2/models/other",
    "/v2/models/other/infer",
    "/v2/models/digits2/infer",
    "/v2/models/%64igits/infer",
    "/v2/models/digits%2Finfer",
    "/v2/models/digits/versions/%33/infer",
    "/v2/models/digits/infer?x=1",
    "/v2/models/digits/infer?",
    "/v2/models/digits/infer#x",
    "/v2/models/digits/infer;x",
    "/v2/models/digits/infer/",
    "/v2/models/digits/",
    "/v2/models//digits/infer",
    "//v2/models/digits/infer",
    "/v2//models/digits/infer",
    "/v2/models/digits//infer",
    "/v2/./models/digits/infer",
    "/v2/models/digits/../digits/infer",
    "/v2/models/digits/versions/../infer",
    "/v2/models/digits/versions/./infer",
    "/v2/models/digits/versions//infer",
    "/v2\\models\\digits\\infer",
    "/v2/models/digits/infer\n",
    "/v2/models/digits/infer ",
    "/v2/models/digits/versions/3\n/infer",
    "/v2/models/digits/versions/\u0663/infer",
    "/v2/models/digits/versions/" + "9" * 200 + "/infer",
    "/v1/models/digits:predict",
    "/invocations",
    "/metrics",
    "v2/models/digits/infer",
    "http://host/v2/models/digits/infer",
]


@pytest.mark.parametrize(("method", "target"), PASS)
def test_passes(method, target):
    route = CODEC.route(method, target)
    assert (route.call, route.model, route.version) == PASS[method, target]
    assert (route.method, route.target) == (method, target.encode())


@pytest.mark.parametrize(("method", "target"), PASS)
def test_only_one_method_passes(method, target):
    for other in {"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "get", ""} - {method}:
        with pytest.raises(Refusal) as refusal:
            CODEC.route(other, target)
        assert refusal.value.rule is METHOD
        assert refusal.value.message == f"method not allowed: use {method}"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("target", CONTROL)
def test_control_paths_are_restricted(method, target):
    with pytest.raises(Refusal) as refusal:
        CODEC.route(method, target)
    assert refusal.value.rule is CONTROL_PATH


@pytest.mark.parametrize("target", NOWHERE)
def test_other_paths_and_spellings_are_nowhere(target):
    with pytest.raises(Refusal) as refusal:
        CODEC.route("POST", target)
    assert refusal.value.rule is NO_ROUTE


def test_the_model_server_may_have_other_paths():
    codec = V2("/team/v2/models/digits", Contract(), upstream_prefix="/v2/models/digits-7")
    assert (
        codec.route("POST", "/team/v2/models/digits/infer").target == b"/v2/models/digits-7/infer"
    )
    versioned = codec.route("GET", "/team/v2/models/digits/versions/2")
    assert versioned.target == b"/v2/models/digits-7/versions/2"
    assert codec.route("GET", "/team/v2/health/ready").target == b"/v2/health/ready"
    for target in ("/v2/health/ready", "/v2/models/digits/infer", "/team/v2/models/digits-7/infer"):
        with pytest.raises(Refusal):
            codec.route("POST", target)


def test_an_endpoint_may_be_one_version():
    codec = V2("/v2/models/digits/versions/3", Contract())
    for method, suffix in (("POST", "/infer"), ("GET", ""), ("GET", "/ready")):
        route = codec.route(method, f"/v2/models/digits/versions/3{suffix}")
        assert (route.model, route.version) == ("digits", "3")
        assert route.target.decode() == f"/v2/models/digits/versions/3{suffix}"
    assert codec.route("GET", "/v2/health/live").version == ""
    for target, rule in {
        "/v2/models/digits/infer": NO_ROUTE,
        "/v2/models/digits/versions/4/infer": NO_ROUTE,
        "/v2/models/digits/versions/31/infer": NO_ROUTE,
        "/v2/models/digits/versions/3/versions/4/infer": CONTROL_PATH,
        "/v2/models/digits/versions/3/config": CONTROL_PATH,
    }.items():
        with pytest.raises(Refusal) as refusal:
            codec.route("POST", target)
        assert refusal.value.rule is rule, target
    served = V2("/v2/models/digits", Contract(), upstream_prefix="/v2/models/d/versions/7")
    assert (
        served.route("POST", "/v2/models/digits/infer").target == b"/v2/models/d/versions/7/infer"
    )
    with pytest.raises(Refusal):  # there is nothing below a version that is fixed
        served.route("POST", "/v2/models/digits/versions/1/infer")


def test_the_metadata_bear_the_name_on_the_server():
    codec = V2("/v2/models/digits", Contract(), upstream_prefix="/v2/models/served")
    assert codec.learn(b'{"name":"served"}', None) == Contract()
    with pytest.raises(ContractError):
        codec.learn(b'{"name":"digits"}', None)


@pytest.mark.parametrize(
    "prefix",
    ["", "/", "/v2/models", "/v2/models/", "/v2/models/a/", "/v2/models/..", "/v2/models/a b",
     "/v2/models/%61", "v2/models/a", "/v1/models/a", "//v2/models/a", "/v2/models/a/infer"],
)  # fmt: skip
def test_a_prefix_must_be_a_models_path(prefix):
    with pytest.raises(ValueError, match="the v2 protocol's paths are"):
        V2(prefix, Contract())
    with pytest.raises(ValueError, match="the v2 protocol's paths are"):
        V2("/v2/models/a", Contract(), upstream_prefix=prefix)
