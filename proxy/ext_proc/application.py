"""Between the listener for Envoy and whoever answers."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from proxy.ext_proc.exchange import Exchange
from proxy.http.application import Intake
from proxy.http.messages import Head, Peer, Reply
from proxy.rules import Refusal


class Application(Protocol):
    """Decides on exchanges as ``http.application.Application`` does on requests. It may be swapped
    for another at any time: an exchange that one has opened is handled by the same one.
    """

    def open(self, head: Head, peer: Peer, /) -> Intake:
        """Sees a checked head, before any of the body is asked for.

        Raises:
            Refusal: to answer without the body.
            Shed: the same, and at once.
        """

    def shed(self, head: Head, /) -> Reply | None:
        """The answer to a request that there is no room for, counted; None if it is to be handled
        all the same."""

    def handle(self, exchange: Exchange, /) -> Coroutine[Any, Any, None]:
        """Answers an exchange, in the task of its stream: ``CancelledError`` is raised in it when
        Envoy leaves."""

    def refuse(self, refusal: Refusal, head: Head | None, peer: Peer, received: float, /) -> Reply:
        """The answer to a request that was refused before, or instead of, :meth:`handle`."""
