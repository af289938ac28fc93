"""Istio, Gateway API and the endpoint picker: the examples of deploy/envoy. Each patch is put into
a real Envoy, each object against its schema; the settings of the filter are those of envoy.yaml.
"""

import copy
import json

import pytest
import yaml
from kubernetes_chart import containers, documents, firewall, mapped, one, pod, rendered

from proxy.settings.load import load_for_envoy

FILES = {
    "processor/processor.yaml": [
        "ServiceAccount", "ConfigMap", "Service", "Service", "Deployment", "PodDisruptionBudget",
        "NetworkPolicy",
    ],
    "istio/gateway.yaml": [
        "EnvoyFilter", "Gateway", "VirtualService", "DestinationRule", "DestinationRule",
        "PeerAuthentication", "PeerAuthentication", "AuthorizationPolicy", "AuthorizationPolicy",
    ],
    "istio/sidecar.yaml": [
        "EnvoyFilter", "ServiceAccount", "ConfigMap", "Service", "Deployment",
        "PeerAuthentication", "AuthorizationPolicy", "NetworkPolicy",
    ],
    "gateway-api/pool.yaml": ["InferencePool", "HTTPRoute", "Service", "NetworkPolicy"],
    "gateway-api/istio.yaml": [
        "Gateway", "EnvoyFilter", "DestinationRule", "PeerAuthentication", "AuthorizationPolicy",
    ],
    "gateway-api/envoy-gateway.yaml": [
        "Gateway", "EnvoyExtensionPolicy", "ReferenceGrant", "ClientTrafficPolicy",
    ],
}  # fmt: skip
PATCHED = ("istio/gateway.yaml", "istio/sidecar.yaml", "gateway-api/istio.yaml")
CONFIGURED = ("processor/processor.yaml", "istio/sidecar.yaml")
CENTRAL = "outbound|9002||bartizan-ext-proc.inference.svc.cluster.local"
MANAGER = "envoy.filters.network.http_connection_manager"
PICKER = "envoy.filters.http.ext_proc"
ROUTER = "envoy.filters.http.router"
PER_LISTENER = {"stat_prefix", "codec_type", "access_log", "http_filters", "route_config"}
"""Of the shipped connection manager, what is the mesh's own affair."""


class Required(dict):
    """A mapping that must have all of its keys."""


REFERENCE = Required(group=str, kind=str, name=str)
WITHOUT_SCHEMA = {
    # Source: https://gateway.envoyproxy.io/docs/api/extension_types/ (v1alpha1), of which this is
    # what the examples use. No package here has its schema.
    "EnvoyExtensionPolicy": {
        "targetRefs": [REFERENCE],
        "extProc": [
            {
                "backendRefs": [{"name": str, "namespace": str, "port": int}],
                "failOpen": bool,
                "messageTimeout": str,
                "processingMode": {
                    "allowModeOverride": bool,
                    "request": {"body": {"Streamed", "Buffered", "BufferedPartial"},
                                "attributes": [str]},
                    "response": {"body": {"Streamed", "Buffered", "BufferedPartial"},
                                 "attributes": [str]},
                },
            }
        ],
    },
    "ClientTrafficPolicy": {
        "targetRefs": [REFERENCE],
        "connection": {"bufferLimit": str},
        "path": {
            "escapedSlashesAction": {"KeepUnchanged", "RejectRequest", "UnescapeAndForward",
                                     "UnescapeAndRedirect"},
            "disableMergeSlashes": bool,
        },
        "headers": {
            "withUnderscoresAction": {"Allow", "RejectRequest", "DropHeader"},
            "requestID": {"PreserveOrGenerate", "Preserve", "Generate", "Disable"},
            "earlyRequestHeaders": {"remove": [str]},
        },
        "timeout": {"http": {"requestReceivedTimeout": str, "idleTimeout": str,
                             "streamIdleTimeout": str}},
    },
    # Source: https://gateway-api-inference-extension.sigs.k8s.io/reference/spec/ (v1).
    "InferencePool": Required(
        selector=Required(matchLabels={"app": str}),
        targetPorts=[Required(number=int)],
        endpointPickerRef=Required(
            name=str, port=Required(number=int), failureMode={"FailOpen", "FailClose"}
        ),
    ),
}  # fmt: skip
"""The documented shapes of what is validated by hand: keys, types, enumerations."""


