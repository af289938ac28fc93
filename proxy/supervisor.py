"""The parent of several workers: signals, reload, drain, and the admin listener for all of them.

It serves no client and reads nothing that one sends.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.openmetrics.exposition import generate_latest

from proxy.admin.explanations import Busy
from proxy.admin.listener import AdminListener
from proxy.combine import combine_clients, combine_endpoints
from proxy.control import Refusal
from proxy.fleet import Fleet, Member, Report, StartError
from proxy.http.shared_address import SharedAddress
from proxy.launch import Launch
from proxy.leases import Leases
from proxy.notify import READY, STOPPING, notify, reloading, stay_alive
from proxy.reload import ReloadRefused, fault_words, refuse_fixed
from proxy.samples import gathered, united
from proxy.settings.load import load_like
from proxy.settings.models import Settings
from proxy.settings.problems import SettingsError
from proxy.settings.shared_state import MEMORY
from proxy.state.base import StateUnavailable
from proxy.state.opening import StateError
from proxy.telemetry import families
from proxy.telemetry.aggregate import Pages
from proxy.telemetry.exposition import Family, number
from proxy.telemetry.logs import RateLimit, configure

__all__ = ["StartError", "supervise"]

_log = structlog.get_logger("bartizan")

_VERSION: Final = version("bartizan")
_POLL_SECONDS: Final = 1.0
"""How often every worker's figures are asked for: what a killed one counted later is lost."""
_POLL_BYTES: Final = 250_000
"""Of figures a second: telling them takes a worker 40 ms a megabyte, one per cent of its time."""
_WATCH_SECONDS: Final = 1.0
_READY_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 2.0
_CLIENT_SECONDS: Final = 5.0
_EXPLANATION_SECONDS: Final = 60.0
_SAMPLE_SECONDS: Final = 60.0
_PREPARE_SECONDS: Final = 60.0
_SUMMARY_SECONDS: Final = 10.0
_EXIT_CONFIGURATION: Final = 3


def supervise(path: Path, settings: Settings) -> None:
    """Serves ``settings``, read from ``path``, with several workers, until SIGTERM or SIGINT.

    Raises:
        StartError: if the workers cannot be started.
        OSError: if an address cannot be used.
    """
    limit = configure(level=settings.log.level, form=settings.log.format)
    clients = settings.ext_proc.listen if settings.ext_proc else settings.listen
    address = SharedAddress(clients.host, clients.port, clients.path)
    with ExitStack() as held:
        held.callback(address.close)
        if settings.grpc is not None:
            listen = settings.grpc.listen  # a port that is stated: nobody needs to be told of it
            held.callback(SharedAddress(listen.host, listen.port, "").close)
        with asyncio.Runner() as runner:
            runner.run(_Supervisor(path, settings, address, held, limit).run())


