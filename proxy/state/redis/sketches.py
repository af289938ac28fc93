"""Sketches that all replicas share: one record a key on the server, one call a key and exchange.

Nothing is lost or added twice while the server cannot be reached: deltas wait in a spool, and each
carries a sequence by which the server knows what it has added. A key that the server has lost (it
was killed without persistence, or emptied) begins anew from the levels that the deltas lie on. What
a failover loses of a key that it still knows, its last moments, is lost.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final, Protocol
from urllib.parse import quote

from detectors.patterns.exchange import Delta, Layout, Merged
from proxy.state.base import StateUnavailable
from proxy.state.deltas import check, newest
from proxy.state.redis.client import Call, Failure, Script, Unknown
from proxy.state.redis.record import (
    EVERYTHING,
    Answer,
    Outcome,
    Words,
    answer,
)
from proxy.state.redis.spool import Sent, Spool

_RECORD: Final = Script.load("record.lua")
_BOARD: Final = Script.load("board.lua")
_BANS: Final = Script.load("bans.lua")

_BATCH: Final = 64
"""Calls of one round trip."""
_MOST_KEYS: Final = 2048
"""Keys of one exchange: what waits beyond them is left to the next."""
_BOARD_CLIENTS: Final = 1000
_BOARD_WORDS: Final = struct.Struct("<ddI")
_LEVEL: Final = struct.Struct("<d")
_MILLISECONDS: Final = 1000.0
_HOUR_MILLISECONDS: Final = 3_600_000.0
_CLIENT: Final = "client:"


class Runner(Protocol):
    """What calls go through: ``Connection`` or one of its lanes."""

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """For each call its reply or the ``Failure`` for which it has none."""


class RedisSketches:
    """Implements ``base.Sketches``.

    Args:
        runner: what calls go through.
        name: of the sketches; those of one name are shared.
        layout: that of the tracker.
        replica: 8 random bytes that are this process's alone.
        spool: keys that may wait while the server cannot be reached; each takes what its deltas
            take, at most some 20 KB.
        clock: monotonic seconds.
        ahead: seconds by which the server's clock is taken to be ahead of what it says: 0, but in
            tests.
    """

    def __init__(
        self,
        runner: Runner,
        name: str,
        layout: Layout,
        *,
        replica: bytes,
        clock: Callable[[], float],
        spool: int = 10_000,
        ahead: Callable[[], float] = lambda: 0.0,
    ) -> None:
        if len(replica) != 8:
            raise ValueError("a replica is named by 8 bytes")
        self._runner = runner
        self._name = quote(name, safe="/")
        self._board = f"bz:{{{self._name}}}:board"
        self._bans = f"bz:{{{self._name}}}:bans"
        self._words = Words(layout, replica)
        self._clock = clock
        self._ahead = ahead
        self._spool = Spool(layout, spool)
        self._layout = layout
        self._lock = asyncio.Lock()
        self._banned: tuple[bytes, dict[str, float]] = b"", {}

    @property
    def spooled(self) -> int:
        """Keys whose deltas wait to be added."""
        return len(self._spool)

    @property
    def dropped(self) -> int:
        """Deltas lost so far."""
        return self._spool.dropped

    def configure(self, layout: Layout) -> None:
        """Lays records out so from now on. Rings of another layout are forgotten."""
        self._layout = layout
        self._spool.configure(layout)
        self._words = replace(self._words, layout=layout)

    async def exchange(self, deltas: Sequence[Delta]) -> Sequence[Merged]:
        """As ``base.Sketches.exchange``. It also answers keys that had waited; without deltas it
        sends what waits.

        Raises:
            ValueError: if a delta does not fit the layout, or is not finite; none was added.
        """
        for delta in deltas:
            check(delta, self._layout)
        for delta in deltas:
            self._spool.add(delta)
        if not len(self._spool):
            return ()
        async with self._lock:
            answers = await self._send_all()
            await self._tell_board(answers)
        return [known.merged for known in answers]

    async def _send_all(self) -> list[Answer]:
        """Sends what waits, as long as the server answers."""
        answers: list[Answer] = []
        keys = list(islice(self._spool, _MOST_KEYS))
        while keys:
            batch = [(key, sent) for key in keys[:_BATCH] if (sent := self._send(key)) is not None]
            del keys[:_BATCH]
            replies = await self._runner.run([self._call(sent) for _, sent in batch])
            answered, silent = 0, False
            for (key, sent), reply in zip(batch, replies, strict=True):
                if isinstance(reply, Failure):
                    silent |= isinstance(reply, Unknown)
                    self._spool.put_off(key)
                    continue
                answered += 1
                known = self._receive(key, sent, reply)
                if known is not None:
                    answers.append(known)
                elif key in self._spool:
                    keys.append(key)
            if silent or (batch and not answered):
                break
        return answers

    def _send(self, key: str) -> Sent | None:
        return self._spool.next(key, self._clock())

    def _call(self, sent: Sent) -> Call:
        delta = sent.delta
        waited = math.ceil(max(0.0, self._clock() - sent.at)) + 1 if sent.again else 0
        entries = newest(delta.entries, delta.key, self._layout)
        words = self._words.exchange(delta, entries, sent.sequence, waited, self._ahead())
        return Call(_RECORD, self._key(delta.key), (words,))

    def _receive(self, key: str, sent: Sent, reply: Any) -> Answer | None:
        """The answer for the tracker; None if its key has more to send first."""
        outcome = reply[0]
        if outcome == Outcome.DOUBTFUL:
            self._spool.dropped += 1
        own = self._spool.acknowledge(key, sent, counted_before=outcome == Outcome.AGAIN)
        return None if own is None else answer(key, reply, own, self._layout)

    async def _tell_board(self, answers: Sequence[Answer]) -> None:
        """Ranks the clients. What fails here is told at their next exchange."""
        words: list[str | bytes] = []
        for known in answers:
            key = known.merged.key
            if known.notable and key.startswith(_CLIENT):
                level = max(known.merged.levels, default=0.0)
                words += (_plain(key[len(_CLIENT) :]), _LEVEL.pack(level))
        if words:
            await self._runner.run([self._on_board(*words)])

    def _on_board(self, *words: str | bytes) -> Call:
        layout = self._layout
        head = _BOARD_WORDS.pack(
            layout.recovery / _HOUR_MILLISECONDS, self._ahead() * _MILLISECONDS, _BOARD_CLIENTS
        )
        retention = round(layout.retention * _MILLISECONDS)
        return Call(_BOARD, self._board, (head, retention, *words))

    async def look(self, key: str) -> Merged | None:
        """As ``base.Sketches.look``.

        Raises:
            StateUnavailable: if the state cannot be reached.
        """
        return (await self._look([key], 0.0))[0]

    async def _look(self, keys: Sequence[str], cursor: float) -> list[Merged | None]:
        ahead = self._ahead()
        replies = await self._ask(
            [Call(_RECORD, self._key(key), (self._words.look(key, cursor, ahead),)) for key in keys]
        )
        return [
            None if reply is None else answer(key, reply, b"", self._layout).merged
            for key, reply in zip(keys, replies, strict=True)
        ]

    async def strongest(self, most: int) -> Sequence[tuple[str, float]]:
        """As ``base.Sketches.strongest``; of at most 1000 clients, and those with less than one
        nat may lack.

        Raises:
            StateUnavailable: if the state cannot be reached.
        """
        (reply,) = await self._ask([self._on_board()])
        # The board is told after the records, and not of what expires: the records are what holds.
        clients = [client.decode() for client in reply]
        found: list[tuple[str, float]] = []
        while clients and len(found) < most:
            some, clients = clients[:_BATCH], clients[_BATCH:]
            records = await self._look([_CLIENT + client for client in some], EVERYTHING)
            for client, record in zip(some, records, strict=True):
                level = max(record.levels, default=0.0) if record else 0.0
                if level > 0:
                    found.append((client, level))
        return sorted(found, key=lambda pair: -pair[1])[: max(0, most)]

    async def forgive(self, client: str) -> None:
        """As ``base.Sketches.forgive``."""
        key = _CLIENT + client
        words = self._words.forgive(key, self._ahead())
        await self._ask([Call(_RECORD, self._key(key), (words,))])
        await self._runner.run([self._on_board(_plain(client), _LEVEL.pack(0.0))])

    async def ban(self, client: str, seconds: float) -> None:
        """As ``base.Sketches.ban``.

        Raises:
            ValueError: if there is no such client or time.
            StateUnavailable: if it could not be done.
        """
        if not client or not math.isfinite(seconds):
            raise ValueError("a ban is of a client, for finite seconds")
        milliseconds = max(0, math.ceil(seconds * _MILLISECONDS))
        await self._ask([self._on_bans(_plain(client), milliseconds)])

    async def bans(self) -> Mapping[str, float] | None:
        """As ``base.Sketches.bans``. Bans that have not changed are not sent again."""
        (reply,) = await self._runner.run([self._on_bans(self._banned[0])])
        if isinstance(reply, Failure):
            return None
        version, now, *listed = reply
        left = {
            client: end - float(now) for client, end in self._banned[1].items() if end > float(now)
        }
        if not version and self._banned[0] and left:
            # The server has lost them (a flush, a restart): they are told again.
            again = [self._on_bans(client, math.ceil(rest)) for client, rest in left.items()]
            await self._runner.run(again)
            return {client: rest / _MILLISECONDS for client, rest in left.items()}
        if version != self._banned[0]:
            ends = {
                client.decode(): float(end)
                for client, end in zip(listed[::2], listed[1::2], strict=True)
                if client
            }
            self._banned = version, ends
        rests = ((client, end - float(now)) for client, end in self._banned[1].items())
        return {client: rest / _MILLISECONDS for client, rest in rests if rest > 0}

    def _on_bans(self, *words: str | bytes | int) -> Call:
        return Call(_BANS, self._bans, (round(self._ahead() * _MILLISECONDS), *words))

    async def _ask(self, calls: Sequence[Call]) -> list[Any]:
        """Replies to what the operator asked, all of them.

        Raises:
            StateUnavailable: if one is lacking.
        """
        replies: list[Any] = []
        for start in range(0, len(calls), _BATCH):
            replies += await self._runner.run(calls[start : start + _BATCH])
        for reply in replies:
            if isinstance(reply, Failure):
                raise StateUnavailable(f"the shared state cannot be reached: {reply}")
        return replies

    def _key(self, key: str) -> str:
        """Where it is kept. The braces place all of one key in one slot of a cluster."""
        return f"bz:{{{self._name}:{_plain(key)}}}"


def _plain(text: str) -> str:
    """Text that can be written as UTF-8, whatever it is."""
    return text.encode("utf-8", "backslashreplace").decode()
