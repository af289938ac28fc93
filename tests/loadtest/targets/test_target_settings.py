"""Where a target is, as settings say it; and what may not be attacked."""

import hashlib

import pytest
from pydantic import ValidationError
from spoken_stub import FEATURES, Stub, serving

from loadtest.targets.clients import Clients, api_keys, identities, listing
from loadtest.targets.open import Endpoint, FormError, Unreachable, reachable
from loadtest.targets.places import NotAuthorised, check_authorised, places
from loadtest.targets.settings import Target
from proxy.settings.api_keys import read_api_keys
from proxy.settings.problems import SettingsError

CONFIGURATION = """
listen: 0.0.0.0:8443
audit: {path: audit.jsonl}
endpoints:
  - name: one
    match: /v2/models/m
    upstream: http://127.0.0.1:9001
    upstream_path: /v2/models/inner
    contract: {inputs: [{name: x, datatype: FP32, shape: [-1, 6]}]}
  - name: all
    match: /all
    protocol: {name: auto, model: m}
    upstream: unix:model.sock
"""


@pytest.fixture
def configuration(tmp_path):
    path = tmp_path / "bartizan.yaml"
    path.write_text(CONFIGURATION)
    return path


def target(**keys):
    return Target.model_validate(keys)


def test_both_sides_are_taken_from_the_configuration(configuration):
    found = places(target(configuration=str(configuration), endpoint="one"))
    assert list(found.sides) == ["direct", "firewall"]
    direct, firewall = found.sides.values()
    assert (str(direct.address), direct.path) == ("127.0.0.1:9001", "/v2/models/inner")
    # What listens everywhere is reached from here.
    assert (str(firewall.address), firewall.path) == ("127.0.0.1:8443", "/v2/models/m")
    assert firewall.address.authority == b"127.0.0.1:8443"
    assert found.contract is not None
    assert found.contract.width == 6
    assert found.audit == configuration.with_name("audit.jsonl")


def test_of_auto_one_protocol_is_chosen(configuration):
    keys = {"configuration": str(configuration), "endpoint": "all"}
    found = places(target(**keys, protocol="v1"))
    assert found.sides["firewall"].path == "/all/v1/models/m"
    assert found.sides["direct"].address.path.endswith("model.sock")
    assert places(target(**keys)).sides["firewall"].path == "/all/v2/models/m"


def test_an_endpoint_is_asked_by_grpc_where_it_is_said(tmp_path):
    pytest.importorskip("grpc")
    path = tmp_path / "bartizan.yaml"
    path.write_text(
        "grpc: {listen: 127.0.0.1:8444}\nendpoints:\n"
        "  - name: one\n    match: /v2/models/m\n    upstream: http://127.0.0.1:9001\n"
        "    grpc: {upstream: grpc://127.0.0.1:9002}\n"
    )
    found = places(target(configuration=str(path), wire="grpc"))
    assert [str(one.address) for one in found.sides.values()] == [
        "127.0.0.1:9002",
        "127.0.0.1:8444",
    ]
    assert {one.path for one in found.sides.values()} == {"/inference.GRPCInferenceService/m"}
    assert all(one.rpc for one in found.sides.values())
    assert not any(one.rpc for one in places(target(configuration=str(path))).sides.values())
    other = places(target(configuration=str(path), wire="grpc", firewall="grpc://localhost:7000"))
    assert other.sides["firewall"].path == "/inference.GRPCInferenceService/m"
    with pytest.raises(ValueError, match="asked otherwise"):
        places(target(configuration=str(path), wire="grpc", firewall="http://127.0.0.1:1/x"))


def test_a_url_takes_the_place_of_what_is_configured(configuration):
    found = places(
        target(configuration=str(configuration), endpoint="one", firewall="http://localhost:7000")
    )
    place = found.sides["firewall"]
    assert (str(place.address), place.path) == ("localhost:7000", "/v2/models/m")


def test_which_endpoint_must_be_clear(configuration):
    with pytest.raises(ValueError, match="say which endpoint: there are one, all"):
        places(target(configuration=str(configuration)))
    with pytest.raises(ValueError, match="no endpoint is called 'two'"):
        places(target(configuration=str(configuration), endpoint="two"))
    with pytest.raises(ValueError, match="not asked by gRPC"):
        places(target(configuration=str(configuration), endpoint="one", wire="grpc"))
    with pytest.raises(SettingsError):
        places(target(configuration=str(configuration) + ".none", endpoint="one"))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "say configuration, or firewall, or direct"),
        ({"firewall": "http://127.0.0.1:1"}, "say the model's path"),
        ({"firewall": "ftp://127.0.0.1/x"}, "must be http"),
        ({"firewall": "http://127.0.0.1/x?y"}, "must be http"),
        ({"firewall": "grpc://127.0.0.1/m"}, "must be http"),
        ({"configuration": "x", "match": "/y"}, "the configuration says it"),
        ({"direct": "http://127.0.0.1/v1/embeddings", "protocol": "openai"}, "no rows"),
        ({"direct": "http://127.0.0.1/x", "endpoint": "e"}, "without a configuration"),
        ({"direct": "http://127.0.0.1/x", "example_type": "text/csv"}, "without an example"),
        ({"direct": "http://127.0.0.1/x", "clients": {"count": 2}}, "say by"),
        (
            {"direct": "http://127.0.0.1/x", "clients": {"by": "source_address", "network":
             "10.0.0.0/8"}},
            "only addresses in 127",
        ),
    ],
)  # fmt: skip
def test_what_contradicts_is_told(keys, words):
    with pytest.raises(ValidationError) as raised:
        target(**keys)
    errors = raised.value.errors()
    told = " ".join(error["msg"] + str(error.get("ctx", "")) for error in errors)
    assert words in told