def misshapen(value, shape, place=""):
    """What of a value is not as documented."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [place]
        lacking = set(shape) - set(value) if isinstance(shape, Required) else set()
        found = [f"{place}.{key}" for key in (set(value) - set(shape)) | lacking]
        for key in set(value) & set(shape):
            found += misshapen(value[key], shape[key], f"{place}.{key}")
        return found
    if isinstance(shape, list):
        if not isinstance(value, list) or not value:
            return [place]
        return [fault for inner in value for fault in misshapen(inner, shape[0], f"{place}[]")]
    good = value in shape if isinstance(shape, set) else type(value) is shape
    return [] if good else [place]


@pytest.fixture(scope="module")
def objects(deploy):
    """The objects of each file."""
    return {name: documents((deploy / "envoy" / name).read_text()) for name in FILES}


@pytest.fixture(scope="module")
def shipped(deploy):
    """The configuration of deploy/envoy/envoy.yaml."""
    return yaml.safe_load((deploy / "envoy" / "envoy.yaml").read_text())["static_resources"]


def manager_of(listener):
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


def filter_of(listener):
    """The settings of its ext_proc filter, and the cluster that it asks."""
    [settings] = [
        copy.deepcopy(given["typed_config"])
        for given in manager_of(listener)["http_filters"]
        if given["typed_config"]["@type"].endswith("ext_proc.v3.ExternalProcessor")
    ]
    return settings, settings["grpc_service"].pop("envoy_grpc")["cluster_name"]


def patches(objects, name):
    """The patches of a file's EnvoyFilter: what they apply to, and each."""
    given = one(objects[name], "EnvoyFilter")["spec"]["configPatches"]
    return [(patch["applyTo"], patch) for patch in given]


def patch_of(objects, name, kind):
    [found] = [patch for applies, patch in patches(objects, name) if applies == kind]
    return found


def named(items):
    return [item["name"] for item in items]


def test_every_file_holds_what_it_should(objects, deploy):
    for name, kinds in FILES.items():
        assert [given["kind"] for given in objects[name]] == kinds, name
    there = {str(path.relative_to(deploy / "envoy")) for path in (deploy / "envoy").rglob("*.yaml")}
    assert {path for path in there if "/" in path} == set(FILES)
    assert sum(map(len, objects.values())) == 37


@pytest.mark.parametrize("name", PATCHED)
def test_the_filter_is_that_of_envoy_yaml(objects, shipped, name):
    ours, _cluster = filter_of(shipped["listeners"][0])
    theirs = copy.deepcopy(patch_of(objects, name, "HTTP_FILTER")["patch"]["value"])
    cluster = theirs["typed_config"]["grpc_service"].pop("envoy_grpc")["cluster_name"]
    assert theirs == {"name": "bartizan", "typed_config": ours}
    assert cluster == ("bartizan" if name == "istio/sidecar.yaml" else CENTRAL)
    # What matters most, in words: whatever becomes of envoy.yaml.
    assert ours["failure_mode_allow"] is False
    assert set(ours["processing_mode"].values()) == {"SEND", "BUFFERED"}
    assert "source.address" in ours["request_attributes"]
    assert all(ours["mutation_rules"].values())


@pytest.mark.parametrize("name", PATCHED)
def test_the_connection_manager_and_the_buffers_too(objects, shipped, name):
    [listener] = shipped["listeners"]
    ours = manager_of(listener)
    theirs = patch_of(objects, name, "NETWORK_FILTER")["patch"]["value"]["typed_config"]
    assert theirs == {key: ours[key] for key in set(ours) - PER_LISTENER}
    assert theirs["use_remote_address"] is True
    buffers = patch_of(objects, name, "LISTENER")["patch"]["value"]
    key = "per_connection_buffer_limit_bytes"
    assert buffers == {key: listener[key]}


def test_a_patch_holds_for_every_port_and_context(objects):
    contexts = {"istio/sidecar.yaml": "SIDECAR_INBOUND"}
    seen = 0
    for name in PATCHED:
        for _applies, patch in patches(objects, name):
            assert patch["match"]["context"] == contexts.get(name, "GATEWAY")
            assert "portNumber" not in patch["match"].get("listener", {})
            seen += 1
    assert seen == 12


def merged(below, above):
    """As protobuf merges: mappings within each other, the rest replaced."""
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            merged(below[key], value)
        else:
            below[key] = value
    return below


