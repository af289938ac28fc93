"""What an audit log says of one endpoint while it only monitored: counted in the pass that verifies
the log, so that what counts is what was verified."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from proxy.promotion.verdict import Kind, Switches
from proxy.settings.basis import basis, switched_off
from proxy.settings.endpoint import Endpoint
from proxy.settings.load import digest
from proxy.settings.models import Settings
from proxy.telemetry.audit_verify import Report, verify_chains

BUCKET: Final = 600
"""Seconds by which the log is cut into halves."""

_DIGEST: Final = 16
_CLOCK: Final = 300.0  # seconds that two machines' clocks may differ
_LATE: Final = 3600.0  # seconds that an exchange may last, at whose end it is recorded


@dataclass(slots=True)
class OfClient:
    """What one client did.

    Attributes:
        refused: requests that enforcing would have refused.
        rules: requests, by rule that spoke against them.
    """

    requests: int = 0
    rows: int = 0
    refused: int = 0
    rules: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class OfRule:
    """What one rule did: requests that it spoke against, those it would have refused, and whose."""

    requests: int = 0
    refused: int = 0
    clients: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Evidence:
    """What counts, and what was left out and why.

    Attributes:
        requests, rows: of the endpoint, in monitor mode, on this basis.
        scored_requests, scored_rows, flagged_rows: of those that detectors scored, and of clients
            that rules about rows are not excluded for.
        refused: requests that enforcing would have refused, by kind of rule; one may be of several.
        refused_requests, refused_rows: that enforcing would have refused at all.
        shaped: requests whose answers it would have made coarse.
        client_days: (client, UTC day) with a request; ``alarmed`` those with a pattern alarm.
        hours: hours since the epoch with a request.
        first, last: seconds since the epoch of the first and the last request.
        buckets: by moment, scored rows and requests refused for their rows.
        lives: distinct clients by process life, where pseudonyms do not outlive a process.
        left_out: exchanges of the endpoint that do not count, by why.
        others: exchanges of other endpoints, by name.
        events: what happened to the log and to the state, by type of record.
        dropped: exchanges of which the log lost the records.
        jumps: times that the wall clock went back by more than an hour.
        rightly: requests that the operator calls rightly flagged, which were found.
        reports: of the verification, by chain.
    """

    requests: int = 0
    rows: int = 0
    scored_requests: int = 0
    scored_rows: int = 0
    flagged_rows: int = 0
    refused: Counter[Kind] = field(default_factory=Counter)
    refused_requests: int = 0
    refused_rows: int = 0
    shaped: int = 0
    clients: dict[str, OfClient] = field(default_factory=lambda: defaultdict(OfClient))
    rules: dict[str, OfRule] = field(default_factory=lambda: defaultdict(OfRule))
    client_days: set[tuple[str, int]] = field(default_factory=set)
    alarmed: set[tuple[str, int]] = field(default_factory=set)
    hours: set[int] = field(default_factory=set)
    first: float = 0.0
    last: float = 0.0
    buckets: dict[int, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    lives: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    left_out: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    jumps: int = 0
    rightly: set[str] = field(default_factory=set)
    reports: dict[str, Report] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From the first request to the last."""
        return self.last - self.first


@dataclass(frozen=True, slots=True)
class Question:
    """Which exchanges are evidence.

    Attributes:
        bundle: the digest of the endpoint's bundle, or "".
        since: seconds since the epoch.
        now: seconds since the epoch.
        hostile: clients whose requests are left out, as the operator says that they attack.
        rightly: ids of requests that are left out, as the operator says that they are attacks.
    """

    settings: Settings
    endpoint: Endpoint
    bundle: str
    since: float
    now: float
    hostile: frozenset[str] = frozenset()
    rightly: frozenset[str] = frozenset()


def gather(logs: list[Path], question: Question, key: bytes | None = None) -> Evidence:
    """Reads and verifies audit logs, with all their rotated files and chains.

    Args:
        key: the secret of the logs' seals, or None.

    Raises:
        FileNotFoundError: if there is no log at one of the paths.
        OSError: if one cannot be read.
    """
    evidence = Evidence()
    known: dict[str, Mapping[str, Any]] = {}
    for path in logs:
        # A process's first record may be gone while other chains still hold its like: so configured
        # records of all chains are known before any exchange is looked at.
        verify_chains(path, key=key, seen=lambda _: _configured(known, question.endpoint.name))
    # The same log may be named twice, or in a copy: its exchanges count once.
    told: set[int] | None = set() if len(logs) > 1 else None
    for index, path in enumerate(logs):
        prefix = f"{index}:" if len(logs) > 1 else ""

        def seen(name: str, prefix: str = prefix) -> Callable[[dict[str, Any]], None]:
            return _Chain(evidence, question, known, f"{prefix}{name}", told).take

        reports = verify_chains(path, key=key, seen=seen)
        if not reports:
            raise FileNotFoundError(f"{path}: no such audit log")
        evidence.reports |= {f"{prefix}{name}": report for name, report in reports.items()}
    return evidence


def _configured(
    known: dict[str, Mapping[str, Any]], endpoint: str
) -> Callable[[dict[str, Any]], None]:
    def seen(record: dict[str, Any]) -> None:
        if record.get("type") == "configured":
            told = record.get("verdicts")
            mine = told.get(endpoint) if isinstance(told, dict) else None
            if isinstance(mine, dict):
                known[str(record.get("configuration"))[:_DIGEST]] = mine

    return seen


