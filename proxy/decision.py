"""The values that pass between scoring, deciding and enforcing, and the permit to forward.

Nothing here computes: ``policy.py`` makes decisions, ``pipeline.py`` enforces them, and the
upstream client sends nothing that is not inside a :class:`Permit`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from proxy.rules import Refusal, Rule


class Action(Enum):
    """What becomes of an exchange, from mildest to hardest."""

    ALLOW = "allow"
    SHAPE = "shape"
    THROTTLE = "throttle"
    BLOCK = "block"

    # A member is hashed for every exchange, in the metrics: identity is cheaper than the name.
    __hash__ = object.__hash__


class Mode(Enum):
    """Whether a decision changes what the client sees."""

    ENFORCE = "enforce"
    MONITOR = "monitor"


class FailureMode(Enum):
    """What a fault of ours does to the exchange."""

    DENY = "deny"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class Reason:
    """One rule that matched, with its evidence for the operator.

    Attributes:
        detail: the specifics.
        retry_after: whole seconds after which the client may try again, or None.
        action: what is to be done, where that is not the rule's alone to say: a pattern's answer
            climbs with the evidence.
    """

    rule: Rule
    detail: str = ""
    retry_after: int | None = None
    action: Action | None = None

    @classmethod
    def of(cls, refusal: Refusal) -> Reason:
        """The reason that a refusal stands for."""
        return cls(refusal.rule, refusal.detail, refusal.retry_after)


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict over one exchange.

    Attributes:
        action: what the policy decided.
        enforced: what is done; differs from ``action`` in monitor mode and on a tolerated fault.
        reasons: the rules that matched, the deciding one first; empty for a plain allow.
    """

    action: Action
    enforced: Action
    reasons: tuple[Reason, ...] = ()

    @property
    def would_block(self) -> bool:
        """True if the policy refused but the client does not see it."""
        return self.action is not self.enforced


ALLOWED: Final = Decision(Action.ALLOW, Action.ALLOW)


class UpstreamRequest(NamedTuple):
    """A request built from scratch, and from nothing but what was understood.

    Attributes:
        method: ``b"GET"`` or ``b"POST"``.
        target: the canonical path.
        headers: rendered lines, each ended by CRLF: neither Host nor any framing header is in it
            (the client of ``http.upstream`` writes those).
        body: the canonical bytes, those that were scored.
    """

    method: bytes
    target: bytes
    headers: bytes
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Permit:
    """The only thing that the upstream client sends.

    Raises:
        PermissionError: if the decision that is to yield it did not let the exchange through.
    """

    decision: Decision
    request: UpstreamRequest = field(repr=False)

    def __post_init__(self) -> None:
        enforced = self.decision.enforced
        if enforced is not Action.ALLOW and enforced is not Action.SHAPE:
            raise PermissionError(f"a decision to {enforced.value} yields no permit")