def patched(given, resources, listener):
    """Does to a listener and its clusters what istiod would."""
    manager = manager_of(listener)
    for applies, patch in given:
        operation, value = patch["patch"]["operation"], copy.deepcopy(patch["patch"]["value"])
        where = patch["match"].get("listener", {}).get("filterChain", {}).get("filter", {})
        match applies, operation:
            case "LISTENER", "MERGE":
                merged(listener, value)
            case "NETWORK_FILTER", "MERGE":
                assert where["name"] == value["name"] == MANAGER
                merged(manager, value["typed_config"])
            case "HTTP_FILTER", "INSERT_FIRST":
                assert where == {"name": MANAGER}
                manager["http_filters"].insert(0, value)
            case "HTTP_FILTER", "INSERT_BEFORE":
                assert where["name"] == MANAGER
                place = named(manager["http_filters"]).index(where["subFilter"]["name"])
                manager["http_filters"].insert(place, value)
            case "CLUSTER", "ADD":
                resources["clusters"].append(value)
            case "CLUSTER", "MERGE":
                service = patch["match"].get("cluster", {}).get("service")
                assert service in (None, "digits.models.svc.cluster.local")
                merged(resources["clusters"][0], value)
            case _:
                pytest.fail(f"{operation} {applies}: what would istiod do?")


@pytest.fixture(scope="module")
def meshed(objects, shipped):
    """One Envoy with a listener as istiod writes it for each example, and the patches applied."""
    resources = copy.deepcopy(shipped)
    [base] = resources.pop("listeners")
    model, processor = resources["clusters"]
    del model["per_connection_buffer_limit_bytes"]
    processor["name"] = processor["load_assignment"]["cluster_name"] = CENTRAL
    resources["clusters"].append(copy.deepcopy(processor) | {"name": "picker"})
    resources["clusters"][-1]["load_assignment"]["cluster_name"] = "picker"
    base_type = filter_of(base)[0]["@type"]
    picker = {
        "name": PICKER,
        "typed_config": {
            "@type": base_type,
            "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}},
            "processing_mode": {
                "request_header_mode": "SEND",
                "request_body_mode": "FULL_DUPLEX_STREAMED",
                "request_trailer_mode": "SEND",
                "response_header_mode": "SEND",
                "response_body_mode": "FULL_DUPLEX_STREAMED",
                "response_trailer_mode": "SEND",
            },
        },
    }
    cors = {"@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"}
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    listeners = {}
    for number, name in enumerate(PATCHED):
        listener = copy.deepcopy(base) | {"name": name}
        listener["address"]["socket_address"]["port_value"] += number
        del listener["per_connection_buffer_limit_bytes"]
        manager = manager_of(listener)
        for key in set(manager) - {"@type", "stat_prefix", "route_config"}:
            del manager[key]
        manager |= {
            "use_remote_address": False,
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "http_filters": [
                *([picker] if name == "gateway-api/istio.yaml" else []),
                {"name": "envoy.filters.http.cors", "typed_config": cors},
                {"name": ROUTER, "typed_config": router},
            ],
        }
        patched(patches(objects, name), resources, listener)
        listeners[name] = listener
    return {"listeners": list(listeners.values()), **resources}


def test_a_real_envoy_takes_the_patched_configurations(meshed, run_tool, tmp_path):
    assert len(meshed["listeners"]) == len(PATCHED)
    assert named(meshed["clusters"]) == ["model", CENTRAL, "picker", "bartizan"]
    assert "per_connection_buffer_limit_bytes" in meshed["clusters"][0]
    path = tmp_path / "envoy.yaml"
    path.write_text(json.dumps({"static_resources": meshed}))
    done = run_tool("envoy", "--mode", "validate", "-c", path)
    told = done.stdout + done.stderr
    assert "OK" in told
    assert "deprecated" not in told.lower()
    broken = copy.deepcopy(meshed)
    [ours] = [
        f for f in manager_of(broken["listeners"][1])["http_filters"] if f["name"] == "bartizan"
    ]
    ours["typed_config"]["failure_mode_alow"] = False
    path.write_text(json.dumps({"static_resources": broken}))
    done = run_tool("envoy", "--mode", "validate", "-c", path, check=False)
    assert done.returncode
    assert "failure_mode_alow" in done.stdout + done.stderr


def test_bartizan_is_last_before_the_router_and_before_a_picker(meshed):
    chains = {
        listener["name"]: named(manager_of(listener)["http_filters"])
        for listener in meshed["listeners"]
    }
    assert chains == {
        "istio/gateway.yaml": ["envoy.filters.http.cors", "bartizan", ROUTER],
        "istio/sidecar.yaml": ["envoy.filters.http.cors", "bartizan", ROUTER],
        "gateway-api/istio.yaml": ["bartizan", PICKER, "envoy.filters.http.cors", ROUTER],
    }


