"""The configuration of one endpoint: a model server, its contract, its detectors and its limits."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

from proxy import rules
from proxy.decision import FailureMode, Mode
from proxy.settings.answers import Answer, Capture, SecondOpinion, Shaping
from proxy.settings.client_tls import ClientTls
from proxy.settings.fields import (
    Bytes,
    FilePath,
    Matching,
    PathPrefix,
    Seconds,
    Upstream,
    one_or_more,
)
from proxy.settings.section import Faults, Section
from proxy.settings.switches import RuleSwitch, known_rules

Name = Annotated[
    str,
    Matching(
        "[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?",
        "at most 64 lower-case letters, digits, dots, hyphens and underscores, "
        "with a letter or digit at either end",
    ),
]
ServerName = Annotated[str, Matching("[A-Za-z0-9.-]{1,253}", "a host name")]
Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(gt=0, le=10**12)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


_SCORING = (
    *("false_positive_budget", "confidence", "on_outlier", "block_fraction"),
    *("client_alarm_budget", "on_pattern", "patterns"),
    *("answer", "on_disagreement", "second_opinion"),
)
"""Keys that do nothing without a bundle."""


class Tensor(Section):
    """One input tensor of the model, as its contract declares it."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    """The tensor's name."""
    datatype: Datatype
    """Its datatype, in the words of the Open Inference Protocol."""
    shape: tuple[Annotated[int, Field(ge=-1, le=2**31 - 1)], ...] = Field(
        min_length=1, max_length=8
    )
    """Its dimensions, the batch first; -1 for one of any size."""
    min: Finite | None = None
    """The least value allowed; none: any value of the datatype."""
    max: Finite | None = None
    """The greatest value allowed; none: any value of the datatype."""

    @model_validator(mode="after")
    def _check(self) -> Tensor:
        faults = Faults()
        for index, size in enumerate(self.shape):
            if size == 0:
                faults.add("a dimension is at least 1, or -1 for one of any size", "shape", index)
        if self.datatype in ("BYTES", "BOOL"):
            for key in ("min", "max"):
                if getattr(self, key) is not None:
                    faults.add(f"a {self.datatype} tensor has no range", key)
        elif self.min is not None and self.max is not None and self.min > self.max:
            faults.add(f"the range is empty: min {self.min:g} is above max {self.max:g}", "min")
        faults.report()
        return self


class DeclaredContract(Section):
    """A contract that the configuration states."""

    inputs: tuple[Tensor, ...] = Field(min_length=1, max_length=64)
    """The model's input tensors, in the order in which their features are scored."""

    @model_validator(mode="after")
    def _check(self) -> DeclaredContract:
        faults = Faults()
        seen: set[str] = set()
        for index, tensor in enumerate(self.inputs):
            if tensor.name in seen:
                faults.add(f"the tensor {tensor.name!r} is declared twice", "inputs", index, "name")
            seen.add(tensor.name)
        faults.report()
        return self


class LearntContract(Section):
    """A contract that is learnt from the model server's own metadata."""

    refresh_seconds: Seconds = 30.0
    """How often the metadata is asked for again, to notice a new model."""


def _contract_kind(value: Any) -> str:
    declared = isinstance(value, DeclaredContract) or (
        isinstance(value, dict) and "inputs" in value
    )
    return "declared" if declared else "learnt"


def _learn(value: Any) -> Any:
    return {} if value == "learn" else value


Contract = Annotated[
    Annotated[DeclaredContract, Tag("declared")]
    | Annotated[
        LearntContract,
        BeforeValidator(_learn, json_schema_input_type=Literal["learn"] | LearntContract),
        Tag("learnt"),
    ],
    Discriminator(_contract_kind),
]


class Timeouts(Section):
    """How long the model server may take, in seconds."""

    connect_seconds: Seconds = 2.0
    """To accept a connection."""
    response_seconds: Seconds = 30.0
    """From the last byte of the request to the head of the answer."""
    total_seconds: Seconds = 60.0
    """From the first byte of the request to the last of the answer."""
    queue_seconds: Seconds = 1.0
    """How long a request may wait for a free connection."""

    @model_validator(mode="after")
    def _check(self) -> Timeouts:
        faults = Faults()
        if self.response_seconds > self.total_seconds:
            faults.add(
                f"{self.response_seconds:g} s can never pass: total_seconds is "
                f"{self.total_seconds:g}",
                "response_seconds"
                if "response_seconds" in self.model_fields_set
                else "total_seconds",
            )
        faults.report()
        return self


class UpstreamTls(ClientTls):
    """TLS to the model server."""

    server_name: ServerName | None = None
    """The name that the server's certificate must carry; none: the upstream's host."""


