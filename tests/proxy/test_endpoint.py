"""From a request's path to its endpoint and protocol."""

import random

import pytest

from proxy import rules
from proxy.endpoint import RPC, Binding, Endpoint, Router
from proxy.protocols.base import Call, Refused, Route
from proxy.protocols.contract import Contract
from proxy.protocols.v2 import V2
from proxy.rules import Refusal

CONTRACT = Contract.from_config([{"name": "x", "datatype": "FP32", "shape": [-1, 4]}])


class Own:
    """A codec with one inference below its match, and one path of the server's own."""

    contract = CONTRACT
    probe = None

    def __init__(self, name, match, server="/ping", method="POST"):
        self.name, self.match, self.server, self.method = name, match, server, method

    def route(self, method, target):
        if target == self.server:
            if method != "GET":
                raise Refusal(rules.METHOD, "use GET")
            return Route(Call.HEALTH, "GET", target.encode())
        if not target.startswith((f"{self.match}/", f"{self.match}:")):
            raise Refusal(rules.NO_ROUTE)
        if method != self.method:
            raise Refusal(rules.METHOD, f"use {self.method}")
        return Route(Call.INFER, self.method, target.encode())

    def refuse(self, refusal):
        return Refused(b"text/plain", self.name.encode())


def endpoint(name, *bindings):
    return Endpoint(name, None, bindings, None, None, None, 0, 0)


def v2(match):
    return Binding(match, V2(match, CONTRACT), object())


def own(name, match, **how):
    return Binding(match, Own(name, match, **how), object())


def rpc(match):
    return Binding(match, Own("grpc", match, method=RPC), object(), rpc=True)


def test_the_longest_match_on_whole_segments_wins():
    router = Router(
        [endpoint("a", v2("/v2/models/a")), endpoint("ab", v2("/v2/models/ab"))],
    )
    assert router.find("POST", "/v2/models/ab/infer")[0].name == "ab"
    assert router.find("POST", "/v2/models/a/infer")[0].name == "a"
    assert router.find("POST", "/v2/models/a/versions/3/infer")[2].version == "3"
    assert router.find("GET", "/v2/health/ready")[0].name == "a"
    for target in ("/v2/models/abc/infer", "/", "/v1/models/a:predict", "/v2/models/a:predict"):
        with pytest.raises(Refusal) as refused:
            router.find("POST", target)
        assert refused.value.rule is rules.NO_ROUTE
    for target in ("/v2/repository/index", "/v2/models/a/generate", "/v2/systemsharedmemory"):
        with pytest.raises(Refusal) as refused:
            router.find("POST", target)
        assert refused.value.rule is rules.CONTROL_PATH


def test_a_match_ends_at_a_slash_or_at_a_colon():
    router = Router([endpoint("m", v2("/v2/models/m"), own("v1", "/v1/models/m"))])
    found, binding, _ = router.find("POST", "/v1/models/m:predict")
    assert (found.name, binding.codec.name) == ("m", "v1")
    with pytest.raises(Refusal):
        router.find("POST", "/v1/models/mm:predict")


def test_an_endpoint_is_found_by_each_of_its_protocols():
    one = endpoint("m", v2("/v2/models/m"), own("own", "/own/m"))
    router = Router([one, endpoint("n", own("other", "/own/n"))])
    for target, name in (("/v2/models/m/infer", "v2"), ("/own/m/x", "own")):
        found, binding, route = router.find("POST", target)
        assert (found, binding.codec.name, route.call) == (one, name, Call.INFER)


def test_a_path_of_the_servers_own_goes_to_the_first_protocol_that_has_it():
    first = endpoint("first", v2("/v2/models/m"))
    second = endpoint("second", own("a", "/a", server="/ping"), own("b", "/b", server="/health"))
    third = endpoint("third", own("c", "/c", server="/health"))
    router = Router([first, second, third])
    assert router.find("GET", "/v2/health/live")[0].name == "first"
    assert router.find("GET", "/ping")[1].codec.name == "a"
    assert router.find("GET", "/health")[1].codec.name == "b"
    for method, target, rule in (
        ("POST", "/ping", rules.METHOD),
        ("POST", "/v2/repository/index", rules.CONTROL_PATH),
        ("GET", "/nothing", rules.NO_ROUTE),
    ):
        with pytest.raises(Refusal) as refused:
            router.find(method, target)
        assert refused.value.rule is rule


