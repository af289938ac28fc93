"""What the keys mean, and what contradicts."""

from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_network

import pytest
from pydantic import ValidationError

from proxy.protocols.tensors import DATATYPES
from proxy.settings.contract import Datatype, DeclaredContract, LearntContract
from proxy.settings.fields import Address
from proxy.settings.models import Settings
from proxy.settings.section import CONTRADICTION, placed

ENDPOINT = {"name": "digits", "match": "/v2/models/digits", "upstream": "http://127.0.0.1:8081"}


def make(endpoint=(), **sections):
    """Settings with one endpoint: keys of it, and of the root."""
    values = {"endpoints": [{**ENDPOINT, **dict(endpoint)}], **sections}
    return Settings.model_validate(values)


def faults(endpoint=(), **sections):
    """Where a configuration is at fault: ``{dotted place: message}``."""
    with pytest.raises(ValidationError) as caught:
        make(endpoint, **sections)
    found = {}
    errors = caught.value.errors()
    for error in errors:
        loc = error["loc"]
        # Pydantic's echoes of another error, which load.py passes over too.
        if error["type"] == "default_factory_not_called" or (
            error["type"] == "too_short"
            and any(len(one["loc"]) > len(loc) and one["loc"][: len(loc)] == loc for one in errors)
        ):
            continue
        below = [((), error["msg"])]
        if error["type"] == CONTRADICTION:
            below = placed(error["ctx"]["faults"])
        for place, message in below:
            found[".".join(map(str, (*error["loc"], *place)))] = message
    return found


LISTEN = {
    "127.0.0.1:8080": Address("127.0.0.1", 8080),
    "localhost:0": Address("localhost", 0),
    "[::1]:8080": Address("::1", 8080),
    "[0:0:0:0:0:0:0:1]:65535": Address("::1", 65535),
    "0.0.0.0:80": Address("0.0.0.0", 80),
    "host-1.internal:80": Address("host-1.internal", 80),
    "unix:/run/a.sock": Address(path="/run/a.sock"),
    "unix:a.sock": Address(path="a.sock"),
}


@pytest.mark.parametrize("text", LISTEN)
def test_addresses_to_listen_on(text):
    assert make(listen=text).listen == LISTEN[text]


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "8080", ":8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1",
        "127.0.0.1:8x", "::1:8080", "[::1]", "[::1:80", "[127.0.0.1]:80", "[fe80::1%eth0]:80",
        "127.0.0.256:80", "1.2.3:80", "a..b:80", "a b:80", "-a:80", "unix:", "unix:a\0b",
        "unix:/" + "x" * 107, "http://127.0.0.1:80", "127.0.0.1:٣", 8080, None, ["a:1"],
    ],
)  # fmt: skip
def test_what_is_no_address_to_listen_on(text):
    assert set(faults(listen=text)) == {"listen"}


ORIGINS = {
    "http://127.0.0.1:8081": ("127.0.0.1", 8081, "", False, "127.0.0.1:8081"),
    "http://127.0.0.1:8081/": ("127.0.0.1", 8081, "", False, "127.0.0.1:8081"),
    "http://model": ("model", 80, "", False, "model"),
    "http://model:80": ("model", 80, "", False, "model"),
    "https://model": ("model", 443, "", True, "model"),
    "https://model:80": ("model", 80, "", True, "model:80"),
    "https://[2001:db8::1]": ("2001:db8::1", 443, "", True, "[2001:db8::1]"),
    "https://[2001:db8::1]:8443": ("2001:db8::1", 8443, "", True, "[2001:db8::1]:8443"),
    "unix:/run/m.sock": ("", 0, "/run/m.sock", False, "localhost"),
}


@pytest.mark.parametrize("text", ORIGINS)
def test_upstreams(text):
    host, port, path, tls, authority = ORIGINS[text]
    (origin,) = make({"upstream": text}).endpoints[0].upstream
    assert (origin.address, origin.tls, origin.authority) == (
        Address(host, port, path),
        tls,
        authority,
    )
    assert make({"upstream": str(origin)}).endpoints[0].upstream == (origin,)


