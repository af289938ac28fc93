"""The process's metrics: what serves counts here, and a scrape renders it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from platform import python_version
from typing import Any, Final, Protocol, TypeAlias

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client import exposition as plain
from prometheus_client.openmetrics import exposition as openmetrics_format

from proxy import rules
from proxy.decision import Action, Mode
from proxy.state.base import StateHealth
from proxy.telemetry import families
from proxy.telemetry.audit import AuditState
from proxy.telemetry.budget import AlertWindow
from proxy.telemetry.exchanges import SCORES, SECONDS, STAGES, EndpointMetrics
from proxy.telemetry.exposition import Buckets, Family, number

__all__ = ["EndpointMetrics", "Metrics", "UpstreamState", "Watched"]

# What the histograms of a stage and of a detector show of the bounds that are counted.
_STAGE_SECONDS: Final = (1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
_DETECTOR_SCORES: Final = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
_DECISIONS: Final = (
    (Action.ALLOW, Action.ALLOW),
    (Action.SHAPE, Action.SHAPE),
    (Action.SHAPE, Action.ALLOW),
    (Action.THROTTLE, Action.THROTTLE),
    (Action.THROTTLE, Action.ALLOW),
    (Action.BLOCK, Action.BLOCK),
    (Action.BLOCK, Action.ALLOW),
)
_TRACKED: Final = ("clients", "subnets", "lineages", "overflow")
_CLASSES: Final = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")

_Page: TypeAlias = dict[Family, list[str]]


@dataclass(frozen=True, slots=True)
class Watched:
    """What the metrics must know of a configured endpoint.

    Attributes:
        detectors: their names: of the input, of the answer, and those that ask again.
        threshold: the p-value at or below which a row is flagged, None without a bundle.
        answer_threshold: the same of a row with its answer, None where no answer is judged.
        budget: the false-positive budget of rows, None without a bundle.
        bundle: the bundle's digest, or "".
        created: when the bundle was fitted, in seconds since the epoch; 0 if it does not tell.
        max_age: the age in seconds from which it counts as stale.
    """

    name: str
    mode: Mode = Mode.ENFORCE
    detectors: tuple[str, ...] = ()
    threshold: float | None = None
    budget: float | None = None
    bundle: str = ""
    answer_threshold: float | None = None
    created: float = 0.0
    max_age: float = 0.0

    @property
    def scoring(self) -> tuple[object, ...]:
        """What must stay as it is for the alert rate to go on."""
        return self.detectors, self.threshold, self.budget, self.bundle, self.answer_threshold


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """One upstream at the moment of a scrape. ``address`` is as configured."""

    endpoint: str
    address: str
    in_flight: int = 0
    connections: int = 0
    ejected: bool = False
    ejections: int = 0
    limit: int = 0


class ClientWatch(Protocol):
    """What the metrics ask of what watches an endpoint's clients."""

    @property
    def exchanged(self) -> Exchanged:
        """How its exchange with the state goes."""

    def sizes(self) -> Mapping[str, Any]:
        """What it keeps at hand, by kind; empty where nothing is watched."""


class Exchanged(Protocol):
    """How an exchange with the state goes."""

    @property
    def seconds(self) -> float:
        """How long the last one took."""

    @property
    def failures(self) -> int:
        """How many failed by a defect."""


