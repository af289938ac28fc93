"""Which codecs an endpoint gets, at which paths, and how they are bound."""

import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.build import BuildError, Shared, build
from proxy.build_codecs import Bounds, codec, grpc_match, spoken
from proxy.explanations import Explanations
from proxy.protocols.contract import Contract
from proxy.protocols.invocations import Invocations
from proxy.protocols.sagemaker import SageMaker
from proxy.protocols.seldon import Seldon
from proxy.protocols.torchserve import TorchServe
from proxy.protocols.v1 import V1
from proxy.protocols.v2 import V2
from proxy.rules import Refusal
from proxy.settings import protocols as sections
from proxy.settings.load import load
from proxy.state.memory import MemoryState
from proxy.telemetry.audit import NoAudit
from proxy.telemetry.metrics import Metrics

BOUNDS = Bounds(7, 2000, 3000)


def made(protocol, match, upstream_path=None, **more):
    return [codec(one, None, BOUNDS, **more) for one in spoken(protocol, match, upstream_path)]


@pytest.mark.parametrize(
    ("protocol", "match", "kind"),
    [
        (sections.V2(), "/v2/models/m", V2),
        (sections.V1(), "/v1/models/m", V1),
        (sections.Invocations(), "/invocations", Invocations),
        (sections.Invocations(server="sagemaker"), "/invocations", SageMaker),
        (sections.TorchServe(), "/predictions/m", TorchServe),
        (sections.Seldon(), "/api/v1.0/predictions", Seldon),
    ],
)
def test_each_protocol_has_its_codec(protocol, match, kind):
    [one] = made(protocol, match)
    assert type(one) is kind
    with pytest.raises(ValueError, match=r"."):
        made(protocol, "/somewhere/else")
    with pytest.raises(ValueError, match=r"."):
        made(protocol, match, "/somewhere/else")


def test_codecs_whose_wire_names_the_features_are_told_of_them():
    names = ("a", "b")
    [mlflow] = made(sections.Invocations(), "/invocations", features=names)
    contract = mlflow.learn(b"{}", 2)
    assert [spec.name for spec in contract.inputs] == ["a", "b"]
    [seldon] = made(sections.Seldon(), "/api/v1.0/predictions", features=names)
    body = b'{"data":{"names":["b","a"],"ndarray":[[1,2]]}}'
    route = seldon.route("POST", "/api/v1.0/predictions")
    bound = seldon.with_contract(Contract(width=2))
    with pytest.raises(Refusal):
        bound.decode_request({b"content-type": b"application/json"}, body, route)


def test_auto_is_every_protocol_of_one_model():
    auto = sections.Auto(model="digits")
    places = spoken(auto, "/")
    assert [(type(one.protocol), one.match, one.upstream_path) for one in places] == [
        (sections.V2, "/v2/models/digits", None),
        (sections.V1, "/v1/models/digits", None),
        (sections.TorchServe, "/predictions/digits", None),
        (sections.Seldon, "/api/v1.0/predictions", None),
        (sections.Seldon, "/api/v0.1/predictions", None),
        (sections.Invocations, "/invocations", None),
    ]
    below = spoken(auto, "/team/a", "/served")
    assert {one.match.removeprefix("/team/a") for one in below} == {one.match for one in places}
    assert all(one.upstream_path == one.match.replace("/team/a", "/served") for one in below)
    assert all(one.upstream_path.startswith("/v2") for one in spoken(auto, "/a", "/")[:1])
    assert len(made(auto, "/")) == 6


@pytest.mark.parametrize(
    ("protocol", "match", "model", "found"),
    [
        (sections.V2(), "/v2/models/m", None, "/m"),
        (sections.V2(), "/a/models/b/v2/models/m/versions/3", None, "/m/3"),
        (sections.V1(), "/v1/models/m/versions/3", None, "/m/3"),
        (sections.TorchServe(), "/predictions/m/1.0", None, "/m/1.0"),
        (sections.Auto(model="m"), "/", None, "/m"),
        (sections.V2(), "/v2/models/m", "other", "/other"),
        (sections.Seldon(), "/api/v1.0/predictions", "m", "/m"),
        (sections.Seldon(), "/api/v1.0/predictions", None, None),
        (sections.Invocations(), "/models/m/invocations", None, None),
    ],
)
def test_the_name_by_which_grpc_clients_ask(protocol, match, model, found):
    expected = found and f"/inference.GRPCInferenceService{found}"
    assert grpc_match(protocol, match, model) == expected


