"""One exchange rehearsed: what a client sends, what the model says, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from proxy.decision import Permit
from proxy.http.drive import Drive, Waiter
from proxy.http.messages import Head, Peer, Reply
from proxy.http.upstream import PoolState
from proxy.pipeline import Pipeline
from proxy.rules import UPSTREAM_INVALID, Refusal
from proxy.telemetry.record import Record
from proxy.visit import Visit

_NOWHERE: Final = Peer("")


class Spoken:
    """What the model says. Implements ``transport.Answer``.

    Args:
        body: None if nobody knows it; as None it is also larger than any limit.
        unknown: whether nothing can be read of it: then nothing is.
    """

    complete = True
    buffered = 0

    def __init__(
        self,
        status: int,
        headers: Sequence[tuple[bytes, bytes]] = (),
        body: bytes | None = b"",
        *,
        unknown: bool = False,
    ) -> None:
        self.status = status
        self.headers = list(headers)
        self.bodiless = unknown
        self._body = body

    def get(self, name: bytes, /) -> bytes | None:
        """As ``transport.Answer``."""
        return next((value for known, value in self.headers if known == name), None)

    async def gathered(self, limit: int, /) -> bytes | None:
        """As ``transport.Answer``."""
        return self._body if self._body is not None and len(self._body) <= limit else None

    async def whole(self, limit: int, /) -> bytes:
        """As ``transport.Answer``."""
        body = await self.gathered(limit)
        if body is None:
            raise Refusal(UPSTREAM_INVALID, f"an answer of more than {limit} bytes")
        return body

    body = whole

    def discard(self) -> None:
        """As ``transport.Answer``."""


class Threaded(NamedTuple):
    """The moment at which what ran in a thread had its effect.

    Attributes:
        watched: whether that was when it added to what is known of clients; otherwise, when it was
            over.
    """

    moment: float
    watched: bool


class Model(Protocol):
    """Plays the model server to one exchange."""

    async def answer(self, scene: Scene, permit: Permit) -> Spoken:
        """Answers what was sent, the exchange's own request first.

        Raises:
            Refusal: as ``transport.Transport.send``.
        """

    def thread(self, scene: Scene) -> Threaded | None:
        """When what an executor is now given has its effect; None: at once."""

    async def relayed(self, scene: Scene) -> None:
        """The answer went on to the client unread.

        Raises:
            Refusal: if the model server died meanwhile.
        """


class Scene:
    """One exchange. Implements ``transport.Exchange``.

    Attributes:
        model: plays the model server to it.
        asked: how often the model was asked so far.
        moment: what it waits for, while it does.
        ended: whether it is over.
        upstream: None: the model that is played takes the place of its binding's servers.
    """

    upstream: Final = None

    def __init__(
        self,
        pipeline: Pipeline,
        head: Head,
        body: bytes,
        visit: Visit,
        *,
        model: Model,
        read: float,
    ) -> None:
        self.head = head
        self.body = body
        self.peer = _NOWHERE
        self.context: Any = visit
        self.received = self.read = read
        self.status = 0
        self.answered = False
        self.ended = False
        self.moment: float | None = None
        self.model = model
        self.asked = 0
        self._resume: Callable[[], None] | None = None
        self._drive = Drive(pipeline.handle(self), self._end)

    @property
    def record(self) -> Record:
        """What is known of it."""
        record: Record = self.context.record
        return record

    async def play(self) -> None:
        """Goes on until it waits for a moment, or is over."""
        resume, self._resume, self.moment = self._resume, None, None
        (resume or self._drive.step)()
        # A turn of the loop tells what an executor did: there is no event to wait for.
        while not self.ended and self._resume is None:  # noqa: ASYNC110 - see above
            await asyncio.sleep(0)

    def hold(self, moment: float, resume: Callable[[], None]) -> None:
        """It goes on at this moment, by ``resume``."""
        self.moment, self._resume = moment, resume

    async def until(self, moment: float) -> None:
        """For a model: waits until it is this moment."""
        waiter = Waiter()
        self.hold(moment, waiter.wake)
        await waiter

    async def send(self, permit: Permit) -> Spoken:
        """What the model says to what is sent upstream."""
        self.asked += 1
        return await self.model.answer(self, permit)

    def _end(self, _: BaseException | None) -> None:
        self.ended = True

    # ``transport.Exchange``:

    def reply(self, reply: Reply, /) -> None:
        """As ``transport.Exchange``."""
        self.status, self.answered = reply.status, True

    async def relay(self, response: Any, extra: bytes = b"", tap: Any = None) -> int:
        """As ``transport.Exchange``."""
        self.status = response.status
        await self.model.relayed(self)
        self.answered = True
        return 0

    def replace(self, response: Any, lines: bytes, body: bytes, extra: bytes = b"") -> int:
        """As ``transport.Exchange``."""
        self.status, self.answered = response.status, True
        return len(body)

    async def drained(self) -> None:
        """As ``transport.Exchange``."""


class Stage(Protocol):
    """Knows which scene is played."""

    scene: Scene | None


class Upstream:
    """Stands where the model servers are. Implements ``transport.Transport``.

    Attributes:
        metadata: what they tell of the model, by the path of the question.
    """

    crowded = False

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.metadata: dict[bytes, bytes] = {}

    async def send(self, permit: Permit, /) -> Spoken:
        """As ``transport.Transport``: what the scene's model says; outside any, the metadata."""
        scene = self._stage.scene
        if scene is not None:
            return await scene.send(permit)
        told = self.metadata.get(permit.request.target)
        return Spoken(404) if told is None else Spoken(200, body=told)

    def state(self) -> PoolState:
        """As ``transport.Transport``: there are no servers."""
        return PoolState(0, 0, ())

    async def close(self, seconds: float = 0.0) -> None:
        """As ``transport.Transport``."""