def test_envoy_gateways_policy_says_what_it_can_and_the_file_what_it_cannot(
    objects, shipped, deploy
):
    name = "gateway-api/envoy-gateway.yaml"
    [given] = one(objects[name], "EnvoyExtensionPolicy")["spec"]["extProc"]
    ours, _cluster = filter_of(shipped["listeners"][0])
    assert given["failOpen"] is ours["failure_mode_allow"]
    assert given["messageTimeout"] == ours["message_timeout"]
    mode = given["processingMode"]
    assert mode["allowModeOverride"] is ours["allow_mode_override"]
    assert mode["request"]["attributes"] == ours["request_attributes"]
    for way in ("request", "response"):
        assert mode[way]["body"].upper() == ours["processing_mode"][f"{way}_body_mode"]
    said = {"@type", "failure_mode_allow", "message_timeout", "allow_mode_override",
            "request_attributes", "processing_mode", "grpc_service"}  # fmt: skip
    text = (deploy / "envoy" / name).read_text().partition("apiVersion")[0]
    policy = one(objects[name], "ClientTrafficPolicy")["spec"]
    manager = manager_of(shipped["listeners"][0])
    assert set(ours) - said == {"mutation_rules", "status_on_error"}
    for unsaid in ("mutation_rules", "status_on_error", "retry_policy", "request and response tr"):
        assert f"#   - {unsaid}" in text
    headers = manager["common_http_protocol_options"]["headers_with_underscores_action"]
    assert policy["headers"]["withUnderscoresAction"].lower() == headers.replace("_", "").lower()
    assert policy["timeout"]["http"] == {
        "requestReceivedTimeout": manager["request_timeout"],
        "idleTimeout": manager["common_http_protocol_options"]["idle_timeout"],
        "streamIdleTimeout": manager["stream_idle_timeout"],
    }
    assert "clientIPDetection" not in policy
    assert policy["connection"]["bufferLimit"] == "11Mi"
    assert shipped["listeners"][0]["per_connection_buffer_limit_bytes"] == 11 * 2**20
    assert 0 < len(policy["headers"]["earlyRequestHeaders"]["remove"]) <= 16


def group(thing):
    return thing["apiVersion"].rpartition("/")[0]


def test_the_schemas_of_istio_and_gateway_api_hold(objects, run_tool, tool, repository):
    script = [repository / "tests/deploy/crd_check.mjs", f"{tool('kubernetes-models')}/.."]
    theirs = [
        thing
        for given in objects.values()
        for thing in given
        if group(thing).endswith("istio.io") or group(thing) == "gateway.networking.k8s.io"
    ]
    assert len(theirs) == 20
    done = run_tool("node", *script, input=json.dumps(theirs))
    assert json.loads(done.stdout) == []
    broken = copy.deepcopy(theirs)
    for thing in broken:
        thing["spec"]["unheard"] = 1
    found = json.loads(run_tool("node", *script, input=json.dumps(broken)).stdout)
    assert len(found) == len(theirs)


def test_the_schemas_of_kubernetes_hold(objects, run_tool, repository):
    plain = [
        thing
        for given in objects.values()
        for thing in given
        if "." not in group(thing) or group(thing) == "networking.k8s.io"
    ]
    assert len(plain) == 14
    script = repository / "tests/deploy/kubernetes_check.py"
    given = {"versions": ["1.30", "1.37"], "objects": plain}
    done = run_tool("deploy-python", script, input=json.dumps(given))
    assert json.loads(done.stdout) == []


def test_what_has_no_schema_here_is_shaped_as_documented(objects):
    seen = []
    for given in objects.values():
        for thing in given:
            shape = WITHOUT_SCHEMA.get(thing["kind"])
            if shape is None:
                continue
            seen.append((group(thing), thing["kind"]))
            assert misshapen(thing["spec"], shape) == []
            assert misshapen(thing["spec"] | {"unheard": 1}, shape) == [".unheard"]
    assert sorted(seen) == [
        ("gateway.envoyproxy.io", "ClientTrafficPolicy"),
        ("gateway.envoyproxy.io", "EnvoyExtensionPolicy"),
        ("inference.networking.k8s.io", "InferencePool"),
    ]


