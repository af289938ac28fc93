"""One of several workers: serves, and does what its supervisor says.

It ends, draining, when it is told to, on SIGTERM, or when the supervisor is gone.
"""

from __future__ import annotations

import asyncio
import mmap
import signal
import socket
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, Final

import structlog
import uvloop

from proxy.admin.explanations import Busy
from proxy.build import BuildError
from proxy.control import NOTE, Answering, Question, Refusal
from proxy.launch import Launch
from proxy.memory import return_memory
from proxy.reload import ReloadRefused, fault_words
from proxy.server import Place, Prepared, Server
from proxy.settings.models import Settings
from proxy.settings.problems import SettingsError
from proxy.state.base import StateUnavailable
from proxy.telemetry.audit import AuditError
from proxy.telemetry.logs import configure

_log = structlog.get_logger("bartizan")

_EXIT_FAILED: Final = 1
_EXIT_CONFIGURATION: Final = 3


def work(channel: Answering, launched: int, launch: Launch) -> int:
    """Serves until the end, and returns the exit status.

    Args:
        launched: the question that is answered once clients can connect, or cannot.
    """
    return_memory()
    log = launch.settings.log
    limit = configure(level=log.level, form=log.format, fields={"worker": launch.number})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(channel, launched, launch, limit))


async def _run(channel: Answering, launched: int, launch: Launch, limit: Any) -> int:
    await channel.open()
    status = 0
    try:
        _refuse_other_version(launch)
        server = Server(launch.settings, limit, _place(launch))
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, server.end)
        worker = _Worker(channel, server)
        beside = [loop.create_task(worker.hear()), loop.create_task(worker.tell(launched))]
        try:
            await server.run()
        finally:
            for task in beside:
                task.cancel()
        channel.answer(NOTE, await worker.page(None))
    except (SettingsError, BuildError) as error:
        status = _EXIT_CONFIGURATION
        channel.refuse(launched, Refusal("failed", str(error), status))
    except (AuditError, OSError) as error:
        status = _EXIT_FAILED
        channel.refuse(launched, Refusal("failed", str(error), status))
    await channel.flush()
    return status


def _refuse_other_version(launch: Launch) -> None:
    """Refuses to be a worker of a supervisor of another version.

    Raises:
        BuildError: if Bartizan was upgraded while it ran.
    """
    installed = version("bartizan")
    if launch.version != installed:
        raise BuildError(f"{launch.version} runs, {installed} is installed: restart to serve it")


def _place(launch: Launch) -> Place:
    listening = leases = None
    if launch.listening is not None:
        listening = socket.socket(fileno=launch.listening)
    if launch.leases is not None:
        descriptor, start, size = launch.leases
        leases = memoryview(mmap.mmap(descriptor, 0))[start : start + size]
    return Place(launch.number, launch.workers, launch.port, listening, leases)


class _Worker:
    """Answers the supervisor's questions while ``server`` serves."""

    def __init__(self, channel: Answering, server: Server) -> None:
        self._channel = channel
        self._server = server
        self._prepared: Prepared | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def tell(self, launched: int) -> None:
        """Tells that clients can connect, once they can."""
        await self._server.listening.wait()
        self._channel.answer(launched, self._server.bundles())

    async def hear(self) -> None:
        """Answers until the supervisor is gone, and ends the server then."""
        questions: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "ready": self._ready,
            "page": self.page,
            "endpoints": self._endpoints,
            "clients": self._clients,
            "client": self._client,
            "explanation": self._explanation,
            "sample": self._sample,
            "forgive": self._forgive,
            "ban": self._ban,
            "prepare": self._prepare,
            "commit": self._commit,
            "refuse": self._refuse,
            "drain": self._drain,
        }
        loop = asyncio.get_running_loop()
        try:
            while True:
                question = await self._channel.next()
                task = loop.create_task(self._answer(question, questions[question.name]))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
        except EOFError:
            _log.error("the supervisor is gone")
            self._server.end()

    async def _answer(self, question: Question, find: Callable[[Any], Awaitable[Any]]) -> None:
        try:
            self._channel.answer(question.number, await find(question.value))
        except StateUnavailable as error:
            self._channel.refuse(question.number, Refusal("unavailable", str(error)))
        except Busy as busy:
            self._channel.refuse(question.number, Refusal("busy", str(busy)))
        except (SettingsError, BuildError, ReloadRefused) as error:
            self._channel.refuse(question.number, Refusal("refused", fault_words(error)))
        except Exception as error:
            if type(error) is LookupError:  # a KeyError or an IndexError is a defect
                self._channel.refuse(question.number, Refusal("lookup", str(error)))
                return
            _log.exception("a question of the supervisor failed", question=question.name)
            self._channel.refuse(question.number, Refusal("fault", repr(error)))

    async def page(self, _: None) -> str:
        """Every metric, as OpenMetrics."""
        return (await self._server.render(openmetrics=True)).decode()

    async def _ready(self, _: None) -> list[str]:
        return await self._server.ready()

    async def _endpoints(self, _: None) -> list[dict[str, Any]]:
        return await self._server.endpoints()

    async def _clients(self, asked: tuple[str | None, int]) -> list[dict[str, Any]]:
        return await self._server.clients(*asked)

    async def _client(self, asked: tuple[str, str | None]) -> list[dict[str, Any]]:
        return await self._server.client(*asked)

    async def _explanation(self, exchange: str) -> dict[str, Any] | None:
        return await self._server.explanation(exchange)

    async def _sample(self, asked: tuple[str, int]) -> dict[str, Any]:
        return await self._server.sample_page(*asked)

    async def _forgive(self, asked: tuple[str, str | None]) -> None:
        await self._server.forgive(*asked)

    async def _ban(self, asked: tuple[str, float, str | None]) -> None:
        await self._server.ban(*asked)

    async def _prepare(self, settings: Settings) -> dict[str, str]:
        """The first half of a reload: finds out whether these settings can be served."""
        self._prepared = None
        self._prepared = await self._server.prepare(settings, rehearse=True)
        return {name: bundle.digest for name, bundle in self._prepared.bundles.items()}

    async def _commit(self, _: None) -> None:
        """The other half: serves what was prepared."""
        prepared, self._prepared = self._prepared, None
        if prepared is None:
            raise BuildError("nothing was prepared")
        await self._server.commit(prepared)

    async def _refuse(self, words: str) -> None:
        self._prepared = None
        self._server.refuse(words)

    async def _drain(self, _: None) -> None:
        self._server.end()