@pytest.fixture
def shared():
    with ThreadPoolExecutor(1) as executor:
        yield Shared(
            explanations=Explanations(0, wall=lambda: 1e9),
            clock=lambda: 1.0,
            wall=lambda: 1e9,
            executor=executor,
            request_id=lambda: "id",
            metrics=Metrics(wall=lambda: 1e9),
            state=MemoryState(100, lambda: 1e9),
            audit=NoAudit(),
            pseudonym_key=bytes(32),
        )


@pytest.fixture
def settings(tmp_path):
    def read(text):
        path = tmp_path / "bartizan.yaml"
        path.write_text(textwrap.dedent(text))
        return load(path, environment={})

    return read


TWO = """
    grpc: {{listen: "127.0.0.1:0"}}
    endpoints:
      - name: m
        match: /v2/models/m
        upstream: "http://127.0.0.1:1"
        limits: {{rows_per_request: {rows}}}
        grpc: {{upstream: "grpc://127.0.0.1:{port}"}}
"""


async def test_over_grpc_it_is_the_same_endpoint(settings, shared):
    [endpoint] = build(settings(TWO.format(rows=5, port=2)), shared, {}).pipeline.endpoints
    over_http, over_grpc = endpoint.bindings
    assert (over_http.match, over_http.rpc) == ("/v2/models/m", False)
    assert (over_grpc.match, over_grpc.rpc) == ("/inference.GRPCInferenceService/m", True)
    assert over_grpc.codec.probe.method == "RPC"
    assert len(endpoint.pools) == 2
    assert {state.address for pool in endpoint.pools for state in pool.state().addresses} == {
        "127.0.0.1:1",
        "127.0.0.1:2",
    }


async def test_a_reload_keeps_the_ways_that_stay(settings, shared):
    first = build(settings(TWO.format(rows=5, port=2)), shared, {})
    again = build(settings(TWO.format(rows=6, port=2)), shared, {}, first)
    other = build(settings(TWO.format(rows=6, port=3)), shared, {}, first)
    pools = [generation.pipeline.endpoints[0].pools for generation in (first, again, other)]
    assert pools[0] == pools[1]
    assert (pools[2][0] is pools[0][0], pools[2][1] is pools[0][1]) == (True, False)


async def test_what_is_learnt_by_one_protocol_outlives_a_reload_for_all(settings, shared):
    first = build(settings(TWO.format(rows=5, port=2)), shared, {})
    learnt = Contract.from_config([{"name": "x", "datatype": "FP32", "shape": [-1, 4]}])
    for binding in first.pipeline.endpoints[0].bindings:
        binding.codec = binding.codec.with_contract(learnt)
    again = build(settings(TWO.format(rows=6, port=2)), shared, {}, first)
    assert {binding.codec.contract for binding in again.pipeline.endpoints[0].bindings} == {learnt}


def test_without_the_extra_it_is_said_what_to_install(settings, shared, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("proxy.build_bindings.import_module", missing)
    with pytest.raises(BuildError, match=r"endpoint m: grpc needs .*\.\[grpc\]"):
        build(settings(TWO.format(rows=5, port=2)), shared, {})


async def test_only_by_grpc(settings, shared):
    given = settings(
        """
        grpc: {listen: "127.0.0.1:0"}
        endpoints:
          - {name: m, match: /v2/models/m, grpc: {upstream: "grpc://127.0.0.1:2", model: named}}
        """
    )
    [endpoint] = build(given, shared, {}).pipeline.endpoints
    [binding] = endpoint.bindings
    assert (binding.rpc, binding.match) == (True, "/inference.GRPCInferenceService/named")


def test_what_another_protocol_taught_is_forgotten_at_a_reload(settings, shared):
    text = """
        endpoints:
          - name: m
            match: /v1/models/m
            upstream: "http://127.0.0.1:1"
            protocol: {{name: v1, server: {server}}}
            mode: {mode}
    """
    first = build(settings(text.format(server="kserve", mode="enforce")), shared, {})
    [binding] = first.pipeline.endpoints[0].bindings
    binding.codec = binding.codec.with_contract(Contract(width=4))
    same = build(settings(text.format(server="kserve", mode="monitor")), shared, {}, first)
    assert same.pipeline.endpoints[0].contract == Contract(width=4)
    other = build(settings(text.format(server="tensorflow", mode="enforce")), shared, {}, first)
    assert other.pipeline.endpoints[0].contract is None
    assert other.pipeline.endpoints[0].pools == first.pipeline.endpoints[0].pools
