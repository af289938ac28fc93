"""The connections of one part: its requests go to whichever is free, and wait where none is."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence

from loadtest.load.http import Connection, Owner
from loadtest.load.ledger import Ledger
from loadtest.load.outcome import CONNECT
from loadtest.load.share import Message

Opener = Callable[[Owner, str], Awaitable[Connection]]
"""Opens a connection from a source address ("": any).

Raises:
    OSError: if it cannot.
"""


class Pool:
    """Up to ``limit`` connections, taken in turn; those that are lost are made anew when needed.

    Args:
        messages: what request ``i`` is: ``messages[turns[i]]``.
        queue: requests that may wait for a connection beyond those that one is being made for.
        on_idle: called when nothing waits and nothing is under way any more.
        on_fault: called with what is no fault of the server.
    """

    def __init__(
        self,
        opener: Opener,
        messages: Sequence[Message],
        turns: Sequence[int],
        ledger: Ledger,
        *,
        limit: int,
        queue: int,
        sources: Sequence[str],
        on_idle: Callable[[], None],
        on_fault: Callable[[BaseException], None],
    ) -> None:
        self._opener = opener
        self._messages = messages
        self._turns = turns
        self._ledger = ledger
        self._limit = limit
        self._queue = queue
        self._sources = sources or ("",)
        self._next_source = 0
        self._on_idle = on_idle
        self._on_fault = on_fault
        self._idle: deque[Connection] = deque()
        self._waiting: deque[int] = deque()
        self._live: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self.busy = 0
        self._closed = False

    async def open(self) -> None:
        """Makes all connections.

        Raises:
            OSError: if one cannot be made.
        """
        while len(self._live) < self._limit:
            batch = min(64, self._limit - len(self._live))
            made = await asyncio.gather(*(self._opener(self, self._source()) for _ in range(batch)))
            self._live.update(made)
            self._idle.extend(made)

    @property
    def waiting(self) -> int:
        """Requests without a connection."""
        return len(self._waiting)

    @property
    def quiet(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not self.busy and not self._waiting

    def due(self, index: int) -> None:
        """The time of a request has come: it is sent, or waits, or is dropped."""
        while self._idle:
            connection = self._idle.popleft()
            if connection.usable:
                self._send(connection, index)
                return
        opening = len(self._opening)
        room = len(self._live) + opening < self._limit
        if room or len(self._waiting) < self._queue + opening:
            self._waiting.append(index)
            self._open_more()

    def ended(self, connection: Connection, index: int, status: int) -> None:
        """As ``Owner``."""
        self.busy -= 1
        self._ledger.ended(index, status)
        if connection.usable:
            self._free(connection)
        if not self.busy and not self._waiting:
            self._on_idle()

    def lost(self, connection: Connection) -> None:
        """As ``Owner``."""
        self._live.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._open_more()

    def give_up(self, connections: Iterable[Connection], status: int) -> None:
        """Ends what is under way on these."""
        for connection in tuple(connections):
            if connection.index >= 0:
                connection.give_up(status)

    def overdue(self, before: float) -> list[Connection]:
        """Those whose request was sent before this moment of the ledger's clock."""
        sent = self._ledger.sent
        return [one for one in self._live if one.index >= 0 and sent[one.index] < before]

    def forget_waiting(self) -> None:
        """What still waits is never sent."""
        self._waiting.clear()
        if not self.busy:
            self._on_idle()

    async def close(self) -> None:
        """Ends all connections."""
        self._closed = True
        self._waiting.clear()
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        await asyncio.gather(*(connection.close() for connection in tuple(self._live)))

    def _send(self, connection: Connection, index: int) -> None:
        self.busy += 1
        self._ledger.sending(index)
        connection.send(index, self._messages[self._turns[index]])

    def _free(self, connection: Connection) -> None:
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _open_more(self) -> None:
        """One connection for each that waits, as far as the limit goes."""
        while (
            not self._closed
            and len(self._opening) < len(self._waiting)
            and len(self._live) + len(self._opening) < self._limit
        ):
            task = asyncio.ensure_future(self._open_one())
            self._opening.add(task)
            task.add_done_callback(self._opened)

    async def _open_one(self) -> None:
        try:
            connection = await self._opener(self, self._source())
        except OSError:
            self._unreachable()
            return
        if connection.usable:  # the server may have closed it by now
            self._live.add(connection)
            self._free(connection)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if task.cancelled():
            return
        fault = task.exception()
        if fault is not None:
            self._on_fault(fault)
        self._open_more()

    def _unreachable(self) -> None:
        """The oldest that waits ends as its client would: without a connection."""
        if self._waiting:
            index = self._waiting.popleft()
            self._ledger.sending(index)
            self._ledger.ended(index, CONNECT)
            if not self.busy and not self._waiting:
                self._on_idle()

    def _source(self) -> str:
        self._next_source += 1
        return self._sources[(self._next_source - 1) % len(self._sources)]