class _Chain:
    """One chain's records, as they come."""

    def __init__(
        self,
        evidence: Evidence,
        question: Question,
        known: Mapping[str, Mapping[str, Any]],
        name: str,
        told: set[int] | None,
    ) -> None:
        settings, endpoint = question.settings, question.endpoint
        self._evidence = evidence
        self._question = question
        self._known = known
        self._name = name
        self._told = told
        self._life = 0
        self._latest = 0.0
        self._switches = Switches(settings, endpoint)
        self._basis = basis(settings, endpoint)
        self._off = frozenset(switched_off(endpoint))
        self._whole = digest(settings)[:_DIGEST]

    def take(self, record: dict[str, Any]) -> None:
        """One more record. Never raises: what is not as it should be does not count."""
        kind = record.get("type")
        at = _moment(record)
        if kind == "exchange":
            if at is None:
                self._evidence.left_out["without a time that can be read"] += 1
                return
            self._exchange(record, at)
            return
        if kind == "started":
            self._life += 1
        if at is None or at < self._question.since:
            return
        if kind == "dropped" and isinstance(record.get("records"), int):
            self._evidence.dropped += record["records"]
        self._evidence.events[str(kind)] += 1

    def _exchange(self, record: dict[str, Any], at: float) -> None:
        evidence, question = self._evidence, self._question
        if at < self._latest - _LATE and self._latest >= question.since:
            evidence.jumps += 1
            self._latest = at
        self._latest = max(self._latest, at)
        name = record.get("endpoint")
        if name != question.endpoint.name:
            evidence.others[str(name)] += 1
            return
        why = self._reason_against(record, at)
        if why:
            evidence.left_out[why] += 1
            return
        try:
            self._count(record, at)
        except (TypeError, ValueError, AttributeError):
            evidence.left_out["not as an exchange is recorded"] += 1

    def _reason_against(self, record: Mapping[str, Any], at: float) -> str:
        """Why an exchange of the endpoint is no evidence, or ""."""
        question = self._question
        if at < question.since:
            return "before the period"
        if at > question.now + _CLOCK:
            return "in the future"
        if record.get("bundle") != question.bundle[:_DIGEST]:
            return "scored by another bundle"
        told = self._known.get(str(record.get("configuration")))
        if told is None:
            # Of a version that did not say it: then all of the configuration must be the same.
            if record.get("configuration") != self._whole:
                return "under a configuration that is not known any more"
            told = {"basis": self._basis, "mode": question.endpoint.mode.value, "off": self._off}
        if told.get("basis") != self._basis:
            return "under other settings of the endpoint"
        if not self._off.issuperset(told.get("off", ())):
            return "while a rule was off that is not off now"
        if told.get("mode") != "monitor":
            return "while it enforced"
        if record.get("client") in question.hostile:
            return "of clients that are said to be hostile"
        if record.get("id") in question.rightly:
            self._evidence.rightly.add(str(record["id"]))
            return "that are said to be rightly flagged"
        if self._told is not None:
            number = hash(record.get("id") if isinstance(record.get("id"), str) else None)
            if number in self._told:
                return "told before, in another of the logs"
            self._told.add(number)
        return ""

    def _count(self, record: Mapping[str, Any], at: float) -> None:
        evidence = self._evidence
        client, rows = str(record.get("client")), int(record.get("rows", 0))
        matched = list(self._switches.matched(record, self._question.now))
        kinds = {one.kind for one in matched if one.refuses}
        judged = self._switches.judges_rows(client, self._question.now)
        scored = judged and ("p_value" in record or "answer" in record)
        flagged = int(record.get("flagged_rows", 0))
        hour, day = int(at // 3600), (client, int(at // 86400))
        # Nothing can fail from here on: a record counts wholly or not at all.
        evidence.first = at if not evidence.requests else min(evidence.first, at)
        evidence.last = max(evidence.last, at)
        evidence.requests += 1
        evidence.rows += rows
        evidence.hours.add(hour)
        evidence.client_days.add(day)
        evidence.lives[f"{self._name}/{self._life}"].add(client)
        if scored:
            evidence.scored_requests += 1
            evidence.scored_rows += rows
            evidence.flagged_rows += flagged
            evidence.buckets[int(at // BUCKET)][0] += rows
            evidence.buckets[int(at // BUCKET)][1] += Kind.ROWS in kinds
        if any(one.alarms for one in matched):
            evidence.alarmed.add(day)
        for kind in kinds:
            evidence.refused[kind] += 1
        evidence.refused_requests += bool(kinds)
        evidence.refused_rows += rows if kinds else 0
        evidence.shaped += not kinds and record.get("action") == "shape"
        of_client = evidence.clients[client]
        of_client.requests += 1
        of_client.rows += rows
        of_client.refused += bool(kinds)
        for rule, refuses in {one.rule: one.refuses for one in matched}.items():
            of_client.rules[rule] += 1
            of_rule = evidence.rules[rule]
            of_rule.requests += 1
            of_rule.refused += refuses
            of_rule.clients.add(client)


def _moment(record: Mapping[str, Any]) -> float | None:
    """Seconds since the epoch."""
    try:
        moment = datetime.fromisoformat(str(record.get("time")))
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
