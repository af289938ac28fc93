"""What the chart renders, judged by the tools that know: schemas of Kubernetes and of operators,
checkov, yamllint, kustomize, promtool, and the gateway's own reader of configurations.
"""

import copy
import json

import pytest
import yaml
from kubernetes_chart import (
    CHART,
    KUSTOMIZE,
    NAMESPACE,
    VARIANTS,
    configuration,
    containers,
    documents,
    firewall,
    mapped,
    one,
    pod,
    rendered,
    template,
)

from proxy.settings.load import load
from proxy.settings.problems import SettingsError

# From the oldest that the chart admits to the newest that there are schemas of.
VERSIONS = ("1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
EVERYTHING = {
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "dashboard": {"enabled": True, "annotations": {"grafana_folder": "Models"}},
}
OPTIONS = {
    "everything": EVERYTHING,
    "digest": {"image": {"digest": "sha256:" + "0" * 64}},
    "hpa": {"autoscaling": {"enabled": True}},
    "keda": {"keda": {"enabled": True, "serverAddress": "http://prometheus.monitoring:9090"}},
    "grpc": {
        "config": {
            "grpc": {
                "listen": "0.0.0.0:8001",
                "tls": {
                    "certificate": "/var/lib/bartizan/tls/tls.crt",
                    "key": "/var/lib/bartizan/tls/tls.key",
                },
            },
            "endpoints": [
                {
                    "name": "digits",
                    "match": "/v2/models/digits",
                    "upstream": "http://digits.models:8080",
                    "grpc": {"upstream": "grpc://digits.models:8081"},
                }
            ],
        }
    },
    "plain": {"config": {"tls": None, "client": {"identify": ["ip"], "api_keys": None}}},
    "claims": {
        "audit": {"existingClaim": "audit"},
        "bundles": {"configMap": None, "persistentVolumeClaim": "bundles"},
    },
    "fetched bundles": {
        "bundles": {
            "configMap": None,
            "initContainer": {
                "image": "fetch:1",
                "command": ["fetch", "/var/lib/bartizan/bundles"],
            },
        }
    },
    "placement": {
        "imagePullSecrets": [{"name": "pull"}],
        "nodeSelector": {"pool": "cpu"},
        "tolerations": [{"key": "pool", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "serving",
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"a": "b"}},
            }
        ],
        "extraEnv": [{"name": "A", "value": "b"}],
        "extraVolumes": [{"name": "extra", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "extra", "mountPath": "/extra"}],
        "extraContainers": [{"name": "shipper", "image": "shipper:1"}],
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "serviceAccount": {"annotations": {"a": "b"}},
        "podAnnotations": {"a": "b"},
    },
    "bare": {
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "serviceAccount": {"create": False},
        "rollOnConfigChange": False,
    },
}
RUNTIME = {
    "kserve": {
        "kind": "ServingRuntime",
        "supportedModelFormats": [{"name": "sklearn", "version": "1", "autoSelect": True}],
    }
}
OPERATORS = ("monitoring.coreos.com", "keda.sh")
KSERVE = "serving.kserve.io"
SELDON = "machinelearning.seldon.io"


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """Objects of every variant, and of the gateway with every option, by name."""
    folder = tmp_path_factory.mktemp("values")

    def objects(variant, values):
        done = template(variant, values, folder=folder)
        assert done.returncode == 0, done.stderr
        return documents(done.stdout)

    return {
        **{variant: rendered(variant) for variant in VARIANTS},
        **{name: objects("gateway", values) for name, values in OPTIONS.items()},
        "image volume": objects(
            "gateway", {"bundles": {"configMap": None, "image": {"reference": "bundles:1"}}}
        ),
        "sidecar, watched": objects("sidecar", EVERYTHING),
        "runtime": objects("kserve", RUNTIME),
    }


def group(thing):
    return thing["apiVersion"].rpartition("/")[0]


