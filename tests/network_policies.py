"""What NetworkPolicies let pass: a small evaluator of networking.k8s.io/v1, in the words of its
specification.

A pod that no policy selects for a direction is open in it. One that some select admits what any
rule of any of them admits. A connection passes if its source's egress and its target's ingress both
admit it. What the specification leaves to the cluster is not here: traffic from a pod's own node
passes always, and none of it holds without a network plugin that enforces it.
"""

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network


@dataclass(frozen=True)
class Pod:
    """A pod, or an address outside the cluster (``namespace`` None)."""

    name: str
    namespace: str | None
    labels: dict = field(default_factory=dict)
    address: str = "10.1.2.3"
    namespace_labels: dict = field(default_factory=dict)

    @property
    def seen_namespace_labels(self):
        """The labels of its namespace; the API server itself sets the first."""
        return {**self.namespace_labels, "kubernetes.io/metadata.name": self.namespace}


def selects(selector, labels):
    """Whether a label selector selects these labels; an empty one selects all."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions") or ():
        key, operator = expression["key"], expression["operator"]
        values = expression.get("values", ())
        held = {
            "In": key in labels and labels[key] in values,
            "NotIn": key not in labels or labels[key] not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[operator]
        if not held:
            return False
    return True


def _is_peer(peer, policy_namespace, pod):
    if "ipBlock" in peer:
        block, address = peer["ipBlock"], ip_address(pod.address)
        return address in ip_network(block["cidr"]) and not any(
            address in ip_network(hole) for hole in block.get("except", ())
        )
    if pod.namespace is None:
        return False
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], pod.seen_namespace_labels):
            return False
    elif pod.namespace != policy_namespace:
        return False
    return selects(peer.get("podSelector") or {}, pod.labels)


def _is_port(ports, port, protocol):
    if not ports:
        return True
    for given in ports:
        if given.get("protocol", "TCP") != protocol:
            continue
        if "port" not in given:
            return True
        first = given["port"]
        if not isinstance(first, int):
            raise TypeError(f"port {first!r}: a name means what a pod says that it means")
        if first <= port <= given.get("endPort", first):
            return True
    return False


def _admits(policies, direction, end, other, port, protocol):
    """``direction``: Ingress into ``end`` from ``other``, or Egress the other way."""
    key, peers = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    selecting = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == end.namespace
        and selects(policy["spec"]["podSelector"], end.labels)
        and direction in policy["spec"]["policyTypes"]
    ]
    if not selecting:
        return True
    return any(
        _is_port(rule.get("ports"), port, protocol)
        and (
            not rule.get(peers)
            or any(_is_peer(peer, policy["metadata"]["namespace"], other) for peer in rule[peers])
        )
        for policy in selecting
        for rule in policy["spec"].get(key) or ()
    )


def passes(policies, source, target, port, protocol="TCP"):
    """Whether ``source`` can open a connection to a port of ``target``."""
    return _admits(policies, "Egress", source, target, port, protocol) and _admits(
        policies, "Ingress", target, source, port, protocol
    )
