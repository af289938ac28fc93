"""A closed loop over gRPC: ready-made messages, one call at a time on each connection."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from time import perf_counter
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np

from loadtest.client import Result
from loadtest.grpc_messages import INFER
from loadtest.wire import Header

Call = tuple[tuple[Header, ...], bytes]
"""The metadata and the message of a call."""

# A connection of its own for each channel, as separate clients have.
_OPTIONS: Final = [("grpc.use_local_subchannel_pool", 1)]
_OK: Final = 200
_CALL_SECONDS: Final = 10.0


async def closed_loop(
    address: tuple[str, int], pool: Sequence[Call], *, connections: int, seconds: float
) -> Result:
    """Keeps every connection busy for ``seconds`` with calls taken from ``pool`` in turn.

    As ``loadtest.client.closed_loop``. A call that is answered counts as status 200; any other end
    is an error, by the name of its gRPC status.

    Raises:
        OSError: if the server cannot be reached.
    """
    target = "{}:{}".format(*address)
    latencies: list[float] = []
    errors: Counter[str] = Counter()
    calls = cycle(pool)
    channels = [grpc.aio.insecure_channel(target, options=_OPTIONS) for _ in range(connections)]
    try:
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                await asyncio.gather(*(channel.channel_ready() for channel in channels))
        except TimeoutError:
            raise OSError(f"no gRPC at {target}") from None
        started = perf_counter()
        deadline = started + seconds

        async def keep_busy(channel: Any) -> None:
            infer = channel.unary_unary(INFER)
            while (begun := perf_counter()) < deadline:
                metadata, message = next(calls)
                try:
                    await infer(message, metadata=metadata, timeout=_CALL_SECONDS)
                except grpc.aio.AioRpcError as error:
                    errors[error.code().name] += 1
                else:
                    latencies.append(perf_counter() - begun)

        await asyncio.gather(*map(keep_busy, channels))
        took = perf_counter() - started
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))
    statuses = Counter({_OK: len(latencies)} if latencies else {})
    return Result(took, np.array(latencies, np.float64), statuses, errors)


def statuses_of(address: tuple[str, int], calls: Sequence[Call]) -> list[str]:
    """How each call ends, one after the other: names of gRPC statuses."""
    with grpc.insecure_channel("{}:{}".format(*address), options=_OPTIONS) as channel:
        infer = channel.unary_unary(INFER)
        return [_status_of(infer, *call) for call in calls]


def _status_of(infer: Any, metadata: tuple[Header, ...], message: bytes) -> str:
    try:
        infer(message, metadata=metadata, timeout=_CALL_SECONDS, wait_for_ready=True)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"