@pytest.mark.parametrize(
    "text",
    [
        "", "127.0.0.1:80", "ftp://a", "http://", "http:///x", "http://a/b", "http://a?b",
        "http://a#",
        "http://u:p@a", "http://a:b", "http://a:0", "http://a:70000", "http://[::1", "unix:",
        "http://a b", "HTTP:/a", 5, None,
    ],
)  # fmt: skip
def test_what_is_no_upstream(text):
    assert set(faults({"upstream": [text]})) == {"endpoints.0.upstream.0"}


def test_a_list_of_upstreams_holds_each_once():
    origins = make({"upstream": ["http://a", "http://b"]}).endpoints[0].upstream
    assert [str(origin) for origin in origins] == ["http://a", "http://b"]
    assert "endpoints.0.upstream.1" in faults({"upstream": ["http://a", "http://a:80/"]})
    assert "endpoints.0.upstream" in faults({"upstream": []})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1, 1),
        ("1", 1),
        ("64KiB", 65536),
        ("10MiB", 10 * 2**20),
        ("1GB", 10**9),
        ("5 MB", 5_000_000),
    ],
)
def test_sizes(text, size):
    assert make({"limits": {"body_bytes": text}}).endpoints[0].limits.body_bytes == size


@pytest.mark.parametrize(
    "text", [0, -1, "0", "", "MiB", "1.5MiB", "1Mi", "1 TB", "1e3", "2000GiB", None]
)
def test_what_is_no_size(text):
    assert set(faults({"limits": {"body_bytes": text}})) == {"endpoints.0.limits.body_bytes"}


MATCHES = ["/v2/models/a", "/v2/models/a.b-c_d~1", "/v2/models/a/versions/3"]
NO_MATCHES = [
    "", "/", "v2/models/a", "/v2", "/v2/models", "/v2/models/", "/v2/models/a/", "/v2//models/a",
    "/v2/models/..", "/v2/models/.", "/v2/models/%61", "/v2/models/a?x", "/v2/models/a b",
    "/v2/models/a/versions", "/v2/models/a/infer", "/v1/models/a", "/v2/models/a/versions/1/infer",
]  # fmt: skip


@pytest.mark.parametrize("path", MATCHES)
def test_paths_that_can_be_matched(path):
    endpoint = make({"match": path}).endpoints[0]
    assert endpoint.matches == (path,)


@pytest.mark.parametrize("path", NO_MATCHES)
def test_paths_that_cannot(path):
    assert set(faults({"match": path})) == {"endpoints.0.match"}


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("/v2/models/a", "/v2/models/a", True),
        ("/v2/models/a", "/v2/models/a/versions/1", True),
        ("/v2/models/a/versions/1", "/v2/models/a", True),
        ("/v2/models/a", "/v2/models/ab", False),
        ("/v2/models/a/versions/1", "/v2/models/a/versions/11", False),
    ],
)
def test_endpoints_do_not_overlap(first, second, clash):
    endpoints = [{**ENDPOINT, "match": first}, {**ENDPOINT, "name": "b", "match": second}]
    if clash:
        assert set(faults(endpoints=endpoints)) == {"endpoints.1.match"}
    else:
        assert len(make(endpoints=endpoints).endpoints) == 2


def test_names_are_unique_and_fit_a_metric():
    other = {**ENDPOINT, "match": "/v2/models/b"}
    assert set(faults(endpoints=[ENDPOINT, other])) == {"endpoints.1.name"}
    for name in ("", "A", "a b", "a" * 65, "-a", "a/b", 'a"b', "é"):
        assert set(faults({"name": name})) == {"endpoints.0.name"}


