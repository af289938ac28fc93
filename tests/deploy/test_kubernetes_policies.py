"""Who reaches what under the rendered NetworkPolicies: pods and ports, each in every variant."""

import pytest
from kubernetes_chart import NAMESPACE, VARIANTS, documents, pod, rendered, template
from network_policies import Pod, passes

CLIENT = Pod("client", "applications")
GATEWAY = Pod("ingress gateway", "istio-system")
NGINX = Pod("ingress", "ingress-nginx")
STRANGER = Pod("stranger", "elsewhere", {"app.kubernetes.io/name": "bartizan"})
# Namespaces' labels may be set by whoever owns them, but for the name's.
LIAR = Pod("liar", "elsewhere", namespace_labels={"name": "applications", "app": "monitoring"})
NEIGHBOUR = Pod("neighbour", NAMESPACE, {"app": "other"})
INTERNET = Pod("internet", None, address="203.0.113.9")
SIX = Pod("IPv6", None, address="2001:db8::9")
PROMETHEUS = Pod("prometheus", "monitoring")
DNS = Pod("dns", "kube-system", {"k8s-app": "kube-dns"})
REDIS = Pod("redis", "redis", {"app.kubernetes.io/name": "redis"})
DIGITS = Pod("digits", "models", {"app": "digits"})
FRAUD = Pod("fraud", "models", {"app": "fraud"})
OTHER_MODEL = Pod("other model", "models", {"app": "other"})
ACTIVATOR = Pod("activator", "knative-serving")
OUTSIDERS = (STRANGER, LIAR, NEIGHBOUR, INTERNET, SIX)


def policies_of(objects):
    return [given for given in objects if given["kind"] == "NetworkPolicy"]


def firewall_of(objects):
    labels, _spec = pod(objects)
    return Pod("firewall", NAMESPACE, labels)


def check(policies, table):
    """Each row: source, target, port, protocol, whether it passes. All that are wrong, at once."""
    wrong = [
        f"{source.name} -> {target.name}:{port}/{protocol} should {'pass' if open_ else 'fail'}"
        for source, target, port, protocol, open_ in table
        if passes(policies, source, target, port, protocol) is not open_
    ]
    assert not wrong, "\n".join(wrong)
    return len(table)


def test_a_gateway_is_the_only_way_to_its_models():
    objects = rendered("gateway")
    firewall = firewall_of(objects)
    table = [
        (CLIENT, firewall, 8080, "TCP", True),
        (NGINX, firewall, 8080, "TCP", True),
        (CLIENT, firewall, 9090, "TCP", False),
        (CLIENT, firewall, 8001, "TCP", False),
        (CLIENT, firewall, 8080, "UDP", False),
        (PROMETHEUS, firewall, 9090, "TCP", True),
        (PROMETHEUS, firewall, 8080, "TCP", False),
        (firewall, DIGITS, 8080, "TCP", True),
        (firewall, FRAUD, 8080, "TCP", True),
        (firewall, DIGITS, 8081, "TCP", False),
        (firewall, OTHER_MODEL, 8080, "TCP", False),
        (firewall, REDIS, 6379, "TCP", True),
        (firewall, REDIS, 22, "TCP", False),
        (firewall, DNS, 53, "UDP", True),
        (firewall, DNS, 53, "TCP", True),
        (firewall, INTERNET, 443, "TCP", False),
        (firewall, SIX, 443, "TCP", False),
        # The metrics of a model are Prometheus' alone.
        (PROMETHEUS, DIGITS, 8082, "TCP", True),
        (PROMETHEUS, DIGITS, 8080, "TCP", False),
        (PROMETHEUS, FRAUD, 8082, "TCP", False),
        (CLIENT, DIGITS, 8082, "TCP", False),
        # A model answers; it does not call.
        (DIGITS, INTERNET, 443, "TCP", False),
        (DIGITS, DNS, 53, "UDP", False),
        (DIGITS, FRAUD, 8080, "TCP", False),
        (DIGITS, firewall, 8080, "TCP", False),
    ]
    outsiders = (CLIENT, NGINX, OTHER_MODEL, *OUTSIDERS)
    table += [(one, model, 8080, "TCP", False) for one in outsiders for model in (DIGITS, FRAUD)]
    table += [(one, firewall, port, "TCP", False) for one in OUTSIDERS for port in (8080, 9090)]
    assert check(policies_of(objects), table) == 51


