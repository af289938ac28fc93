"""The connection that everything of the shared state goes through, and whether it is up.

While it is down nothing is sent but the probe of one background task, so that a dead Redis costs
a request nothing. It comes up again by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from proxy.state.redis.address import Address
from proxy.state.redis.client import Call, Client, Failure, NotDone, Script, Tls, Unknown

__all__ = ["Call", "Connection", "Failure", "Lane", "NotDone", "Script", "Tls", "Unknown"]

# Calls of one round trip: more would hold up what comes after them.
_BATCH: Final = 256
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0
# A connection that fails sooner than this has not recovered: the pauses go on growing.
_STEADY_SECONDS: Final = 5.0

Run = Callable[[Sequence[Call]], Awaitable[list[Any]]]


async def end(task: asyncio.Task[None]) -> None:
    """Cancels a task until it has ended: a client library may swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.5)


class Lane:
    """Calls that share round trips: what comes while one is under way goes together in the next."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: list[tuple[Sequence[Call], asyncio.Future[list[Any]]]] = []
        self._pump: asyncio.Task[None] | None = None

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """Runs calls once each, those of one key in order.

        Returns:
            for each its reply, or the ``NotDone`` or ``Unknown`` that is its reason for having
            none. While the connection is down that is at once, and ``NotDone``.
        """
        if not calls:
            return []
        if not self._connection.up:
            return [NotDone(self._connection.problem)] * len(calls)
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((calls, future))
        if self._pump is None:
            self._pump = asyncio.create_task(self._run_all())
        return await future

    async def _run_all(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.pop(0)]
                size = len(batch[0][0])
                while self._waiting and size + len(self._waiting[0][0]) <= _BATCH:
                    size += len(self._waiting[0][0])
                    batch.append(self._waiting.pop(0))
                await self._run(batch)
        finally:
            self._pump = None
            for calls, future in self._waiting:
                if not future.done():
                    future.set_result([NotDone("closed")] * len(calls))
            self._waiting.clear()

    async def _run(self, batch: list[tuple[Sequence[Call], asyncio.Future[list[Any]]]]) -> None:
        answers: list[Any] = []
        try:
            answers = await self._connection.send([call for calls, _ in batch for call in calls])
        finally:
            start = 0
            for calls, future in batch:
                part = answers[start : start + len(calls)]
                start += len(calls)
                if not future.done():
                    future.set_result(part or [Unknown("closed")] * len(calls))

    async def close(self) -> None:
        """Ends what is under way."""
        if self._pump is not None:
            await end(self._pump)


class Connection:
    """Two lanes to one Redis, and one task that watches it.

    Args:
        beat: the call by which it is watched while up, and tried while down. It writes, as a
            server that cannot be written to is of no use.
        beaten: is given the beat's reply.
        recover: what has to be done before it counts as up again, with a ``run`` of its own; it
            raises ``Failure`` if it could not.
        timeout_seconds: how long a round trip may take.
        beat_seconds: between beats.
        clock: monotonic seconds.
        random: numbers from 0 to 1, which keep replicas from probing in step.

    Attributes:
        up: whether calls are sent.
        problem: why not, or what is wrong with it nevertheless, or "".
        calls, failures: calls sent, and those of them that failed.
        background: the lane of what no request waits for.
    """

    def __init__(
        self,
        address: Address,
        *,
        beat: Callable[[], Call],
        beaten: Callable[[Any], None],
        recover: Callable[[Run], Awaitable[None]],
        tls: Tls | None,
        timeout_seconds: float,
        beat_seconds: float,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self.up = False
        self.problem = "not connected yet"
        self.calls = 0
        self.failures = 0
        self.background = Lane(self)
        self._foreground = Lane(self)
        self._address = address
        self._tls = tls
        self._timeout = timeout_seconds
        self._beat_seconds = beat_seconds
        self._beat = beat
        self._beaten = beaten
        self._recover = recover
        self._clock = clock
        self._random = random
        self._client = Client(address, tls, timeout_seconds)
        self._pause = _FIRST_PAUSE
        self._up_since = 0.0
        self._doubted = asyncio.Event()
        self._tried = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """As ``Lane.run``, for what a request waits for."""
        return await self._foreground.run(calls)

    async def send(self, calls: Sequence[Call]) -> list[Any]:
        """Sends one round trip now, up or down. A failure takes the connection down."""
        self.calls += len(calls)
        answers = await self._client.run(calls)
        failed = [answer for answer in answers if isinstance(answer, Failure)]
        if failed:
            self.failures += len(failed)
            self.suspect(str(failed[0]))
        return answers

    def suspect(self, problem: str) -> None:
        """Takes it down, until the watcher has found it well."""
        self.problem = problem
        if self.up:
            self.up = False
            self._doubted.set()

    async def start(self) -> None:
        """Begins to watch, and waits for the first try, whatever its outcome."""
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())
            await self._tried.wait()

    async def close(self) -> None:
        """Ends the watch and all that is under way, and disconnects."""
        self.up = False
        self.problem = "closed"
        if self._watcher is not None:
            await end(self._watcher)
            self._watcher = None
        await self._foreground.close()
        await self.background.close()
        await self._client.close()

    async def _watch(self) -> None:
        while True:
            if self.up:
                await self._steady()
            if not self.up:
                await self._try()
            self._tried.set()
            if not self.up:
                await asyncio.sleep(self._pause * (0.5 + self._random() / 2))
                self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    async def _steady(self) -> None:
        """One beat later, or as soon as it is doubted."""
        try:
            async with asyncio.timeout(self._beat_seconds):
                await self._doubted.wait()
        except TimeoutError:
            await self._greet()
        if not self.up and self._clock() - self._up_since < _STEADY_SECONDS:
            # It came up only to fail again: not at once, this time.
            await asyncio.sleep(self._pause * (0.5 + self._random() / 2))
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    async def _greet(self) -> bool:
        (answer,) = await self.send([self._beat()])
        if isinstance(answer, Failure):
            return False
        self._beaten(answer)
        return True

    async def _try(self) -> None:
        """Comes up if all is well. It connects anew unless it has just been doubted."""
        try:
            if not self._doubted.is_set():
                await self._client.close()
                self._client = Client(self._address, self._tls, self._timeout, self._client.nodes())
            self._doubted.clear()
            warning = await self._client.check()
            if await self._greet():
                await self._recover(self.send)
                if self._clock() - self._up_since >= _STEADY_SECONDS:
                    self._pause = _FIRST_PAUSE
                self.problem = warning
                self._up_since = self._clock()
                self.up = True
        except Exception as fault:  # a certificate may be missing while it is renewed
            self.failures += 1
            self.problem = str(fault) or repr(fault)
