"""What the wire asks of whoever decides: the seam between ``proxy.http`` and the pipeline."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from proxy.http.messages import Head, Peer, Reply
from proxy.rules import Refusal, Rule

if TYPE_CHECKING:
    from proxy.http.exchange import Exchange


@dataclass(frozen=True, slots=True)
class Intake:
    """What the application allows of a request whose head it has seen.

    Attributes:
        body_limit: bytes of the body as sent; more is refused without being read.
        context: opaque, handed back in ``Exchange.context``.
    """

    body_limit: int
    context: Any = None


class Shed(Refusal):
    """A request that is refused because too much is asked at once, by an answer that is made
    already: it has to cost next to nothing.

    Attributes:
        reply: the answer.
    """

    def __init__(self, rule: Rule, reply: Reply) -> None:
        super().__init__(rule, "overload", retry_after=1)
        self.reply = reply


class Application(Protocol):
    """Decides on requests. One may be swapped for another at any time: a request that one has
    opened is handled by the same one.
    """

    def open(self, head: Head, peer: Peer) -> Intake:
        """Sees a checked head, before any of the body is read and before ``100 Continue``.

        Raises:
            Refusal: to answer without reading the body.
            Shed: the same, and at once.
        """

    def shed(self, head: Head) -> Reply | None:
        """The answer to a request that this process has no time for, counted; None if it is to be
        handled all the same.
        """

    def handle(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """Answers a request that was read wholly, by ``exchange.reply`` or ``exchange.relay``.

        The coroutine runs without a Task (see :mod:`proxy.http.drive`). ``CancelledError`` is
        raised in it when the client leaves. A ``Refusal`` that it raises is answered by
        :meth:`refuse`; any other exception is answered as INTERNAL and reported to the event
        loop's exception handler.
        """

    def refuse(self, refusal: Refusal, head: Head | None, peer: Peer, received: float) -> Reply:
        """The answer to a request that was refused before, or instead of, :meth:`handle`.

        Args:
            head: None if the head was never understood.
            received: clock at the request's first byte; of the connection, if there was none.
        """