@pytest.mark.parametrize("name", CONFIGURED)
def test_the_processors_configuration_loads_and_fits(objects, shipped, name, tmp_path):
    _labels, spec = pod(objects[name])
    container = firewall(spec)
    text = one(objects[name], "ConfigMap")["data"]["bartizan.yaml"]
    mounts = {mount["mountPath"]: tmp_path / mount["mountPath"].strip("/")
              for mount in container["volumeMounts"]}  # fmt: skip
    for folder in mounts.values():
        folder.mkdir(parents=True)
    path = tmp_path / "bartizan.yaml"
    path.write_text(mapped(text, mounts))
    values = {"BARTIZAN_REDIS_URL": "redis://redis.redis:6379/0"}
    environment = {v["name"]: values.get(v["name"], "x" * 32) for v in container["env"]}
    settings = load_for_envoy(path, environment=environment)
    ext_proc = settings.ext_proc
    assert ext_proc is not None
    assert ext_proc.listen.port == 9002
    assert (ext_proc.listen.host == "127.0.0.1") is (name == "istio/sidecar.yaml")
    held = shipped["listeners"][0]["per_connection_buffer_limit_bytes"]
    assert {endpoint.failure_mode.value for endpoint in settings.endpoints} == {"deny"}
    for endpoint in settings.endpoints:
        assert held > max(endpoint.limits.body_bytes, endpoint.answer.body_bytes)
    assert ext_proc.exchanges == 1024
    # Several pods share their state.
    replicas = one(objects[name], "Deployment")["spec"]["replicas"]
    assert replicas == 1 or "state: ${BARTIZAN_REDIS_URL}" in text
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == settings.admin.listen.port


def test_times_ports_and_names_agree(objects):
    gateway = objects["istio/gateway.yaml"]
    processor = one(objects["processor/processor.yaml"], "Service", "bartizan-ext-proc")
    [port] = processor["spec"]["ports"]
    assert (port["port"], port["appProtocol"]) == (9002, "grpc")
    host = f"{processor['metadata']['name']}.{processor['metadata']['namespace']}.svc.cluster.local"
    assert f"outbound|{port['port']}||{host}" == CENTRAL
    rules = [
        one(objects[name], "DestinationRule", "bartizan-ext-proc")
        for name in ("istio/gateway.yaml", "gateway-api/istio.yaml")
    ]
    for rule in rules:
        assert rule["spec"]["host"] == host
        assert rule["spec"]["trafficPolicy"]["tls"] == {"mode": "ISTIO_MUTUAL"}
    [route] = one(gateway, "VirtualService")["spec"]["http"]
    assert (route["timeout"], route["retries"]) == ("60s", {"attempts": 0})
    assert set(route["rewrite"]) == {"authority"}
    [rule] = one(objects["gateway-api/pool.yaml"], "HTTPRoute")["spec"]["rules"]
    assert rule["timeouts"] == {"request": "60s"}
    assert not set(rule) & {"filters", "retry"}
    [backend] = rule["backendRefs"]
    pool = one(objects["gateway-api/pool.yaml"], "InferencePool")
    assert (backend["group"], backend["kind"], backend["name"]) == (
        group(pool), "InferencePool", pool["metadata"]["name"],
    )  # fmt: skip
    assert pool["spec"]["endpointPickerRef"]["failureMode"] == "FailClose"


def test_nobody_goes_around(objects):
    allowed, strict = [], 0
    for given in objects.values():
        for thing in given:
            if thing["kind"] == "PeerAuthentication":
                assert thing["spec"]["mtls"] == {"mode": "STRICT"}
                strict += 1
            if thing["kind"] == "AuthorizationPolicy":
                assert thing["spec"]["action"] == "ALLOW"
                [rule] = thing["spec"]["rules"]
                # From somebody, to a port, and of HTTP: bare TCP never matches.
                [source], [target] = rule["from"], rule["to"]
                assert set(source["source"]) & {"principals", "namespaces"}
                assert set(target["operation"]) & {"methods", "paths"}
                allowed += target["operation"]["ports"]
            if thing["kind"] == "NetworkPolicy":
                assert "Ingress" in thing["spec"]["policyTypes"]
                for rule in thing["spec"]["ingress"]:
                    assert rule["from"]
                    assert rule["ports"]
    assert strict == 4
    assert sorted(allowed) == ["8080", "8080", "9002", "9002"]


@pytest.mark.parametrize("name", CONFIGURED)
def test_the_pod_is_hardened_as_the_charts(objects, name):
    _labels, spec = pod(objects[name])
    _labels, charts = pod(rendered("gateway"))
    ours, theirs = firewall(spec), firewall(charts)
    assert ours["securityContext"] == theirs["securityContext"]
    assert ours["resources"] == theirs["resources"]
    assert ours["args"] == ["ext-proc", theirs["args"][1]]
    assert spec["automountServiceAccountToken"] is False
    for container in containers(spec):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_yamllint_reads_every_file(run_tool, deploy):
    files = [deploy / "envoy" / name for name in FILES]
    run_tool("yamllint", "--strict", "-c", deploy / "kustomize/.yamllint.yaml", *files)
