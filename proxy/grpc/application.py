"""Between gRPC's listener and whoever answers."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from proxy.grpc.exchange import Exchange
from proxy.http.application import Intake
from proxy.http.messages import Head, Peer, Reply
from proxy.rules import Refusal


class Application(Protocol):
    """Decides on calls as ``http.application.Application`` does on requests. It may be swapped for
    another at any time: a call that one has opened is handled by the same one.
    """

    def open(self, head: Head, peer: Peer, /) -> Intake:
        """Sees a call before its message is looked into.

        Raises:
            Refusal: to answer without that.
        """

    def handle(self, exchange: Exchange, /) -> Coroutine[Any, Any, None]:
        """Answers a call, in the task of its handler: cancelled when the client leaves."""

    def refuse(self, refusal: Refusal, head: Head | None, peer: Peer, received: float, /) -> Reply:
        """The answer to a call that was refused before, or instead of, :meth:`handle`."""
