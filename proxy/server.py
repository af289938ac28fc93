"""The firewall as a process: start, signals, reload, drain."""

from __future__ import annotations

import asyncio
import gc
import secrets
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop

from proxy.admin.listener import AdminListener
from proxy.build import (
    BuildError,
    Generation,
    Shared,
    build,
    listener_address,
    listener_limits,
    load_bundles,
)
from proxy.descriptors import raise_limit
from proxy.http.downstream import Listener
from proxy.memory import return_memory
from proxy.settings.load import load
from proxy.settings.models import Settings
from proxy.settings.problems import SettingsError
from proxy.state.memory import MemoryState
from proxy.telemetry.audit import Audit, AuditLog, AuditOptions, NoAudit
from proxy.telemetry.logs import RateLimit, configure
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.trace import RequestIds

_log = structlog.get_logger("bartizan")

_FIXED: Final = ("listen", "admin", "workers", "state", "audit", "http", "log")
"""What a reload cannot change: it is refused, and says so."""

_SUMMARY_SECONDS: Final = 10.0
_SILENCE_SECONDS: Final = 2.0
_SPARE_DESCRIPTORS: Final = 64
_COLLECT_AFTER: Final = 50_000
"""Container objects made and not freed before the collector looks at the young ones."""


def serve(path: Path) -> None:
    """Serves the configuration at ``path`` until SIGTERM or SIGINT, and drains then.

    Raises:
        SettingsError, BuildError: if the configuration cannot be used.
        AuditError: if the audit log was cut or edited, or is in use.
        OSError: if an address or a file cannot be used.
    """
    settings = load(path)
    return_memory()
    limit = configure(level=settings.log.level, form=settings.log.format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Server(path, settings, limit).run(settings))


