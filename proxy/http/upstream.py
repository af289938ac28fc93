"""The way to the model: a pool of connections that sends nothing but what is permitted."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Final, TypeAlias

from proxy.decision import Permit
from proxy.http.address import Address
from proxy.http.balance import Balance, Upstream, bounds
from proxy.http.client_connection import ClientConnection, Stale
from proxy.http.drive import Waiter
from proxy.http.limits import PoolLimits
from proxy.http.line import Line
from proxy.http.response import Response
from proxy.rules import UPSTREAM_QUEUE, UPSTREAM_UNREACHABLE, Refusal

__all__ = ["Address", "AddressState", "Pool", "PoolLimits", "PoolState", "Response"]

Dial: TypeAlias = Callable[[Address, Callable[[], ClientConnection]], Awaitable[ClientConnection]]

_TIMERS: Final = 0.002  # seconds by which a timer is late on an idle loop
_FADES: Final = 0.7


@dataclass(frozen=True, slots=True)
class AddressState:
    """One address at a moment. Counts are totals since the start.

    Attributes:
        limit: requests that it may have under way at once, as things are.
        errors: no connection, no or an invalid answer, or a status of 500 or more.
        unsolicited: connections closed for bytes that no request had asked for.
        stale_replaced: requests repeated because a reused connection was closed before a byte of
            their answer.
    """

    address: str
    in_flight: int
    idle: int
    ejected: bool
    connects: int
    errors: int
    ejections: int
    unsolicited: int
    stale_replaced: int
    limit: int = 0


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool at a moment: what metrics show.

    Attributes:
        waiting: requests in the queue.
        queue_timeouts: those that left it unserved or never joined it, in total.
        queue_seconds: how long the next one to join the queue would wait, as things go.
    """

    waiting: int
    queue_timeouts: int
    addresses: tuple[AddressState, ...]
    queue_seconds: float = 0.0


@dataclass(slots=True, eq=False)
class _Opening:
    """A connection that is being opened."""

    started: float
    task: asyncio.Task[ClientConnection] | None = None
    late: bool = False


@dataclass(slots=True, eq=False)
class _Place:
    """A place in the queue."""

    since: float
    waiter: Waiter
    fresh: bool = False  # wants leave to open a connection, not one that was used
    connection: ClientConnection | None = None
    leave: Upstream | None = None  # a connection to it may be opened
    left: bool = False  # served, turned away or given up