class Metrics:
    """Every number. Made once; bound to the endpoints at start and again at each reload.

    Args:
        wall: seconds since the epoch.
        registry: further collectors of ``prometheus_client``; None: the process's own figures.

    Attributes:
        ready: whether traffic may be sent here.
        unrouted: counts the exchanges that no endpoint took.
        connections, connections_shed: what the listener has open, and what it shed at accept.
        overload: whether the loop is overloaded, and the seconds that requests wait for it.
        queues: by endpoint, the seconds that a request would wait for its upstreams.
        calls: the same of gRPC's calls: under way, and shed. None where nobody speaks gRPC.
        upstreams: a snapshot of every upstream.
        clients: known clients by endpoint.
        watched_clients: by endpoint, what watches its clients.
        state: how the shared state stands.
        audit: the audit log's state, None without one.
        certificates: when those that are shown begin and end, in seconds since the epoch: by the
            section of the configuration and the endpoint ("" for none).
    """

    def __init__(
        self, *, wall: Callable[[], float], registry: CollectorRegistry | None = None
    ) -> None:
        if registry is None:
            registry = CollectorRegistry()
            ProcessCollector(registry=registry)
            GCCollector(registry=registry)
        self.registry = registry
        self.ready: Callable[[], bool] = lambda: False
        self.connections: Callable[[], int] = lambda: 0
        self.connections_shed: Callable[[], int] = lambda: 0
        self.overload: Callable[[], tuple[bool, float]] = lambda: (False, 0.0)
        self.queues: Callable[[], Mapping[str, float]] = dict
        self.calls: Callable[[], tuple[int, int]] | None = None
        self.upstreams: Callable[[], Iterable[UpstreamState]] = tuple
        self.clients: Callable[[], Mapping[str, int]] = dict
        self.watched_clients: Callable[[], Mapping[str, ClientWatch]] = dict
        self.state: Callable[[], StateHealth | None] = lambda: None
        self.audit: Callable[[], AuditState | None] = lambda: None
        self.certificates: Mapping[tuple[str, str], tuple[float, float]] = {}
        self.unrouted = EndpointMetrics()
        self._wall = wall
        self._build = {"version": version("bartizan"), "python": python_version()}
        self._reloads = {"success": 0, "failure": 0}
        self._loaded = False
        self._loaded_at = 0.0
        self._endpoints: dict[str, EndpointMetrics] = {}
        self._watched: dict[str, Watched] = {}
        self._lines = [_EndpointLines(Watched(""), self.unrouted)]

    def bind(self, endpoints: Iterable[Watched]) -> None:
        """Serves these endpoints from now on: those that stay keep their counters.

        The window of an alert rate starts anew where bundle, threshold or budget is another one.

        Raises:
            ValueError: on a budget that is not between 0 and 1, with nothing changed.
        """
        watched = {endpoint.name: endpoint for endpoint in endpoints}
        windows = {
            name: None if endpoint.budget is None else AlertWindow(endpoint.budget)
            for name, endpoint in watched.items()
        }
        bound = {}
        for name, endpoint in watched.items():
            counts = self._endpoints.get(name)
            if counts is None:
                counts = EndpointMetrics(endpoint.detectors, windows[name])
            elif endpoint.scoring != self._watched[name].scoring:
                counts.rebind(endpoint.detectors, windows[name])
            bound[name] = counts
        self._endpoints, self._watched = bound, watched
        self._lines = [_EndpointLines(Watched(""), self.unrouted)]
        self._lines += [_EndpointLines(watched[name], counts) for name, counts in bound.items()]

    def endpoint(self, name: str) -> EndpointMetrics:
        """The counters of a bound endpoint.

        Raises:
            KeyError: if no endpoint of this name is bound.
        """
        return self._endpoints[name]

    def reloaded(self, ok: bool) -> None:
        """Counts an attempt to load the configuration."""
        self._reloads["success" if ok else "failure"] += 1
        self._loaded = ok
        if ok:
            self._loaded_at = self._wall()

    def render(self, openmetrics: bool = False) -> bytes:
        """Everything as text (``exposition.TEXT`` or ``exposition.OPENMETRICS``)."""
        page: _Page = {family: [] for family in families.FAMILIES}
        for lines in self._lines:
            lines.write(page)
        self._write_process(page)
        self._write_upstreams(page)
        self._write_audit(page)
        self._write_state(page)
        text = "".join(
            family.header(openmetrics) + "".join(lines) for family, lines in page.items() if lines
        )
        rest = openmetrics_format if openmetrics else plain
        others: bytes = rest.generate_latest(self.registry)
        return text.encode() + others

    def _write_process(self, page: _Page) -> None:
        _add(page, families.BUILD, 1, **self._build)
        _add(page, families.READY, int(self.ready()))
        _add(page, families.CONNECTIONS, self.connections())
        _add(page, families.SHED, self.connections_shed())
        overloaded, seconds = self.overload()
        _add(page, families.LOOP_OVERLOADED, int(overloaded))
        _add(page, families.LOOP_QUEUE_SECONDS, seconds)
        if self.calls is not None:
            under_way, shed = self.calls()
            _add(page, families.CALLS, under_way)
            _add(page, families.CALLS_SHED, shed)
        for result, count in self._reloads.items():
            _add(page, families.RELOADS, count, result=result)
        _add(page, families.RELOAD_OK, int(self._loaded))
        _add(page, families.RELOAD_TIME, self._loaded_at)
        for (place, endpoint), (start, end) in self.certificates.items():
            labels = {"endpoint": endpoint, "certificate": place}
            _add(page, families.CERTIFICATE_START, start, **labels)
            _add(page, families.CERTIFICATE_END, end, **labels)
        for endpoint, count in self.clients().items():
            _add(page, families.CLIENTS, count, endpoint=endpoint)

    def _write_upstreams(self, page: _Page) -> None:
        for state in self.upstreams():
            labels = {"endpoint": state.endpoint, "upstream": state.address}
            _add(page, families.IN_FLIGHT, state.in_flight, **labels)
            _add(page, families.UPSTREAM_CONNECTIONS, state.connections, **labels)
            _add(page, families.UPSTREAM_LIMIT, state.limit, **labels)
            _add(page, families.EJECTED, int(state.ejected), **labels)
            _add(page, families.EJECTIONS, state.ejections, **labels)
        for endpoint, seconds in self.queues().items():
            _add(page, families.QUEUE_SECONDS, seconds, endpoint=endpoint)

    def _write_state(self, page: _Page) -> None:
        for endpoint, watch in self.watched_clients().items():
            sizes = watch.sizes()
            for kind in _TRACKED:
                if kind in sizes:
                    _add(page, families.TRACKED, sizes[kind], endpoint=endpoint, kind=kind)
            if sizes:
                _add(page, families.EVICTED, sizes["evictions"], endpoint=endpoint)
                seconds = watch.exchanged.seconds
                _add(page, families.EXCHANGE_SECONDS, seconds, endpoint=endpoint)
            failures = watch.exchanged.failures
            _add(page, families.EXCHANGE_FAILURES, failures, endpoint=endpoint)
        health = self.state()
        if health is not None:
            _add(page, families.STATE_DEGRADED, int(health.degraded))
            _add(page, families.STATE_REPLICAS, health.replicas)
            _add(page, families.STATE_SPOOLED, health.spooled)
            _add(page, families.STATE_DROPPED, health.dropped)
            _add(page, families.STATE_COMMANDS, health.calls)
            _add(page, families.STATE_FAILURES, health.failures)

    def _write_audit(self, page: _Page) -> None:
        state = self.audit()
        if state is not None:
            _add(page, families.AUDIT_WRITTEN, state.written)
            _add(page, families.AUDIT_DROPPED, state.dropped)
            _add(page, families.AUDIT_QUEUE, state.queued)
            _add(page, families.AUDIT_LIMIT, state.limit)
            _add(page, families.AUDIT_FAILING, int(bool(state.fault)))


