"""What the pipeline asks of a wire, HTTP or gRPC: exchanges with clients, and a way to send
upstream what is permitted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from proxy.decision import Permit
from proxy.http.application import Application
from proxy.http.messages import Head, Peer, Reply
from proxy.http.upstream import PoolState


class Answer(Protocol):
    """The upstream's answer, of which the head is there. See ``http.response.Response``."""

    status: int
    headers: list[tuple[bytes, bytes]]

    @property
    def bodiless(self) -> bool:
        """Whether no body belongs to it."""

    @property
    def complete(self) -> bool:
        """Whether all of it is there."""

    @property
    def buffered(self) -> int:
        """Bytes of it that are there, and that nobody took."""

    def get(self, name: bytes, /) -> bytes | None:
        """The value of the first header with this lower-case name, or None."""

    async def gathered(self, limit: int, /) -> bytes | None:
        """The body, which stays there to be relayed; None if it has more than ``limit`` bytes.

        Raises:
            Refusal: if the upstream dies first.
        """

    async def whole(self, limit: int, /) -> bytes:
        """The body.

        Raises:
            Refusal: if the upstream dies first, or it has more than ``limit`` bytes.
        """

    async def body(self, limit: int, /) -> bytes:
        """As :meth:`whole`."""

    def discard(self) -> None:
        """Nobody wants the rest."""


class Sender(Protocol):
    """A way to a model server."""

    async def send(self, permit: Permit, /) -> Answer:
        """Sends a request and waits for the head of its answer. There is no other way to send.

        Raises:
            Refusal: UPSTREAM_UNREACHABLE, UPSTREAM_TIMEOUT, UPSTREAM_INVALID or UPSTREAM_QUEUE.
        """


class Transport(Sender, Protocol):
    """The servers of a binding. See ``http.upstream.Pool``."""

    @property
    def crowded(self) -> bool:
        """Whether a request that came now would be turned away: more wait than can be served in
        time."""

    def state(self) -> PoolState:
        """A moment's figures of all upstreams."""

    async def close(self, seconds: float = 0.0) -> None:
        """Ends it: what is under way has so long to finish."""


class Listens(Protocol):
    """Takes clients' connections, and gives the application exchanges. See
    ``http.downstream.Listener``.
    """

    application: Application

    @property
    def port(self) -> int:
        """The TCP port that is listened on, 0 on a unix socket."""

    async def start(self) -> None:
        """Listens.

        Raises:
            OSError: if the address cannot be bound.
        """

    def renew(self) -> None:
        """Reads its certificate anew, if it has one of its own to read.

        Raises:
            OSError: if that cannot be used; the old one goes on then.
        """

    async def drain(self, seconds: float) -> None:
        """Accepts no more, lets what is under way be answered within so many seconds, closes."""

    async def close(self) -> None:
        """Closes at once: whatever is under way is cancelled."""


class TakesCalls(Listens, Protocol):
    """One that takes gRPC's calls. See ``grpc.service.Service``."""

    def counts(self) -> tuple[int, int]:
        """Calls under way, and how many were shed in total."""


class Exchange(Protocol):
    """One request that was read wholly, and the channel for its one answer. See
    ``http.exchange.Exchange``: attributes and methods are those.
    """

    head: Head
    body: bytes
    peer: Peer
    context: Any
    received: float
    read: float
    status: int
    answered: bool

    @property
    def upstream(self) -> Sender | None:
        """The way of this request to its model server; None: to the servers of its binding."""

    def reply(self, reply: Reply, /) -> None:
        """Sends a local answer, complete, at once."""

    # An exchange relays the answers of its own wire: their types are its own affair.
    async def relay(
        self, response: Any, extra: bytes = b"", tap: Callable[[bytes], None] | None = None
    ) -> int:
        """Passes the upstream's answer on; the bytes of body sent. ``tap`` sees each of its parts
        once it was sent."""

    def replace(self, response: Any, lines: bytes, body: bytes, extra: bytes = b"") -> int:
        """Sends a body of ours in place of the upstream's; the bytes of body sent."""

    async def drained(self) -> None:
        """Waits until the client has taken most of what was sent."""
