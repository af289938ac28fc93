"""What an audit log holds beyond verdicts so that ``bartizan replay`` can decide anew: of every
exchange what decided it, and what happened beside the exchanges. Only where ``audit.replay`` is
set: bodies may be personal data.

Of a request: the body as it came, the headers that codecs read and no others, the subnet's
pseudonym, and the moments at which limits and patterns counted it. Of the model's answers: those
that were read. Moments are seconds on the process's monotonic clock, as exact as the clock itself.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from proxy.http.messages import Head

if TYPE_CHECKING:
    from proxy.telemetry.audit import Audit
    from proxy.visit import Visit

NOTE: Final = "replay"
"""The note of an exchange's record, and the type of the records of what happened beside."""

_HEADERS: Final = frozenset(
    {b"accept", b"content-encoding", b"content-type", b"inference-header-content-length"}
)
_PREFIX: Final = b"x-amzn-sagemaker-"
_DELETE: Final = b"\x7f"


@dataclass(frozen=True, slots=True)
class Heard:
    """One answer of the model server's, as it was read.

    Attributes:
        body: None if it was larger than is read.
        question: of a second opinion: see :func:`question`; "" for the answer to the client.
    """

    status: int
    headers: Iterable[tuple[bytes, bytes]]
    body: bytes | None
    question: str = ""


class Recording:
    """Writes what happens beside the exchanges into the audit log.

    Args:
        clock: monotonic seconds, the one of the exchanges.
        alone: whether no other process shares the state.
    """

    def __init__(self, audit: Audit, *, clock: Callable[[], float], alone: bool) -> None:
        self._audit = audit
        self._clock = clock
        self.alone = alone

    def happened(self, what: str, endpoint: str, /, **fields: Any) -> None:
        """Records something that decisions depend on, with its moment unless that is given."""
        fields.setdefault("at", self._clock())
        self._audit.event(NOTE, what=what, endpoint=endpoint, **fields)


def question(body: bytes) -> str:
    """By which a question of ours to the model is known again."""
    return sha256(body).hexdigest()[:16]


def unread(received: float) -> dict[str, Any]:
    """The note of a request that the wire refused: nothing of it was read."""
    return {"wire": True, "read": received}


def note(visit: Visit, head: Head, body: bytes, wall: float) -> dict[str, Any]:
    """The note of an exchange.

    Args:
        body: as it came.
        wall: seconds since the epoch, now.
    """
    record = visit.record
    told: dict[str, Any] = {
        "read": record.read,
        "wall": wall,
        "subnet": visit.identity.subnet,
        "headers": kept_headers(head.headers.items()),
        **text_of(body),
    }
    moments = (
        ("taken", visit.taken),
        ("watched", visit.watched),
        ("answered", record.answered),
        ("weighed", visit.weighed),
        ("finished", record.finished),
    )
    told |= {name: moment for name, moment in moments if moment}
    if visit.heard:
        told["answers"] = [_answer(one) for one in visit.heard]
    if visit.drawn is not None:
        told["drawn"] = visit.drawn
    return told


def kept_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Those that say how a body is to be read. The first of equal names, as the gateway has it. Of
    SageMaker's own it is enough that they were there: their values are the client's affair."""
    kept: dict[str, str] = {}
    for name, value in headers:
        if name in _HEADERS:
            kept.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        elif name.startswith(_PREFIX):
            kept[name.decode("latin-1")] = "..."
    return kept


def text_of(body: bytes) -> Mapping[str, str]:
    """A body as what JSON can hold: as text where that is as long, and in base 64 otherwise."""
    if body.isascii() and _DELETE not in body:
        return {"body": body.decode("ascii")}
    return {"base64": b64encode(body).decode("ascii")}


def _answer(heard: Heard) -> dict[str, Any]:
    told: dict[str, Any] = {"status": heard.status, "headers": kept_headers(heard.headers)}
    if heard.body is not None:
        told |= text_of(heard.body)
    if heard.question:
        told["question"] = heard.question
    return told