class _EndpointLines:
    """Renders one endpoint's counters. Names and labels of its histograms are rendered once."""

    def __init__(self, watched: Watched, counts: EndpointMetrics) -> None:
        self._watched = watched
        self._counts = counts
        name = watched.name
        # From the start: the first step of a counter that appears with it is no increase.
        self._sheds = _zeros(rules.SHEDS if name else (rules.BUSY,))
        self._faults = _zeros(rules.FAULTS if name else ())
        self._alarms = _zeros(() if watched.threshold is None else rules.PATTERNS)
        family = families.STAGE_SECONDS
        stages = [
            (family, Buckets(family, SECONDS, _STAGE_SECONDS, endpoint=name, stage=stage))
            for stage in STAGES
        ]
        whole = [
            (family, Buckets(family, SECONDS, SECONDS, endpoint=name))
            for family in (families.REQUEST_SECONDS, families.OVERHEAD_SECONDS)
        ]
        self._spans = stages + whole
        family = families.SCORE
        merged = (family, Buckets(family, SCORES, SCORES, endpoint=name))
        family = families.ANSWER_SCORE
        answered = (family, Buckets(family, SCORES, SCORES, endpoint=name))
        family = families.DETECTOR_SCORE
        self._scores = [merged, answered] + [
            (family, Buckets(family, SCORES, _DETECTOR_SCORES, endpoint=name, detector=detector))
            for detector in watched.detectors
        ]

    def write(self, page: _Page) -> None:
        """Adds the endpoint's lines."""
        counts, watched, name = self._counts, self._watched, self._watched.name
        counts.fold()
        if name:
            mode, bundle = watched.mode.value, watched.bundle
            _add(page, families.ENDPOINT, 1, endpoint=name, mode=mode, bundle=bundle)
        self._write_decisions(page)
        _add(page, families.REQUEST_BYTES, counts.request_bytes, endpoint=name)
        _add(page, families.RESPONSE_BYTES, counts.response_bytes, endpoint=name)
        for status, count in zip(_CLASSES, counts.statuses.tolist(), strict=True):
            _add(page, families.RESPONSES, count, endpoint=name, status=status)
        for (family, buckets), spans, total in zip(
            self._spans, counts.spans.tolist(), counts.seconds.tolist(), strict=True
        ):
            page[family].append(buckets.lines(spans, total))
        _add(page, families.ROWS, counts.rows, endpoint=name)
        _add(page, families.SHAPED, counts.shaped, endpoint=name)
        if watched.threshold is not None:
            self._write_scores(page, watched.threshold)

    def _write_decisions(self, page: _Page) -> None:
        counts, name = self._counts, self._watched.name
        taken = {**dict.fromkeys(_DECISIONS, 0), **counts.decisions}
        would_block = 0
        for (action, enforced), count in taken.items():
            labels = {"endpoint": name, "action": action.value, "enforced": enforced.value}
            _add(page, families.REQUESTS, count, **labels)
            would_block += count if action is not enforced else 0
        _add(page, families.WOULD_BLOCK, would_block, endpoint=name)
        for (rule, seen), count in counts.refusals.items():
            labels = {"endpoint": name, "rule": rule, "enforced": "true" if seen else "false"}
            _add(page, families.REFUSALS, count, **labels)
        for family, known, by_rule in (
            (families.SHEDS, self._sheds, counts.sheds),
            (families.ALARMS, self._alarms, counts.alarms),
            (families.FAULTS, self._faults, counts.faults),
            (families.FAILED_OPEN, self._faults, counts.failed_open),
        ):
            for rule, count in (known | by_rule).items():
                _add(page, family, count, endpoint=name, rule=rule)

    def _write_scores(self, page: _Page, threshold: float) -> None:
        counts, name, watched = self._counts, self._watched.name, self._watched
        if watched.max_age:
            _add(page, families.BUNDLE_CREATED, watched.created, endpoint=name)
            _add(page, families.BUNDLE_MAX_AGE, watched.max_age, endpoint=name)
        faults = counts.faults.get(rules.DETECTOR_FAULT.id, 0)
        _add(page, families.DETECTOR_FAULTS, faults, endpoint=name)
        _add(page, families.ROWS_SCORED, counts.scored_rows, endpoint=name)
        _add(page, families.ROWS_FLAGGED, counts.flagged_rows, endpoint=name)
        for (family, buckets), scores, total in zip(
            self._scores, counts.scores.tolist(), counts.score_sums.tolist(), strict=True
        ):
            if family is not families.ANSWER_SCORE or watched.answer_threshold is not None:
                page[family].append(buckets.lines(scores, total))
        _add(page, families.SCORE_THRESHOLD, _evidence(threshold), endpoint=name)
        if watched.answer_threshold is not None:
            self._write_answers(page, watched.answer_threshold)
        window = counts.window
        if window is not None:
            _add(page, families.ALERT_RATE, window.rate, endpoint=name)
            _add(page, families.ALERT_BUDGET, window.budget, endpoint=name)
            _add(page, families.ALERT_ROWS, window.rows, endpoint=name)
            _add(page, families.ALERT_FLAGGED, window.flagged, endpoint=name)
            _add(page, families.ALERT_REQUESTS, window.requests, endpoint=name)
            _add(page, families.BUDGET_EXCEEDED, int(window.exceeded), endpoint=name)

    def _write_answers(self, page: _Page, threshold: float) -> None:
        counts, name = self._counts, self._watched.name
        _add(page, families.ANSWER_THRESHOLD, _evidence(threshold), endpoint=name)
        _add(page, families.ROWS_JUDGED, counts.judged_rows, endpoint=name)
        _add(page, families.ROWS_DISAGREEING, counts.disagreeing_rows, endpoint=name)
        for result, count in counts.opinions.items():
            _add(page, families.OPINIONS, count, endpoint=name, result=result)
        _add(page, families.OPINION_ROWS, counts.opinion_rows, endpoint=name)


def _zeros(known: Iterable[rules.Rule]) -> dict[str, int]:
    return dict.fromkeys((rule.id for rule in known), 0)


def _evidence(p_value: float) -> float:
    return -math.log10(p_value) if p_value > 0 else math.inf


def _add(page: _Page, family: Family, value: float, **labels: str) -> None:
    page[family].append(f"{family.series(**labels)}{number(value)}\n")