class Quota(Section):
    """How many rows may pass: a rate with a burst, an allowance for a day, both or neither."""

    rows_per_second: Annotated[float, Field(ge=1e-4, le=1e7, allow_inf_nan=False)] | None = None
    """The sustained rate of rows; none: no limit on the rate."""
    burst_rows: Count | None = None
    """Rows that may come at once; none: one second's worth, and at least one request's."""
    rows_per_day: Count | None = None
    """Rows in a day, from midnight to midnight UTC; none: no daily limit."""

    @model_validator(mode="after")
    def _check_quota(self) -> Quota:
        faults = Faults()
        if self.burst_rows is not None and self.rows_per_second is None:
            faults.add("burst_rows needs rows_per_second beside it", "burst_rows")
        faults.report()
        return self

    @property
    def is_unlimited(self) -> bool:
        """True if nothing is limited."""
        return self.rows_per_second is None and self.rows_per_day is None

    def burst(self, rows_per_request: int) -> int:
        """The burst in rows, stated or not: 0 if the rate is not limited."""
        if self.rows_per_second is None:
            return 0
        return self.burst_rows or max(math.ceil(self.rows_per_second), rows_per_request)


class Limits(Quota):
    """What one client may send, and how large one request may be."""

    rows_per_request: Annotated[int, Field(gt=0, le=10**7)] = 1024
    """Rows in one request."""
    body_bytes: Bytes = 10 * 2**20
    """The size of a request's body, as sent and as decompressed."""
    expanded_ratio: Annotated[float, Field(ge=1, le=10_000)] = 20.0
    """How many times its size a compressed body may grow. JSON numbers shrink to a half, sparse
    images to a tenth; memory for reading JSON comes on top."""


class Patterns(Section):
    """How the patterns of clients' queries are watched."""

    profile: Literal["default", "frames", "exploration"] = "default"
    """What honest clients send: ``frames`` are near-duplicates of each other, as of a film;
    ``exploration`` changes one feature at a time, as in what-if tools. Both switch off the
    statistics that such traffic trips; docs/detection.md says what is then not recognised."""
    clients: Annotated[int, Field(ge=16, le=10**6)] = 10_000
    """Clients whose queries a worker keeps at hand, at up to 16 KB each."""
    coverage_limit: Fraction | None = None
    """The share of the honest input space that one client may visit before the first step of
    ``on_pattern`` is taken; none: it is only told."""
    lineages: Literal["shape", "climb"] = "shape"
    """What becomes of a client without evidence of its own whose query descends from others'
    attack. ``shape``: coarse answers at most, so that nobody can have another's input refused.
    ``climb``: all steps of ``on_pattern``, which stops attackers who use each account for few
    queries."""
    throttle_seconds: Seconds = 10.0
    """From one row to the next of a client that is throttled."""


Step = Literal["shape", "throttle", "block"]
_LADDER: tuple[Step, ...] = ("shape", "throttle", "block")


