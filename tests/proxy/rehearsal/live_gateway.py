"""The pipeline as it serves, in this process: clocks that run by uneven steps, a model that answers
in its own time, and a real audit log that is to be replayed."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import numpy as np
from prometheus_client import CollectorRegistry
from small_models import classify

from proxy.build import Shared, build, load_bundles
from proxy.explanations import Explanations
from proxy.http.messages import Head, Peer
from proxy.recording import Recording
from proxy.rules import UPSTREAM_TIMEOUT, Refusal
from proxy.settings.load import load
from proxy.settings.shared_state import MEMORY
from proxy.state.memory import MemoryState
from proxy.telemetry.audit import AuditLog, AuditOptions
from proxy.telemetry.metrics import Metrics

TARGET = "/v2/models/m/infer"
EPOCH = 1_900_000_000.0


def body_of(rows, **more):
    """A request of version 2."""
    rows = np.atleast_2d(rows)
    tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.tolist()}
    return json.dumps({"inputs": [tensor], **more}).encode()


class Answer:
    """The model server's answer: all of it is there."""

    complete, buffered, bodiless = True, 0, False
    headers = ((b"content-type", b"application/json"), (b"set-cookie", b"secret"))

    def __init__(self, status, body):
        self.status, self.sent = status, body

    def get(self, name):
        return dict(self.headers).get(name)

    async def gathered(self, limit):
        return self.sent if len(self.sent) <= limit else None

    async def whole(self, limit):
        assert len(self.sent) <= limit
        return self.sent

    def discard(self):
        pass


class Server:
    """Classifies, when its turn comes; or does as its mood is."""

    crowded = False

    def __init__(self, random):
        self.random = random
        self.mood = "well"
        self.asked = 0

    async def send(self, permit):
        self.asked += 1
        mood = self.mood
        for _ in range(int(self.random.integers(0, 4))):
            await asyncio.sleep(0)
        if mood == "late":
            raise Refusal(UPSTREAM_TIMEOUT, "no answer")
        if mood == "asleep":
            await asyncio.Event().wait()
        if mood == "broken":
            return Answer(500, b'{"error": "broken"}')
        if not permit.request.body:
            return Answer(200, b"{}")
        if not permit.request.body.startswith(b'{"inputs":[{') or permit.request.body[-1:] != b"}":
            return Answer(400, b'{"error": "unreadable"}')  # a monitored endpoint lets it pass
        [tensor] = json.loads(permit.request.body)["inputs"]
        rows = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        said = classify(rows).probabilities
        if mood == "lie":
            said = np.roll(said, 1, axis=1)
        output = {"name": "y", "shape": list(said.shape), "datatype": "FP64"}
        output["data"] = said.ravel().tolist()
        return Answer(200, json.dumps({"model_name": "m", "outputs": [output]}).encode())

    async def close(self, seconds=0.0):
        pass


class Exchange:
    """One request, and a client that takes whatever comes."""

    upstream = None

    def __init__(self, head, body, peer, context, now):
        self.head, self.body, self.peer, self.context = head, body, peer, context
        self.received = self.read = now
        self.status, self.answered = 0, False

    def reply(self, reply):
        self.status, self.answered = reply.status, True

    async def relay(self, response, extra=b"", tap=None):
        self.status, self.answered = response.status, True
        return 0

    def replace(self, response, lines, body, extra=b""):
        self.status, self.answered = response.status, True
        return len(body)

    async def drained(self):
        pass


class Live:
    """One process that serves a configuration.

    Attributes:
        model: the model server.
        bodies: what was sent and not refused unread, by request id.
    """

    def __init__(self, path, random, executor, audit=None):
        self.settings = load(path, environment={})
        self.random, self.now = random, float(random.uniform(1e3, 1e5))
        # Of their own: how threads and turns come must not change what is asked.
        self._jitter, own = random.spawn(2)
        self.model = Server(own)
        self._executor = executor
        self._ids = iter(range(10**9))

    def clock(self):
        self.now += float(self._jitter.exponential(3e-6))  # in threads, too
        return self.now

    def wall(self):
        return EPOCH + self.clock()

    def open(self, **given):
        """Begins to serve."""
        log = self.settings.audit
        started = {"version": "1", **({"replay": True} if log.replay else {})}
        options = AuditOptions(rotate_bytes=log.rotate_bytes, keep=log.keep)
        self.audit = AuditLog(
            log.path,
            options,
            clock=self.clock,
            wall=self.wall,
            started=given.get("started", started),
        )
        self.shared = Shared(
            clock=self.clock,
            wall=self.wall,
            executor=self._executor,
            request_id=lambda: f"id-{next(self._ids)}",
            metrics=Metrics(wall=self.wall, registry=CollectorRegistry()),
            state=MemoryState(self.settings.client.max_known, self.wall, clock=self.clock),
            audit=self.audit,
            pseudonym_key=self.random.bytes(32),
            explanations=Explanations(0, wall=self.wall),
            recording=Recording(self.audit, clock=self.clock, alone=self.settings.state == MEMORY)
            if log.replay
            else None,
            random=self.random.random,
        )
        self.generation = None
        self.reload()

    def reload(self):
        bundles = load_bundles(self.settings)
        self.generation = build(self.settings, self.shared, bundles, self.generation)
        told = {"at": self.clock(), "excluded": self.generation.excluded()}
        digests = {name: bundle.digest for name, bundle in bundles.items()}
        digest = self.generation.digest
        self.audit.event("configured", configuration=digest, bundles=digests, **told)
        self.generation.pipeline.rehearse(self.generation.pipeline.identify)
        for endpoint in self.generation.pipeline.endpoints:
            for binding in endpoint.bindings:
                binding.pool = self.model

    @property
    def endpoint(self):
        return self.generation.pipeline.endpoints[0]

    async def ask(self, client, body, target=TARGET, method="POST", **headers):
        """One request from an address; the status that it was answered with."""
        pipeline, peer = self.generation.pipeline, Peer(client)
        given = {b"content-type": b"application/json", b"cookie": b"secret"}
        given |= {name.encode(): value for name, value in headers.items()}
        head = Head(method, target, given, keep_alive=True)
        received = self.clock()
        try:
            intake = pipeline.open(head, peer)
        except Refusal as refusal:
            return pipeline.refuse(refusal, head, peer, received).status
        exchange = Exchange(head, body, peer, intake.context, self.clock())
        exchange.received = received
        await pipeline.handle(exchange)
        return exchange.status


@asynccontextmanager
async def serving(path, seed=0, **given):
    """Serves the configuration at ``path``, and closes its log."""
    with ThreadPoolExecutor(2) as executor:
        live = Live(path, np.random.default_rng(seed), executor)
        live.open(**given)
        yield live
        for _ in range(3):
            await asyncio.sleep(0)
        await live.audit.close()
