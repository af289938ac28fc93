"""The chart itself: lint, packaging, the values that it refuses, and its README's table."""

import json
import re
import tarfile

import pytest
import yaml
from kubernetes_chart import (
    CHART,
    NAMESPACE,
    VARIANTS,
    configuration,
    documents,
    firewall,
    helm,
    one,
    pod,
    rendered,
    template,
)
from kubernetes_values import BEGIN, END, documented, table

DIGEST = "sha256:" + "a1" * 32

# What the schema refuses: a variant, values, and words of the message.
WRONG = [
    ("gateway", {"unheard": 1}, "unheard"),
    ("gateway", {"mode": "proxy"}, "/mode"),
    ("gateway", {"replicaCount": 0}, "/replicaCount"),
    ("gateway", {"replicaCount": "two"}, "/replicaCount"),
    ("gateway", {"image": {"digest": "sha256:abc"}}, "/image/digest"),
    ("gateway", {"image": {"tag": "a b"}}, "/image/tag"),
    ("gateway", {"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
    ("gateway", {"image": {"repository": "bartizan@sha256:1"}}, "/image/repository"),
    ("gateway", {"config": {"endpoints": []}}, "/config/endpoints"),
    ("gateway", {"config": {"endpoints": [{"name": "x"}]}}, "/config/endpoints/0"),
    ("gateway", {"config": {"listen": "8080"}}, "/config/listen"),
    ("gateway", {"config": {"admin": {"token": ""}}}, "/config/admin/token"),
    ("gateway", {"config": {"ext_proc": {}}}, "/config/ext_proc"),
    ("gateway", {"secrets": {"existingSecret": ""}}, "/secrets/existingSecret"),
    ("gateway", {"secrets": {"keys": {"lower": "x"}}}, "propertyName 'lower'"),
    ("gateway", {"secrets": {"keys": {"A": "has space"}}}, "/secrets/keys/A"),
    ("gateway", {"bundles": {"persistentVolumeClaim": "both"}}, "/bundles"),
    ("gateway", {"bundles": {"hostPath": "/"}}, "/bundles"),
    ("gateway", {"audit": {"size": "lots"}}, "/audit/size"),
    ("gateway", {"service": {"port": 70000}}, "/service/port"),
    ("gateway", {"service": {"type": "ExternalName"}}, "/service/type"),
    ("gateway", {"autoscaling": {"queueSeconds": 0}}, "/autoscaling/queueSeconds"),
    ("gateway", {"keda": {"serverAddress": "prometheus"}}, "/keda/serverAddress"),
    ("gateway", {"networkPolicy": {"clients": [{}]}}, "/networkPolicy/clients/0"),
    ("gateway", {"networkPolicy": {"clients": [{"pods": {}}]}}, "/networkPolicy/clients/0"),
    ("gateway", {"networkPolicy": {"models": [{"name": "x", "port": 1}]}}, "podSelector"),
    (
        "gateway",
        {"networkPolicy": {"models": [{"name": "x", "podSelector": {}, "port": "http"}]}},
        "/networkPolicy/models/0/port",
    ),
    ("gateway", {"podDisruptionBudget": {"maxUnavailable": "0%"}}, "/podDisruptionBudget"),
    ("gateway", {"serviceMonitor": {"interval": "often"}}, "/serviceMonitor/interval"),
    ("gateway", {"preStopSeconds": -1}, "/preStopSeconds"),
    ("sidecar", {"model": {"containers": [{"name": "x"}]}}, "/model/containers/0"),
    ("kserve", {"kserve": {"deploymentMode": "Serverles"}}, "/kserve/deploymentMode"),
    ("kserve", {"kserve": {"kind": "Deployment"}}, "/kserve/kind"),
    ("seldon", {"seldon": {"protocol": "grpc"}}, "/seldon/protocol"),
]

# Values that are well formed and contradict each other.
ALONE = {"state": None, "sharing": None}
CONTRADICTIONS = [
    ("gateway", {"config": ALONE}, "would grant every client the whole quota"),
    ("sidecar", {"replicaCount": 2}, "would grant every client the whole quota"),
    ("sidecar", {"autoscaling": {"enabled": True}}, "would grant every client the whole quota"),
    (
        "gateway",
        {"autoscaling": {"enabled": True}, "keda": {"enabled": True, "serverAddress": "http://p"}},
        "enable one",
    ),
    ("gateway", {"keda": {"enabled": True}}, "keda.serverAddress is needed"),
    ("gateway", {"autoscaling": {"minReplicas": 5, "maxReplicas": 4}}, "less than minReplicas"),
    ("kserve", {"autoscaling": {"enabled": True}}, "the operator scales"),
    ("gateway", {"config": {"listen": "127.0.0.1:8080"}}, "loopback"),
    ("gateway", {"config": {"admin": {"listen": "[::1]:9090"}}}, "loopback"),
    ("gateway", {"config": {"grpc": {"listen": "127.0.0.1:8001"}}}, "config.grpc.listen is"),
    ("gateway", {"networkPolicy": {"prometheus": []}}, "nobody who may scrape them"),
    ("gateway", {"networkPolicy": {"redis": None}}, "networkPolicy.redis.peers is needed"),
    ("gateway", {"networkPolicy": {"models": None}}, "networkPolicy.models is needed"),
    (
        "gateway",
        {
            "networkPolicy": {
                "models": [
                    {"name": "x", "podSelector": {}, "port": 8080, "metrics": {"port": 8080}}
                ]
            }
        },
        "could ask the model",
    ),
    ("gateway", {"model": {"containers": [{"name": "m", "image": "m"}]}}, "run elsewhere"),
    ("sidecar", {"model": None}, "needs model.containers"),
    (
        "sidecar",
        {"networkPolicy": {"models": [{"name": "x", "podSelector": {}, "port": 8080}]}},
        "the model is in the pod",
    ),
    ("kserve", {"model": {"containers": [{"name": "m", "image": "m"}]}}, "named kserve-container"),
    (
        "kserve",
        {
            "model": {
                "containers": [
                    {"name": "kserve-container", "image": "m", "ports": [{"containerPort": 8081}]}
                ]
            }
        },
        "declares ports",
    ),
    ("kserve", {"kserve": {"kind": "ServingRuntime"}}, "needs kserve.supportedModelFormats"),
    (
        "kserve",
        {
            "kserve": {"kind": "ServingRuntime", "supportedModelFormats": [{"name": "x"}]},
            "bundles": {"initContainer": {"image": "fetch:1"}},
        },
        "a ServingRuntime has no init containers",
    ),
    ("kserve-knative", {"config": {"admin": {"listen": "0.0.0.0:9090"}}}, "takes port 9090"),
    ("kserve-knative", {"config": {"listen": "0.0.0.0:8012"}}, "takes port 8012"),
    ("kserve-knative", {"config": {"grpc": {"listen": "0.0.0.0:8001"}}}, "allows one port"),
    ("kserve-knative", {"audit": {"existingClaim": "audit"}}, "Knative allows neither"),
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_lint_finds_nothing(variant):
    done = helm("lint", "--strict", CHART, "--values", CHART / "ci" / f"{variant}-values.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


def test_each_variant_has_values_and_each_values_file_is_a_variant():
    files = sorted(file.name.removesuffix("-values.yaml") for file in CHART.glob("ci/*"))
    assert files == sorted(VARIANTS)


def test_without_values_it_says_what_it_needs():
    done = helm("template", "bartizan", CHART)
    assert done.returncode != 0
    assert "/config/endpoints" in done.stderr
    assert "/secrets/existingSecret" in done.stderr


def test_wrong_values_are_refused(tmp_path):
    tried = 0
    for variant, values, words in WRONG:
        done = template(variant, values, folder=tmp_path)
        assert done.returncode != 0, values
        assert "meet the specifications of the schema" in done.stderr, done.stderr
        assert words in done.stderr, done.stderr
        tried += 1
    assert tried == 34


def test_values_that_contradict_each_other_are_refused(tmp_path):
    tried = 0
    for variant, values, words in CONTRADICTIONS:
        done = template(variant, values, folder=tmp_path)
        assert done.returncode != 0, values
        assert words in done.stderr, f"{values}: {done.stderr}"
        tried += 1
    assert tried == 25


def test_the_firewalls_user_can_read_its_secrets_in_every_mode(tmp_path):
    given = {"tls": {"existingSecret": "t"}, "apiKeys": {"existingSecret": "k"}}
    seen = 0
    for variant in VARIANTS:
        done = template(variant, given, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        _labels, spec = pod(documents(done.stdout))
        group = spec.get("securityContext", {}).get("fsGroup")
        for volume in spec["volumes"]:
            if volume.get("secret", {}).get("secretName") in ("t", "k"):
                # Without an fsGroup its files are root's, of root's group.
                assert volume["secret"]["defaultMode"] == (0o440 if group == 65532 else 0o444)
                seen += 1
    assert seen == 2 * len(VARIANTS)


def test_the_schema_leaves_nothing_open_but_kubernetes_own_words():
    schema = json.loads((CHART / "values.schema.json").read_text())
    open_ = []

    def visit(node, place):
        if isinstance(node, dict):
            if node.get("type") == "object" and node.get("additionalProperties") is not False:
                maps_to_text = node.get("additionalProperties", {}).get("type") == "string"
                if not maps_to_text and "description" not in node:
                    open_.append(place)
            for key, value in node.items():
                visit(value, f"{place}/{key}")
        elif isinstance(node, list):
            for number, value in enumerate(node):
                visit(value, f"{place}/{number}")

    visit(schema, "")
    # Items of lists that are Kubernetes' own words (their description is the list's), and the parts
    # of the configuration, which the gateway itself checks.
    assert all(place.endswith("/items") or "/config/" in place for place in open_), open_


def test_an_old_cluster_is_refused():
    done = template("sidecar", extra=["--kube-version", "1.29.4"])
    assert done.returncode != 0
    assert "kubeVersion: >=1.30" in done.stderr
    # As clouds write theirs.
    assert template("sidecar", extra=["--kube-version", "v1.34.2-gke.100"]).returncode == 0


def test_the_digest_wins_over_the_tag(tmp_path):
    values = {"image": {"repository": "r/bartizan", "tag": "1.2.3"}}
    for digest, expected in (("", "r/bartizan:1.2.3"), (DIGEST, f"r/bartizan@{DIGEST}")):
        values["image"]["digest"] = digest
        _labels, spec = pod(documents(template("gateway", values, folder=tmp_path).stdout))
        assert firewall(spec)["image"] == expected


def test_a_changed_configuration_replaces_the_pods(tmp_path):
    def checksum(values):
        objects = documents(template("gateway", values, folder=tmp_path).stdout)
        metadata = one(objects, "Deployment")["spec"]["template"]["metadata"]
        return metadata.get("annotations", {}).get("checksum/config")

    plain = checksum({})
    assert plain
    assert checksum({"replicaCount": 5}) == plain
    assert checksum({"config": {"log": {"level": "debug"}}}) != plain
    assert checksum({"rollOnConfigChange": False}) is None


def test_large_numbers_reach_the_configuration_as_they_are():
    (digits, _fraud) = yaml.safe_load(configuration(rendered("gateway")))["endpoints"]
    assert digits["limits"]["rows_per_day"] == 2_000_000
    assert isinstance(digits["limits"]["rows_per_day"], int)


def test_whoever_scales_owns_the_number_of_pods(tmp_path):
    for values in (
        {"autoscaling": {"enabled": True}},
        {"keda": {"enabled": True, "serverAddress": "http://prometheus:9090"}},
    ):
        objects = documents(template("gateway", values, folder=tmp_path).stdout)
        assert "replicas" not in one(objects, "Deployment")["spec"]
        (scaler,) = [o for o in objects if "scaleTargetRef" in o.get("spec", {})]
        assert scaler["spec"]["scaleTargetRef"]["name"] == "bartizan"
    assert one(rendered("gateway"), "Deployment")["spec"]["replicas"] == 2


def test_the_package_holds_the_alerts_and_the_dashboard_themselves(tmp_path, repository):
    done = helm("package", CHART, "--destination", tmp_path)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tgz")
    with tarfile.open(archive) as package:
        names = package.getnames()
        for name in ("alerts.yaml", "dashboard.json"):
            packed = package.extractfile(f"bartizan/files/{name}").read()
            assert packed == (repository / "deploy/monitoring" / name).read_bytes()
    assert not any("/ci/" in name for name in names)
    assert "bartizan/README.md" in names


def test_what_helm_tests_is_no_pod_that_serves(tmp_path):
    test = one(rendered("gateway"), "Pod")
    assert test["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = test["spec"]["containers"]
    assert container["args"] == ["validate", "/etc/bartizan/bartizan.yaml"]
    labels = test["metadata"]["labels"].items()
    for thing in rendered("gateway"):
        if thing["kind"] == "Service":
            assert not thing["spec"]["selector"].items() <= labels


def test_notes_tell_where_clients_and_operators_go(tmp_path):
    # Helm renders the notes with a release alone: as a client-side dry run.
    notes = {}
    for variant in VARIANTS:
        values = CHART / "ci" / f"{variant}-values.yaml"
        done = helm(
            *("install", "bartizan", CHART, "--dry-run=client", "--namespace", NAMESPACE),
            *("--values", values),
        )
        assert done.returncode == 0, done.stderr
        notes[variant] = done.stdout.partition("NOTES:")[2]
    assert "https://bartizan.inference.svc:443" in notes["gateway"]
    assert "/v2/models/fraud  (enforce)" in notes["gateway"]
    assert "kubectl -n inference get inferenceservice digits" in notes["kserve"]
    assert "port-forward service/digits-admin 9900" in notes["kserve-knative"]
    assert "get seldondeployment digits" in notes["seldon"]
    assert not any("WARNING" in text for text in notes.values())


def test_every_value_is_documented():
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    known = documented()
    missing = []

    def visit(value, path):
        if path in known:
            return
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                visit(inner, f"{path}.{key}" if path else key)
        else:
            missing.append(path)

    visit(defaults, "")
    assert missing == []
    assert len(known) > 70


def test_the_readmes_table_is_that_of_values_yaml():
    text = (CHART / "README.md").read_text()
    assert text.partition(BEGIN)[2].partition(END)[0] == table(), "run: make manifests"


def test_the_readmes_values_render(tmp_path):
    text = (CHART / "README.md").read_text()
    values = tmp_path / "my-values.yaml"
    values.write_text(text.partition("```yaml\n")[2].partition("```")[0])
    done = helm("template", "bartizan", CHART, "--namespace", NAMESPACE, "--values", values)
    assert done.returncode == 0, done.stderr
    objects = documents(done.stdout)
    assert len([given for given in objects if given["kind"] == "NetworkPolicy"]) == 2


def test_the_page_and_the_chart_speak_of_the_same_keys(repository):
    """Every key of values in backticks in docs/kubernetes.md exists."""
    page = (repository / "docs/kubernetes.md").read_text()
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    named = set(re.findall(r"`((?:[a-z][A-Za-z]+\.)+[A-Za-z_]+)[`:]", page))
    checked = 0
    for path in named:
        top, *rest = path.split(".")
        if top not in defaults or top == "config":
            continue
        value = defaults[top]
        for key in rest:
            assert key in value, path
            value = value[key]
            if key == "keys":  # whose keys are the user's
                break
        checked += 1
    assert checked > 15