def test_no_request_over_http_reaches_a_binding_of_grpc():
    service = "/inference.GRPCInferenceService/m"
    one = endpoint("m", v2("/v2/models/m"), rpc(service))
    router = Router([one])
    assert router.find(RPC, f"{service}/ModelInfer")[1].rpc
    for method in ("POST", "GET", "rpc"):
        with pytest.raises(Refusal) as refused:
            router.find(method, f"{service}/ModelInfer")
        assert refused.value.rule is rules.NO_ROUTE
    with pytest.raises(Refusal) as refused:
        router.find(RPC, "/v2/models/m/infer")
    assert refused.value.rule is rules.NO_ROUTE


def test_what_is_not_found_is_refused_in_the_words_of_the_nearest_protocol():
    service = "/inference.GRPCInferenceService/m"
    router = Router(
        [
            endpoint("called", rpc(service)),
            endpoint("m", v2("/v2/models/m"), own("own", "/own/m")),
        ]
    )
    for method, target, name in (
        ("PUT", "/own/m/x", "own"),
        ("PUT", "/v2/models/m/infer", "v2"),
        ("GET", "/nothing", "v2"),
        ("", "", "v2"),
        (RPC, "/nothing", "grpc"),
        (RPC, f"{service}/Other", "grpc"),
    ):
        assert router.nearest(method, target)[1].codec.name == name, (method, target)
    alone = Router([endpoint("called", rpc(service))])
    assert alone.nearest("GET", "/nothing")[1].codec.name == "grpc", "there are no other words"


def test_the_method_that_a_path_takes():
    router = Router([endpoint("m", v2("/v2/models/m"), own("own", "/own/m"))])
    assert router.allowed("/v2/models/m/infer") == "POST"
    assert router.allowed("/v2/models/m") == "GET"
    assert router.allowed("/own/m:x") == "POST"
    assert router.allowed("/ping") == "GET"
    assert router.allowed("/nothing") == ""


def test_the_router_remembers_a_bounded_number_of_targets():
    router = Router([endpoint("m", v2("/v2/models/m"))])
    for version in range(3000):
        router.find("POST", f"/v2/models/m/versions/{version}/infer")
    assert len(router._known) <= 1024


@pytest.mark.parametrize("target", ["/" * 9000, ":" * 9000, "/v2/models/m" * 700, "a" * 9000, ""])
def test_a_hostile_target_is_nowhere(target):
    router = Router([endpoint("m", v2("/v2/models/m"))])
    with pytest.raises(Refusal):
        router.find("POST", target)


def test_the_longest_match_is_that_of_a_search_through_all():
    draw = random.Random(5)
    names = ["a", "ab", "b", "models"]

    def path(most):
        return "".join(f"/{draw.choice(names)}" for _ in range(draw.randint(1, most)))

    found = 0
    for _ in range(300):
        matches = {path(4) for _ in range(5)}
        router = Router([endpoint("m", *(own("own", match) for match in matches))])
        target = path(6) + draw.choice(["", ":predict", "/x:y", "x"])
        fitting = [one for one in matches if f"{target}/".startswith((f"{one}/", f"{one}:"))]
        bound = router._tables[False].matched(target)
        assert (bound and bound[1].match) == max(fitting, key=len, default=None)
        found += bound is not None
    assert found > 50


def test_of_models_side_by_side_one_is_asked_for_the_servers_own_paths():
    asked = []

    class Counted(V2):
        def route(self, method, target):
            asked.append(target)
            return super().route(method, target)

    def counted(match):
        return Binding(match, Counted(match, CONTRACT), object())

    bindings = [counted(f"/v2/models/m{number}") for number in range(100)]
    below = counted("/base/v2/models/m0")
    router = Router([endpoint("m", *bindings, below)])
    with pytest.raises(Refusal):
        router.find("GET", "/nothing")
    assert len(asked) == 2
    assert router.find("GET", "/base/v2/health/live")[1] is below