def test_an_admin_listener_that_others_reach_needs_a_token():
    for listen in ("0.0.0.0:9090", "[::]:9090", "10.0.0.1:9090", "example.org:9090"):
        assert set(faults(admin={"listen": listen})) == {"admin.listen"}
        assert make(admin={"listen": listen, "token": "t" * 16}).admin.token is not None
    for listen in ("127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/a"):
        assert make(admin={"listen": listen}).admin.token is None
    assert set(faults(admin={"token": "t" * 15})) == {"admin.token"}


def test_one_worker_and_one_state():
    assert make(workers=1, state="memory://").workers == 1
    assert "Redis" in faults(workers=2)["workers"]
    assert set(faults(workers=0)) == {"workers"}


SECRET = {"client": {"secret": "s" * 16}}


def test_states_that_workers_share():
    urls = [
        "redis://host",
        "redis://host:6379/0",
        "redis://[::1]:6379/15",
        "rediss://host:6380",
        "unix:///run/redis.sock",
        "unix:///run/redis.sock?db=2",
        "redis+sentinel://a:26379,b:26379,c/mymaster",
        "redis+cluster://a:6379,b:6379",
        "rediss+cluster://a:6379",
    ]
    for url in urls:
        settings = make(state=url, workers=4, **SECRET)
        assert (settings.state, settings.workers) == (url, 4)
        assert set(faults(state=url, workers=4)) == {"client"}
    wrong = [
        *("redis:", "redis://a:99999", "unix:///a?password=x", "redis+cluster://a?x=1"),
        *("redis://a,b", "redis://a/x", "redis://a#b", "http://a", "a:6379"),
        *("redis+sentinel://a:1", "redis+cluster://a/1", "unix://path", "unix:", "memory:/", ""),
        *("redis://user:secret@host", "redis+cluster://:secret@host", "redis://a b"),
    ]
    for url in wrong:
        found = faults(state=url, **SECRET)
        assert set(found) == {"state"}, url
        assert "secret" not in found["state"]


def test_sharing_does_something():
    assert set(faults(sharing={"sync_seconds": 1.0})) == {"sharing.sync_seconds"}
    assert make(sharing={"retention_seconds": 60.0}).sharing.retention_seconds == 60
    given = {"state": "redis://host", **SECRET}
    assert set(faults(sharing={"tls": {}}, **given)) == {"sharing.tls"}
    half = {"tls": {"key": "a"}}
    assert set(faults(sharing=half, **{**given, "state": "rediss://a"})) == {"sharing.tls.key"}
    assert make(sharing={"password": "short"}, **given).sharing.password is not None


def test_the_ladder_of_patterns():
    bundle = {"bundle": "a.bundle"}
    for steps in ([], ["block"], ["shape", "block"], ["shape", "throttle", "block"]):
        (endpoint,) = make({**bundle, "on_pattern": steps}).endpoints
        assert list(endpoint.on_pattern) == steps
    for steps in (["block", "shape"], ["shape", "shape"]):
        assert set(faults({**bundle, "on_pattern": steps})) == {"endpoints.0.on_pattern"}
    assert "endpoints.0.client_alarm_budget" in faults({"client_alarm_budget": 0.01})
    assert "endpoints.0.rules.BZ-500" in faults({"rules": {"BZ-500": {"mode": "off"}}})


def test_names_of_the_admin_listener():
    given = ["bartizan.Monitoring.svc", "gw-1"]
    assert make(admin={"hosts": given}).admin.hosts == ("bartizan.monitoring.svc", "gw-1")
    assert make().admin.hosts == ()
    wrong = ["", "a:9090", "http://a", "a..b", "-a", "a.", "*.a", "a b", "127.0.0.1", "::1", "é.de"]
    assert set(faults(admin={"hosts": wrong})) == {f"admin.hosts.{n}" for n in range(len(wrong))}