class _Server:
    """One process. It lives as long as :meth:`run`."""

    def __init__(self, path: Path, settings: Settings, limit: RateLimit) -> None:
        self._path = path
        self._limit = limit
        self._fixed = _fixed(settings)
        self._reloads: asyncio.Queue[None] = asyncio.Queue()
        self._ended = asyncio.Event()
        self._listening = False
        self._draining = False
        self._watching: list[asyncio.Task[None]] = []
        self._retiring: set[asyncio.Task[None]] = set()
        self._address = listener_address(settings)
        self._metrics = Metrics(wall=time.time)
        self._generation: Generation

    async def run(self, settings: Settings) -> None:
        """Serves until a signal ends it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ended.set)
        loop.add_signal_handler(signal.SIGHUP, self._reloads.put_nowait, None)
        _check_descriptors(settings)
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="bartizan-inspect") as executor:
            audit = _open_audit(settings)
            try:
                shared = Shared(
                    clock=time.perf_counter,
                    wall=time.time,
                    executor=executor,
                    request_id=RequestIds(),
                    metrics=self._metrics,
                    state=MemoryState(settings.client.max_known, time.time),
                    audit=audit,
                    pseudonym_key=secrets.token_bytes(32),
                )
                await self._serve(settings, shared)
            finally:
                await audit.close()

    async def _serve(self, settings: Settings, shared: Shared) -> None:
        self._take(build(settings, shared, load_bundles(settings)), shared)
        listener = Listener(
            self._generation.pipeline,
            self._address,
            listener_limits(settings.http),
            clock=shared.clock,
            wall=shared.wall,
            guarded=[settings.client.api_key_header.encode()],
        )
        self._observe(listener, shared)
        admin = AdminListener(settings.admin, self, settings.admin.hosts)
        await admin.start()
        try:
            await self._asked()
            await listener.start()
            self._listening = True
            _log.info(
                "listening",
                clients=str(settings.listen),
                port=listener.port or None,
                admin=str(settings.admin.listen),
                endpoints=[endpoint.name for endpoint in settings.endpoints],
            )
            # What was made so far stays: the collector need not look at it again. An exchange
            # leaves no cycles behind, so it may come seldom.
            gc.collect()
            gc.freeze()
            gc.set_threshold(_COLLECT_AFTER, 20, 100)
            await self._until_ended(listener, shared)
            self._draining = True
            _log.info("draining", seconds=settings.http.drain_seconds)
            await listener.drain(settings.http.drain_seconds)
        finally:
            await listener.close()
            for task in [*self._watching, *self._retiring]:
                task.cancel()
            await asyncio.gather(*self._watching, *self._retiring, return_exceptions=True)
            for endpoint in self._generation.pipeline.endpoints:
                await endpoint.pool.close()
            await admin.close()
        _log.info("ended")

    async def _until_ended(self, listener: Listener, shared: Shared) -> None:
        loop = asyncio.get_running_loop()
        tasks = [
            loop.create_task(self._reload_on_signal(listener, shared)),
            loop.create_task(self._tell_suppressed()),
        ]
        try:
            await self._ended.wait()
        finally:
            for task in tasks:
                task.cancel()

    async def _tell_suppressed(self) -> None:
        """Says which log events came too often to be written."""
        while True:
            await asyncio.sleep(_SUMMARY_SECONDS)
            for event, count in self._limit.summaries().items():
                _log.warning("suppressed", suppressed_event=event, count=count)

    async def _reload_on_signal(self, listener: Listener, shared: Shared) -> None:
        while True:
            await self._reloads.get()
            try:
                await self._reload(listener, shared)
            except (SettingsError, BuildError) as error:
                # Without the lines that are wrong: they may hold secrets.
                words = error.summary if isinstance(error, SettingsError) else str(error)
                self._metrics.reloaded(False)
                shared.audit.event("reload failed", error=words)
                _log.error("reload failed: the last good configuration goes on", error=words)
            except Exception:
                self._metrics.reloaded(False)
                _log.exception("reload failed: the last good configuration goes on")

    async def _reload(self, listener: Listener, shared: Shared) -> None:
        """Replaces everything that a reload can change, or nothing.

        Raises:
            SettingsError, BuildError: if the configuration cannot be used.
        """
        settings = load(self._path)
        changed = [name for name, value in _fixed(settings).items() if value != self._fixed[name]]
        if changed:
            raise BuildError(f"changes of {', '.join(changed)} need a restart")
        # In a thread: bundles are checked in full, and exchanges go on meanwhile.
        bundles = await asyncio.to_thread(load_bundles, settings)
        renewed = listener_address(settings)
        old = self._generation
        self._take(build(settings, shared, bundles, old), shared)
        shared.state.resize(settings.client.max_known)
        await self._asked()
        listener.application = self._generation.pipeline
        if settings.tls is not None and self._address.tls is not None and renewed.tls is not None:
            # The listening socket keeps its context, which takes renewed certificates in place.
            self._address.tls.load_cert_chain(settings.tls.certificate, settings.tls.key)
        kept = {endpoint.pool for endpoint in self._generation.pipeline.endpoints}
        for endpoint in old.pipeline.endpoints:
            if endpoint.pool not in kept:
                task = asyncio.create_task(endpoint.pool.close(settings.http.drain_seconds))
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)

    def _take(self, generation: Generation, shared: Shared) -> None:
        """Serves this generation from now on."""
        self._generation = generation
        for task in self._watching:
            task.cancel()
        self._watching = [
            asyncio.get_running_loop().create_task(watch.run()) for watch in generation.watches
        ]
        self._metrics.reloaded(True)
        shared.audit.event(
            "configured",
            configuration=generation.digest,
            bundles={name: bundle.digest for name, bundle in generation.bundles.items()},
        )
        _log.info("configured", configuration=generation.digest[:16])

    async def _asked(self) -> None:
        """Waits until every model server was asked for its contract, but not for a silent one."""
        asked = [asyncio.ensure_future(watch.asked.wait()) for watch in self._generation.watches]
        _, silent = await asyncio.wait(asked, timeout=_SILENCE_SECONDS)
        for waiting in silent:
            waiting.cancel()

    def _observe(self, listener: Listener, shared: Shared) -> None:
        """Shows the metrics where their figures are."""
        self._metrics.connections = lambda: len(listener.connections) + len(listener.handshakes)
        self._metrics.connections_shed = lambda: listener.shed
        self._metrics.upstreams = lambda: self._generation.upstreams()  # noqa: PLW0108 - a reload replaces it
        self._metrics.clients = lambda: self._generation.clients()  # noqa: PLW0108 - as above
        self._metrics.audit = shared.audit.state

    # What the admin listener asks.

    def ready(self) -> list[str]:
        """Why no traffic should be sent here; nothing if it may."""
        if self._draining:
            return ["draining"]
        if not self._listening:
            return ["not listening yet"]
        return self._generation.problems()

    def endpoints(self) -> list[dict[str, Any]]:
        """The endpoints as they are served now."""
        return self._generation.describe()

    @property
    def metrics(self) -> Metrics:
        """Every number."""
        return self._metrics


def _fixed(settings: Settings) -> dict[str, object]:
    """What a reload cannot change, by the name of its key."""
    tls = settings.tls
    return {
        **{name: getattr(settings, name) for name in _FIXED},
        "tls": None if tls is None else (tls.certificate, tls.key, tls.client_ca),
        "client.api_key_header": settings.client.api_key_header,
    }


def _check_descriptors(settings: Settings) -> None:
    """Makes room for every connection that the configuration allows.

    Raises:
        BuildError: if the system does not allow so many.
    """
    connections = settings.http.connections
    needed = connections + connections // 4 + _SPARE_DESCRIPTORS
    needed += sum(endpoint.connections * len(endpoint.upstream) for endpoint in settings.endpoints)
    allowed = raise_limit(needed)
    if allowed < needed:
        raise BuildError(
            f"the connections that are configured take {needed} file descriptors, and the system "
            f"allows {allowed}: lower http.connections or raise the hard limit (ulimit -Hn)"
        )


def _open_audit(settings: Settings) -> Audit:
    given = settings.audit
    if given is None:
        return NoAudit()
    return AuditLog(
        given.path,
        AuditOptions(
            durability=given.durability,
            rotate_bytes=given.rotate_bytes,
            keep=given.keep,
            key=given.key.get_secret_value().encode() if given.key else None,
        ),
        clock=time.perf_counter,
        wall=time.time,
        started={"version": version("bartizan")},
    )
