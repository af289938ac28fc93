"""What serves: one process's start, reload and drain. Alone it also has the signals and the admin
listener; as one of several workers, a supervisor tells it what to do (``worker.py``).
"""

from __future__ import annotations

import asyncio
import gc
import secrets
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from detectors.bundle import Bundle
from proxy import certificates
from proxy.admin.listener import AdminListener
from proxy.build import (
    BuildError,
    Shared,
    build,
    check_grpc_certificate,
    ext_proc_listener,
    grpc_listener,
    listener_address,
    listener_limits,
    load_bundles,
)
from proxy.descriptors import needed_for, raise_limit
from proxy.endpoint import Endpoint
from proxy.explainer import Explainer
from proxy.explanations import Explanations
from proxy.generation import Generation
from proxy.http.address import Address
from proxy.http.downstream import Listener
from proxy.memory import return_memory
from proxy.notify import READY, STOPPING, notify, reloading, stay_alive
from proxy.recording import Recording
from proxy.reload import ReloadRefused, fault_words, refuse_fixed
from proxy.samples import Samples
from proxy.settings.basis import verdicts
from proxy.settings.load import load_like
from proxy.settings.models import Settings
from proxy.settings.problems import SettingsError
from proxy.settings.shared_state import MEMORY
from proxy.state.base import State
from proxy.state.memory import MemoryState
from proxy.state.opening import StateError, open_state
from proxy.state.watch import tell_health
from proxy.telemetry.audit import Audit, AuditInUseError, AuditLog, AuditOptions, NoAudit
from proxy.telemetry.audit_chain import chain_path
from proxy.telemetry.logs import RateLimit, configure
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.trace import RequestIds
from proxy.transport import Listens

_log = structlog.get_logger("bartizan")

_SUMMARY_SECONDS: Final = 10.0
_SILENCE_SECONDS: Final = 2.0
_PARTING_SECONDS: Final = 1.0
_PREDECESSOR_SECONDS: Final = 5.0
_LOCK_SECONDS: Final = 0.1
_SWITCH_SECONDS: Final = 0.001
"""How long a thread that inspects may keep the loop waiting for the interpreter's lock, where it
does not hold it in one piece: with the default of 5 ms, small requests and refusals would feel
every large one."""
_COLLECT_AFTER: Final = 50_000
"""Container objects made and not freed before the collector looks at the young ones."""


def serve(path: Path, settings: Settings) -> None:
    """Serves ``settings``, read from ``path``, until SIGTERM or SIGINT, and drains then.

    Raises:
        SettingsError, BuildError: if the configuration cannot be used.
        AuditError: if the audit log was cut or edited, or is in use.
        OSError: if an address or a file cannot be used.
    """
    return_memory()
    limit = configure(level=settings.log.level, form=settings.log.format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_alone(path, Server(settings, limit), settings))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process stands among the workers.

    Attributes:
        number: counts from 1; 0 if it is the only one.
        workers: how many there are.
        port: the TCP port that all of them share; None: the configured one, not shared.
        listening: the unix socket that all of them share, listening already, or None.
        leases: memory that the supervisor reads when this process is gone, or None.
    """

    number: int = 0
    workers: int = 1
    port: int | None = None
    listening: socket.socket | None = None
    leases: memoryview | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A configuration that could be served from now on."""

    settings: Settings
    bundles: Mapping[str, Bundle]
    address: Address