def test_white_space_around_a_secret_is_no_part_of_it():
    secret = make(client={"secret": f" {'a b' * 6}\r\n"}).client.secret
    assert secret.get_secret_value() == "a b" * 6
    assert set(faults(client={"secret": f"short{' ' * 20}"})) == {"client.secret"}


def test_clients_and_admin_have_their_own_addresses():
    assert set(faults(listen="127.0.0.1:1", admin={"listen": "127.0.0.1:1"})) == {"admin.listen"}
    assert make(listen="127.0.0.1:0", admin={"listen": "127.0.0.1:0"})


def test_how_clients_are_known():
    client = make(client={"trusted_proxies": ["10.0.0.0/8", "2001:db8::/32"]}).client
    assert client.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))
    keys = {"api_key_header": "X-Key", "api_keys": "keys"}
    assert make(client=keys).client.api_key_header == "x-key"
    del keys["api_keys"]
    assert set(faults(client=keys)) == {"client.api_key_header"}
    wrong = {
        "trusted_proxies": ["0.0.0.0/0"],
        "identify": [],
        "api_key_header": "x key",
        "ipv4_prefix": 33,
        "secret": "short",
        "max_known": 0,
    }
    for key, value in wrong.items():
        assert [place.split(".")[1] for place in faults(client={key: value})] == [key]
    assert set(faults(client={"identify": ["ip", "mtls"]})) == {"client.identify.1"}
    assert set(faults(client={"identify": ["mtls", "mtls"]})) == {"client.identify.1"}
    assert set(faults(client={"identify": ["jwt"]})) == {"client.identify.0"}
    assert set(faults(client={"identify": ["ip"], "api_keys": "k"})) == {"client.api_keys"}
    assert set(faults(client={"ipv6_prefix": 32})) == {"client.ipv6_prefix"}
    assert set(faults(client={"ipv4_subnet": 32, "ipv4_prefix": 24})) == {"client.ipv4_prefix"}


def test_api_keys_do_not_cross_a_network_in_clear():
    keys = {"api_keys": "keys"}
    assert set(faults(client=keys, listen="0.0.0.0:80")) == {"client.api_keys"}
    assert make(client=keys, listen="127.0.0.1:80")
    tls = {"certificate": "c", "key": "k"}
    assert make(client=keys, listen="0.0.0.0:80", tls=tls).tls.client_ca is None


@pytest.mark.parametrize("budget", [0, 1, -0.1, 1.5, float("nan"), "much"])
def test_a_budget_lies_between_0_and_1(budget):
    endpoint = {"bundle": "b", "false_positive_budget": budget}
    assert set(faults(endpoint)) == {"endpoints.0.false_positive_budget"}


def test_what_would_do_nothing_is_refused():
    for key, value in {
        "false_positive_budget": 0.01,
        "confidence": 0.9,
        "on_outlier": "allow",
        "block_fraction": 0.5,
    }.items():
        assert set(faults({key: value})) == {f"endpoints.0.{key}"}
        assert make({key: value, "bundle": "b"})
    assert set(faults({"rules": {"BZ-300": {}}})) == {"endpoints.0.rules.BZ-300"}
    assert set(faults({"upstream_tls": {}})) == {"endpoints.0.upstream_tls"}
    tls = {"certificate": "c", "key": "k"}
    assert set(faults(tls=tls, listen="unix:/a")) == {"tls"}


def test_a_certificate_and_its_key_come_together():
    for given in ("certificate", "key"):
        endpoint = {"upstream": "https://a", "upstream_tls": {given: "x"}}
        assert set(faults(endpoint)) == {f"endpoints.0.upstream_tls.{given}"}


def test_contracts():
    assert make().endpoints[0].contract == LearntContract()
    assert make({"contract": "learn"}).endpoints[0].contract == LearntContract()
    learnt = make({"contract": {"refresh_seconds": 5}}).endpoints[0].contract
    assert learnt == LearntContract(refresh_seconds=5)
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 64], "min": 0, "max": 16}
    stated = make({"contract": {"inputs": [tensor]}}).endpoints[0].contract
    assert isinstance(stated, DeclaredContract)
    assert stated.inputs[0].shape == (-1, 64)


