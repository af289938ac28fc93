"""What ``bartizan promote`` found, as a document and as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from proxy.promotion.evidence import Evidence, Question
from proxy.promotion.requirements import Requirement
from proxy.promotion.verdict import Kind
from proxy.rules import RULES
from proxy.settings.switches import SWITCHABLE

_SHOWN: Final = 20  # clients, and rules
_EXCLUDED_DAYS: Final = 30
_SWITCHABLE: Final = frozenset(rule.id for rule in SWITCHABLE)


def moment(at: float) -> str:
    """Seconds since the epoch, as UTC to the second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def document(evidence: Evidence, held: Sequence[Requirement], question: Question) -> dict[str, Any]:
    """Everything that was found, as plain values."""
    worst = sorted(
        (one for one in evidence.clients.items() if one[1].rules),
        key=lambda one: (-one[1].refused, -sum(one[1].rules.values()), one[0]),
    )
    return {
        "bundle": question.bundle,
        "since": moment(question.since),
        "requirements": [asdict(one) for one in held],
        "requests": evidence.requests,
        "rows": evidence.rows,
        "first": moment(evidence.first) if evidence.requests else None,
        "last": moment(evidence.last) if evidence.requests else None,
        "would refuse": {
            "requests": evidence.refused_requests,
            "rows": evidence.refused_rows,
            "by kind": {kind.value: evidence.refused[kind] for kind in Kind},
        },
        "would shape": evidence.shaped,
        "rules": {
            rule: {
                "requests": one.requests,
                "would refuse": one.refused,
                "clients": len(one.clients),
            }
            for rule, one in sorted(evidence.rules.items())
        },
        "clients": [
            {
                "client": client,
                "requests": one.requests,
                "rows": one.rows,
                "would refuse": one.refused,
                "rules": dict(sorted(one.rules.items())),
            }
            for client, one in worst[:_SHOWN]
        ],
        "clients not shown": max(0, len(worst) - _SHOWN),
        "left out": dict(evidence.left_out),
        "other endpoints": dict(evidence.others.most_common(_SHOWN)),
        "chains": {
            name: {
                "records": report.records,
                "findings": [asdict(finding) for finding in report.findings],
                "last": f"{report.last.seq}:{report.last.hash}",
            }
            for name, report in evidence.reports.items()
        },
        "exclusions": list(_exclusions(worst[:_SHOWN], question.now)),
    }


def _exclusions(clients: Sequence[tuple[str, Any]], now: float) -> Iterator[str]:
    """Lines of YAML for the endpoint, by rule."""
    until = datetime.fromtimestamp(now, UTC) + timedelta(days=_EXCLUDED_DAYS)
    by_rule: dict[str, list[str]] = {}
    for client, one in clients:
        for rule in one.rules:
            if rule in _SWITCHABLE and one.refused:
                by_rule.setdefault(rule, []).append(client)
    if by_rule:
        yield "rules:"
    for rule, names in sorted(by_rule.items()):
        yield f"  {rule}:"
        yield "    exclude:"
        for name in names:
            yield f'      - {{client: "{name}", until: {until:%Y-%m-%d}}}'


def text(found: Mapping[str, Any]) -> str:
    """The document for people."""
    return "\n".join(_lines(found))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['endpoint']}: from {found['from']} to {found['to']}"
    if found["first"]:
        yield f"evidence from {found['first']} to {found['last']}"
    yield ""
    for one in found["requirements"]:
        mark = "ok     " if one["met"] else "MISSING"
        yield f"{mark} {one['name']:<20} {one['figure']}  (bound: {one['bound']})"
        if one["missing"]:
            yield f"        {'':<20} {one['missing']}"
    refuse = found["would refuse"]
    yield ""
    yield (
        f"enforcing would have refused {refuse['requests']} of {found['requests']} requests with "
        f"{refuse['rows']} rows, and made {found['would shape']} answers coarse"
    )
    for rule, one in found["rules"].items():
        words = RULES[rule].meaning.partition(".")[0] if rule in RULES else "not known here"
        clients = f"{one['clients']} client{'s' if one['clients'] != 1 else ''}"
        yield (
            f"  {rule}  {one['requests']} requests by {clients}, "
            f"{one['would refuse']} of them refused: {words}"
        )
    if found["clients"]:
        yield "clients that rules speak against:"
    for one in found["clients"]:
        rules = ", ".join(f"{rule} {count}" for rule, count in one["rules"].items())
        yield (
            f"  {one['client']}  {one['would refuse']} of {one['requests']} requests refused "
            f"({rules})"
        )
    if found["clients not shown"]:
        yield f"  and {found['clients not shown']} more"
    if found["exclusions"]:
        yield "to let them pass for a month, below the endpoint:"
        yield from (f"    {line}" for line in found["exclusions"])
    for why, count in found["left out"].items():
        yield f"left out: {count} exchanges {why}"
    yield from _operator(found.get("said by the operator", {}))
    for name, chain in found["chains"].items():
        for finding in chain["findings"][:5]:
            yield f"{name}: {finding['file']}:{finding['line']}: {finding['message']}"


def _operator(said: Mapping[str, Any]) -> Iterator[str]:
    for client, why in said.get("hostile", {}).items():
        yield f"said to be hostile: {client}{f': {why}' if why else ''}"
    for name, why in said.get("rightly", {}).items():
        yield f"said to be rightly flagged: {name}: {why}"
    for name in said.get("rightly, but not found", ()):
        yield f"not found: {name}"
