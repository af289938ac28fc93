"""How a strict reader takes raw bytes: ours, with nothing in between. What it refuses is malformed
by construction, and what it takes is not, whatever a generator meant to do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, cast

from proxy.http.coding import decode
from proxy.http.exchange import Exchange
from proxy.http.limits import ListenerLimits
from proxy.http.messages import Head
from proxy.http.request_reader import NOTHING, SLICE, RequestReader
from proxy.protocols.base import Call, Codec
from proxy.rules import CONTROL_PATH, METHOD, NO_ROUTE, Refusal, Rule

BODY_BYTES: Final = 10 * 2**20
"""The gateway's default for a body, plain or decoded."""
EXPANSION: Final = 20
"""Its default for how far a compressed one may grow."""

_UNCERTAIN: Final = frozenset({NO_ROUTE, METHOD})
"""Refusals that another server may well see otherwise: it has other paths."""

CONTROL: Final = (
    "/v2/repository/",
    "/v2/systemsharedmemory/",
    "/v2/cudasharedmemory/",
    "/v2/logging",
    "/v2/trace/",
)
"""Beginnings of paths by which a model server is controlled. Others that the gateway restricts may
be harmless elsewhere."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What raw bytes are.

    Attributes:
        may_answer: of each message found, in order, whether an answer 2xx to it is right. What is
            refused as HTTP ends the reading: it counts as one message.
        refused_by: the first refusal that makes it malformed; None: it is not.
        complete: whether nothing is missing at the end.
    """

    may_answer: tuple[bool, ...]
    refused_by: Rule | None
    complete: bool


@dataclass(slots=True)
class _Message:
    """What the request reader fills: the part of an exchange that it knows of."""

    head: Head
    body: bytes = b""
    read: float = 0.0


@dataclass(slots=True)
class _Messages:
    """Whose messages are read."""

    taken: list[_Message] = field(default_factory=list)

    def open_exchange(self, head: Head) -> tuple[Exchange, int]:
        """A head is complete."""
        return cast(Exchange, _Message(head)), BODY_BYTES

    def take(self, exchange: Exchange) -> None:
        """A message is complete."""
        self.taken.append(cast(_Message, exchange))


def read(data: bytes, codec: Codec) -> Reading:
    """Reads raw bytes as the strictest server would, up to the first that are no HTTP."""
    messages = _Messages()
    reader = RequestReader(messages, ListenerLimits(), frozenset(), lambda: 0.0)
    may_answer = []
    first: Rule | None = None
    complete = True
    refused: Rule | None = None
    try:
        for at in range(0, len(data), SLICE):
            reader.feed(data[at : at + SLICE])
        complete = reader.stage == NOTHING
    except Refusal as refusal:
        refused = refusal.rule
    finally:
        reader.close()
    for message in messages.taken:
        rule = _refused_by(message, codec)
        certain = rule is not None and rule not in _UNCERTAIN
        may_answer.append(not certain)
        first = first or (rule if certain else None)
    if refused is not None:
        certain = refused not in _UNCERTAIN
        may_answer.append(not certain)
        first = first or (refused if certain else None)
    return Reading(tuple(may_answer), first, complete)


def _refused_by(message: _Message, codec: Codec) -> Rule | None:
    """The rule by which one message is refused, or None."""
    head = message.head
    try:
        route = codec.route(head.method, head.target)
        if route.call is not Call.INFER:
            return None
        coding = head.get(b"content-encoding")
        body = decode(coding, message.body, limit=BODY_BYTES, ratio=EXPANSION)
        codec.decode_request(head, body, route)
    except Refusal as refusal:
        # What is refused for our own sake (a contract that is not known) says nothing of it.
        if refusal.rule is CONTROL_PATH and not head.target.startswith(CONTROL):
            return None
        return refusal.rule if refusal.rule.status < 500 else None
    return None