class Server:
    """One process that serves. It lives as long as :meth:`run`.

    Attributes:
        listening: set once clients can connect.
    """

    def __init__(self, settings: Settings, limit: RateLimit, place: Place | None = None) -> None:
        self.listening = asyncio.Event()
        self._settings = settings
        self._limit = limit
        self._place = place or Place()
        self._ended = asyncio.Event()
        self._draining = False
        self._working: list[asyncio.Task[None]] = []
        self._retiring: set[asyncio.Task[None]] = set()
        self._address = listener_address(settings)
        if self._place.port is not None:
            self._address = replace(self._address, port=self._place.port)
        self._metrics = Metrics(wall=time.time)
        self._listeners: list[Listens]
        self._shared: Shared
        self._generation: Generation
        self._outgoing: Generation | None = None  # serves while the next one asks the models
        self._explainer: Explainer
        self._samples = Samples()

    async def run(self, beside: AbstractAsyncContextManager[Any] | None = None) -> None:
        """Serves until :meth:`end`, and drains then.

        Args:
            beside: entered before clients can connect, left after the last one has gone.
        """
        settings = self._settings
        _check_descriptors(settings)
        sys.setswitchinterval(_SWITCH_SECONDS)
        with (
            ThreadPoolExecutor(max_workers=2, thread_name_prefix="bartizan-inspect") as executor,
            # Explanations wait for each other, never an exchange for one of them.
            ThreadPoolExecutor(max_workers=1, thread_name_prefix="bartizan-explain") as asides,
        ):
            audit = await self._open_audit()
            try:
                kept = Explanations(settings.admin.explanations, wall=time.time)
                self._explainer = self._explain(kept, asides, audit)
                self._shared = Shared(
                    clock=time.perf_counter,
                    wall=time.time,
                    executor=executor,
                    request_id=RequestIds(),
                    metrics=self._metrics,
                    state=self._open_state(),
                    audit=audit,
                    pseudonym_key=secrets.token_bytes(32),
                    explanations=kept,
                    recording=self._recording(audit),
                )
                await self._serve(beside)
            finally:
                asides.shutdown(wait=False, cancel_futures=True)
                await audit.close()

    @property
    def settings(self) -> Settings:
        """Those that are served."""
        return self._settings

    def end(self) -> None:
        """Ends serving: what is under way is answered."""
        self._ended.set()

    def bundles(self) -> dict[str, str]:
        """The digests of the bundles that serve, by endpoint."""
        return {name: bundle.digest for name, bundle in self._generation.bundles.items()}

    async def prepare(self, settings: Settings, *, rehearse: bool = False) -> Prepared:
        """Reads all that ``settings`` names, and changes nothing.

        Args:
            rehearse: build everything once for nothing, so that nothing is left to fail.

        Raises:
            SettingsError, BuildError, ReloadRefused: if it cannot be served instead.
        """
        refuse_fixed(self._settings, settings)
        # In a thread: bundles are checked in full, and exchanges go on meanwhile.
        bundles = await asyncio.to_thread(load_bundles, settings)
        prepared = Prepared(settings, bundles, listener_address(settings))
        check_grpc_certificate(settings)
        if rehearse:
            stage = replace(
                self._shared,
                metrics=Metrics(wall=time.time, registry=CollectorRegistry()),
                state=MemoryState(1, time.time),
            )
            build(settings, stage, bundles, self._generation)
        return prepared

    async def commit(self, prepared: Prepared) -> None:
        """Replaces everything that a reload can change, or nothing.

        Raises:
            SettingsError, BuildError: if what was prepared cannot be used any more.
        """
        settings, old = prepared.settings, self._generation
        self._take(build(settings, self._shared, prepared.bundles, old))
        self._settings = settings
        self._shared.state.resize(settings.client.max_known)
        self._outgoing = old
        try:
            await self._asked()
        finally:
            self._outgoing = None
        for listener in self._listeners:
            listener.application = self._generation.pipeline
        renewed = prepared.address.tls
        if settings.tls is not None and self._address.tls is not None and renewed is not None:
            # The listening socket keeps its context, which takes renewed certificates in place.
            self._address.tls.load_cert_chain(settings.tls.certificate, settings.tls.key)
        for listener in self._listeners:
            listener.renew()
        self._metrics.certificates = certificates.lives(settings)
        kept = {pool for endpoint in self._endpoints for pool in endpoint.pools}
        for pool in (pool for endpoint in old.pipeline.endpoints for pool in endpoint.pools):
            if pool not in kept:
                task = asyncio.create_task(pool.close(settings.http.drain_seconds))
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)

    def refuse(self, words: str) -> None:
        """Records that a reload was refused."""
        self._metrics.reloaded(False)
        self._shared.audit.event("reload failed", error=words)
        _log.error("reload failed: the last good configuration goes on", error=words)

    async def _serve(self, beside: AbstractAsyncContextManager[Any] | None) -> None:
        settings = self._settings
        self._take(build(settings, self._shared, load_bundles(settings)))
        self._metrics.certificates = certificates.lives(settings)
        self._listeners = self._for_envoy() if settings.ext_proc else self._for_clients()
        self._observe()
        async with beside or nullcontext():
            try:
                await self._listen()
                await self._until_ended()
                self._draining = True
                _log.info("draining", seconds=settings.http.drain_seconds)
                seconds = settings.http.drain_seconds
                await asyncio.gather(*(one.drain(seconds) for one in self._listeners))
            finally:
                await asyncio.gather(*(one.close() for one in self._listeners))
                for task in [*self._working, *self._retiring]:
                    task.cancel()
                await asyncio.gather(*self._working, *self._retiring, return_exceptions=True)
                self._generation.pipeline.sheds.tell()
                await self._part()
                for endpoint in self._endpoints:
                    for pool in endpoint.pools:
                        await pool.close()
        _log.info("ended")

    def _for_clients(self) -> list[Listens]:
        """The listeners of ``bartizan run``."""
        settings, shared, place = self._settings, self._shared, self._place
        listener = Listener(
            self._generation.pipeline,
            self._address,
            listener_limits(settings.http),
            clock=shared.clock,
            wall=shared.wall,
            guarded=[settings.client.api_key_header.encode()],
            sock=place.listening,
            reuse_port=place.port is not None,
        )
        self._observe_clients(listener)
        if settings.grpc is None:
            return [listener]
        for_calls = grpc_listener(
            settings, self._generation.pipeline, clock=shared.clock, reuse_port=place.number > 0
        )
        self._metrics.calls = for_calls.counts
        return [listener, for_calls]

    def _for_envoy(self) -> list[Listens]:
        """The listener of ``bartizan ext-proc``."""
        shared = self._shared
        listener = ext_proc_listener(
            self._settings,
            self._generation.pipeline,
            clock=shared.clock,
            reuse_port=self._place.number > 0,
        )
        self._metrics.calls = listener.counts
        return [listener]

    async def _listen(self) -> None:
        """Lets clients connect, once it is known what there is to know."""
        settings = self._settings
        await self._shared.state.start()
        await self._asked()
        await asyncio.gather(*(one.clients.learn_bans() for one in self._endpoints))
        for one in self._listeners:
            await one.start()
        self.listening.set()
        _log.info(
            "listening",
            clients=str(settings.ext_proc.listen if settings.ext_proc else settings.listen),
            port=self._listeners[0].port or None,
            grpc=settings.grpc and str(settings.grpc.listen),
            admin=str(settings.admin.listen),
            endpoints=[endpoint.name for endpoint in settings.endpoints],
        )
        # What was made so far stays: the collector need not look at it again. An exchange leaves
        # no cycles behind, so it may come seldom.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER, 20, 100)

    @property
    def _endpoints(self) -> Sequence[Endpoint]:
        return self._generation.pipeline.endpoints

    async def _part(self) -> None:
        """Tells the state what was learnt last, and gives back what is held."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PARTING_SECONDS):
                await asyncio.gather(*(one.clients.exchange() for one in self._endpoints))
        await self._shared.state.close()

    async def _until_ended(self) -> None:
        loop, shared = asyncio.get_running_loop(), self._shared
        telling = [
            loop.create_task(self._tell_suppressed()),
            loop.create_task(tell_health(shared.state.health, shared.audit.event, asyncio.sleep)),
            loop.create_task(self._explainer.run()),
        ]
        try:
            await self._ended.wait()
        finally:
            for task in telling:
                task.cancel()

    async def _tell_suppressed(self) -> None:
        """Says which log events came too often to be written."""
        while True:
            await asyncio.sleep(_SUMMARY_SECONDS)
            for event, count in self._limit.summaries().items():
                _log.warning("suppressed", suppressed_event=event, count=count)

    def _take(self, generation: Generation) -> None:
        """Serves this generation from now on."""
        self._generation = generation
        for task in self._working:
            task.cancel()
        loop = asyncio.get_running_loop()
        self._working = [loop.create_task(work) for work in generation.work()]
        self._metrics.reloaded(True)
        self._shared.audit.event(
            "configured",
            configuration=generation.digest,
            bundles=self.bundles(),
            verdicts=verdicts(generation.settings),
            **self._replayed(generation),
        )
        _log.info("configured", configuration=generation.digest[:16])

    async def _asked(self) -> None:
        """Waits until every model server was asked for its contract, but not for a silent one."""
        asked = [asyncio.ensure_future(watch.asked.wait()) for watch in self._generation.watches]
        _, silent = await asyncio.wait(asked, timeout=_SILENCE_SECONDS)
        for waiting in silent:
            waiting.cancel()

    def _observe(self) -> None:
        """Shows the metrics where their figures are."""
        self._metrics.ready = lambda: not self._unready()
        self._metrics.queues = lambda: self._generation.queues()  # noqa: PLW0108 - a reload replaces it
        self._metrics.upstreams = lambda: self._generation.upstreams()  # noqa: PLW0108 - a reload replaces it
        self._metrics.clients = lambda: self._generation.clients()  # noqa: PLW0108 - as above
        self._metrics.watched_clients = lambda: {one.name: one.clients for one in self._endpoints}
        self._metrics.audit = self._shared.audit.state
        if self._settings.state != MEMORY:
            self._metrics.state = self._shared.state.health

    def _observe_clients(self, listener: Listener) -> None:
        """Shows the metrics where the figures of HTTP's connections are."""
        self._metrics.connections = lambda: len(listener.connections) + len(listener.handshakes)
        self._metrics.connections_shed = lambda: listener.shed
        turns = listener.turns
        self._metrics.overload = lambda: (turns.overloaded, turns.wait)

    def _open_state(self) -> State:
        try:
            return open_state(
                self._settings,
                clock=time.perf_counter,
                wall=time.time,
                lease_table=self._place.leases,
            )
        except StateError as error:
            raise BuildError(str(error)) from error

    def _explain(self, kept: Explanations, executor: Executor, audit: Audit) -> Explainer:
        given = self._settings.audit
        return Explainer(
            kept,
            bundle=lambda name: self._generation.bundles.get(name),  # noqa: PLW0108 - as above
            executor=executor,
            contract=lambda name: next(
                (one.contract for one in self._endpoints if one.name == name), None
            ),
            clock=time.perf_counter,
            wall=time.time,
            audit=audit if given is not None and given.explain else None,
            values=given is not None and given.values,
        )

    def _recording(self, audit: Audit) -> Recording | None:
        given = self._settings.audit
        if given is None or not given.replay:
            return None
        alone = self._settings.state == MEMORY
        return Recording(audit, clock=time.perf_counter, alone=alone)

    def _replayed(self, generation: Generation) -> dict[str, Any]:
        """What a replay must know of a configuration, that its file does not tell."""
        if self._shared.recording is None:
            return {}
        return {"at": self._shared.clock(), "excluded": generation.excluded()}

    async def _open_audit(self) -> Audit:
        given, place = self._settings.audit, self._place
        if given is None:
            return NoAudit()
        open_log = partial(
            AuditLog,
            chain_path(given.path, place.number),
            AuditOptions(
                durability=given.durability,
                rotate_bytes=given.rotate_bytes,
                keep=given.keep,
                key=given.key.get_secret_value().encode() if given.key else None,
            ),
            clock=time.perf_counter,
            wall=time.time,
            started=_started(place, replay=given.replay),
        )
        # A worker whose supervisor was killed drains, and holds its chain until it has.
        patience = self._settings.http.drain_seconds + _PREDECESSOR_SECONDS if place.number else 0
        until = time.perf_counter() + patience
        while True:
            try:
                return open_log()
            except AuditInUseError:
                if self._ended.is_set() or time.perf_counter() >= until:
                    raise
            await asyncio.sleep(_LOCK_SECONDS)

    # What the admin listener asks: ``admin.app.AdminSource``.

    async def ready(self) -> list[str]:
        """As ``AdminSource``."""
        return self._unready()

    def _unready(self) -> list[str]:
        if self._draining:
            return ["draining"]
        if not self.listening.is_set():
            return ["not listening yet"]
        return (self._outgoing or self._generation).problems()

    async def render(self, openmetrics: bool = False) -> bytes:
        """As ``AdminSource``."""
        return self._metrics.render(openmetrics)

    async def endpoints(self) -> list[dict[str, Any]]:
        """As ``AdminSource``."""
        return self._generation.describe()

    async def clients(self, endpoint: str | None, most: int) -> list[dict[str, Any]]:
        """As ``AdminSource``."""
        return await self._generation.standings(endpoint, most)

    async def client(self, client: str, endpoint: str | None) -> list[dict[str, Any]]:
        """As ``AdminSource``."""
        return await self._generation.standing(client, endpoint)

    async def explanation(self, exchange: str) -> dict[str, Any] | None:
        """As ``AdminSource``."""
        return await self._explainer.explanation(exchange)

    async def sample(self, endpoint: str) -> bytes:
        """As ``AdminSource``."""
        return await self._samples.sample(self._generation.named(endpoint)[0])

    async def sample_page(self, endpoint: str, offset: int) -> dict[str, Any]:
        """As ``samples.Samples.page``."""
        return await self._samples.page(self._generation.named(endpoint)[0], offset)

    async def forgive(self, client: str, endpoint: str | None) -> None:
        """As ``AdminSource``."""
        await self._generation.forgive(client, endpoint)

    async def ban(self, client: str, seconds: float, endpoint: str | None) -> None:
        """As ``AdminSource``."""
        await self._generation.ban(client, seconds, endpoint)


