"""What all real model servers have in common: they are started on ephemeral ports of 127.0.0.1,
each in its own environment, waited for, and ended with all that they started.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loadtest.process import Process, free_port
from loadtest.wire import Session, render_request

PROGRAMS = Path(__file__).resolve().parent / "programs"
START_SECONDS = 300  # a bound, not a measure: some import for long where cores are shared

# The echo models' number of features, and their numpy types; BYTES stands apart.
FEATURES = 64
NUMERIC = {
    "BOOL": "?",
    "UINT8": "u1",
    "INT8": "i1",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT64": "<u8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
DATATYPES = (*NUMERIC, "BYTES")

# The linear model of every server, under several names where the protocol names models; "whole" is
# declared to take whole numbers.
MODELS = ("linear", "limited", "whole")
COLUMNS = ("a", "b", "c", "d")
CLASSES = 3


def responds(port, path="/v2/health/ready"):
    """Whether a server answers 200 there."""
    try:
        with Session(("127.0.0.1", port)) as session:
            return session.exchange(render_request("GET", path, "localhost")).status == 200
    except (OSError, ValueError):
        return False


def end(process):
    """Ends a program with all that it started."""
    process.stop()
    with suppress(ProcessLookupError):  # a server that died leaves its models' processes behind
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def serving(process, port) -> Iterator[int]:
    """The port of a server just started, once it is ready."""
    try:
        process.wait_until(lambda: responds(port), START_SECONDS)
        yield port
    finally:
        end(process)


def version_of(root, distribution):
    """The version of what is installed in an environment."""
    name = distribution.replace("-", "_")
    found = [
        path.stem.split("-")[1]
        for path in root.glob("lib/python3*/site-packages/*.dist-info")
        if path.name.split("-")[0].lower().replace(".", "_") == name
    ]
    return found[0] if found else "?"


class Server:
    """A real model server: prepared when it is made, started by :meth:`launch`.

    Args:
        root: of its own environment.
        folder: for its models, its settings and its log.

    Attributes:
        environment: its environment's name.
        shown: its name in tables, and ``distribution``: what it is installed as.
        health: a path that answers 200 once it serves.
    """

    environment: str
    shown: str
    distribution: str
    health = "/v2/health/ready"

    def __init__(self, root, folder):
        self.root = root
        self.binaries = root / "bin"
        self.python = str(self.binaries / "python")
        self.folder = folder
        self.port = free_port()
        self.grpc_port = free_port()
        self.process = None

    @property
    def version(self):
        """Of the server."""
        return version_of(self.root, self.distribution)

    def command(self):
        """Program and arguments."""
        raise NotImplementedError

    def variables(self):
        """Environment variables on top of the usual ones."""
        return {}

    def in_private_network(self, command, *pairs):
        """The command behind a relay: ``pairs`` are (our port, the server's own)."""
        relayed = ",".join(f"{outer}:{inner}" for outer, inner in pairs)
        return [self.python, str(PROGRAMS / "private_network.py"), relayed, *command]

    def launch(self):
        """Starts it, without waiting."""
        self.process = Process(
            self.environment,
            self.command(),
            self.folder / "server.log",
            environment={
                "PATH": f"{self.binaries}:{os.environ['PATH']}",
                "PYTHONPATH": str(PROGRAMS),
                **self.variables(),
            },
        )

    def wait(self):
        """Waits until it serves."""
        self.process.wait_until(self.ready, START_SECONDS)

    def ready(self):
        """Whether it serves."""
        return responds(self.port, self.health)

    def stop(self):
        """Ends it."""
        if self.process is not None:
            end(self.process)