@pytest.mark.parametrize(
    ("variant", "client"),
    [("sidecar", CLIENT), ("kserve", GATEWAY), ("seldon", GATEWAY)],
)
def test_beside_a_model_only_the_firewalls_port_is_open(variant, client):
    objects = rendered(variant)
    shared = firewall_of(objects)  # the pod of both
    table = [
        (client, shared, 8080, "TCP", True),
        (client, shared, 9090, "TCP", False),
        (PROMETHEUS, shared, 9090, "TCP", True),
        (PROMETHEUS, shared, 8083, "TCP", False),
        (shared, DNS, 53, "UDP", True),
        (shared, INTERNET, 443, "TCP", False),
        (shared, SIX, 443, "TCP", False),
    ]
    # Even if the model bound every interface: its HTTP, gRPC and metrics ports.
    everybody = (client, PROMETHEUS, *OUTSIDERS)
    table += [(one, shared, port, "TCP", False) for one in everybody for port in (8081, 8082, 8083)]
    table += [(one, shared, port, "TCP", False) for one in OUTSIDERS for port in (8080, 9090)]
    assert check(policies_of(objects), table) == 38


def test_on_knative_clients_come_through_the_queue_proxy():
    objects = rendered("kserve-knative")
    shared = firewall_of(objects)
    table = [
        *(
            (one, shared, port, "TCP", True)
            for one in (GATEWAY, ACTIVATOR)
            for port in (8012, 8013)
        ),
        (ACTIVATOR, shared, 9090, "TCP", True),  # the queue-proxy's figures, for the autoscaler
        (GATEWAY, shared, 9090, "TCP", False),
        (PROMETHEUS, shared, 9900, "TCP", True),
        (ACTIVATOR, shared, 9900, "TCP", False),
        (GATEWAY, shared, 9900, "TCP", False),
        (ACTIVATOR, shared, 8022, "TCP", False),
        # Past the queue-proxy nobody comes, neither to the firewall nor to the model.
        *(
            (one, shared, port, "TCP", False)
            for one in (GATEWAY, ACTIVATOR, PROMETHEUS, CLIENT, *OUTSIDERS)
            for port in (8080, 8081, 8082, 8083)
        ),
        *(
            (one, shared, port, "TCP", False)
            for one in (CLIENT, *OUTSIDERS)
            for port in (8012, 9900)
        ),
    ]
    assert check(policies_of(objects), table) == 58


@pytest.mark.parametrize("variant", VARIANTS)
def test_namespaces_are_known_by_a_label_that_nobody_can_set(variant):
    asked = []
    for policy in policies_of(rendered(variant)):
        for rules, peers in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(rules) or ():
                for peer in rule.get(peers) or ():
                    if "namespaceSelector" in peer:
                        asked += peer["namespaceSelector"]["matchLabels"]
    assert asked
    assert set(asked) == {"kubernetes.io/metadata.name"}


def test_with_no_clients_named_everybody_may_be_a_client_and_no_more(tmp_path):
    done = template("gateway", {"networkPolicy": {"clients": []}}, folder=tmp_path)
    objects = documents(done.stdout)
    firewall = firewall_of(objects)
    table = [
        (INTERNET, firewall, 8080, "TCP", True),
        (SIX, firewall, 8080, "TCP", True),
        (INTERNET, firewall, 9090, "TCP", False),
        (NEIGHBOUR, firewall, 9090, "TCP", False),
        (INTERNET, DIGITS, 8080, "TCP", False),
    ]
    assert check(policies_of(objects), table) == 5


def test_a_users_labels_take_no_pod_from_its_policies(tmp_path):
    hostile = {"podLabels": {"app.kubernetes.io/name": "mine"}, "commonLabels": {"team": "x"}}
    objects = documents(template("gateway", hostile, folder=tmp_path).stdout)
    firewall = firewall_of(objects)
    assert firewall.labels["team"] == "x"
    assert passes(policies_of(objects), CLIENT, firewall, 8080)
    assert not passes(policies_of(objects), CLIENT, firewall, 9090)


def test_the_evaluator_knows_what_a_policy_can_say():
    """Against the specification's own examples of what differs."""
    apart = {
        "metadata": {"namespace": "a"},
        "spec": {
            "podSelector": {
                "matchExpressions": [{"key": "app", "operator": "In", "values": ["m"]}]
            },
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "ports": [{"port": 1000, "endPort": 1010}],
                    "from": [
                        {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.8/29"]}},
                        {"podSelector": {"matchLabels": {"role": "client"}}},
                    ],
                }
            ],
        },
    }
    model = Pod("m", "a", {"app": "m"})
    client = {"role": "client"}
    cases = [
        (Pod("in", None, address="192.0.2.1"), model, 1005, True),
        (Pod("hole", None, address="192.0.2.9"), model, 1005, False),
        (Pod("six", None, address="2001:db8::1"), model, 1005, False),
        (Pod("same", "a", client), model, 1010, True),
        (Pod("same", "a", client), model, 1011, False),
        (Pod("other namespace", "b", client), model, 1005, False),
        (Pod("anybody", "b"), Pod("not selected", "a"), 1, True),
        (model, Pod("egress is not policed", "b"), 1, True),
    ]
    assert check([apart], [(s, t, port, "TCP", open_) for s, t, port, open_ in cases]) == 8
