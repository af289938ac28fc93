"""The workers, kept alive: started, replaced when they end, asked, and ended together."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import structlog

from proxy.control import Asking, Refusal
from proxy.launch import Launch, command
from proxy.settings.models import Settings

_log = structlog.get_logger("bartizan")

_STEADY_SECONDS: Final = 10.0
"""Who lives as long as this did not end because it was started."""
_PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_ATTEMPTS: Final = 5
_SILENCES: Final = 10
"""Who has not answered so often will not: it is killed, and replaced."""
_GRACE_SECONDS: Final = 10.0
_EXIT_FAILED: Final = 1

Report = Any  # an answer, or why there is none: a Refusal, TimeoutError or ConnectionError


class StartError(Exception):
    """The workers cannot be started.

    Attributes:
        status: the exit status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Member:
    """One worker as the supervisor sees it, through all the processes that it is.

    Attributes:
        number: counts from 1.
        starts: how often a process was started.
        serving: whether clients can connect to it.
        answers: whether it answered when it was last asked.
        silences: how often in a row it did not answer :meth:`Fleet.watch`.
        settings: those that it serves.
        process, channel: the process that it is now, if any, and the way to ask it.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.starts = 0
        self.serving = False
        self.answers = False
        self.silences = 0
        self.settings: Settings | None = None
        self.process: asyncio.subprocess.Process | None = None
        self.channel: Asking | None = None


class Fleet:
    """As many workers as configured.

    Args:
        settings: what they serve.
        launch: what a worker is told first, by its number and settings.
        noted: takes the page that a worker leaves as it ends.
        ended: called, with the worker's number, when its process is gone.

    Attributes:
        settings: what a worker that is started now serves.
        complete: set once all have served.
        failed: why they cannot be started; only before that.
    """

    def __init__(
        self,
        settings: Settings,
        launch: Callable[[int, Settings], Launch],
        *,
        noted: Callable[[int, Any], None],
        ended: Callable[[int], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.members = [Member(number) for number in range(1, settings.workers + 1)]
        self.complete = asyncio.Event()
        self.failed: asyncio.Future[StartError] = asyncio.get_running_loop().create_future()
        self._launch = launch
        self._noted = noted
        self._ended = ended
        self._clock = clock
        self._ending = asyncio.Event()
        self._keeping: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts all, and replaces each one that ends from now on."""
        loop = asyncio.get_running_loop()
        self._keeping = [loop.create_task(self._keep(member)) for member in self.members]

    async def ask(self, member: Member, name: str, value: Any = None, *, seconds: float) -> Report:
        """Asks one worker: its answer, or why there is none."""
        if member.channel is None:
            return ConnectionResetError("the worker does not run")
        try:
            answer = await member.channel.ask(name, value, seconds=seconds)
        except Refusal as refusal:
            member.answers = True
            return refusal
        except (TimeoutError, ConnectionError) as error:
            member.answers = False
            return error
        member.answers = True
        return answer

    async def ask_all(
        self, name: str, value: Any = None, *, seconds: float
    ) -> dict[Member, Report]:
        """Asks every worker that serves, at once."""
        asked = [member for member in self.members if member.serving]
        answers = await asyncio.gather(
            *(self.ask(member, name, value, seconds=seconds) for member in asked)
        )
        return dict(zip(asked, answers, strict=True))

    async def renew(self, member: Member) -> None:
        """Drains a worker, so that it is replaced by one that serves the present settings."""
        await self.ask(member, "drain", seconds=_GRACE_SECONDS)

    def watch(self) -> None:
        """Kills whoever hangs. To be called after all were asked, again and again."""
        for member in self.members:
            member.silences = member.silences + 1 if member.serving and not member.answers else 0
            if member.silences >= _SILENCES and member.process is not None:
                _log.error("worker hangs: it is killed", worker=member.number)
                _signal(member.process, signal.SIGKILL)

    async def end(self) -> None:
        """Ends all: each one drains, and is killed if it has not ended soon after."""
        self._ending.set()
        for member in self.members:
            if member.serving and member.channel is not None:
                member.channel.tell("drain")
            elif member.process is not None:
                _signal(member.process, signal.SIGTERM)
        patience = self.settings.http.drain_seconds + _GRACE_SECONDS
        _, late = await asyncio.wait(self._keeping, timeout=patience)
        for member in self.members:
            if late and member.process is not None:
                _log.error("worker did not end: it is killed", worker=member.number)
                _signal(member.process, signal.SIGKILL)
        await asyncio.gather(*self._keeping)

    async def _keep(self, member: Member) -> None:
        failures = 0
        while not self._ending.is_set():
            begun = self._clock()
            how, refusal = "could not be started", None
            try:
                how, refusal = await self._live(member)
            except OSError as error:  # no process, descriptor or memory is left
                refusal = Refusal("failed", str(error), _EXIT_FAILED)
            await self._ended(member.number)
            if self._ending.is_set():
                return
            failures = failures + 1 if self._clock() - begun < _STEADY_SECONDS else 0
            if not self.complete.is_set() and (refusal is not None or failures >= _ATTEMPTS):
                # What a worker says of a configuration, the next one would say as well.
                why = f"worker {member.number} {how}, {failures} times as it started"
                self._fail(refusal or Refusal("failed", why, _EXIT_FAILED))
                return
            pause = _PAUSES[min(failures, len(_PAUSES)) - 1] if failures else 0.0
            _log.error(
                "worker ended: it is replaced",
                worker=member.number,
                how=how,
                why=refusal and refusal.message,
                after_seconds=pause,
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause)

    def _fail(self, refusal: Refusal) -> None:
        if not self.failed.done():
            status = refusal.status or _EXIT_FAILED
            self.failed.set_result(StartError(refusal.message, status))

    async def _live(self, member: Member) -> tuple[str, Refusal | None]:
        """One process from its start to its end: how it ended, and why if it said so."""
        launch = self._launch(member.number, self.settings)
        process, ours = await _start(launch)
        channel = Asking(lambda note: self._noted(member.number, note))
        await channel.open(ours)
        member.starts += 1
        member.process, member.channel, member.settings = process, channel, launch.settings
        refusal = None
        try:
            await channel.ask("serve", launch)
            member.serving = member.answers = True
            if self._ending.is_set() or launch.settings is not self.settings:
                channel.tell("drain")
            elif all(other.serving for other in self.members):
                self.complete.set()
            await channel.ended()
        except Refusal as given:
            refusal = given
        except ConnectionError:
            pass
        finally:
            member.serving = member.answers = False
            member.channel = None
            await channel.close()
            status = await self._wait(process)
            member.process = None
        return _how(status), refusal

    async def _wait(self, process: asyncio.subprocess.Process) -> int:
        """Waits for a process that nobody hears any more: it drains, and ends."""
        patience = self.settings.http.drain_seconds + _GRACE_SECONDS
        try:
            return await asyncio.wait_for(process.wait(), patience)
        except TimeoutError:
            _signal(process, signal.SIGKILL)
            return await process.wait()


async def _start(launch: Launch) -> tuple[asyncio.subprocess.Process, socket.socket]:
    """A worker's process, and our end of the channel to it.

    Raises:
        OSError: if it cannot be had.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = await asyncio.create_subprocess_exec(
                *command(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *launch.descriptors),
            )
        except BaseException:
            ours.close()
            raise
    return process, ours


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)


def _how(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
