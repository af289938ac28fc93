"""What several workers say of the same thing, as one. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from proxy.decision import Action

_LEVELS: Final = tuple(
    action.value for action in (Action.ALLOW, Action.SHAPE, Action.THROTTLE, Action.BLOCK)
)
_SHARED_SIZES: Final = ("clients", "subnets", "lineages")
"""What workers know in common, mostly: the largest figure is nearer the truth than the sum."""
_UNNAMED: Final = "most"
"""The family of evidence that a worker only knows from others: one that knows its name is right."""


def combine_endpoints(told: Mapping[int, Iterable[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Endpoints as ``AdminSource.endpoints`` tells them, by worker, as one list."""
    whole: dict[str, dict[str, Any]] = {}
    for worker, endpoints in told.items():
        for endpoint in endpoints:
            problem = endpoint["problem"]
            given = {**endpoint, "problem": problem and f"worker {worker}: {problem}"}
            name = endpoint["name"]
            whole[name] = _endpoint(whole[name], given) if name in whole else given
    return list(whole.values())


def _endpoint(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    problem = one["problem"] or other["problem"]
    if one["bundle"] != other["bundle"]:
        problem = problem or "workers serve different bundles: reload"
    upstreams = {state["address"]: state for state in one["upstreams"]}
    for state in other["upstreams"]:
        known = upstreams.get(state["address"])
        if known is not None:
            upstreams[state["address"]] = {
                **known,
                "in_flight": known["in_flight"] + state["in_flight"],
                "ejected": known["ejected"] or state["ejected"],
            }
    return {
        **one,
        "problem": problem,
        "contract": one["contract"] or other["contract"],
        "capture": _captured(one.get("capture"), other.get("capture")),
        "patterns": _sizes(one.get("patterns"), other.get("patterns")),
        "upstreams": list(upstreams.values()),
    }


def _captured(one: dict[str, Any] | None, other: dict[str, Any] | None) -> dict[str, Any] | None:
    """What two workers hold of a sample; clients and classes are mostly the same ones."""
    if one is None or other is None:
        return one or other
    left_out = {
        reason: one["left_out"].get(reason, 0) + other["left_out"].get(reason, 0)
        for reason in one["left_out"] | other["left_out"]
    }
    larger = {name: max(one[name], other[name]) for name in ("clients", "classes")}
    sums = {name: one[name] + other[name] for name in one.keys() - larger.keys() - {"left_out"}}
    return {**sums, **larger, "left_out": left_out}


def _sizes(one: dict[str, float] | None, other: dict[str, float] | None) -> dict[str, float] | None:
    if one is None or other is None:
        return one or other
    return {
        name: max(value, other.get(name, 0))
        if name in _SHARED_SIZES
        else value + other.get(name, 0)
        for name, value in one.items()
    }


def combine_clients(told: Iterable[Iterable[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Clients as ``AdminSource.clients`` tells them, by each worker, the strongest first.

    Workers learn the same a moment apart: who knows more is right.
    """
    whole: dict[tuple[str, str], dict[str, Any]] = {}
    for clients in told:
        for client in clients:
            key = client["endpoint"], client["client"]
            whole[key] = _client(whole[key], client) if key in whole else client
    return sorted(whole.values(), key=lambda one: -max(one["evidence"].values(), default=0.0))


def _client(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    evidence = dict(one["evidence"])
    for family, nats in other["evidence"].items():
        evidence[family] = max(nats, evidence.get(family, nats))
    if len(evidence) > 1:
        evidence.pop(_UNNAMED, None)
    return {
        **one,
        "evidence": evidence,
        "thresholds": {**one["thresholds"], **other["thresholds"]},
        "level": _known(_harder, one["level"], other["level"]),
        "queries": _known(max, one["queries"], other["queries"]),
        "coverage": _known(max, one["coverage"], other["coverage"]),
        "banned_seconds": _known(max, one["banned_seconds"], other["banned_seconds"]),
        "seen_seconds_ago": _known(min, one["seen_seconds_ago"], other["seen_seconds_ago"]),
    }


def _harder(one: str, other: str) -> str:
    return max(one, other, key=_LEVELS.index)


def _known(choose: Callable[[Any, Any], Any], one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    return choose(one, other)