def test_a_path_of_another_protocol_is_told():
    with pytest.raises(ValueError, match="path"):
        places(target(direct="http://127.0.0.1:1/predict/m"))


@pytest.mark.parametrize("host", ["", "localhost", "127.0.0.1", "127.99.3.1", "::1"])
def test_this_machine_may_be_attacked(host):
    check_authorised(host, ())


@pytest.mark.parametrize(
    "host", ["example.com", "10.0.0.1", "192.168.1.1", "0.0.0.0", "localhost.example.com", "127.1"]
)
def test_no_other_may_unless_it_is_listed(host):
    with pytest.raises(NotAuthorised, match="--authorised-host"):
        check_authorised(host, ())
    check_authorised(host, (host,))


def test_a_target_elsewhere_is_never_asked():
    with pytest.raises(NotAuthorised):
        Endpoint.open(target(direct="http://model.example.com/v2/models/m"))
    keys = {"direct": "http://model.example.com/v2/models/m"}
    places(target(**keys, authorised_hosts=("Model.example.com",)))
    places(target(direct="http://10.1.2.3/v2/models/m", authorised_hosts=("10.1.2.3",)))
    places(target(direct="http://[2001:db8::1]/v2/models/m", authorised_hosts=("2001:db8::1",)))
    with pytest.raises(NotAuthorised):
        places(target(**keys, authorised_hosts=("example.com",)))


def test_nobody_there_is_told(free_port):
    with pytest.raises(Unreachable, match=r"direct, 127\.0\.0\.1:\d+: Connection refused"):
        Endpoint.open(target(direct=f"http://127.0.0.1:{free_port()}/v2/models/m"))


def test_a_contract_is_learnt_or_said_to_be_missing():
    with serving(Stub()) as stub:
        url = f"{stub.url}/v2/models/m"
        endpoint = Endpoint.open(target(direct=url))
        assert endpoint.features == FEATURES
        assert reachable(endpoint, "direct")
        with pytest.raises(FormError, match="takes 6 features, the data have 5"):
            Endpoint.open(target(direct=url), features=5)
        stub.metadata = {"name": "m", "inputs": [], "outputs": []}
        assert Endpoint.open(target(direct=url), features=4).features == 4
        with pytest.raises(FormError, match="how many features"):
            Endpoint.open(target(direct=url))
        stub.metadata = {"name": "other"}
        with pytest.raises(Unreachable, match="not that of 'm'"):
            Endpoint.open(target(direct=url))
        stub.metadata = {
            "name": "m",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, -1, -1]}],
        }
        with pytest.raises(FormError, match="open: give an example"):
            Endpoint.open(target(direct=url), features=6)


def test_invented_keys_are_those_that_the_firewall_is_told(tmp_path):
    clients = Clients(by="api_key", count=3, secret=16 * "s")
    path = tmp_path / "keys"
    path.write_text(listing(api_keys(clients)))
    known = read_api_keys(path)
    found = identities(clients)
    assert len(found) == 3
    for name, identity in found.items():
        ((header, key),) = identity.headers
        assert header == "x-api-key"
        assert known[hashlib.sha256(key.encode()).digest()] == name
    assert api_keys(Clients(by="api_key", count=3, secret=16 * "t")) != api_keys(clients)
    bearer = identities(Clients(by="api_key", secret=16 * "s", header="Authorization"))
    assert bearer["client-00000"].headers[0][1].startswith("Bearer ")


def test_keys_are_made_of_no_secret_that_everybody_knows():
    for keys in ({}, {"count": 3}, {"secret": "short"}):
        with pytest.raises(ValidationError):
            Clients(by="api_key", **keys)
    with pytest.raises(ValidationError):
        Clients(by="header", secret=16 * "s")


@pytest.mark.parametrize(
    ("text", "words"), [("a:\n", "NAME:KEY"), ("a:x\na:y\n", "twice"), ("\n# none\n", "no key")]
)
def test_a_file_of_keys_is_read_strictly(tmp_path, text, words):
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        identities(Clients(by="api_key", keys=path))


def test_more_clients_than_keys_are_not_invented(tmp_path):
    path = tmp_path / "keys"
    path.write_text("a:x\nb:y\n")
    with pytest.raises(ValueError, match="2 keys, not 3"):
        identities(Clients(by="api_key", keys=path, count=3))
    assert list(identities(Clients(by="api_key", keys=path, count=1))) == ["a"]
