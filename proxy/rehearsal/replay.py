"""Plays what was recorded to a stage, and tells what it decides."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import numpy as np
import orjson

from proxy import rules
from proxy.decision import Permit
from proxy.http.messages import Head
from proxy.identity import Identity
from proxy.recording import NOTE, question
from proxy.rehearsal.recorded import bytes_of, headers_of, wall_of
from proxy.rehearsal.scene import Scene, Spoken, Threaded
from proxy.rehearsal.stage import Stage
from proxy.rules import RULES, Refusal
from proxy.second_opinion import LateOpinion
from proxy.telemetry.audit_line import Lines

COMPARED: Final = (
    *("endpoint", "action", "enforced", "would_block", "reasons", "status", "rows"),
    *("score", "p_value", "worst_row", "flagged_rows", "signals", "answer", "shaped", "fault"),
)
"""Of a record's keys, those by which two decisions are the same."""

_AWAY: Final = frozenset(
    rule.id
    for rule in (
        *(rules.UPSTREAM_UNREACHABLE, rules.UPSTREAM_TIMEOUT, rules.UPSTREAM_INVALID),
        *(rules.UPSTREAM_QUEUE, rules.BUSY),
    )
)
"""What the model server, or how busy the gateway was, decided alone."""


_QUEUE_FULL: Final = {
    "rule": rules.AUDIT_FAULT.id,
    "atlas": [],
    "detail": "the queue of records is full",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage decided about one recorded exchange.

    Attributes:
        was: the record.
        now: the record as it would be; None if it was not played.
        why: why it was not played, or "".
        unheard: whether it passed, and would have been judged by an answer that is not recorded.
    """

    was: Mapping[str, Any]
    now: Mapping[str, Any] | None
    why: str = ""
    unheard: bool = False

    @property
    def differs(self) -> tuple[str, ...]:
        """The keys in which the two differ."""
        if self.now is None:
            return ()
        return tuple(name for name in COMPARED if self.was.get(name) != self.now.get(name))


class Recorded:
    """Plays the model server as it was recorded. Implements ``scene.Model``."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        told = record["notes"][NOTE]
        self._told = told
        self._rows: int = record["rows"]
        self._status: int = record["status"]
        answers = told.get("answers", [])
        self._answer = next((one for one in answers if "question" not in one), None)
        self._opinions = [one for one in answers if "question" in one]
        self._fault = record.get("answer", {}).get("second_opinion", {}).get("fault", "")
        self._refusal = _away(record)
        self._threaded = -1
        self.unheard = False

    def thread(self, scene: Scene) -> Threaded | None:
        """As ``scene.Model``."""
        if self._threaded == scene.asked:
            return None  # only the first thread on either way touches what others do
        self._threaded = scene.asked
        watched, weighed = self._told.get("watched", 0.0), self._told.get("weighed", 0.0)
        answered = self._told.get("answered", 0.0)
        if scene.asked == 0 and watched and not 0.0 < answered < watched:
            return Threaded(watched, watched=True)
        if scene.asked == 1 and watched > answered:
            return Threaded(watched, watched=True)
        if scene.asked == 1 and weighed:
            return Threaded(weighed, watched=False)
        return None

    async def answer(self, scene: Scene, permit: Permit) -> Spoken:
        """As ``scene.Model``."""
        if scene.asked > 1:
            return self._opinion(scene.asked - 2, permit)
        answered = self._told.get("answered", 0.0)
        if self._refusal is not None and self._status == self._refusal.rule.status:
            raise self._refusal
        if answered:
            await scene.until(answered)
        if self._answer is None:
            if not answered and not self._status:
                raise asyncio.CancelledError  # the client left first
            self.unheard = scene.context.reads
            return Spoken(self._status if answered else 200, unknown=True)
        answer = self._answer
        return Spoken(answer["status"], [*headers_of(answer).items()], bytes_of(answer))

    def _opinion(self, index: int, permit: Permit) -> Spoken:
        told = self._opinions[index] if index < len(self._opinions) else None
        if told is not None and told["question"] == question(permit.request.body):
            return Spoken(told["status"], [*headers_of(told).items()], bytes_of(told))
        if not self._status:
            raise asyncio.CancelledError
        raise LateOpinion(self._fault or "it is not recorded what the model would have said")

    async def relayed(self, scene: Scene) -> None:
        """As ``scene.Model``."""
        if self._refusal is not None:
            raise self._refusal
        visit = scene.context
        if visit.meter is not None:
            await scene.until(self._told["finished"])
            if not visit.metered:
                visit.meter = _Read(self._rows)


class _Read:
    """A meter that was read."""

    def __init__(self, units: int) -> None:
        self._units = units

    def add(self, piece: bytes) -> None:
        """As ``protocols.base.Meter``."""

    def units(self) -> int:
        """As ``protocols.base.Meter``."""
        return self._units


class Player:
    """Plays one process's life to a stage.

    Args:
        tell: is told what came of each exchange, once it is over.
    """

    def __init__(self, stage: Stage, tell: Callable[[Outcome], None]) -> None:
        self._stage = stage
        self._tell = tell
        self._lines = Lines()
        self._held: list[tuple[float, int, Scene, Mapping[str, Any], float]] = []
        self._count = count()
        self._bans: dict[str, dict[str, float]] = {}
        self._configured = False

    async def begin(self, *, configured: bool = False) -> None:
        """Begins as a process does.

        Args:
            configured: whether what comes is of a process that had its configuration before.
        """
        self._stage.begin()
        self._bans.clear()
        self._configured = configured
        await self._stage.prepare()

    async def end(self) -> None:
        """Plays what is still under way to its end."""
        await self._go_on(float("inf"))

    async def play(self, moment: float, record: Mapping[str, Any]) -> None:
        """Plays the next record, which is of this moment."""
        await self._go_on(moment)
        stage = self._stage
        stage.clock.now = moment
        if record["type"] == "exchange":
            await self._exchange(record)
        elif record["type"] == NOTE:
            stage.clock.epoch = wall_of(record) - moment
            await self._beside(record)
        elif self._configured:
            stage.reload()
            await stage.prepare()
        self._configured = self._configured or record["type"] == "configured"

    async def _go_on(self, until: float) -> None:
        """Plays on whatever waits for a moment up to this one."""
        while self._held and self._held[0][0] <= until:
            moment, _, scene, record, epoch = heapq.heappop(self._held)
            self._stage.clock.now, self._stage.clock.epoch = moment, epoch
            await self._step(scene, record)

    async def _exchange(self, record: Mapping[str, Any]) -> None:
        told = record.get("notes", {}).get(NOTE)
        why = _unplayed(record, told)
        if why:
            self._tell(Outcome(record, None, why))
            return
        stage = self._stage
        stage.clock.epoch = told["wall"] - told["finished"]
        head = Head(record["method"], record["target"], headers_of(told), keep_alive=True)
        identity = Identity(record["client"], "recorded", told["subnet"])
        try:
            scene = stage.enter(
                head,
                bytes_of(told) or b"",
                identity,
                Recorded(record),
                read=told["read"],
                name=record["id"],
            )
        except Refusal as refusal:
            self._tell(Outcome(record, None, f"{refusal.rule.id}: no such route any more"))
            return
        await self._step(scene, record)

    async def _step(self, scene: Scene, record: Mapping[str, Any]) -> None:
        stage, told = self._stage, record["notes"][NOTE]
        drawn = told.get("drawn")
        stage.drawn = None if drawn is None else np.array(drawn, np.float64)
        stage.notebook.full = _QUEUE_FULL in record["reasons"]
        await stage.play(scene)
        stage.notebook.full = False
        if scene.ended:
            now = orjson.loads(b"{" + self._lines.exchange(scene.record))
            model = scene.model
            unheard = isinstance(model, Recorded) and model.unheard
            self._tell(Outcome(record, now, unheard=unheard))
        else:
            assert scene.moment is not None  # it waits for one
            moment = max(scene.moment, stage.clock.now)
            entry = (moment, next(self._count), scene, record, stage.clock.epoch)
            heapq.heappush(self._held, entry)

    async def _beside(self, record: Mapping[str, Any]) -> None:
        """What happened beside the exchanges."""
        stage, name = self._stage, record["endpoint"]
        endpoint = stage.endpoint(name)
        if endpoint is None:
            return
        match record["what"]:
            case "exchange":
                await endpoint.clients.exchange()
            case "bans":
                self._bans[name] = record["until"]
                endpoint.clients.hold_bans(record["until"])
            case "forgiven":
                await endpoint.clients.forgive(record["client"])
                endpoint.clients.hold_bans(self._bans.get(name, {}))
            case "metadata":
                await stage.learn(name, record["match"], bytes_of(record) or b"")


def _unplayed(record: Mapping[str, Any], told: Mapping[str, Any] | None) -> str:
    """Why an exchange is taken as it is recorded, or ""."""
    if told is None:
        return "it was too large to be recorded" if "cut" in record else "its body is not recorded"
    if told.get("wire"):
        return "it was refused before it was read"
    if bytes_of(told) is None:
        return "its body is not recorded"
    if "taken" not in told and _away(record) is not None:
        return "the gateway was too busy to inspect it"
    return ""


def _away(record: Mapping[str, Any]) -> Refusal | None:
    """The refusal of an exchange that the model server or the load decided alone."""
    reasons = record["reasons"]
    if len(reasons) != 1 or reasons[0]["rule"] not in _AWAY:
        return None
    return Refusal(RULES[reasons[0]["rule"]], reasons[0]["detail"])
