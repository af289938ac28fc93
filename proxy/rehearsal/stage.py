"""A configuration as it would serve, in memory: built by ``proxy.build`` like the gateway's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry

from detectors.arrays import Floats
from detectors.base import Rows
from detectors.bundle import Bundle
from detectors.patterns.base import Alarm
from proxy.build import Shared, build
from proxy.client_watch import Client, ClientWatch
from proxy.endpoint import Endpoint
from proxy.explanations import Explanations
from proxy.generation import Generation
from proxy.http.messages import Head, Peer
from proxy.identity import Identifier, Identity
from proxy.rehearsal.clock import Clock
from proxy.rehearsal.scene import Model, Scene, Upstream
from proxy.rehearsal.threads import Threads
from proxy.settings.models import Settings
from proxy.state.memory import MemoryState
from proxy.telemetry.audit import NoAudit
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.record import Record
from proxy.visit import Visit

_OPINION_SECONDS: Final = 3600.0
"""For a second opinion: whether one came in time is told, not measured."""


_NOBODY: Final = Peer("127.0.0.1")


class Notebook(NoAudit):
    """The audit log of a rehearsal: it is full when that is told, and keeps the last record."""

    full = False
    last: Record | None = None

    def append(self, record: Record) -> int | None:
        """As ``Audit``."""
        self.last = record
        return 0


class Stage:
    """Serves one configuration to whoever is played to it. Use it in one loop, scene by scene.

    Args:
        bundles: by endpoint, as of ``proxy.build.load_bundles``.

    Attributes:
        clock: what time it is.
        scene: the one that is played.
        notebook: stands for the audit log.
        identifier: tells clients apart, and makes their pseudonyms.
        drawn: the numbers by which the scene's suspicious rows are sampled; None: none is asked
            about.

    Raises:
        BuildError, SettingsError: if the configuration cannot be served.
    """

    def __init__(self, settings: Settings, bundles: Mapping[str, Bundle]) -> None:
        self.clock = Clock()
        self.scene: Scene | None = None
        self.notebook = Notebook()
        self.drawn: npt.NDArray[np.float64] | None = None
        self._settings = settings
        self._bundles = bundles
        self._threads = Threads(self)
        self._id = ""
        self._gated: set[ClientWatch] = set()
        self.begin()

    def begin(self) -> None:
        """Begins as a process does: nothing is known of anybody."""
        settings, clock = self._settings, self.clock
        self._shared = Shared(
            clock=clock.monotonic,
            wall=clock.wall,
            executor=self._threads,
            request_id=lambda: self._id,
            metrics=Metrics(wall=clock.wall, registry=CollectorRegistry()),
            state=MemoryState(
                settings.client.max_known,
                clock.wall,
                retention=settings.sharing.retention_seconds,
                clock=clock.monotonic,
            ),
            audit=self.notebook,
            pseudonym_key=bytes(32),
            explanations=Explanations(0, wall=clock.wall),
            random=self._draw,
        )
        self._upstream = Upstream(self)
        self._build(None)

    def reload(self) -> None:
        """Takes the configuration anew, as a gateway does: what is known of clients stays."""
        self._build(self.generation)

    def _build(self, previous: Generation | None) -> None:
        self.generation = build(self._settings, self._shared, self._bundles, previous)
        self.identifier = Identifier(self._settings.client, random=bytes)
        for endpoint in self.generation.pipeline.endpoints:
            self._furnish(endpoint)

    def _furnish(self, endpoint: Endpoint) -> None:
        for binding in endpoint.bindings:
            binding.pool = self._upstream
        if endpoint.opinions is not None:
            endpoint.opinions.seconds = _OPINION_SECONDS
        watch = endpoint.clients
        if watch not in self._gated:  # a reload keeps those that would do the same
            self._gated.add(watch)
            _gate(watch, self._threads.pass_gate)

    def endpoint(self, name: str) -> Endpoint | None:
        """The endpoint of this name, or None."""
        return next((one for one in self.generation.pipeline.endpoints if one.name == name), None)

    async def prepare(self) -> None:
        """Binds contracts that nobody has to be asked for."""
        pairs = zip(self.generation.pipeline.endpoints, self.generation.watches, strict=True)
        for endpoint, watch in pairs:
            if endpoint.contract is None and endpoint.bindings[0].codec.probe is None:
                await watch.check()

    async def learn(self, endpoint: str, match: str, metadata: bytes) -> None:
        """A model server told of its model."""
        pairs = zip(self.generation.pipeline.endpoints, self.generation.watches, strict=True)
        for one, watch in pairs:
            if one.name != endpoint:
                continue
            probes = [b.codec.probe for b in one.bindings if b.match == match]
            self._upstream.metadata |= {probe.target: metadata for probe in probes if probe}
            await watch.check()

    def enter(
        self,
        head: Head,
        body: bytes,
        identity: Identity | None,
        model: Model,
        *,
        read: float,
        name: str,
    ) -> Scene:
        """The scene of one request.

        Args:
            identity: who sends it; None: as the request tells, from this machine.
            read: the moment at which it was read.
            name: its request id.

        Raises:
            Refusal: if no endpoint takes it.
        """
        self._id = name
        pipeline = self.generation.pipeline
        known = self.identifier if identity is None else lambda _head, _peer: identity
        pipeline.rehearse(known)
        intake = pipeline.open(head, _NOBODY)
        visit: Visit = intake.context
        return Scene(pipeline, head, body, visit, model=model, read=read)

    async def play(self, scene: Scene) -> None:
        """Plays a scene until it waits for a moment, or is over."""
        self.scene = scene
        try:
            await scene.play()
        finally:
            self.scene = None

    def _draw(self, n: int) -> npt.NDArray[np.float64]:
        if self.drawn is None or len(self.drawn) != n:
            return np.ones(n)
        return self.drawn


def _gate(watch: ClientWatch, wait: Callable[[], None]) -> None:
    """Makes whoever adds to what is known of clients wait first."""
    observe = watch.observe

    def observed(
        identity: Client, rows: Rows, p_values: Floats | None, now: float
    ) -> Sequence[Alarm]:
        wait()
        return observe(identity, rows, p_values, now)

    watch.observe = observed  # type: ignore[method-assign] # of this one watch alone
