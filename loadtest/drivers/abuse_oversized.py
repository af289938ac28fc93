"""Requests beyond any measure, many at once, and what honest clients feel meanwhile."""

from __future__ import annotations

import asyncio
import gzip
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
import zstandard
from pydantic import Field

from loadtest.drivers.abuse_felt import Felt
from loadtest.drivers.abuse_wire import Parts, Raw, exchange, parts, raw_of
from loadtest.drivers.base import Asked, Means, Outcome, Spent
from loadtest.drivers.knobs import read as read_knobs
from loadtest.targets.base import Oracle, Rows
from proxy.settings.section import Section

_MANY: Final = 1_000_000  # rows


def oversized(valid: Parts, size: int) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The kinds of oversized requests, each with what makes one of ``size`` bytes at most."""
    body = valid.body
    filler = (b"0," * (size // 2))[:size]

    def coded(coding: bytes, packed: bytes) -> bytes:
        return valid.with_body(packed, b"Content-Encoding: " + coding)

    yield "a body that never ends", lambda: valid.with_body(b"[" + filler)
    yield (
        "a length of 1 TB, and the beginning of it",
        lambda: valid.framed(b"Content-Length: %d" % 10**12, body=filler[: 1 << 16]),
    )
    yield (
        "chunks without an end",
        lambda: valid.framed(
            b"Transfer-Encoding: chunked",
            body=b"".join(b"1000\r\n%b\r\n" % filler[:4096] for _ in range(size // 4104)),
        ),
    )
    yield (
        "chunks of one byte",
        lambda: valid.framed(b"Transfer-Encoding: chunked", body=b"1\r\n0\r\n" * (size // 6)),
    )
    yield (
        "a head without an end",
        lambda: (
            valid.with_body(body)[: -len(body) - 2]
            + b"".join(b"X-%07d: %b\r\n" % (i, b"a" * 100) for i in range(size // 113))
        ),
    )
    yield "a header without an end", lambda: b"GET / HTTP/1.1\r\nX: " + b"a" * size
    # Their plain form is 32 times the size, within what one request may be told to hold in memory.
    plain = body + b" " * (32 * size)
    yield "a body that grows under gzip", lambda: coded(b"gzip", gzip.compress(plain, mtime=0))
    yield "a body that grows under zstd", lambda: coded(b"zstd", zstandard.compress(plain))


def many_rows(raw: Raw, row: Rows, client: str, size: int) -> bytes:
    """A valid request of as many equal rows as ``size`` bytes hold, a million at most.

    Raises:
        ValueError: if the protocol takes no more than one.
    """
    one = len(parts(raw.request(row[None], client)).body)
    two = len(parts(raw.request(np.repeat(row[None], 2, axis=0), client)).body)
    count = min(_MANY, max(2, (size - one) // max(1, two - one)))
    return raw.request(np.repeat(row[None], count, axis=0), client)


class Knobs(Section):
    """Knobs of this driver."""

    megabytes: Annotated[float, Field(gt=0, le=64)] = 4.0
    """Of one request."""
    count: Annotated[int, Field(ge=1, le=10_000)] = 48
    """Requests of each kind."""
    at_once: Annotated[int, Field(ge=1, le=1000)] = 16
    """Of them at the same time: a burst."""
    seconds: Annotated[float, Field(gt=0, le=600)] = 4.0
    """Of the honest requests before, and of each kind, at least."""
    rate: Annotated[float, Field(gt=0, le=1000)] = 50.0
    """Honest requests a second."""
    patience: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Seconds of silence after which a request that never ends is ended."""
    recovery: Annotated[float, Field(gt=0, le=600)] = 10.0
    """Seconds that the endpoint may be gone for before the attack ends."""


@dataclass(frozen=True)
class Oversized:
    """The driver ``abuse-oversized``."""

    name: str = "abuse-oversized"
    family: str = "abuse"
    atlas: tuple[str, ...] = ("AML.T0029", "AML.T0034.001")
    goal: str = "kinds of oversized requests that honest clients feel: p99 doubled, or failures"
    words: str = (
        "bodies, heads and rows beyond any limit, compressed ones too, many at once, with honest "
        "requests beside them (OWASP LLM10 Unbounded Consumption; RFC 9110, 15.5.14)"
    )
    needs: frozenset[str] = frozenset()

    def run(self, oracle: Asked, judge: Oracle | None, means: Means) -> Outcome:
        """Sends each kind of oversized request, many at once. One kind is one try.

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
            felt.note = "the budget was spent before the last request"
        return felt.outcome()


async def _attack(felt: Felt, means: Means, chosen: Knobs) -> None:
    await felt.begin(means, chosen.seconds)
    size = int(chosen.megabytes * 2**20)
    kinds = dict(oversized(parts(felt.raw.request(means.own[:1], felt.attacker)), size))
    try:
        rows = many_rows(felt.raw, means.own[0], felt.attacker, size)
    except ValueError as error:
        felt.note = f"rows: {error}"
    else:
        kinds["a body of many rows"] = lambda: rows
    for kind, make in kinds.items():
        data = make()  # before the probes begin: packing takes its time
        await felt.during(kind, lambda data=data: _flood(felt, data, chosen))  # type: ignore[misc]  # bound now
        if felt.gone:
            break


async def _flood(felt: Felt, data: bytes, chosen: Knobs) -> dict[str, Any]:
    """Sends one request many times, in bursts spread evenly over the time: how they ended."""
    now = asyncio.get_running_loop().time
    began = now()
    heard: Counter[str] = Counter()

    async def send() -> None:
        one = await exchange(felt.raw, felt.attacker, data, patience=chosen.patience, deadline=10.0)
        heard[" ".join([*map(str, one.statuses), one.end.value])] += 1
        felt.count(one.statuses[0] if one.statuses else 0)

    bursts = -(-chosen.count // chosen.at_once)
    for burst in range(bursts):
        async with asyncio.TaskGroup() as group:
            for _ in range(min(chosen.at_once, chosen.count - burst * chosen.at_once)):
                group.create_task(send())
        due = began + (burst + 1) * chosen.seconds / bursts
        await asyncio.sleep(max(0.0, due - now()))
    return {"bytes": len(data), "answers": dict(heard)}