def as_pod(objects):
    """The pod within whatever an operator makes one from, as an object of its own."""
    labels, spec = pod(objects)
    metadata = {"name": "pod", "namespace": NAMESPACE, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def faults(run_tool, name, script, given, **keywords):
    done = run_tool(name, *script, input=json.dumps(given), **keywords)
    return json.loads(done.stdout)


def test_kubernetes_schemas_hold_in_every_supported_version(everything, run_tool, repository):
    script = repository / "tests/deploy/kubernetes_check.py"
    newest, plain = [], []
    for name, objects in everything.items():
        known = [one for one in objects if group(one) not in (*OPERATORS, KSERVE, SELDON)]
        # Nothing is left out but what the other tests take.
        assert len(known) >= 5
        if name in ("kserve", "kserve-knative", "seldon"):
            known.append(as_pod(objects))
        (newest if name == "image volume" else plain).extend(known)
    assert len(plain) > 120
    assert (
        faults(run_tool, "deploy-python", [script], {"versions": VERSIONS, "objects": plain}) == []
    )
    given = {"versions": ["1.35", "1.37"], "objects": newest}
    assert faults(run_tool, "deploy-python", [script], given) == []
    # An image volume is unknown to Kubernetes 1.30: the tool looks.
    given["versions"] = ["1.30"]
    assert len(faults(run_tool, "deploy-python", [script], given)) == 2


def test_operators_schemas_hold(everything, run_tool, repository, tool):
    script = [
        repository / "tests/deploy/crd_check.mjs",
        f"{tool('kubernetes-models')}/..",
    ]
    theirs = [
        thing for objects in everything.values() for thing in objects if group(thing) in OPERATORS
    ]
    kinds = sorted(thing["kind"] for thing in theirs)
    assert kinds == ["PrometheusRule"] * 2 + ["ScaledObject"] + ["ServiceMonitor"] * 2
    assert faults(run_tool, "node", script, theirs) == []
    broken = copy.deepcopy(theirs)
    for thing in broken:
        thing["spec"]["unheard"] = 1
    found = faults(run_tool, "node", script, broken)
    assert len(found) == len(theirs)
    assert all(text.endswith(".spec.unheard is not known") for text in found)


def test_kserves_own_models_hold(everything, run_tool, repository):
    script = [repository / "tests/deploy/kserve_check.py"]
    theirs = [
        thing for objects in everything.values() for thing in objects if group(thing) == KSERVE
    ]
    assert sorted(thing["kind"] for thing in theirs) == [
        "InferenceService",
        "InferenceService",
        "ServingRuntime",
    ]
    assert faults(run_tool, "kserve-python", script, theirs) == []
    broken = copy.deepcopy(theirs[:1])
    broken[0]["spec"]["predictor"]["containers"][1]["unheard"] = 1
    broken[0]["spec"]["predictor"]["minReplicas"] = "2"
    found = faults(run_tool, "kserve-python", script, broken)
    assert len(found) == 2


def test_checkov_finds_nothing_but_what_has_a_reason(run_tool):
    configuration_ = KUSTOMIZE / ".checkov.yaml"
    files = [argument for v in VARIANTS for argument in ("-f", KUSTOMIZE / v / "manifests.yaml")]
    done = run_tool("checkov", "--config-file", configuration_, "-o", "json", *files)
    report = json.loads(done.stdout)
    summary = report["summary"]
    assert summary["failed"] == 0, json.dumps(report["results"]["failed_checks"], indent=1)
    assert summary["passed"] > 150
    assert summary["parsing_errors"] == 0
    skipped = yaml.safe_load(configuration_.read_text())["skip-check"]
    reasons = [
        line for line in configuration_.read_text().splitlines() if line.startswith("  - CKV")
    ]
    assert len(skipped) == len(reasons)
    assert all(len(reason.partition("#")[2].strip()) > 20 for reason in reasons)


def test_yamllint_reads_every_file_of_yaml(run_tool):
    files = [
        *KUSTOMIZE.rglob("*.yaml"),
        *CHART.glob("*.yaml"),
        *CHART.glob("ci/*.yaml"),
    ]
    assert len(files) >= 16
    run_tool("yamllint", "--strict", "-c", KUSTOMIZE / ".yamllint.yaml", *files)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_kustomize_bases_are_what_the_chart_renders(variant):
    fresh = template(variant, extra=["--skip-tests"])
    assert (KUSTOMIZE / variant / "manifests.yaml").read_text() == fresh.stdout, (
        "run: make manifests"
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_kustomize_builds_every_base(variant, run_tool):
    built = documents(run_tool("kubectl", "kustomize", KUSTOMIZE / variant).stdout)
    fresh = documents((KUSTOMIZE / variant / "manifests.yaml").read_text())

    def names(objects):
        return sorted(
            (o["kind"], o["metadata"]["namespace"], o["metadata"]["name"]) for o in objects
        )

    assert names(built) == names(fresh)
    labels = {o["metadata"]["labels"]["app.kubernetes.io/managed-by"] for o in built}
    assert labels == {"kustomize"}


def test_an_overlay_changes_image_and_configuration(run_tool):
    built = documents(run_tool("kubectl", "kustomize", KUSTOMIZE / "example").stdout)
    _labels, spec = pod(built)
    assert firewall(spec)["image"] == "images.example.org/security/bartizan:0.1.0"
    assert configuration(built) == (KUSTOMIZE / "example/bartizan.yaml").read_text()
    # Its name tells its contents apart, so the pods are replaced with it.
    assert one(built, "ConfigMap")["metadata"]["name"].startswith("bartizan-configuration-")
    policies = {o["metadata"]["namespace"] for o in built if o["kind"] == "NetworkPolicy"}
    assert policies == {NAMESPACE, "models"}


def load_within(tmp_path, objects):
    """Loads the ConfigMap's configuration with the pod's files and variables in their places."""
    _labels, spec = pod(objects)
    container = firewall(spec)
    mounts = {}
    for mount in container["volumeMounts"]:
        mounts[mount["mountPath"]] = tmp_path / mount["mountPath"].strip("/")
        mounts[mount["mountPath"]].mkdir(parents=True, exist_ok=True)
    text = mapped(configuration(objects), mounts)
    digest = "0" * 64
    (tmp_path / "var/lib/bartizan").mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("keys/api-keys", f"nobody:{digest}\n"),
        ("tls/tls.crt", ""),
        ("tls/tls.key", ""),
    ):
        file = tmp_path / "var/lib/bartizan" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
    file = tmp_path / "etc/bartizan/bartizan.yaml"
    file.write_text(text)
    values = {"BARTIZAN_REDIS_URL": "redis://redis.redis:6379/0"}
    environment = {
        variable["name"]: values.get(variable["name"], "x" * 32)
        for variable in container["env"]
        if "valueFrom" in variable
    }
    return load(file, environment=environment)


def test_the_gateway_takes_every_configuration(everything, tmp_path_factory):
    taken = 0
    for name, objects in everything.items():
        if name == "runtime":
            continue  # it has the pod of kserve
        settings = load_within(tmp_path_factory.mktemp("etc"), objects)
        assert settings.endpoints
        assert settings.admin.token is not None
        taken += 1
    assert taken == len(VARIANTS) + len(OPTIONS) + 2


def test_a_configuration_that_it_would_not_take_is_noticed(tmp_path):
    done = template("gateway", {"config": {"unheard": 1}}, folder=tmp_path)
    with pytest.raises(SettingsError):
        load_within(tmp_path, documents(done.stdout))


def test_the_alerts_are_the_projects_own_and_promtool_takes_them(
    everything, run_tool, repository, tmp_path
):
    rule = one(everything["everything"], "PrometheusRule")
    alerts = yaml.safe_load((repository / "deploy/monitoring/alerts.yaml").read_text())
    assert rule["spec"] == alerts
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(rule["spec"]))
    run_tool("promtool", "check", "rules", "--lint-fatal", file)
    dashboard = one(everything["everything"], "ConfigMap", "bartizan-dashboard")
    given = json.loads((repository / "deploy/monitoring/dashboard.json").read_text())
    assert json.loads(dashboard["data"]["bartizan.json"]) == given


