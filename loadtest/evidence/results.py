"""What a run found, as plain values: the one thing that reports, thresholds and comparisons read.

Every value survives JSON. Times are seconds, rates are a second. ``None`` is "not measured", never
"zero". The two sides of a pair are ``direct`` (the model server alone) and ``firewall``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

VERSION: Final = 1

Side = Literal["direct", "firewall"]
Kind = Literal["honest", "hostile"]
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True)
class Share:
    """``count`` of ``total``, to be told with its Wilson interval."""

    count: int
    total: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval, at 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Slice:
    """One second of a load.

    Attributes:
        at: seconds from its beginning to that of the slice.
        offered: requests whose time came within it.
        good: of those sent, how many were answered 2xx in time.
        refused, limited, shed, invalid, failed: of those sent, how many ended so; see ``Said``.
        p50, p99: of the answered ones, from their intended time; None if there were none.
    """

    at: float
    offered: int
    good: int
    refused: int = 0
    limited: int = 0
    shed: int = 0
    failed: int = 0
    invalid: int = 0
    p50: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class LoadResult:
    """One part of a load on one side: one mix of requests over one stretch of time.

    Attributes:
        name: of the load in the scenario.
        part: of the mix.
        arrivals: how requests were spread over time, in words; ``closed loop`` for a ceiling.
        round: which of the interleaved rounds, from 0; both sides of a round ran back to back.
        seconds: wall time from the first intended request to the end.
        offered: requests whose time came.
        sent: those that were sent.
        late: those sent more than a millisecond after their time.
        dropped: those never sent: too many waited for a connection.
        statuses: of the replies, by status as text.
        said: of the replies, by ``Said.value``.
        errors: requests without a reply that can be read, by kind.
        good: answered 2xx within the scenario's deadline, if it has one.
        latency: of the answered ones, from their *intended* times: an HdrHistogram in base64
            (V2 compressed, microseconds). "" if there were none.
        refusal_latency: the same of those refused, limited or shed, from when they were *sent*.
        percentiles: of ``latency``, by percentile as text, seconds.
        series: second by second.
        beside: the driver of the attack that was under way meanwhile, or "".
        rules: what was refused, limited or shed, by rule id, as the firewall's audit log has it;
            empty if that is not known.
        begun: seconds from the beginning of the run to that of the load; None if it is not known.
    """

    name: str
    part: str
    kind: Kind
    side: Side
    arrivals: str
    round: int
    seconds: float
    offered: int
    sent: int
    late: int
    dropped: int
    statuses: Mapping[str, int]
    said: Mapping[str, int]
    errors: Mapping[str, int]
    good: int
    latency: str = ""
    refusal_latency: str = ""
    percentiles: Mapping[str, float] = field(default_factory=dict)
    refusal_percentiles: Mapping[str, float] = field(default_factory=dict)
    series: Sequence[Slice] = ()
    beside: str = ""
    rules: Mapping[str, int] = field(default_factory=dict)
    begun: float | None = None


@dataclass(frozen=True, slots=True)
class AttackResult:
    """One attack by one driver on one side.

    Attributes:
        driver: its name, as in ``bartizan attack --list``.
        family: ``evasion``, ``transfer``, ``extraction``, ``membership``, ``inversion``,
            ``adaptive``, ``sybils``, ``interleaving`` or ``abuse``.
        atlas: MITRE ATLAS technique ids.
        goal: what ``success`` counts, in a few words.
        success: tries that reached the goal, of all tries.
        value: what is measured beside (a surrogate's fidelity, an attack's AUC), with its name in
            ``measure``; None if nothing is.
        baseline: what ``value`` would be without asking anything: the commonest class, a coin.
        queries: sent, all of them; ``distinct`` without repeats.
        to_success: queries until the goal was reached, of each try that did.
        said: of the replies, by ``Said.value``.
        recognised: tries that the firewall recognised, by its audit log; None if it is not known.
        to_recognition: attack's own queries until then (warm-up and padding left out), of each
            try that was.
        coarse: answers that were visibly made coarse.
        seconds: wall time.
        resumed: queries of an earlier, broken run that were not sent again.
        details: whatever else the report is to show, by name: numbers and words.
        fault: why it does not count, or "".
        begun: seconds from the beginning of the run to that of the attack; None if it is not known.
    """

    driver: str
    family: str
    side: Side
    atlas: Sequence[str]
    goal: str
    success: Share
    queries: int
    distinct: int
    seed: int
    measure: str = ""
    value: Estimate | None = None
    baseline: float | None = None
    to_success: Sequence[int] = ()
    said: Mapping[str, int] = field(default_factory=dict)
    recognised: Share | None = None
    to_recognition: Sequence[int] = ()
    coarse: int = 0
    seconds: float = 0.0
    resumed: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""
    begun: float | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """A threshold of the scenario, and what became of it.

    Attributes:
        metric: its name, as in the scenario.
        bound: in words, as ``<= 0.002``.
        observed: None: it could not be measured, which fails it.
        passed: whether the bound holds.
        why: what was compared: which end of an interval, over which loads.
    """

    metric: str
    bound: str
    observed: float | None
    passed: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that one run found.

    Attributes:
        scenario: its name; ``digest``: SHA-256 of the scenario as it was read.
        started: UTC, ISO 8601.
        seconds: of the whole run.
        command: that made it.
        machine: what figures depend on, without naming the host.
        target: what was attacked: protocol, endpoint, mode, bundle's digest, configuration's
            digest, as far as known.
        notes: what a reader must know: what was skipped, and why.
        complete: False if it was interrupted: then no threshold passes.
    """

    scenario: str
    digest: str
    started: str
    seconds: float
    seed: int
    command: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    target: Mapping[str, str]
    loads: Sequence[LoadResult] = ()
    attacks: Sequence[AttackResult] = ()
    checks: Sequence[Check] = ()
    notes: Sequence[str] = ()
    complete: bool = True
    version: int = VERSION

    @property
    def passed(self) -> bool:
        """Whether it is complete, and every threshold holds."""
        return self.complete and all(check.passed for check in self.checks)
