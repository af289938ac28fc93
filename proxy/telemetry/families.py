"""Every metric of Bartizan by name, in the order in which they are rendered.

Label sets are closed: an endpoint's or a detector's configured name, a rule's id, an action, an
upstream's configured address, a worker's number. Nothing that a client sends ever becomes a label.

Every gauge says how several workers' figures become one.
"""

from __future__ import annotations

from typing import Final

from proxy.telemetry.exposition import Family

FAMILIES: Final[list[Family]] = []


def _family(
    name: str, kind: str, meaning: str, unit: str = "", *, over_workers: str = ""
) -> Family:
    rule = over_workers or {"gauge": "", "info": "max"}.get(kind, "sum")
    family = Family(f"bartizan_{name}", kind, meaning, unit, rule)
    FAMILIES.append(family)
    return family


BUILD: Final = _family("build", "info", "The version that runs.")
READY: Final = _family(
    "ready",
    "gauge",
    "1 while traffic may be sent here, as /readyz says.",
    over_workers="supervisor",
)
ENDPOINT: Final = _family("endpoint", "info", "The mode and bundle digest of each endpoint.")
BUNDLE_CREATED: Final = _family(
    "bundle_created_timestamp_seconds",
    "gauge",
    "When the bundle that an endpoint serves was fitted, since the epoch; 0 if it does not tell.",
    "seconds",
    over_workers="min",
)
BUNDLE_MAX_AGE: Final = _family(
    "bundle_max_age_seconds",
    "gauge",
    "The age from which an endpoint's bundle counts as stale, as configured.",
    "seconds",
    over_workers="max",
)
CERTIFICATE_START: Final = _family(
    "certificate_start_timestamp_seconds",
    "gauge",
    "When a certificate that the firewall shows began, since the epoch; 0 if it cannot be read.",
    "seconds",
    over_workers="min",
)
CERTIFICATE_END: Final = _family(
    "certificate_end_timestamp_seconds",
    "gauge",
    "When a certificate that the firewall shows ends, since the epoch; 0 if it cannot be read.",
    "seconds",
    over_workers="min",
)
REQUESTS: Final = _family(
    "requests",
    "counter",
    "Exchanges by what was decided and what was done: they differ in monitor mode.",
)
WOULD_BLOCK: Final = _family(
    "would_block", "counter", "Exchanges that enforcing would have refused."
)
REFUSALS: Final = _family(
    "refusals", "counter", "Exchanges that a rule decided, by rule and whether the client saw it."
)
SHEDS: Final = _family(
    "requests_shed",
    "counter",
    "Requests shed under overload as soon as their head was read, by rule. No exchanges: nothing "
    "else counts them.",
)
RESPONSES: Final = _family(
    "responses", "counter", "Exchanges by the class of their status; none: the client left first."
)
REQUEST_BYTES: Final = _family(
    "request_body_bytes", "counter", "Bytes of request bodies as received.", "bytes"
)
RESPONSE_BYTES: Final = _family(
    "response_body_bytes", "counter", "Bytes of answers' bodies as sent.", "bytes"
)
REQUEST_SECONDS: Final = _family(
    "request_seconds",
    "histogram",
    "From the first byte of a request to the last of its answer.",
    "seconds",
)
OVERHEAD_SECONDS: Final = _family(
    "overhead_seconds",
    "histogram",
    "What the firewall itself took: neither reading the request nor the upstream.",
    "seconds",
)
STAGE_SECONDS: Final = _family(
    "stage_seconds", "histogram", "Time spent in each stage of an exchange.", "seconds"
)
ROWS: Final = _family("rows", "counter", "Rows of requests that were understood.")
ROWS_SCORED: Final = _family("rows_scored", "counter", "Rows that were scored.")
ROWS_FLAGGED: Final = _family(
    "rows_flagged",
    "counter",
    "Scored rows that passed the threshold, by themselves or with their answer.",
)
SCORE: Final = _family(
    "score", "histogram", "Merged score of an exchange's worst row, as -log10 of its p-value."
)
DETECTOR_SCORE: Final = _family(
    "detector_score",
    "histogram",
    "Each detector's score of the worst row, -log10 p, of every eighth exchange.",
)
SCORE_THRESHOLD: Final = _family(
    "score_threshold",
    "gauge",
    "The score at which a row is flagged, as -log10 of the p-value.",
    over_workers="max",
)
ALERT_RATE: Final = _family(
    "alert_rate", "gauge", "Share of flagged rows over the window.", over_workers="derived"
)
ALERT_BUDGET: Final = _family(
    "alert_budget",
    "gauge",
    "Share of honest rows that may be flagged, as configured.",
    over_workers="max",
)
ALERT_ROWS: Final = _family(
    "alert_window_rows", "gauge", "Rows in the window of the alert rate.", over_workers="sum"
)
ALERT_FLAGGED: Final = _family(
    "alert_window_flagged_rows", "gauge", "Flagged rows in that window.", over_workers="sum"
)
ALERT_REQUESTS: Final = _family(
    "alert_window_flagged_requests",
    "gauge",
    "Requests with a flagged row in that window.",
    over_workers="sum",
)
BUDGET_EXCEEDED: Final = _family(
    "budget_exceeded",
    "gauge",
    "1 while more is flagged than chance explains: an attack, or drift.",
    over_workers="derived",
)
ROWS_JUDGED: Final = _family(
    "rows_judged", "counter", "Rows that were judged together with the model's answer."
)
ROWS_DISAGREEING: Final = _family(
    "rows_disagreeing", "counter", "Judged rows that passed the threshold with their answer."
)
ANSWER_SCORE: Final = _family(
    "answer_score",
    "histogram",
    "Merged score of an exchange's worst row with its answer, as -log10 of its p-value.",
)
ANSWER_THRESHOLD: Final = _family(
    "answer_score_threshold",
    "gauge",
    "The score at which a row with its answer is flagged, as -log10 of the p-value.",
    over_workers="max",
)
OPINIONS: Final = _family(
    "second_opinions",
    "counter",
    "Suspicious rows by what became of the second opinion: heard, declined (beyond its budget) or "
    "failed.",
)
OPINION_ROWS: Final = _family(
    "second_opinion_rows", "counter", "Changed copies of rows that the model was asked about."
)
SHAPED: Final = _family("shaped", "counter", "Answers that were made coarse.")
FAULTS: Final = _family(
    "faults", "counter", "Faults of the firewall that the failure mode decided, by rule."
)
FAILED_OPEN: Final = _family(
    "failed_open", "counter", "Exchanges let through despite such a fault, by rule."
)
DETECTOR_FAULTS: Final = _family(
    "detector_faults",
    "counter",
    "Exchanges whose scoring failed or gave a score that is not finite.",
)
ALARMS: Final = _family(
    "pattern_alarms",
    "counter",
    "Exchanges during which a pattern's evidence stood above its threshold, by rule.",
)
TRACKED: Final = _family(
    "tracked", "gauge", "Clients, subnets and lineages kept at hand, by kind.", over_workers="sum"
)
EVICTED: Final = _family("tracked_evicted", "counter", "Clients that made room for others.")
EXCHANGE_SECONDS: Final = _family(
    "exchange_seconds",
    "gauge",
    "How long the last exchange with the state took.",
    "seconds",
    over_workers="max",
)
EXCHANGE_FAILURES: Final = _family(
    "exchange_failures",
    "counter",
    "Exchanges with the state that failed by a defect; a state that is away is none.",
)
STATE_DEGRADED: Final = _family(
    "state_degraded",
    "gauge",
    "1 while the shared state cannot be used, and local limits hold.",
    over_workers="max",
)
STATE_REPLICAS: Final = _family(
    "state_replicas", "gauge", "Workers that share the state.", over_workers="max"
)
STATE_SPOOLED: Final = _family(
    "state_spooled", "gauge", "Keys whose news wait to be told to the state.", over_workers="sum"
)
STATE_DROPPED: Final = _family(
    "state_dropped", "counter", "News lost because too many waited to be told."
)
STATE_COMMANDS: Final = _family("state_commands", "counter", "Commands sent to the shared state.")
STATE_FAILURES: Final = _family("state_failures", "counter", "Commands that failed.")
CLIENTS: Final = _family(
    "limits_clients", "gauge", "Clients whose quotas are kept.", over_workers="max"
)
IN_FLIGHT: Final = _family(
    "upstream_in_flight", "gauge", "Requests under way to an upstream.", over_workers="sum"
)
UPSTREAM_CONNECTIONS: Final = _family(
    "upstream_connections",
    "gauge",
    "Open connections to an upstream.",
    over_workers="sum",
)
UPSTREAM_LIMIT: Final = _family(
    "upstream_limit",
    "gauge",
    "Requests that an upstream is given at once, learnt from how long it takes.",
    over_workers="sum",
)
EJECTED: Final = _family(
    "upstream_ejected",
    "gauge",
    "1 while an upstream is ejected after repeated failures.",
    over_workers="max",
)
EJECTIONS: Final = _family("upstream_ejections", "counter", "Times that an upstream was ejected.")
QUEUE_SECONDS: Final = _family(
    "upstream_queue_seconds",
    "gauge",
    "How long a request that came now would wait for its endpoint's upstreams.",
    "seconds",
    over_workers="max",
)
LOOP_OVERLOADED: Final = _family(
    "loop_overloaded",
    "gauge",
    "1 while more requests come than the process can read and handle in time.",
    over_workers="max",
)
LOOP_QUEUE_SECONDS: Final = _family(
    "loop_queue_seconds",
    "gauge",
    "How long a request that was read now would wait to be handled.",
    "seconds",
    over_workers="max",
)
CONNECTIONS: Final = _family("connections", "gauge", "Open client connections.", over_workers="sum")
SHED: Final = _family(
    "connections_shed",
    "counter",
    "Client connections closed at accept: beyond the limit, or more than an overloaded process has "
    "time for.",
)
CALLS: Final = _family(
    "grpc_calls",
    "gauge",
    "gRPC calls under way, until their answers were taken.",
    over_workers="sum",
)
CALLS_SHED: Final = _family(
    "grpc_calls_shed", "counter", "gRPC calls refused at their begin, beyond the limit."
)
AUDIT_WRITTEN: Final = _family(
    "audit_records", "counter", "Records of the audit log that are on disk."
)
AUDIT_DROPPED: Final = _family(
    "audit_dropped", "counter", "Exchanges whose audit record was lost, as the queue was full."
)
AUDIT_QUEUE: Final = _family(
    "audit_queue", "gauge", "Audit records that wait to be on disk.", over_workers="sum"
)
AUDIT_LIMIT: Final = _family(
    "audit_queue_limit", "gauge", "Audit records that may wait.", over_workers="sum"
)
AUDIT_FAILING: Final = _family(
    "audit_failing", "gauge", "1 while the audit log cannot be written.", over_workers="max"
)
RELOADS: Final = _family(
    "reloads",
    "counter",
    "Attempts to load the configuration, the first one included.",
    over_workers="supervisor",
)
RELOAD_OK: Final = _family(
    "reload_successful",
    "gauge",
    "1 if the last attempt to load the configuration succeeded.",
    over_workers="supervisor",
)
RELOAD_TIME: Final = _family(
    "reload_timestamp_seconds",
    "gauge",
    "When the configuration that serves was loaded, since the epoch.",
    "seconds",
    over_workers="supervisor",
)
WORKERS: Final = _family("workers", "gauge", "Workers as configured.", over_workers="supervisor")
WORKER_UP: Final = _family(
    "worker_up",
    "gauge",
    "1 while a worker serves and answers its supervisor: 0 shows its last known figures.",
    over_workers="supervisor",
)
WORKER_STARTS: Final = _family(
    "worker_starts",
    "counter",
    "Times that a worker was started: all but the first one replaced one that ended.",
    over_workers="supervisor",
)
