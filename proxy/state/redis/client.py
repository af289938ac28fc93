"""redis-py, opened in one place and without its habits: no command is sent twice.

redis-py repeats a command whose answer was late, and so counts it twice. Here a command is sent
once, and whoever sent it learns whether it was done, was not, or may have been.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from redis import exceptions
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from proxy.state.redis.address import Address, Topology

Argument = bytes | str | int | float


class Failure(Exception):  # noqa: N818 - the base of two conditions
    """A call has no reply."""


class NotDone(Failure):
    """The call was certainly not run."""


class Unknown(Failure):
    """The call may have been run: its reply was late, or the connection was lost."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script.

    Attributes:
        name: for messages.
        source: its text.
        digest: by which the server knows it.
    """

    name: str
    source: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        # SHA-1 is the server's choice, of a name and not of a seal.
        digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "digest", digest)

    @classmethod
    def load(cls, file: str) -> Script:
        """The script in a file beside this one."""
        return cls(file, Path(__file__).with_name(file).read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a script.

    Attributes:
        key: what it reads and writes, and what places it in a cluster.
        more_keys: others, of the same hash tag.
    """

    script: Script
    key: str
    arguments: Sequence[Argument] = ()
    more_keys: Sequence[str] = ()

    def command(self, *, whole: bool = False) -> tuple[Argument, ...]:
        """The command: by the script's digest, or with the whole script, which also loads it."""
        head = ("EVAL", self.script.source) if whole else ("EVALSHA", self.script.digest)
        return (*head, 1 + len(self.more_keys), self.key, *self.more_keys, *self.arguments)


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of PEM: who is trusted (None: whom the system trusts), and who we are."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


# What a server answers in place of running a command, or a script's first write.
_REFUSALS: Final = (
    "OOM ", "READONLY ", "LOADING ", "MISCONF ", "NOSCRIPT ", "NOREPLICAS ", "MASTERDOWN ",
    "CLUSTERDOWN ", "MOVED ", "ASK ", "TRYAGAIN ", "NOPERM ", "NOAUTH ", "BUSY ", "UNKILLABLE ",
    "OOM command not allowed", "MISCONF Redis is configured", "READONLY You can't write",
    "-READONLY", "-MISCONF", "-OOM",
)  # fmt: skip
_REFUSED: Final = (
    exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.BusyLoadingError,
    exceptions.OutOfMemoryError, exceptions.ReadOnlyError, exceptions.NoPermissionError,
    exceptions.NoScriptError, exceptions.AskError, exceptions.TryAgainError,
    exceptions.ClusterDownError, exceptions.MaxConnectionsError,
    exceptions.RedisClusterException, exceptions.DataError,
)  # fmt: skip


def _failure(error: BaseException) -> Failure:
    """What an exception of redis-py says about the call that it answers."""
    text = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, _REFUSED) or (
        isinstance(error, exceptions.ResponseError) and any(word in text for word in _REFUSALS)
    ):
        return NotDone(text)
    if isinstance(error, (TimeoutError, exceptions.TimeoutError)):
        return Unknown("no answer in time")
    return Unknown(text)