def test_the_scalers_ask_for_what_the_gateway_exports(everything, repository):
    page = (repository / "docs/operation.md").read_text()
    asked = [
        metric["pods"]["metric"]["name"]
        for metric in one(everything["hpa"], "HorizontalPodAutoscaler")["spec"]["metrics"]
    ]
    for trigger in one(everything["keda"], "ScaledObject")["spec"]["triggers"]:
        query = trigger["metadata"]["query"]
        asked.append(query.partition("(")[2].partition("{")[0])
        assert query.endswith(f'{{namespace="{NAMESPACE}",service="bartizan-admin"}})')
    assert len(asked) == 4
    assert all(f"| `{name}` | gauge |" in page for name in asked)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_container_is_hardened(variant):
    labels, spec = pod(rendered(variant))
    assert spec["automountServiceAccountToken"] is False
    assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    for container in containers(spec):
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not any(port.get("hostPort") for port in container.get("ports", ()))
    ours = firewall(spec)
    assert ours["securityContext"]["runAsUser"] == 65532
    assert ours["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert set(ours["resources"]["limits"]) == {"memory", "ephemeral-storage"}
    assert labels["app.kubernetes.io/name"] == "bartizan"
    # Every volume is mounted, and every mount has its volume.
    mounted = {mount["name"] for one in containers(spec) for mount in one["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize("variant", VARIANTS)
def test_where_clients_and_probes_are_led_something_listens(variant, tmp_path):
    objects = rendered(variant)
    _labels, spec = pod(objects)
    settings = load_within(tmp_path, objects)
    ours = firewall(spec)
    admin = settings.admin.listen.port
    probes = [
        ours[key] for key in ("startupProbe", "livenessProbe", "readinessProbe") if key in ours
    ]
    assert len(probes) == (2 if variant == "kserve-knative" else 3)
    assert {probe["httpGet"]["port"] for probe in probes} == {admin}
    (service,) = [o for o in objects if o["kind"] == "Service" and o["spec"].get("clusterIP")]
    assert [port["targetPort"] for port in service["spec"]["ports"]] == [admin]
    for given in objects:
        if given["kind"] == "Service" and given is not service:
            assert [port["targetPort"] for port in given["spec"]["ports"]] == [settings.listen.port]
            assert given["spec"]["selector"].items() <= pod(objects)[0].items()


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "gateway"])
def test_the_model_beside_it_binds_loopback_where_the_firewall_asks(variant, tmp_path):
    objects = rendered(variant)
    _labels, spec = pod(objects)
    (model,) = [one for one in spec["containers"] if one is not firewall(spec)]
    environment = {variable["name"]: variable["value"] for variable in model["env"]}
    assert environment["MLSERVER_HOST"] == "127.0.0.1"
    asked = load_within(tmp_path, objects).endpoints[0].upstream
    assert f"127.0.0.1:{environment['MLSERVER_HTTP_PORT']}" in str(asked)
    assert "ports" not in model


def test_a_native_sidecar_starts_before_the_model_and_ends_after_it():
    _labels, spec = pod(rendered("sidecar"))
    assert [one["name"] for one in spec["containers"]] == ["model"]
    assert firewall(spec)["restartPolicy"] == "Always"
    assert firewall(spec) in spec["initContainers"]
    assert "lifecycle" not in firewall(spec)


@pytest.mark.parametrize(("variant", "ports"), [("kserve", 1), ("kserve-knative", 1)])
def test_kserve_sees_one_port_and_it_is_the_firewalls(variant, ports):
    _labels, spec = pod(rendered(variant))
    declared = [
        port["containerPort"] for one in spec["containers"] for port in one.get("ports", ())
    ]
    assert declared == [8080]
    assert len(declared) == ports
    assert firewall(spec)["name"] == "transformer-container"
    assert "initContainers" not in spec
    if variant == "kserve-knative":
        # What Knative refuses (its masks of Container and SecurityContext).
        assert not {"lifecycle", "startupProbe"} & set(firewall(spec))
        assert "runAsGroup" not in firewall(spec)["securityContext"]


def test_seldons_graph_is_the_firewall_alone():
    objects = rendered("seldon")
    (predictor,) = one(objects, "SeldonDeployment")["spec"]["predictors"]
    assert predictor["annotations"] == {"seldon.io/no-engine": "true"}
    assert predictor["graph"] == {"name": "bartizan", "type": "MODEL", "children": []}
    _labels, spec = pod(objects)
    assert firewall(spec)["name"] == predictor["graph"]["name"]
    assert firewall(spec)["ports"][0] == {"name": "http", "containerPort": 8080, "protocol": "TCP"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_pod_has_the_time_and_the_room_that_it_may_need(variant, tmp_path):
    objects = rendered(variant)
    _labels, spec = pod(objects)
    settings = load_within(tmp_path, objects)
    if variant != "kserve-knative":  # Knative takes it from the revision's timeout
        assert spec["terminationGracePeriodSeconds"] >= 5 + settings.http.drain_seconds + 10
    (volume,) = [v for v in spec["volumes"] if v["name"] == "bartizan-audit"]
    assert volume["emptyDir"]["sizeLimit"] == "1Gi"
    assert settings.audit.rotate_bytes * (settings.audit.keep + 1) <= 0.6 * 2**30
