"""What a Redis says of itself, for whoever wants to know whether it is fit to be shared through.

It changes nothing: the one script that is run only looks whether a key exists.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from redis import exceptions
from redis.asyncio import Redis, RedisCluster

from proxy.state.redis.address import Address
from proxy.state.redis.client import Client, Tls

_ROUNDS: Final = 21
_SCRIPT: Final = "return redis.call('EXISTS', KEYS[1])"


class SurveyError(Exception):
    """Redis cannot be asked: the message says why.

    Attributes:
        refused: whether somebody answered, and said no.
    """

    def __init__(self, message: str, *, refused: bool) -> None:
        super().__init__(message)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Node:
    """One server.

    Attributes:
        name: host:port, or "" where there is but one.
        info: what INFO says: by section's keys, as redis-py reads them.
        save: the save points that CONFIG GET tells; None if that is not allowed.
    """

    name: str
    info: Mapping[str, Any] = field(repr=False)
    save: str | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found.

    Attributes:
        nodes: the primaries.
        round_trip: seconds, the median of 21.
        ahead: seconds by which the server's clock is ahead of ours, give or take half of
            ``round_trip``.
        script: why the scripts that share could not run there, or "".
    """

    nodes: Sequence[Node]
    round_trip: float
    ahead: float
    script: str = ""


async def survey(
    address: Address,
    tls: Tls | None,
    *,
    seconds: float,
    namespace: str = "bartizan",
    clock: Callable[[], float] = time.perf_counter,
    wall: Callable[[], float] = time.time,
) -> Survey:
    """Asks every primary.

    Args:
        seconds: for everything.

    Raises:
        SurveyError: if they cannot be asked.
        OSError, ValueError: if a certificate cannot be used.
    """
    surveyor = _Surveyor(address, tls, seconds)
    try:
        async with asyncio.timeout(seconds):
            return await surveyor.survey(namespace, clock, wall)
    except TimeoutError:
        raise SurveyError(f"no answer within {seconds:g} s", refused=False) from None
    except exceptions.RedisError as error:
        refused = isinstance(error, (exceptions.ResponseError, exceptions.AuthenticationError))
        raise SurveyError(_words(error), refused=refused) from None
    except OSError as error:
        raise SurveyError(_words(error), refused=False) from None
    finally:
        await surveyor.close()


class _Surveyor(Client):
    """A client that asks about the server rather than running scripts."""

    async def survey(
        self, namespace: str, clock: Callable[[], float], wall: Callable[[], float]
    ) -> Survey:
        redis = self._redis
        nodes = await self._nodes()
        trips = []
        for _ in range(_ROUNDS):
            begun, ours = clock(), wall()
            told = await _time(redis)
            took = clock() - begun
            trips.append((took, told - ours - took / 2))
        # The fastest reply tells most of the time between.
        return Survey(
            nodes, median(took for took, _ in trips), min(trips)[1], await self._script(namespace)
        )

    async def _nodes(self) -> list[Node]:
        redis = self._redis
        if not isinstance(redis, RedisCluster):
            return [Node("", await redis.info(), await _save(redis))]
        await redis.initialize()
        nodes = []
        for primary in redis.get_primaries():
            info = await redis.info(target_nodes=primary)
            nodes.append(Node(f"{primary.host}:{primary.port}", info, None))
        return nodes

    async def _script(self, namespace: str) -> str:
        try:
            await self._redis.eval(_SCRIPT, 1, f"{namespace}:{{doctor}}")
        except exceptions.RedisError as error:
            return _words(error)
        return ""


async def _time(redis: Redis | RedisCluster) -> float:
    if isinstance(redis, RedisCluster):
        seconds, micros = await redis.time(target_nodes=redis.get_primaries()[0])
    else:
        seconds, micros = await redis.time()
    return float(seconds) + float(micros) / 1e6


async def _save(redis: Redis) -> str | None:
    try:
        told = await redis.config_get("save")
    except exceptions.RedisError:
        return None
    return str(told.get("save", ""))


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