CONTRACT_FAULTS = {
    "inputs": ({"inputs": []},),
    "refresh_seconds": ({"refresh_seconds": 0}, {"refresh_seconds": 5, "x": 1}),
    "inputs.0.shape": ({"shape": []}, {"shape": [1] * 9}),
    "inputs.0.shape.1": ({"shape": [-1, 0]}, {"shape": [-1, -2]}, {"shape": [1, 2**40]}),
    "inputs.0.min": (
        {"min": 2, "max": 1},
        {"min": 0, "datatype": "BYTES"},
        {"min": float("nan")},
        {"min": float("inf")},
    ),
    "inputs.0.datatype": ({"datatype": "FP31"}, {"datatype": "fp32"}),
    "inputs.1.name": ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}] * 2},),
}


@pytest.mark.parametrize("place", CONTRACT_FAULTS)
def test_contracts_that_cannot_be_held(place):
    for values in CONTRACT_FAULTS[place]:
        tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 4], **values}
        contract = values if {"inputs", "refresh_seconds"} & set(values) else {"inputs": [tensor]}
        found = {
            name.replace("learnt.", "").replace("declared.", "")
            for name in faults({"contract": contract})
        }
        assert found & {f"endpoints.0.contract.{place}", "endpoints.0.contract.x"}


def test_datatypes_are_those_that_the_protocol_reads():
    assert set(Datatype.__args__) == set(DATATYPES)


def test_quotas_that_no_request_could_pass():
    for section in ("limits", "subnet_limits", "endpoint_limits"):
        for quota in ({"rows_per_second": 5, "burst_rows": 9}, {"rows_per_day": 9}):
            limits = {"limits": {"rows_per_request": 10}}
            limits[section] = {**limits.get(section, {}), **quota}
            (place,) = faults(limits)
            assert place.startswith(f"endpoints.0.{section}.")
            limits["limits"]["rows_per_request"] = 9
            assert make(limits)


def test_a_burst_is_one_second_or_one_request_unless_stated():
    def burst(**limits):
        quota = make({"limits": limits}).endpoints[0].limits
        return quota.burst(quota.rows_per_request)

    assert burst(rows_per_second=100.5, rows_per_request=7) == 101
    assert burst(rows_per_second=1, rows_per_request=7) == 7
    assert burst(rows_per_second=1, burst_rows=50, rows_per_request=7) == 50
    assert burst(rows_per_request=7) == 0
    assert make().endpoints[0].limits.is_unlimited


@pytest.mark.parametrize("rate", [0, -1, 1e-300, 1e9, float("inf"), float("nan")])
def test_what_is_no_rate(rate):
    found = faults({"limits": {"rows_per_second": rate}})
    assert set(found) == {"endpoints.0.limits.rows_per_second"}


def test_a_burst_needs_a_rate():
    assert set(faults({"limits": {"burst_rows": 5000}})) == {"endpoints.0.limits.burst_rows"}


