"""The configuration of one endpoint: a model server, its contract, its detectors and its limits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticKnownError

from proxy import rules
from proxy.build_codecs import Bounds, Spoken, codec, grpc_match, spoken
from proxy.decision import FailureMode, Mode
from proxy.settings.answers import Answer, Capture, SecondOpinion, Shaping
from proxy.settings.client_tls import UpstreamTls
from proxy.settings.contract import Contract, LearntContract
from proxy.settings.fields import (
    FilePath,
    Matching,
    Origin,
    PathOrRoot,
    Seconds,
    Upstream,
    one_or_more,
)
from proxy.settings.grpc import EndpointGrpc
from proxy.settings.limits import Limits, Quota, Timeouts
from proxy.settings.protocols import V2, Auto, CustomJson, OpenAI, Protocol
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
Fraction = Annotated[float, Field(gt=0, lt=1)]


_SCORING = (
    "bundle_max_age_days",
    *("false_positive_budget", "confidence", "on_outlier", "block_fraction"),
    *("client_alarm_budget", "on_pattern", "patterns"),
    *("answer", "on_disagreement", "second_opinion"),
)
"""Keys that do nothing without a bundle."""


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


def _somewhere(value: tuple[Origin, ...], info: ValidationInfo) -> tuple[Origin, ...]:
    if not value and info.data.get("grpc", value) is None:
        raise PydanticKnownError("missing")
    return value


Step = Literal["shape", "throttle", "block"]
_LADDER: tuple[Step, ...] = ("shape", "throttle", "block")


class Endpoint(Section):
    """One model behind the firewall."""

    name: Name
    """The endpoint's name, in logs and metrics."""
    match: PathOrRoot
    """The clients' path, in the form of the protocol: ``/v2/models/NAME`` or
    ``/v2/models/NAME/versions/VERSION`` for v2; docs/protocols.md has the others."""
    grpc: EndpointGrpc | None = None
    """The same model for clients that speak gRPC; none: it is not asked so. Needs ``grpc`` beside
    ``endpoints``."""
    upstream: Annotated[
        tuple[Upstream, ...],
        BeforeValidator(one_or_more, json_schema_input_type=Upstream | tuple[Upstream, ...]),
        AfterValidator(_somewhere),
        Field(max_length=64, validate_default=True),
    ] = ()
    """The model server, or a list of servers that hold the same model: ``http://host:port``,
    ``https://host:port`` or ``unix:/path``. Only with ``grpc`` may it be left out: then the model
    is not asked over HTTP."""
    upstream_path: PathOrRoot | None = None
    """The path on the model server that takes the place of ``match``; none: the same."""
    upstream_tls: UpstreamTls | None = None
    """TLS to ``https://`` upstreams, where the system's certificates do not suffice."""
    timeouts: Timeouts = Timeouts()
    """How long the model server may take."""
    connections: Annotated[int, Field(gt=0, le=65_535)] = 128
    """Connections to each upstream, and requests that it is given at once, at most."""
    protocol: Protocol = V2()
    """The wire protocol: its name, or a mapping with its ``name`` and what else it has to be
    told."""
    slowdown: Annotated[float, Field(ge=1.1, le=100)] | None = Field(
        default_factory=lambda data: None if isinstance(data.get("protocol"), OpenAI) else 1.5
    )
    """How many times its latency without load the model server may take, before it is given fewer
    requests at once. One that gathers large batches may need more; none: it is always given
    ``connections``. Unless stated, 1.5, and none for ``openai``, where content decides how long an
    answer takes."""
    contract: Contract = LearntContract()
    """The model's input tensors: ``learn`` asks the model server; ``{inputs: […]}`` states them,
    ``{columns: […]}`` those of a data frame."""
    bundle: FilePath | None = None
    """The fitted detectors; none: contract and limits only."""
    bundle_max_age_days: Annotated[float, Field(gt=0, le=36_500, allow_inf_nan=False)] = 90.0
    """The age from which the bundle counts as stale: an alert then asks for it to be fitted anew.
    It is served all the same."""
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
    def spoken(self) -> tuple[Spoken, ...]:
        """The protocols over HTTP, each at its place."""
        return spoken(self.protocol, self.match, self.upstream_path) if self.upstream else ()

    @property
    def grpc_match(self) -> str | None:
        """The path by which gRPC clients ask for the model; None if they cannot."""
        if self.grpc is None:
            return None
        return grpc_match(self.protocol, self.match, self.grpc.model)

    @property
    def matches(self) -> tuple[str, ...]:
        """Every path by which clients ask for the model."""
        over_http = tuple(one.match for one in self.spoken)
        return over_http if self.grpc_match is None else (*over_http, self.grpc_match)

    @model_validator(mode="after")
    def _check(self) -> Endpoint:
        faults = Faults()
        self._check_match(faults)
        self._check_upstream(faults)
        self._check_scoring(faults)
        self._check_quotas(faults)
        self._check_texts(faults)
        faults.report()
        return self

    def _check_match(self, faults: Faults) -> None:
        if self.match == "/" and not isinstance(self.protocol, Auto):
            faults.add("only the protocol auto can take every path", "match")
            return
        for key, path in (("match", None), ("upstream_path", self.upstream_path)):
            try:
                for one in spoken(self.protocol, self.match, path):
                    codec(one, None, Bounds())
            except ValueError as error:
                # A protocol that takes any path has another fault to find.
                faults.add(str(error), "protocol" if self.protocol.name == "json" else key)
                return
        self._check_contract(faults)
        self._check_grpc(faults)

    def _check_contract(self, faults: Faults) -> None:
        if isinstance(self.contract, LearntContract):
            return
        try:
            contract = self.contract.declared()
            for one in self.spoken:
                codec(one, contract, Bounds())
        except ValueError as error:  # ContractError among them
            faults.add(str(error), "contract")

    def _check_grpc(self, faults: Faults) -> None:
        if self.grpc is None:
            return
        if isinstance(self.protocol, OpenAI) or getattr(self.protocol, "image", None) is not None:
            faults.add("gRPC asks about tensors, and this endpoint about something else", "grpc")
        if self.grpc.model is not None:
            return
        if self.grpc_match is None:
            faults.add(
                f"say model: the paths of {self.protocol.name} do not name it, and gRPC clients "
                "ask by it",
                "grpc",
            )
        elif self.upstream_path is not None and self.grpc_match != grpc_match(
            self.protocol, self.upstream_path, None
        ):
            faults.add(
                "say model: it has another name on its server, by which gRPC clients ask", "grpc"
            )

    def _check_upstream(self, faults: Faults) -> None:
        for key in ("protocol", "upstream_path", "upstream_tls"):
            if not self.upstream and key in self.model_fields_set:
                faults.add(
                    "without an upstream the model is not asked over HTTP: it would do nothing", key
                )
        for index, origin in enumerate(self.upstream):
            if origin in self.upstream[:index]:
                faults.add(f"the upstream {origin} is listed twice", "upstream", index)
        secured = any(origin.tls for origin in self.upstream)
        if self.upstream and self.upstream_tls is not None and not secured:
            faults.add("no upstream is https://: it would do nothing", "upstream_tls")

    def _check_scoring(self, faults: Faults) -> None:
        if list(self.on_pattern) != [step for step in _LADDER if step in self.on_pattern]:
            faults.add("each step comes once, in the order shape, throttle, block", "on_pattern")
        if self.shaping.mode == "label" and self.answer.kind == "values":
            faults.add("values have no label: choose another mode", "shaping", "mode")
        over_grpc = {"v2"} if self.grpc is not None else set()
        if self.answer.output and len({one.protocol.name for one in self.spoken} | over_grpc) > 1:
            # Or a client could have its answers judged or not as it likes.
            faults.add(
                "each of the endpoint's protocols has its own names for what is answered: leave it "
                "out, or make endpoints of them",
                "answer",
                "output",
            )
        if isinstance(self.protocol, CustomJson) and self.protocol.answer is None:
            for key, read in (
                ("capture", self.capture is not None),
                ("shaping", self.shaping.when == "always"),
            ):
                if read:
                    faults.add("say protocol.answer: where answers hold what the model says", key)
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

    def _check_texts(self, faults: Faults) -> None:
        if not isinstance(self.protocol, OpenAI):
            return
        if not isinstance(self.contract, LearntContract):
            faults.add("texts have no tensors: it would do nothing", "contract")
        if set(self.protocol.calls) != {"embeddings"}:
            for key in sorted(self.model_fields_set & {"bundle", "shaping"}):
                faults.add(
                    "of a text nothing is scored or shaped: protocol.calls must be [embeddings]",
                    key,
                )
        if self.second_opinion.when != "never":
            faults.add("of embeddings there is none: it would do nothing", "second_opinion")
        if self.capture is not None:
            faults.add(
                "captured are rows and the model's answers to them: embeddings are answers, and "
                "texts are no rows",
                "capture",
            )
        if self.protocol.unit in ("characters", "tokens"):
            for section in ("limits", "subnet_limits", "endpoint_limits"):
                quota: Quota = getattr(self, section)
                if quota.rows_per_second is not None and quota.burst_rows is None:
                    faults.add(
                        f"say burst_rows: how many {self.protocol.unit} one request may have is "
                        "not known",
                        section,
                        "rows_per_second",
                    )

    @property
    def rows_at_once(self) -> int:
        """The rows of the largest request, as the limits count them; 1 where that is not known."""
        if isinstance(self.protocol, OpenAI) and self.protocol.unit != "items":
            return 1
        return self.limits.rows_per_request

    def _check_quotas(self, faults: Faults) -> None:
        most = self.rows_at_once
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