class Endpoint(Section):
    """One model behind the firewall."""

    name: Name
    """The endpoint's name, in logs and metrics."""
    match: PathPrefix
    """The clients' path: ``/v2/models/NAME``, or ``/v2/models/NAME/versions/VERSION``."""
    upstream: Annotated[
        tuple[Upstream, ...],
        BeforeValidator(one_or_more, json_schema_input_type=Upstream | tuple[Upstream, ...]),
        Field(min_length=1, max_length=64),
    ]
    """The model server, or a list of servers that hold the same model: ``http://host:port``,
    ``https://host:port`` or ``unix:/path``."""
    upstream_tls: UpstreamTls | None = None
    """TLS to ``https://`` upstreams, where the system's certificates do not suffice."""
    timeouts: Timeouts = Timeouts()
    """How long the model server may take."""
    connections: Annotated[int, Field(gt=0, le=65_535)] = 128
    """Connections to each upstream, at most."""
    protocol: Literal["v2"] = "v2"
    """The wire protocol: the Open Inference Protocol, version 2."""
    contract: Contract = LearntContract()
    """The model's input tensors: ``learn`` asks the model server; ``{inputs: […]}`` states them."""
    bundle: FilePath | None = None
    """The fitted detectors; none: contract and limits only."""
    mode: Mode = Mode.ENFORCE
    """``enforce``, or ``monitor``: decide and record, but refuse nothing."""
    false_positive_budget: Fraction | None = None
    """The share of honest rows that may be flagged; none: what the bundle was fitted for."""
    confidence: Fraction | None = None
    """How sure it must be that the budget is kept; none: what the bundle was fitted for."""
    on_outlier: Literal["block", "allow"] = "block"
    """What becomes of a request with flagged rows: ``block``, or ``allow`` and record it."""
    block_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """A request is refused if more than this fraction of its rows is flagged; 0: if any is."""
    client_alarm_budget: Fraction | None = None
    """The share of honest client-days with a false alarm; none: what the bundle was fitted for."""
    on_pattern: tuple[Step, ...] = _LADDER
    """What becomes of a client whose queries form a pattern, a step further with each factor of a
    thousand in the evidence: ``shape`` makes answers coarse, which no client can tell from the
    model; ``throttle`` lets a row pass now and then; ``block`` refuses. None: it is recorded."""
    patterns: Patterns = Patterns()
    """How patterns are watched."""
    answer: Answer = Answer()
    """How the model's answer is read."""
    on_disagreement: Literal["block", "shape", "allow"] = "block"
    """What becomes of an answer that does not go with its input: ``block`` refuses it, ``shape``
    makes it coarse, ``allow`` records it."""
    second_opinion: SecondOpinion = SecondOpinion()
    """Whether the model is asked again about a suspicious row."""
    shaping: Shaping = Shaping()
    """How answers are made coarse, and when."""
    capture: Capture | None = None
    """A sample of live traffic, for ``bartizan record``; none: nothing is captured."""
    failure_mode: FailureMode = Field(
        default_factory=lambda data: (
            FailureMode.ALLOW if data.get("mode") is Mode.MONITOR else FailureMode.DENY
        )
    )
    """What becomes of a request on a fault of ours: ``deny`` or ``allow``. Unless stated, ``deny``
    where the mode is ``enforce`` and ``allow`` where it is ``monitor``."""
    limits: Limits = Limits()
    """Limits of each client."""
    subnet_limits: Quota = Quota()
    """Limits of each subnet, over all its clients."""
    endpoint_limits: Quota = Quota()
    """Limits of the endpoint, over all clients."""
    rules: Annotated[dict[str, RuleSwitch], AfterValidator(known_rules)] = Field(
        default_factory=dict
    )
    """Rules switched off, moved to monitor, or excluded for a client, by rule id."""

    @property
    def model(self) -> str:
        """The model's name, from ``match``."""
        return self.match.split("/")[3]

    @property
    def version(self) -> str:
        """The model's version, from ``match``, or ""."""
        return self.match.split("/")[5] if self.match.count("/") > 3 else ""

    @model_validator(mode="after")
    def _check(self) -> Endpoint:
        faults = Faults()
        self._check_match(faults)
        self._check_upstream(faults)
        self._check_scoring(faults)
        self._check_quotas(faults)
        faults.report()
        return self

    def _check_match(self, faults: Faults) -> None:
        parts = self.match.split("/")
        if parts[:3] != ["", "v2", "models"] or not (
            len(parts) == 4 or (len(parts) == 6 and parts[4] == "versions")
        ):
            faults.add(
                "the v2 protocol's paths are /v2/models/NAME and /v2/models/NAME/versions/VERSION",
                "match",
            )

    def _check_upstream(self, faults: Faults) -> None:
        for index, origin in enumerate(self.upstream):
            if origin in self.upstream[:index]:
                faults.add(f"the upstream {origin} is listed twice", "upstream", index)
        if self.upstream_tls is not None and not any(origin.tls for origin in self.upstream):
            faults.add("no upstream is https://: it would do nothing", "upstream_tls")

    def _check_scoring(self, faults: Faults) -> None:
        if list(self.on_pattern) != [step for step in _LADDER if step in self.on_pattern]:
            faults.add("each step comes once, in the order shape, throttle, block", "on_pattern")
        if self.shaping.mode == "label" and self.answer.kind == "values":
            faults.add("values have no label: choose another mode", "shaping", "mode")
        if self.bundle is not None:
            return
        if "shaping" in self.model_fields_set and self.shaping.when == "pattern":
            faults.add("no pattern is recognised without a bundle: it would do nothing", "shaping")
        used = {"answer"} if self.capture or "shaping" in self.model_fields_set else set()
        for key in _SCORING:
            if key in self.model_fields_set - used:
                faults.add("nothing is scored without a bundle: it would do nothing", key)
        for rule in (rules.OUTLIER, rules.DISAGREEMENT, *rules.PATTERNS):
            if rule.id in self.rules:
                faults.add(
                    "nothing is scored without a bundle: it would do nothing", "rules", rule.id
                )

    def _check_quotas(self, faults: Faults) -> None:
        most = self.limits.rows_per_request
        for section in ("limits", "subnet_limits", "endpoint_limits"):
            quota: Quota = getattr(self, section)
            for key in ("burst_rows", "rows_per_day"):
                allowed: int | None = getattr(quota, key)
                if allowed is not None and allowed < most:
                    faults.add(
                        f"{allowed} is below limits.rows_per_request ({most}): such a request "
                        f"could never pass; raise it, or lower rows_per_request",
                        section,
                        key,
                    )