def test_rules_can_be_switched_and_excluded():
    rules = {
        "BZ-300": {"mode": "monitor"},
        "BZ-601": {"exclude": [{"client": "ip:192.0.2.1", "until": "2030-01-31"}]},
    }
    switches = make({"bundle": "b", "rules": rules}).endpoints[0].rules
    assert switches["BZ-300"].mode == "monitor"
    assert switches["BZ-601"].exclude[0].until == datetime(2030, 1, 31, tzinfo=UTC)
    assert "no such rule" in faults({"rules": {"BZ-999": {}}})["endpoints.0.rules.BZ-999"]
    for rule in ("BZ-100", "BZ-120", "BZ-200", "BZ-390", "BZ-900"):
        assert "cannot be switched" in faults({"rules": {rule: {}}})[f"endpoints.0.rules.{rule}"]
    assert len(faults({"rules": {"BZ-999": {}, "BZ-100": {}}})) == 2


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2030-01-31T12:00:00Z", datetime(2030, 1, 31, 12, tzinfo=UTC)),
        ("2030-01-31T12:00+02:00", datetime(2030, 1, 31, 12, tzinfo=timezone(timedelta(hours=2)))),
        ("2030-01-31", datetime(2030, 1, 31, tzinfo=UTC)),
    ],
)
def test_moments(text, moment):
    rules = {"BZ-601": {"exclude": [{"client": "api_key:a", "until": text}]}}
    assert make({"rules": rules}).endpoints[0].rules["BZ-601"].exclude[0].until == moment


@pytest.mark.parametrize("text", ["", "soon", "2030-13-01", "2030-01-31T12:00", "2030", 5, None])
def test_what_is_no_moment(text):
    rules = {"BZ-601": {"exclude": [{"client": "api_key:a", "until": text}]}}
    assert set(faults({"rules": rules})) == {"endpoints.0.rules.BZ-601.exclude.0.until"}


def test_who_can_be_excluded():
    def rules(client):
        return {"rules": {"BZ-601": {"exclude": [{"client": client, "until": "2030-01-01"}]}}}

    where = "endpoints.0.rules.BZ-601.exclude.0.client"
    for client in ("", "alice", "ip:", "ip:x", "ip:10.0.0.0/8", "jwt:a", "A" * 32, "a" * 31):
        assert set(faults(rules(client))) == {where}
    assert make(rules("mtls:spiffe://a/b"))
    # A pseudonym that changes at every start cannot be excluded.
    assert set(faults(rules("0a" * 16))) == {where}
    assert make(rules("0a" * 16), client={"secret": "s" * 16})


def test_settings_are_immutable():
    settings = make()
    with pytest.raises(ValidationError):
        settings.workers = 2
    with pytest.raises(ValidationError):
        settings.endpoints[0].limits.rows_per_request = 2


def test_deadlines_that_contradict():
    assert set(faults({"timeouts": {"response_seconds": 90}})) == {
        "endpoints.0.timeouts.response_seconds"
    }
    assert set(faults({"timeouts": {"total_seconds": 5}})) == {"endpoints.0.timeouts.total_seconds"}


def test_explanations_in_the_audit_log_need_something_to_explain():
    audit = {"path": "audit.jsonl", "explain": True}
    assert make(audit=audit).audit.explain
    assert make(audit=audit).admin.explanations == 256
    assert list(faults(audit=audit, admin={"explanations": 0})) == ["audit.explain"]