async def _alone(path: Path, server: Server, settings: Settings) -> None:
    """The only process: it takes the signals, and answers the admin listener."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _end, server)
    hangups: asyncio.Queue[None] = asyncio.Queue()
    loop.add_signal_handler(signal.SIGHUP, hangups.put_nowait, None)
    beside = [
        loop.create_task(_reload_on_signal(path, server, hangups)),
        loop.create_task(stay_alive()),
    ]
    try:
        await server.run(AdminListener(settings.admin, server, settings.admin.hosts))
    finally:
        for task in beside:
            task.cancel()


def _end(server: Server) -> None:
    notify(STOPPING)
    server.end()


async def _reload_on_signal(path: Path, server: Server, hangups: asyncio.Queue[None]) -> None:
    await server.listening.wait()
    notify(READY)
    while True:
        await hangups.get()
        with reloading():
            try:
                await server.commit(await server.prepare(load_like(server.settings, path)))
            except (SettingsError, BuildError, ReloadRefused) as error:
                server.refuse(fault_words(error))
            except Exception as error:
                _log.exception("reload failed")
                server.refuse(repr(error))


def _started(place: Place, *, replay: bool) -> dict[str, Any]:
    """What the audit log's record of a start says."""
    told: dict[str, Any] = {"version": version("bartizan")}
    if place.number:
        told |= {"worker": place.number, "workers": place.workers}
    if replay:
        told["replay"] = True
    return told


def _check_descriptors(settings: Settings) -> None:
    """Makes room for every connection that the configuration allows.

    Raises:
        BuildError: if the system does not allow so many.
    """
    needed = needed_for(settings)
    allowed = raise_limit(needed)
    if allowed < needed:
        raise BuildError(
            f"the connections that are configured take {needed} file descriptors, and the system "
            f"allows {allowed}: lower http.connections or raise the hard limit (ulimit -Hn)"
        )