class _Supervisor:
    """Implements ``admin.app.AdminSource`` for all workers."""

    def __init__(
        self,
        path: Path,
        settings: Settings,
        address: SharedAddress,
        held: ExitStack,
        limit: RateLimit,
    ) -> None:
        self._path = path
        self._settings = settings
        self._address = address
        self._held = held
        self._limit = limit
        self._pages = Pages()
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._reloads = {"success": 1, "failure": 0}
        self._loaded = True
        self._loaded_at = time.time()
        self._draining = False
        self._leases: Leases | None = None
        self._sampling = False
        self._ended = asyncio.Event()
        self._hangups: asyncio.Queue[None] = asyncio.Queue()
        self._fleet: Fleet

    async def run(self) -> None:
        """Serves until a signal ends it.

        Raises:
            StartError: if the workers cannot be started.
            OSError: if the admin listener's address cannot be used.
        """
        loop = asyncio.get_running_loop()
        for ending in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(ending, self._ended.set)
        loop.add_signal_handler(signal.SIGHUP, self._hangups.put_nowait, None)
        self._fleet = Fleet(
            self._settings, self._launch, noted=self._noted, ended=self._worker_ended
        )
        admin = self._settings.admin
        async with AdminListener(admin, self, admin.hosts), AsyncExitStack() as stack:
            if self._settings.state != MEMORY:
                self._leases = await stack.enter_async_context(_open_leases(self._settings))
            self._fleet.start()
            try:
                await self._started()
                await self._until_ended()
            finally:
                self._draining = True
                self._held.close()
                await self._fleet.end()
        _log.info("ended")

    async def _started(self) -> None:
        """Returns once all workers serve, or it is to end."""
        loop = asyncio.get_running_loop()
        fleet, settings = self._fleet, self._settings
        waiting: list[asyncio.Future[Any]] = [
            loop.create_task(event.wait()) for event in (fleet.complete, self._ended)
        ]
        await asyncio.wait([*waiting, fleet.failed], return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        if fleet.failed.done():
            raise fleet.failed.result()
        if fleet.complete.is_set():
            notify(READY)
            _log.info(
                "all workers serve",
                workers=settings.workers,
                clients=str(settings.ext_proc.listen if settings.ext_proc else settings.listen),
                port=self._address.port or None,
                admin=str(settings.admin.listen),
            )

    async def _until_ended(self) -> None:
        loop = asyncio.get_running_loop()
        tasks = [
            loop.create_task(self._reload_on_signal()),
            loop.create_task(self._poll()),
            loop.create_task(self._watch()),
            loop.create_task(self._tell_suppressed()),
            loop.create_task(stay_alive()),
        ]
        await self._ended.wait()
        notify(STOPPING)
        for task in tasks:
            task.cancel()
        _log.info("draining", seconds=self._settings.http.drain_seconds)

    async def _poll(self) -> None:
        """Keeps every worker's figures, so that little is lost with one that is killed."""
        while True:
            size = await self._refresh()
            await asyncio.sleep(max(_POLL_SECONDS, size / _POLL_BYTES))

    async def _watch(self) -> None:
        """Finds workers that hang."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            await self._fleet.ask_all("ready", seconds=_ANSWER_SECONDS)
            self._fleet.watch()

    async def _tell_suppressed(self) -> None:
        """Says which log events came too often to be written."""
        while True:
            await asyncio.sleep(_SUMMARY_SECONDS)
            for event, count in self._limit.summaries().items():
                _log.warning("suppressed", suppressed_event=event, count=count)

    # Workers' lives.

    def _launch(self, number: int, settings: Settings) -> Launch:
        listening = self._address.listening
        return Launch(
            version=_VERSION,
            settings=settings,
            number=number,
            workers=settings.workers,
            port=self._address.port or None,
            listening=None if listening is None else listening.fileno(),
            leases=None if self._leases is None else self._leases.place(number),
        )

    def _noted(self, worker: int, page: Any) -> None:
        """A worker's last words: its figures as it ended."""
        self._pages.take(worker, page)

    async def _worker_ended(self, worker: int) -> None:
        self._pages.end(worker)
        if self._leases is not None:
            await self._leases.give_back(worker)

    # Reload: all workers find out whether they could serve it, then all serve it.

    async def _reload_on_signal(self) -> None:
        while True:
            await self._hangups.get()
            with reloading():
                try:
                    await self._reload()
                except (SettingsError, ReloadRefused) as error:
                    await self._refuse(fault_words(error))
                except Exception as error:
                    _log.exception("reload failed")
                    await self._refuse(repr(error))

    async def _reload(self) -> None:
        """Replaces everything that a reload can change, in every worker, or nothing in any.

        Raises:
            SettingsError, ReloadRefused: if the configuration cannot be used.
        """
        settings = await asyncio.to_thread(load_like, self._settings, self._path)
        refuse_fixed(self._settings, settings)
        fleet = self._fleet
        answers = await fleet.ask_all("prepare", settings, seconds=_PREPARE_SECONDS)
        if not answers:
            raise ReloadRefused("no worker serves")
        for member, answer in answers.items():
            if isinstance(answer, Refusal):
                raise ReloadRefused(answer.message)
            if isinstance(answer, Exception):
                fault = "does not answer" if isinstance(answer, TimeoutError) else "ended by it"
                raise ReloadRefused(f"worker {member.number} {fault}")
        found = list(answers.values())
        if any(digests != found[0] for digests in found):
            raise ReloadRefused("a bundle was replaced meanwhile: the workers read different ones")
        # From here on it is the configuration that serves: whoever cannot, is replaced.
        self._settings = fleet.settings = settings
        committed = await asyncio.gather(*(self._commit(member) for member in answers))
        for member in fleet.members:
            if member.serving and member.settings is not settings:
                await fleet.renew(member)
        self._pages.keep(endpoint.name for endpoint in settings.endpoints)
        self._reloads["success"] += 1
        self._loaded, self._loaded_at = True, time.time()
        _log.info("reloaded", workers=sum(committed))

    async def _commit(self, member: Member) -> bool:
        answer = await self._fleet.ask(member, "commit", seconds=_PREPARE_SECONDS)
        if isinstance(answer, Exception):
            _log.error("worker could not reload", worker=member.number, why=str(answer))
            return False
        member.settings = self._settings
        return True

    async def _refuse(self, words: str) -> None:
        self._reloads["failure"] += 1
        self._loaded = False
        _log.error("reload failed: the last good configuration goes on", error=words)
        await self._fleet.ask_all("refuse", words, seconds=_ANSWER_SECONDS)

    # What the admin listener asks: ``admin.app.AdminSource``.

    async def ready(self) -> list[str]:
        """As ``AdminSource``: ready if all have been, and whichever serves now says so.

        A worker that is being replaced gets no connection, so it is no reason.
        """
        if self._draining:
            return ["draining"]
        if not self._fleet.complete.is_set():
            starting = [member for member in self._fleet.members if not member.serving]
            return [f"worker {member.number}: starting" for member in starting]
        answers = await self._fleet.ask_all("ready", seconds=_READY_SECONDS)
        told = {
            member.number: answer if isinstance(answer, list) else ["does not answer"]
            for member, answer in answers.items()
            if not isinstance(answer, ConnectionError)  # it ended as it was asked
        }
        return [f"worker {number}: {reason}" for number in told for reason in told[number]] or (
            [] if told else ["no worker serves"]
        )

    async def render(self, openmetrics: bool = False) -> bytes:
        """As ``AdminSource``: every worker's figures as one."""
        unready, _ = await asyncio.gather(self.ready(), self._refresh())
        return self._pages.render(self._own_page(ready=not unready), openmetrics)

    async def endpoints(self) -> list[dict[str, Any]]:
        """As ``AdminSource``: what the workers say, as one."""
        answers = await self._fleet.ask_all("endpoints", seconds=_ANSWER_SECONDS)
        await self._refresh()
        told = {
            member.number: answer for member, answer in answers.items() if isinstance(answer, list)
        }
        combined = combine_endpoints(told)
        for endpoint in combined:
            name = endpoint["name"]
            rate = self._pages.value(families.ALERT_RATE, endpoint=name)
            exceeded = self._pages.value(families.BUDGET_EXCEEDED, endpoint=name)
            endpoint["alert_rate"] = rate
            endpoint["budget_exceeded"] = None if exceeded is None else bool(exceeded)
        return combined

    async def clients(self, endpoint: str | None, most: int) -> list[dict[str, Any]]:
        """As ``AdminSource``."""
        answers = await self._fleet.ask_all("clients", (endpoint, most), seconds=_CLIENT_SECONDS)
        return combine_clients(_heard(answers.values()))[:most]

    async def client(self, client: str, endpoint: str | None) -> list[dict[str, Any]]:
        """As ``AdminSource``."""
        answers = await self._fleet.ask_all("client", (client, endpoint), seconds=_CLIENT_SECONDS)
        return combine_clients(_heard(answers.values()))

    async def explanation(self, exchange: str) -> dict[str, Any] | None:
        """As ``AdminSource``: one worker at most has it."""
        answers = await self._fleet.ask_all("explanation", exchange, seconds=_EXPLANATION_SECONDS)
        return _explained(list(answers.values()))

    async def sample(self, endpoint: str) -> bytes:
        """As ``AdminSource``: what all workers captured, as one."""
        if self._sampling:  # a worker hands over one sample at a time
            raise Busy("another sample is being made: try again in a moment")
        self._sampling = True
        try:
            return await self._sample(endpoint)
        finally:
            self._sampling = False

    async def _sample(self, endpoint: str) -> bytes:
        parts: list[bytes] = []
        missing = f"no worker has captured anything at {endpoint}"
        for member in [member for member in self._fleet.members if member.serving]:

            async def page(offset: int, member: Member = member) -> dict[str, Any]:
                asked = endpoint, offset
                answer = await self._fleet.ask(member, "sample", asked, seconds=_SAMPLE_SECONDS)
                if isinstance(answer, Refusal) and answer.kind == "lookup":
                    raise LookupError(answer.message)
                if not isinstance(answer, dict):
                    raise Busy("a worker did not answer: try again in a moment")
                return answer

            try:
                parts.append(await gathered(page))
            except LookupError as error:
                missing = str(error)
        if not parts:
            raise LookupError(missing)
        return await asyncio.to_thread(united, parts)

    async def forgive(self, client: str, endpoint: str | None) -> None:
        """As ``AdminSource``: told to every worker, so that it holds at once."""
        answers = await self._fleet.ask_all("forgive", (client, endpoint), seconds=_CLIENT_SECONDS)
        _heard(answers.values())

    async def ban(self, client: str, seconds: float, endpoint: str | None) -> None:
        """As ``AdminSource``: told to every worker, so that it holds at once."""
        asked = client, seconds, endpoint
        answers = await self._fleet.ask_all("ban", asked, seconds=_CLIENT_SECONDS)
        _heard(answers.values())

    async def _refresh(self) -> int:
        """Asks for every worker's figures; whoever does not answer keeps the last known ones.

        Returns:
            the size of the largest answer.
        """
        answers = await self._fleet.ask_all("page", seconds=_ANSWER_SECONDS)
        size = 0
        for member, answer in answers.items():
            if isinstance(answer, str) and member.serving:
                size = max(size, len(answer))
                try:
                    self._pages.take(member.number, answer)
                except ValueError:
                    _log.exception("a worker's figures cannot be read", worker=member.number)
        return size

    def _own_page(self, *, ready: bool) -> str:
        """What only the supervisor can tell, and what it takes itself."""
        lines: list[str] = []

        def add(family: Family, samples: Sequence[tuple[dict[str, str], float]]) -> None:
            lines.append(family.header(openmetrics=True))
            lines.extend(f"{family.series(**labels)}{number(value)}\n" for labels, value in samples)

        members = self._fleet.members
        named = [({"worker": str(member.number)}, member) for member in members]
        add(families.READY, [({}, int(ready))])
        add(families.WORKERS, [({}, len(members))])
        add(families.WORKER_UP, [(name, int(one.serving and one.answers)) for name, one in named])
        add(families.WORKER_STARTS, [(name, one.starts) for name, one in named])
        results = [({"result": result}, count) for result, count in self._reloads.items()]
        add(families.RELOADS, results)
        add(families.RELOAD_OK, [({}, int(self._loaded))])
        add(families.RELOAD_TIME, [({}, self._loaded_at)])
        others = generate_latest(self._registry)  # type: ignore[no-untyped-call]  # not ours
        return "".join(lines) + str(others, "utf-8")


def _open_leases(settings: Settings) -> Leases:
    try:
        return Leases(settings)
    except StateError as error:
        raise StartError(str(error), _EXIT_CONFIGURATION) from error


def _explained(answers: Sequence[Report]) -> dict[str, Any] | None:
    """The explanation, if a worker gave one; None if all say that they do not keep the exchange.

    Raises:
        Busy: if one that may keep it did not say.
    """
    for answer in answers:
        if isinstance(answer, dict):
            return answer
    for answer in answers:
        if isinstance(answer, Refusal) and answer.kind == "busy":
            raise Busy(answer.message)
    if not answers or any(isinstance(answer, Exception) for answer in answers):
        raise Busy("a worker did not answer: try again in a moment")
    return None


def _heard(answers: Iterable[Report]) -> list[Any]:
    """The answers of those who gave one.

    Raises:
        LookupError, StateUnavailable: if that is an answer, or there is none.
    """
    heard = []
    for answer in answers:
        if isinstance(answer, Refusal):
            if answer.kind == "lookup":
                raise LookupError(answer.message)
            raise StateUnavailable(answer.message)
        if not isinstance(answer, Exception):
            heard.append(answer)
    if not heard:
        raise StateUnavailable("no worker answers")
    return heard
