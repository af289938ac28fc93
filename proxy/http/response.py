"""The upstream's answer, as it arrives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.http.drive import Waiter
from proxy.rules import UPSTREAM_INVALID, Refusal

if TYPE_CHECKING:
    from proxy.http.client_connection import ClientConnection


class Response:
    """One answer of an upstream. Its head is complete when ``Pool.send`` returns it; of its body,
    what had arrived by then.

    Attributes:
        status: 200 to 599.
        headers: lower-cased names and values in their order, without hop-by-hop headers, those that
            ``Connection`` named, and Content-Length.
        length: the body's length as declared, or None.
        bodiless: whether no body belongs to it, whatever its length says (HEAD, 204, 304).
        dated: whether it has a Date.
        complete: whether all of its body has arrived.
        buffered: bytes of body that have arrived and were not taken yet.
    """

    __slots__ = (
        "_body",
        "_connection",
        "_error",
        "_waiter",
        "bodiless",
        "buffered",
        "complete",
        "dated",
        "headers",
        "length",
        "status",
    )

    def __init__(self, connection: ClientConnection | None) -> None:
        self._connection = connection
        self._body: bytes | bytearray = b""
        self._error: BaseException | None = None
        self._waiter: Waiter | None = None
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.length: int | None = None
        self.bodiless = False
        self.dated = False
        self.complete = False
        self.buffered = 0

    def get(self, name: bytes) -> bytes | None:
        """The first value of the header with this lower-case name, or None."""
        for known, value in self.headers:
            if known == name:
                return value
        return None

    def take(self) -> bytes:
        """What has arrived of the body since the last time; may be nothing."""
        body = self._body
        self._body = b""
        if self.buffered and self._connection is not None:
            self.buffered = 0
            self._connection.flow()
        self.buffered = 0
        return body if type(body) is bytes else bytes(body)

    async def read(self) -> bytes:
        """The next part of the body; nothing once all was taken.

        Raises:
            Refusal: if the upstream died, or missed its deadline.
        """
        while not self.buffered and not self.complete:
            await self.progress()
        return self.take()

    async def gathered(self, limit: int) -> bytes | None:
        """All of the body, which stays: it can be read or relayed as if it had just arrived.

        Returns:
            None if it is larger than ``limit`` bytes. It can be relayed then, too, at the pace at
            which it comes.

        Raises:
            Refusal: UPSTREAM_INVALID if the upstream died; UPSTREAM_TIMEOUT if it missed its
                deadline.
        """
        if not self.bodiless and (self.length or 0) > limit:
            return None
        parts: bytes | bytearray = b""
        while True:
            piece = self.take()
            if not parts:
                parts = piece  # mostly the only one
            else:
                if type(parts) is bytes:
                    parts = bytearray(parts)
                parts += piece
            fits = len(parts) <= limit
            if not fits or (self.complete and not self.buffered):
                break
            await self.progress()
        self._body = body = bytes(parts)
        self.buffered = len(body)
        return body if fits else None

    async def whole(self, limit: int) -> bytes:
        """As :meth:`gathered`, where a body that is too large is of no use.

        Raises:
            Refusal: UPSTREAM_INVALID if it is larger than ``limit`` bytes, or if the upstream died;
                UPSTREAM_TIMEOUT if it missed its deadline.
        """
        body = await self.gathered(limit)
        if body is None:
            self.discard()
            raise Refusal(UPSTREAM_INVALID, f"an answer of more than {limit} bytes")
        return body

    async def body(self, limit: int) -> bytes:
        """All of the body, taken.

        Raises:
            Refusal: as :meth:`whole`.
        """
        await self.whole(limit)
        return self.take()

    async def progress(self) -> None:
        """Waits until more of the answer is there. Whoever gives up waiting discards the answer.

        Raises:
            Refusal: if the upstream died, or missed its deadline.
        """
        if self._error is not None:
            raise self._error
        try:
            await self.arrival()
        except BaseException:
            self.discard()
            raise

    def arrival(self) -> Waiter:
        """To be awaited until more of the answer is there; ``progress`` without its care."""
        self._waiter = waiter = Waiter()
        return waiter

    def discard(self) -> None:
        """Gives the answer up: what is still to come of it closes its connection."""
        self._body = b""
        self.buffered = 0
        connection = self._connection
        if connection is not None:
            self._connection = None
            self._error = Refusal(UPSTREAM_INVALID, "the answer was discarded")
            connection.abandon()

    # For the connection:

    def add(self, piece: bytes) -> None:
        """Some of the body has arrived."""
        if not self.buffered:
            self._body = piece
        else:
            if type(self._body) is bytes:
                self._body = bytearray(self._body)
            self._body += piece
        self.buffered += len(piece)

    def end(self) -> None:
        """The answer is complete, and its connection no longer concerns it."""
        self.complete = True
        self._connection = None
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            waiter.wake()

    def notify(self) -> None:
        """Wakes who waits for more."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            waiter.wake()

    def fail(self, error: BaseException) -> None:
        """The rest will not come."""
        self._connection = None
        self._error = error
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            waiter.fail(error)