class Pool:
    """The upstreams of one endpoint.

    Args:
        addresses: at least one.
        clock: monotonic seconds.
        dial: opens a connection; injected in tests.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        limits: PoolLimits | None = None,
        *,
        clock: Callable[[], float] = perf_counter,
        dial: Dial | None = None,
    ) -> None:
        self._limits = limits or PoolLimits()
        self._clock = clock
        self._dial = dial or _dial
        self._balance: Balance[Upstream] = Balance(
            addresses, self._limits, clock, partial(Upstream, freed=self._freed)
        )
        self._queue: deque[_Place] = deque()
        self._line = Line(clock())
        self._waiting = 0  # places in the queue that were not given up
        self._queue_timeouts = 0
        self._openings: set[_Opening] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = self._lag = 0.0  # of the next sweep, on the loop's clock; how late they are
        self._now = clock()  # of the last sweep
        self._closing = self._closed = False

    async def send(self, permit: Permit) -> Response:
        """Sends a request and waits for the head of its answer. There is no other way to send.

        A request is never repeated, with one exception: a kept-alive connection that is closed
        before any byte of the answer may have been closed before the request arrived, so it is
        replaced once by a fresh one. If nobody waits for the answer any more, its connection is
        closed, which cancels the request.

        Raises:
            TypeError: if it is not a permit.
            ValueError: if the permitted request is not one well-formed request.
            Refusal: UPSTREAM_UNREACHABLE, UPSTREAM_TIMEOUT, UPSTREAM_INVALID or UPSTREAM_QUEUE.
        """
        if type(permit) is not Permit:
            raise TypeError("only a permit can be sent")
        request = permit.request
        upstream = self._balance.only or self._balance.choose()
        if upstream and upstream.has_room and not self._waiting:
            connection = upstream.checkout() or await self._acquire()
        else:
            # What is not an inference asks how the server does: that costs little, and must be
            # known of a busy one too.
            connection = await self._acquire(queues=request.method == b"POST")
        try:
            response = connection.ask(request)
        except ValueError:
            self._freed(connection.upstream, connection)
            raise
        try:
            await response.arrival()
        except Stale:
            connection.upstream.stale_replaced += 1
        except BaseException:
            response.discard()
            raise
        else:
            return response
        connection = await self._acquire(fresh=True)
        response = connection.ask(request)
        await response.progress()
        return response

    async def close(self, seconds: float = 0.0) -> None:
        """Ends the pool after ``seconds``, or as soon as this is cancelled.

        Until then requests may still be sent: by exchanges that began before a reload, whose bodies
        may be under way while no connection is in use.
        """
        self._closing = True
        for upstream in self._balance.upstreams:
            for connection in tuple(upstream.idle):
                connection.abort()
        try:
            if seconds > 0:
                await asyncio.sleep(seconds)
        finally:
            await self._end()

    async def _end(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for place in tuple(self._queue):
            self._leave(place)
            place.waiter.fail(Refusal(UPSTREAM_UNREACHABLE, "the pool was closed"))
        tasks = [opening.task for opening in self._openings if opening.task is not None]
        for task in tasks:
            task.cancel()
        for upstream in self._balance.upstreams:
            for connection in tuple(upstream.connections):
                connection.give_up()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def crowded(self) -> bool:
        """Whether a request that came now would be turned away."""
        waiting = self._waiting
        return waiting > 0 and self._line.refuses(waiting, self._clock(), *self._bounds())

    def state(self) -> PoolState:
        """What metrics show."""
        now = self._clock()
        return PoolState(
            self._waiting,
            self._queue_timeouts,
            tuple(
                AddressState(
                    str(each.address),
                    each.outstanding,
                    len(each.idle),
                    each.ejected_until > now,
                    each.connects,
                    each.errors,
                    each.ejections,
                    each.unsolicited,
                    each.stale_replaced,
                    each.concurrency.limit,
                )
                for each in self._balance.upstreams
            ),
            self._line.wait(self._waiting, now) if self._waiting else 0.0,
        )

    def sweep(self) -> None:
        """Checks every deadline. Runs by itself every ``sweep_seconds``."""
        self._now = now = self._clock()
        limits = self._limits
        for upstream in self._balance.upstreams:
            for connection in tuple(upstream.connections):
                connection.check(now)
            for connection in tuple(upstream.idle):
                if now - connection.idle_since > limits.idle_seconds:
                    connection.abort()
        for opening in tuple(self._openings):
            if now - opening.started > limits.connect_seconds and opening.task is not None:
                opening.late = True
                opening.task.cancel()
        self._shed(now)
        for upstream in self._balance.upstreams:
            upstream.concurrency.check(now)
            self._serve(upstream, now)  # a limit may have risen

    # Getting a connection:

    async def _acquire(self, *, fresh: bool = False, queues: bool = True) -> ClientConnection:
        """A connection on which a request may be sent.

        Args:
            fresh: it is not to be one that was used.
            queues: whether the request counts: others pass by the queue and the limit, as far as
                connections go.
        """
        passed = not queues
        tried: list[Upstream] = []
        why = ""
        leave: Upstream | None = None
        while True:
            # Leave is for one upstream: whoever asked another would wait again, and in the very
            # step that served him be given the same leave again.
            upstream = leave or self._balance.choose(tried)
            leave = None
            if upstream is None:
                raise Refusal(UPSTREAM_UNREACHABLE, why)
            if self._closed:
                raise Refusal(UPSTREAM_UNREACHABLE, "the pool was closed")
            if fresh and upstream.full and upstream.idle:
                upstream.idle[0].abort()  # makes room
            if not (passed or (upstream.has_room and not self._waiting)):
                (connection, leave), passed = await self._wait(upstream, fresh), True
            else:
                connection = None if fresh else upstream.checkout()
                if connection is None and upstream.full:
                    connection, leave = await self._wait(upstream, fresh)
                elif connection is None:
                    try:
                        connection = await self._open(upstream)
                    except OSError as error:
                        why = f"{upstream.address}: {error}"
                        tried.append(upstream)
            if connection is not None:
                return connection

    async def _open(self, upstream: Upstream) -> ClientConnection:
        """Opens a connection, in a task: should the client leave meanwhile, others will use it."""
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._due = loop.time() + self._limits.sweep_seconds
            self._timer = loop.call_later(self._limits.sweep_seconds, self._tick, loop)
        opening = _Opening(self._clock())
        opening.task = task = loop.create_task(self._opened(upstream, opening))
        self._openings.add(opening)
        upstream.connecting += 1
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Refusal(UPSTREAM_UNREACHABLE, "the pool was closed") from None
            task.add_done_callback(self._adopt)
            raise

    async def _opened(self, upstream: Upstream, opening: _Opening) -> ClientConnection:
        try:
            connection = await self._dial(
                upstream.address, lambda: ClientConnection(upstream, self._limits, self._clock)
            )
            if not connection.usable():
                connection.abort()
                raise ConnectionResetError("closed, or not silent, when it was opened")
        except asyncio.CancelledError:
            if not opening.late:
                raise
            upstream.failed()
            raise TimeoutError("connect deadline") from None
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be encoded
            upstream.failed()
            raise error if isinstance(error, OSError) else OSError(str(error)) from error
        finally:
            upstream.connecting -= 1
            self._openings.discard(opening)
        return connection

    def _adopt(self, task: asyncio.Task[ClientConnection]) -> None:
        if not task.cancelled() and task.exception() is None:
            connection = task.result()
            self._freed(connection.upstream, connection)

    async def _wait(
        self, upstream: Upstream, fresh: bool
    ) -> tuple[ClientConnection | None, Upstream | None]:
        """Waits for a connection, or for leave to open one to an upstream.

        Raises:
            Refusal: UPSTREAM_QUEUE.
        """
        now = self._clock()
        upstream.concurrency.held(now)
        if not self._waiting:
            self._line.empty(now)
        elif self._line.refuses(self._waiting, now, *self._bounds()):
            self._queue_timeouts += 1
            raise _turned_away()
        place = _Place(now, Waiter(), fresh)
        self._queue.append(place)
        self._waiting += 1
        try:
            await place.waiter
        except BaseException:
            place.waiter.forget()
            self._leave(place)
            if place.connection is not None:
                self._freed(place.connection.upstream, place.connection)
            elif place.leave is not None:
                place.leave.connecting -= 1
                self._freed(place.leave, None)
            raise
        if place.leave is not None:
            place.leave.connecting -= 1  # and taken up by the caller, in this same step
        return place.connection, place.leave

    def _freed(self, upstream: Upstream, connection: ClientConnection | None) -> None:
        if connection is not None:
            if self._closing and not self._waiting:
                connection.abort()
                return
            connection.idle_since = self._now
            upstream.idle.append(connection)
        if self._queue:
            self._serve(upstream, self._clock())

    def _serve(self, upstream: Upstream, now: float) -> None:
        """Gives those who wait what the upstream has room for."""
        queue, line = self._queue, self._line
        if upstream.ejected_until > now:
            return
        while queue and upstream.has_room:
            place = queue.popleft()
            if place.left:
                continue
            if now - place.since > self._patience(now):
                self._turn_away(place)
                continue
            connection = None if place.fresh else upstream.checkout()
            if connection is None and (upstream.full or not upstream.has_room):
                queue.appendleft(place)
                if not (place.fresh and upstream.idle):
                    return
                upstream.idle[0].abort()  # makes room, and comes back here
                continue
            self._leave(place)
            line.left(now)
            place.connection = connection
            if connection is None:
                place.leave = upstream
                upstream.connecting += 1
            place.waiter.wake()

    def _leave(self, place: _Place) -> None:
        if not place.left:
            place.left = True
            self._waiting -= 1

    def _shed(self, now: float) -> None:
        patience = self._patience(now)
        queue = self._queue
        while queue and (queue[0].left or now - queue[0].since > patience):
            place = queue.popleft()
            if not place.left:
                self._turn_away(place)
        if not self._waiting:
            self._line.empty(now)

    def _bounds(self) -> tuple[float, float]:
        return bounds(self._limits, self._balance.upstreams)

    def _patience(self, now: float) -> float:
        """How long whoever joined is kept: longer than was foretold, but not without end."""
        limits = self._limits
        standing = self._line.stands(now, limits.queue_seconds)
        return limits.queue_target_seconds if standing else limits.queue_seconds

    def _turn_away(self, place: _Place) -> None:
        self._queue_timeouts += 1
        self._leave(place)
        place.waiter.fail(_turned_away())

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        # How late this is tells how long turns of the loop are: what they add to the time that an
        # upstream seems to take is not its fault.
        now = loop.time()
        self._lag = max(0.0, now - self._due - _TIMERS, _FADES * self._lag)
        for upstream in self._balance.upstreams:
            upstream.concurrency.lag = self._lag
        self._due = now + self._limits.sweep_seconds
        self._timer = loop.call_later(self._limits.sweep_seconds, self._tick, loop)
        self.sweep()


def _turned_away() -> Refusal:
    return Refusal(UPSTREAM_QUEUE, "the model server has as much as it can do", retry_after=1)


async def _dial(address: Address, factory: Callable[[], ClientConnection]) -> ClientConnection:
    loop = asyncio.get_running_loop()
    if address.path:
        _, connection = await loop.create_unix_connection(factory, address.path)
    else:
        _, connection = await loop.create_connection(
            factory,
            address.host,
            address.port,
            ssl=address.tls,
            server_hostname=(address.server_name or address.host) if address.tls else None,
        )
    return connection
