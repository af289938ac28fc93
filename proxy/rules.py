"""Every reason for which Bartizan refuses or alters an exchange, in one table.

A rule has a stable id, as a web application firewall's rule does, the status and the words that a
client sees, and the MITRE ATLAS techniques that it speaks to. The only other place where a rule is
described is ``docs/rules.md``, which is generated from this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RULES: Final[dict[str, Rule]] = {}


@dataclass(frozen=True, slots=True)
class Rule:
    """One reason for a refusal.

    Attributes:
        id: ``BZ-nnn``; never reused for another meaning.
        status: the HTTP status of the refusal.
        message: what the client reads. It never holds a score, a threshold or a configuration.
        meaning: what the operator reads.
        explains: whether the client also reads the refusal's detail. Only rules about the client's
            own malformed request explain themselves; a verdict of a detector never does.
        atlas: MITRE ATLAS technique ids (v5.6).
    """

    id: str
    status: int
    message: str
    meaning: str
    explains: bool = False
    atlas: tuple[str, ...] = ()


class Refusal(Exception):  # noqa: N818 - a refusal is a verdict, not an error of ours
    """A typed refusal: raised while a request is understood, carried as a value afterwards.

    Attributes:
        rule: the reason.
        detail: the specifics; shown to the client only where ``rule.explains``.
        retry_after: whole seconds after which the client may try again, or None.
    """

    def __init__(self, rule: Rule, detail: str = "", *, retry_after: int | None = None) -> None:
        super().__init__(rule, detail)
        self.rule = rule
        self.detail = detail
        self.retry_after = retry_after

    @property
    def message(self) -> str:
        """What the client reads."""
        if self.rule.explains and self.detail:
            return f"{self.rule.message}: {self.detail}"
        return self.rule.message

    def __str__(self) -> str:
        return f"{self.rule.id} {self.rule.message}: {self.detail}"


def _rule(
    number: int,
    status: int,
    message: str,
    meaning: str,
    *atlas: str,
    explains: bool = False,
) -> Rule:
    rule = Rule(f"BZ-{number}", status, message, meaning, explains, atlas)
    RULES[rule.id] = rule
    return rule


_DENIAL = "AML.T0029"  # Denial of AI Service
_COST = "AML.T0034.000"  # Cost Harvesting: excessive queries
_COSTLY = "AML.T0034.001"  # Cost Harvesting: resource-intensive queries
_EVADE = "AML.T0015"  # Evade AI Model
_CRAFT = "AML.T0043"  # Craft Adversarial Data
_ACCESS = "AML.T0040"  # AI Model Inference API Access
_TRANSFER = "AML.T0043.002"  # Craft Adversarial Data: transfer
_BLACK_BOX = "AML.T0043.001"  # Craft Adversarial Data: black-box optimisation
_VERIFY = "AML.T0042"  # Verify Attack
_EXTRACT = "AML.T0024.002"  # Exfiltration via AI Inference API: extract AI model
_REPLICATE = "AML.T0005.001"  # Create Proxy AI Model: train proxy via replication

# fmt: off
# BZ-1xx: the protocol. The request could not be read, or must not be passed on.
MALFORMED = _rule(100, 400, "malformed HTTP request", "The bytes are not one well-formed HTTP/1 request.", explains=True)
FRAMING = _rule(101, 400, "ambiguous request", "Two parsers could read the request differently: framing, duplicate or look-alike headers, trailers, folding.", explains=True)
HEAD_TOO_LARGE = _rule(102, 431, "request head too large", "The head passed its size or count limit.", _DENIAL, explains=True)
BODY_TOO_LARGE = _rule(103, 413, "request body too large", "The body passed the endpoint's limit, as sent or decompressed: nothing is inspected in part.", _COSTLY, explains=True)
HEAD_DEADLINE = _rule(104, 408, "request head took too long", "The head was not complete by its deadline.", _DENIAL)
BODY_DEADLINE = _rule(105, 408, "request body took too long", "The body missed its deadline or its minimum rate.", _DENIAL)
OVERLOADED = _rule(106, 503, "server is at its connection limit", "The connection was shed at accept: there are as many as may be.", _DENIAL)
CODING = _rule(107, 415, "unsupported content coding", "The Content-Encoding is not gzip, deflate, zstd or identity, or is applied twice.", explains=True)
CODED_BODY = _rule(108, 400, "body does not decompress", "The compressed body is corrupt, truncated or has bytes after its end.", explains=True)
RATIO = _rule(109, 413, "body expands too far", "The compressed body passed the ratio cap while it was decoded.", _COSTLY)
NO_ROUTE = _rule(110, 404, "no such route", "No endpoint is configured for this path.", _ACCESS)
METHOD = _rule(111, 405, "method not allowed", "The route exists, but not with this method.", explains=True)
CONTROL_PATH = _rule(112, 403, "this API is restricted", "A control, repository, shared-memory, logging or trace path of the model server.", _ACCESS)
MEDIA_TYPE = _rule(113, 415, "unsupported content type", "The Content-Type is not one that the endpoint's protocol defines.", explains=True)
EXPECTATION = _rule(114, 417, "expectation failed", "An Expect header other than 100-continue.")
SYNTAX = _rule(120, 400, "request body cannot be read", "The body is not strict UTF-8 JSON, or not of the protocol's structure.", explains=True)
DUPLICATE_KEY = _rule(121, 400, "duplicate key", "A JSON object names a key twice: servers differ in which one they take.", explains=True)
BINARY_FRAMING = _rule(122, 400, "binary tensor data does not add up", "Header length, binary_data_size and the tail disagree, or raw mode was asked for.", explains=True)
SHARED_MEMORY = _rule(123, 403, "shared-memory tensors are refused", "The tensor's data is not in the request, so it cannot be inspected.")
PARAMETER = _rule(124, 400, "parameter not supported", "A parameter whose meaning the firewall does not know.", explains=True)
UPSTREAM_UNREACHABLE = _rule(130, 502, "model server unreachable", "No upstream accepted the request.")
UPSTREAM_TIMEOUT = _rule(131, 504, "model server took too long", "The upstream missed its response or total deadline.")
UPSTREAM_INVALID = _rule(132, 502, "model server answered invalidly", "The upstream's answer is not well-formed HTTP, or was not asked for.")
UPSTREAM_QUEUE = _rule(133, 503, "model server is busy", "The model server has as much as it can do at once, and more wait for it already than it can serve within the queue's time bound.", _DENIAL)
BUSY = _rule(134, 503, "server is busy", "More requests come than can be read, inspected or judged in time, or clients do not take the answers that were read for them.", _DENIAL)
ANSWER_UNREADABLE = _rule(135, 502, "model server's answer cannot be used", "The answer was to be shaped and could not be read: not of the protocol, too large, or in an unknown content coding. The failure mode decided.")

# BZ-2xx: the contract. The tensors are not those that the model declares.
TENSOR_NAME = _rule(200, 400, "unexpected tensor", "A tensor is missing, repeated or unknown to the model's contract.", explains=True)
DATATYPE = _rule(201, 400, "wrong datatype", "A tensor's datatype is not the contract's.", explains=True)
SHAPE = _rule(202, 400, "wrong shape", "A tensor's shape is not the contract's, or does not match its data.", explains=True)
VALUE = _rule(203, 400, "value out of range", "A value is not finite, not of its datatype, or outside the contract's range.", explains=True)
CONTRACT_UNKNOWN = _rule(204, 503, "model contract not known yet", "The contract is to be learnt from the model server, which has not answered yet.")

# BZ-3xx: outliers. The input is unlike the honest data.
OUTLIER = _rule(300, 403, "request refused", "The merged outlier score passed the calibrated threshold.", _EVADE, _CRAFT)
DETECTOR_FAULT = _rule(390, 503, "request cannot be inspected", "A detector failed or returned a score that is not finite; the failure mode decided.")

# BZ-4xx: agreement. The model's answer is unlike those that such inputs get.
DISAGREEMENT = _rule(400, 403, "request refused", "The input and the model's answer do not go together: the merged score over both passed the calibrated threshold.", _EVADE, _CRAFT, _TRANSFER)
AGREEMENT_FAULT = _rule(490, 503, "request cannot be inspected", "An agreement detector failed, its score is not finite, or the answer lacks what it needs; the failure mode decided.")

# BZ-5xx: patterns. The sequence of a client's queries is unlike any honest client's.
PROBING_CLIENT = _rule(500, 403, "request refused", "The client's queries step around a point as a black-box attack does.", _BLACK_BOX, _VERIFY, _EVADE)
PROBING_SUBNET = _rule(501, 403, "request refused", "The subnet's clients together step around a point as a black-box attack does.", _BLACK_BOX, _VERIFY, _EVADE)
PROBING_LINEAGE = _rule(502, 403, "request refused", "The query descends from others', of whatever clients, that together step around a point as a black-box attack does.", _BLACK_BOX, _VERIFY, _EVADE)
PROBING_ENDPOINT = _rule(503, 403, "request refused", "All clients of the endpoint together step around points as black-box attacks do. It is recorded and refuses nothing: it is nobody's fault alone.", _BLACK_BOX)
EXTRACTION_CLIENT = _rule(510, 403, "request refused", "The client's inputs as a whole are not drawn as honest ones are: a model is being extracted with synthetic or foreign inputs.", _EXTRACT, _REPLICATE)
EXTRACTION_SUBNET = _rule(511, 403, "request refused", "The inputs of the subnet's clients as a whole are not drawn as honest ones are.", _EXTRACT, _REPLICATE)
EXTRACTION_ENDPOINT = _rule(513, 403, "request refused", "The inputs of all clients of the endpoint as a whole are not drawn as honest ones are. It is recorded and refuses nothing: drift looks the same.", _EXTRACT)
COVERAGE_CLIENT = _rule(520, 403, "request refused", "The client has seen more of the input space than the endpoint's coverage limit allows.", _EXTRACT, _REPLICATE)
PACED = _rule(540, 429, "rate limit exceeded", "The client is throttled for a pattern: a row passes now and then. Its words are those of an ordinary limit.", _BLACK_BOX, _EXTRACT)
BANNED = _rule(550, 403, "request refused", "The operator banned the client until a moment.", _ACCESS)
PATTERN_FAULT = _rule(590, 503, "request cannot be inspected", "A pattern statistic failed or is not finite; the failure mode decided.")

# BZ-6xx: limits. Rows are the unit of every limit.
ROWS_PER_REQUEST = _rule(600, 413, "too many rows in one request", "The request holds more rows than the endpoint allows.", _COSTLY, explains=True)
CLIENT_RATE = _rule(601, 429, "rate limit exceeded", "The client's row rate or burst is spent.", _COST, _DENIAL)
CLIENT_DAY = _rule(602, 429, "daily quota exceeded", "The client's rows for the day are spent.", _COST)
SUBNET_RATE = _rule(603, 429, "rate limit exceeded", "The subnet's row rate or burst is spent.", _COST, _DENIAL)
SUBNET_DAY = _rule(604, 429, "daily quota exceeded", "The subnet's rows for the day are spent.", _COST)
ENDPOINT_RATE = _rule(605, 429, "rate limit exceeded", "The endpoint's row rate or burst, over all clients, is spent.", _COST, _DENIAL)
ENDPOINT_DAY = _rule(606, 429, "daily quota exceeded", "The endpoint's rows for the day, over all clients, are spent.", _COST)

# BZ-9xx: our own faults. Each follows the endpoint's failure mode, is counted and audited.
INTERNAL = _rule(900, 503, "internal fault", "An exception that nothing else names: a defect of Bartizan.")
AUDIT_FAULT = _rule(901, 503, "audit log unavailable", "The audit record could not be written within its bound.")
# fmt: on

PATTERNS: Final = (
    PROBING_CLIENT,
    PROBING_SUBNET,
    PROBING_LINEAGE,
    PROBING_ENDPOINT,
    EXTRACTION_CLIENT,
    EXTRACTION_SUBNET,
    EXTRACTION_ENDPOINT,
    COVERAGE_CLIENT,
)
"""Verdicts over the sequence of queries: the ladder of the endpoint says what they do."""

FAULTS: Final = (
    CONTRACT_UNKNOWN,
    DETECTOR_FAULT,
    AGREEMENT_FAULT,
    PATTERN_FAULT,
    ANSWER_UNREADABLE,
    INTERNAL,
    AUDIT_FAULT,
)
"""Faults of ours, which the endpoint's failure mode decides."""

SHEDS: Final = (UPSTREAM_QUEUE, BUSY)
"""By which a request is shed under overload, before its body is read."""