PROTOCOLS = {
    "v2": ("/v2/models/m", "/base/v2/models/m/versions/3"),
    "v1": ("/v1/models/m", "/base/v1/models/m/versions/3"),
    "invocations": ("/invocations", "/base/invocations", "/endpoints/m/invocations"),
    "torchserve": ("/predictions/m", "/base/predictions/m/1.0"),
    "seldon": ("/api/v1.0/predictions", "/base/api/v0.1/predictions"),
    "openai": ("/v1", "/base/v1"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_protocol_has_its_own_paths(protocol):
    given = {"protocol": protocol, "upstream_path": None}
    for path in PROTOCOLS[protocol]:
        assert make({**given, "match": path}).endpoints[0].matches == (path,)
    for path in ("/other", "/v3/models/m", "/v2/models/m/infer"):
        assert set(faults({**given, "match": path})) == {"endpoints.0.match"}
        match = PROTOCOLS[protocol][0]
        found = faults({**given, "match": match, "upstream_path": path})
        assert set(found) == {"endpoints.0.upstream_path"}
    assert "auto" in faults({**given, "match": "/"})["endpoints.0.match"]


def test_auto_takes_everything_below_its_base():
    auto = {"name": "auto", "model": "m"}
    endpoint = make({"protocol": auto, "match": "/"}).endpoints[0]
    assert {"/v2/models/m", "/v1/models/m", "/invocations"} < set(endpoint.matches)
    assert set(faults({"protocol": "auto", "match": "/"})) == {"endpoints.0.protocol"}
    for model in ("a/b", "..", "", "a b", "é"):
        found = faults({"protocol": {"name": "auto", "model": model}, "match": "/"})
        assert any(place.startswith("endpoints.0.protocol") for place in found)
    taken = {**ENDPOINT, "match": "/v1/models/m", "protocol": "v1"}
    both = [taken, {**ENDPOINT, "name": "b", "match": "/", "protocol": auto}]
    assert "/v1/models/m" in faults(endpoints=both)["endpoints.1.match"]
    both[1]["match"] = "/b"
    assert len(make(endpoints=both).endpoints) == 2


@pytest.mark.parametrize("protocol", ["v3", "", None, 1, ["v1"], {}, {"calls": ["predict"]}])
def test_what_is_no_protocol(protocol):
    [(place, message)] = faults({"protocol": protocol}).items()
    assert place == "endpoints.0.protocol"
    assert "v2, v1, invocations (MLflow, SageMaker), torchserve, seldon, openai" in message
    assert "{name: json, rows: …} or {name: auto, model: …}" in message


def test_what_is_judged_has_one_name_in_every_protocol(tmp_path):
    named = {"bundle": str(tmp_path / "b"), "answer": {"output": "y"}}
    one = {**named, "match": "/v2/models/m", "protocol": "v2"}
    assert make({**one, "grpc": GRPC}, grpc=LISTENER).endpoints[0].answer.output == "y"
    for several in (
        {**named, "match": "/", "protocol": {"name": "auto", "model": "m"}},
        {**named, "match": "/v1/models/m", "protocol": "v1", "grpc": GRPC},
    ):
        more = {"grpc": LISTENER} if "grpc" in several else {}
        assert set(faults(several, **more)) == {"endpoints.0.answer.output"}
        assert make({**several, "answer": {}}, **more)


GRPC = {"upstream": "grpc://127.0.0.1:8002"}
LISTENER = {"listen": "127.0.0.1:8001"}


def test_grpc_needs_a_listener_and_an_endpoint():
    assert make({"grpc": GRPC}, grpc=LISTENER).endpoints[0].grpc_match.endswith("/digits")
    assert set(faults({"grpc": GRPC})) == {"endpoints.0.grpc"}
    assert set(faults(grpc=LISTENER)) == {"grpc"}


def test_listeners_of_their_own():
    for taken in ("127.0.0.1:8080", "127.0.0.1:9090"):
        assert set(faults({"grpc": GRPC}, grpc={"listen": taken})) == {"grpc.listen"}
    assert make({"grpc": GRPC}, grpc={"listen": "127.0.0.1:0"}, listen="127.0.0.1:0")
    secret = {"api_keys": "/keys"}
    found = faults({"grpc": GRPC}, grpc={"listen": "0.0.0.0:8001"}, client=secret)
    assert set(found) == {"client.api_keys"}
    assert "grpc.tls" in found["client.api_keys"]
    shared = {"workers": 2, "state": "redis://h", "client": {"secret": "s" * 16}}
    for listen in ("127.0.0.1:0", "unix:/run/grpc.sock"):
        assert set(faults({"grpc": GRPC}, grpc={"listen": listen}, **shared)) == {"grpc.listen"}
    assert make({"grpc": GRPC}, grpc=LISTENER, **shared)


def test_a_model_may_be_asked_by_grpc_alone():
    alone = {"name": "m", "match": "/v2/models/m", "grpc": GRPC}
    [endpoint] = make(endpoints=[alone], grpc=LISTENER).endpoints
    assert endpoint.matches == ("/inference.GRPCInferenceService/m",)
    found = faults(endpoints=[{**alone, "protocol": "v2"}], grpc=LISTENER)
    assert set(found) == {"endpoints.0.protocol"}
    assert set(faults(endpoints=[{"name": "m", "match": "/v2/models/m"}])) == {
        "endpoints.0.upstream"
    }


def test_grpc_clients_ask_by_a_name_that_must_be_known():
    unnamed = {"match": "/invocations", "protocol": "invocations", "grpc": GRPC}
    assert set(faults(unnamed, grpc=LISTENER)) == {"endpoints.0.grpc"}
    renamed = {"upstream_path": "/v2/models/other", "grpc": GRPC}
    assert "another name" in faults(renamed, grpc=LISTENER)["endpoints.0.grpc"]
    for endpoint in (unnamed, renamed):
        named = {**endpoint, "grpc": {**GRPC, "model": "other"}}
        assert make(named, grpc=LISTENER).endpoints[0].grpc_match.endswith("/other")
    two = [{**ENDPOINT, "grpc": GRPC}]
    two.append({**two[0], "name": "b", "match": "/b/v2/models/digits"})
    assert set(faults(endpoints=two, grpc=LISTENER)) == {"endpoints.1.match"}


@pytest.mark.parametrize(
    ("listen", "admin", "clash"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("0.0.0.0:1", "127.0.0.1:1", True),
        ("127.0.0.1:1", "[::]:1", True),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("127.0.0.1:1", "127.0.0.2:1", False),
        ("0.0.0.0:0", "127.0.0.1:0", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "unix:/b", False),
        ("unix:/a", "127.0.0.1:1", False),
    ],
)
def test_two_listeners_cannot_share_an_address(listen, admin, clash):
    told = {"listen": admin, "token": "t" * 16}
    if clash:
        assert set(faults(listen=listen, admin=told)) == {"admin.listen"}
        if "unix" not in listen:
            found = faults(
                {"grpc": GRPC}, listen="127.0.0.9:9", grpc={"listen": listen}, admin=told
            )
            assert set(found) == {"grpc.listen"}
    else:
        assert make(listen=listen, admin=told)


IMAGE = {"name": "torchserve", "image": {"width": 2, "height": 2, "channels": 1}}


@pytest.mark.parametrize(
    ("match", "protocol"), [("/v1", "openai"), ("/predictions/m", IMAGE)], ids=["texts", "images"]
)
def test_what_has_no_tensors_is_not_asked_by_grpc(match, protocol):
    given = {"match": match, "protocol": protocol}
    assert make(given)
    found = faults({**given, "grpc": {**GRPC, "model": "m"}}, grpc=LISTENER)
    assert set(found) == {"endpoints.0.grpc"}


def test_a_contract_that_is_not_the_protocols():
    given = {"match": "/predictions/m", "protocol": IMAGE}
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 7]}
    assert set(faults({**given, "contract": {"inputs": [tensor]}})) == {"endpoints.0.contract"}


def test_by_grpc_alone_nothing_is_said_about_http():
    alone = {"name": "m", "match": "/v2/models/m", "grpc": GRPC}
    for key, value in {
        "upstream_path": "/v2/models/m",
        "upstream_tls": {},
        "protocol": "v2",
    }.items():
        found = faults(endpoints=[{**alone, key: value}], grpc=LISTENER)
        assert set(found) == {f"endpoints.0.{key}"}


@pytest.mark.parametrize(("key", "value"), [("capture", {}), ("shaping", {"when": "always"})])
def test_of_custom_json_it_must_be_said_where_an_answer_is(key, value):
    json = {"name": "json", "rows": "$.input"}
    given = {"match": "/predict", key: value}
    assert set(faults({**given, "protocol": json})) == {f"endpoints.0.{key}"}
    assert make({**given, "protocol": {**json, "answer": "$.output"}})