class Client:
    """An open client. It connects when it first runs something.

    Args:
        timeout_seconds: how long one round trip may take, connecting included.

    Raises:
        OSError, ValueError: if a certificate cannot be used.
    """

    def __init__(
        self, address: Address, tls: Tls | None, timeout_seconds: float, nodes: Sequence[str] = ()
    ) -> None:
        self._address = address
        self._timeout = timeout_seconds
        self._sentinels: list[Redis] = []
        self._redis = self._open(address, tls or Tls(), nodes)

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """Runs calls in one round trip (one to each node of a cluster), each once.

        Returns:
            for each its reply, or the ``Failure`` that is its reason for having none.
        """
        answers: list[Any] = [Unknown("no answer in time")] * len(calls)
        try:
            async with asyncio.timeout(self._timeout):
                answers = await self._pipeline([call.command() for call in calls])
                lost = [
                    index
                    for index, answer in enumerate(answers)
                    if isinstance(answer, exceptions.NoScriptError)
                ]
                if lost:
                    for index in lost:
                        answers[index] = Unknown("no answer in time")
                    again = await self._pipeline(
                        [calls[index].command(whole=True) for index in lost]
                    )
                    for index, answer in zip(lost, again, strict=True):
                        answers[index] = answer
        except Exception as error:  # also the client's own faults: a call may have been run
            failure = _failure(error)
            answers = [failure if isinstance(answer, Unknown) else answer for answer in answers]
        return [
            _failure(answer)
            if isinstance(answer, Exception) and not isinstance(answer, Failure)
            else answer
            for answer in answers
        ]

    async def _pipeline(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """Replies, and exceptions in their places."""
        # Neither kind of pipeline is a transaction.
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)

    async def check(self) -> str:
        """Reaches every primary.

        Returns:
            what is wrong with how they are set up, or "".

        Raises:
            Failure: if one cannot be reached.
        """
        try:
            async with asyncio.timeout(self._timeout):
                if isinstance(self._redis, RedisCluster):
                    await self._redis.initialize()
                    found = await self._redis.info("memory", target_nodes=RedisCluster.PRIMARIES)
                    infos = list(found.values()) if "maxmemory" not in found else [found]
                else:
                    infos = [await self._redis.info("memory")]
        except Exception as error:
            raise _failure(error) from None
        return next(filter(None, map(_warning, infos)), "")

    def nodes(self) -> list[str]:
        """host:port of the cluster's nodes, as far as they are known; [] if it is none."""
        if isinstance(self._redis, RedisCluster):
            return [f"{node.host}:{node.port}" for node in self._redis.get_nodes()]
        return []

    async def close(self) -> None:
        """Closes all connections."""
        if isinstance(self._redis, RedisCluster):
            # It leaves those open that a failure took from it, and all if it has not initialised.
            manager = self._redis.nodes_manager
            nodes = [*manager.nodes_cache.values(), *manager.startup_nodes.values()]
            await asyncio.gather(*(node.disconnect() for node in nodes), return_exceptions=True)
        clients = (self._redis, *self._sentinels)
        await asyncio.gather(*(client.aclose() for client in clients), return_exceptions=True)

    def _open(self, address: Address, tls: Tls, nodes: Sequence[str]) -> Redis | RedisCluster:
        once = Retry(NoBackoff(), 0)
        options: dict[str, Any] = {
            "username": address.username,
            "password": address.password,
            "socket_timeout": self._timeout,
            "socket_connect_timeout": self._timeout,
            "protocol": 2,  # the only one that every server speaks without asking
            "driver_info": None,
        }
        if address.tls:
            options |= {
                "ssl": True,
                "ssl_ca_certs": str(tls.ca) if tls.ca else None,
                "ssl_certfile": str(tls.certificate) if tls.certificate else None,
                "ssl_keyfile": str(tls.key) if tls.key else None,
                "ssl_min_version": ssl.TLSVersion.TLSv1_2,
            }
            _try_files(tls)
        match address.topology:
            case Topology.CLUSTER:
                known = [
                    (host, int(port)) for host, _, port in (node.rpartition(":") for node in nodes)
                ]
                return RedisCluster(
                    startup_nodes=[
                        ClusterNode(host, port)
                        for host, port in dict.fromkeys((*address.hosts, *known))
                    ],
                    retry=once,
                    **options,
                )
            case Topology.SENTINEL:
                # Sentinels have users of their own, if any: ours are the primary's.
                encryption = {
                    name: value for name, value in options.items() if name.startswith("ssl")
                }
                sentinel = Sentinel(  # type: ignore[no-untyped-call] # redis-py's
                    address.hosts,
                    sentinel_kwargs={
                        "socket_timeout": self._timeout,
                        "socket_connect_timeout": self._timeout,
                        "protocol": 2,
                        "retry": once,
                        **encryption,
                    },
                )
                self._sentinels = sentinel.sentinels
                primary: Redis = sentinel.master_for(
                    address.service, db=address.database, retry=once, **options
                )
                return primary
            case Topology.STANDALONE:
                if address.path:
                    options["unix_socket_path"] = address.path
                else:
                    options["host"], options["port"] = address.hosts[0]
                return Redis(db=address.database, retry=once, **options)


def _warning(memory: Mapping[str, Any]) -> str:
    """An evicting server lets whoever fills it evict what it knows of them."""
    policy = memory.get("maxmemory_policy", "noeviction")
    if memory.get("maxmemory") and policy != "noeviction":
        return f"maxmemory-policy is {policy}, which lets a flood evict quotas: set noeviction"
    return ""


def _try_files(tls: Tls) -> None:
    """Reads the files now, so that a wrong one is an error of configuration and not an outage."""
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)


__all__ = ["Argument", "Call", "Client", "Failure", "NotDone", "Script", "Tls", "Unknown"]
