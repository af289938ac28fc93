"""Quotas shared by replicas, measured: ``python -m loadtest.quotas``.

Replicas share one real Redis. Clients ask for rows as fast as they are answered, each time at a
random replica, while things may happen to Redis. What is admitted is held against the quota, over
every window.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click
from redis.exceptions import ConnectionError

from loadtest.redis_servers import BINARIES, RedisCluster, RedisServer, Sentinel
from proxy.state.base import NANOSECONDS, LeaseNeeded, Quota
from proxy.state.redis.ledger import RedisLedger
from proxy.state.redis.state import RedisState


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for.

    Attributes:
        replicas: that share the quota.
        clients: that ask at the same time.
        seconds: for how long.
        quota: of all clients together.
        client_quota: of each client.
        rows: the most that one request holds; it holds from 1 to so many.
        requests_per_second: of each client; 0: as fast as it is answered.
        wait_seconds: that a request waits for a lease at most.
        seed: of the routing.
    """

    replicas: int = 4
    clients: int = 64
    seconds: float = 5.0
    quota: Quota = Quota.of(500.0, 1000, None)  # noqa: RUF009 - a value
    client_quota: Quota = Quota()  # noqa: RUF009 - a value
    rows: int = 1
    requests_per_second: float = 0.0
    wait_seconds: float = 0.02
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    Attributes:
        admitted, denied: requests.
        rows: admitted.
        quota: rows that the quota held over the whole time.
        usable: the share of it that was admitted.
        worst: rows by which some window exceeded the quota, of all clients or of one; 0: none did.
        calls: sent to Redis, by all replicas.
        calls_per_second: of one replica.
        failures: calls that failed.
        degraded: requests that were decided while Redis was away.
        longest_wait: the longest that a request waited for its lease, in milliseconds.
        recovered: whether every replica had Redis again in the end.
    """

    admitted: int
    denied: int
    rows: int
    quota: float
    usable: float
    worst: float
    calls: int
    calls_per_second: float
    failures: int
    degraded: int
    longest_wait: float
    recovered: bool


class Window:
    """By how many rows some window exceeded a quota: its own bucket, which never denies."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._clear = 0
        self._days: dict[int, int] = {}
        self.worst = 0.0
        self.rows = 0

    def add(self, rows: int, now: float, wall: float) -> None:
        """Counts rows that were admitted at a moment."""
        self.rows += rows
        if self._quota.interval:
            moment = int(now * NANOSECONDS)
            self._clear = max(self._clear, moment) + rows * self._quota.interval
            excess = (self._clear - moment) / self._quota.interval - self._quota.burst
            self.worst = max(self.worst, excess)
        if self._quota.per_day:
            day = int(wall) // 86_400
            self._days[day] = self._days.get(day, 0) + rows
            self.worst = max(self.worst, self._days[day] - self._quota.per_day)


Happening = Callable[[], Awaitable[None]]


async def run(url: str, load: Load, happening: Happening | None = None) -> Outcome:
    """Runs the load, and ``happening`` beside it, from a third of its time on."""
    states = [
        RedisState(
            url,
            wait_seconds=load.wait_seconds,
            timeout_seconds=max(0.1, 2 * load.wait_seconds),
            replicas=load.replicas,
        )
        for _ in range(load.replicas)
    ]
    await asyncio.gather(*(state.start() for state in states))
    ledgers = [state.ledger("quotas", (load.client_quota, load.quota)) for state in states]
    total = Window(load.quota)
    each = [Window(load.client_quota) for _ in range(load.clients)]
    tally = {"admitted": 0, "denied": 0, "degraded": 0, "longest_wait": 0.0}
    dice = random.Random(load.seed)
    started = time.monotonic()
    deadline = started + load.seconds

    async def ask(ledger: RedisLedger, state: RedisState, client: int, rows: int) -> None:
        keys = (f"client{client}", "*")
        asked = time.monotonic()
        while True:
            now = time.monotonic()
            try:
                denial = ledger.take(keys, rows, now)
                break
            except LeaseNeeded as needed:
                await ledger.refill(needed)
        tally["longest_wait"] = max(tally["longest_wait"], now - asked)
        tally["degraded"] += not state.connection.up
        if denial is None:
            wall = time.time()
            total.add(rows, now, wall)
            each[client].add(rows, now, wall)
            tally["admitted"] += 1
        else:
            tally["denied"] += 1

    async def client_of(number: int) -> None:
        while time.monotonic() < deadline:
            replica = dice.randrange(load.replicas)
            await ask(ledgers[replica], states[replica], number, dice.randint(1, load.rows))
            pause = 1 / load.requests_per_second if load.requests_per_second else 0.0
            await asyncio.sleep(pause)

    async def happen() -> None:
        if happening is not None:
            await asyncio.sleep(load.seconds / 3)
            await happening()

    async with asyncio.TaskGroup() as group:
        for number in range(load.clients):
            group.create_task(client_of(number))
        group.create_task(happen())
    calls = sum(state.connection.calls for state in states)
    lasted = time.monotonic() - started
    recovered = await _recovered(states)
    # What is left when the clients go away could have been had: once denials are no longer
    # believed, every replica is asked until it has no more.
    await asyncio.sleep(0.3)
    elapsed = time.monotonic() - started
    for ledger, state in zip(ledgers, states, strict=True):
        for number in range(load.clients):
            denied = tally["denied"]
            while tally["denied"] == denied and time.monotonic() - started < elapsed + 1:
                await ask(ledger, state, number, 1)
    for state in states:
        await state.close()
    quota = min(
        load.quota.per_day or math.inf,
        load.quota.burst + elapsed * NANOSECONDS / load.quota.interval
        if load.quota.interval
        else math.inf,
    )
    return Outcome(
        admitted=int(tally["admitted"]),
        denied=int(tally["denied"]),
        rows=total.rows,
        quota=quota,
        usable=total.rows / quota,
        worst=max(0.0, total.worst, *(window.worst for window in each)),
        calls=calls,
        calls_per_second=calls / lasted / load.replicas,
        failures=sum(state.connection.failures for state in states),
        degraded=int(tally["degraded"]),
        longest_wait=tally["longest_wait"] * 1000,
        recovered=recovered,
    )


async def _recovered(states: Sequence[RedisState], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not all(state.connection.up for state in states):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


def outages(server: RedisServer, seconds: float) -> Mapping[str, Happening]:
    """What may happen to one server, for so long."""

    async def kill() -> None:
        server.kill()
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.start)

    async def pause() -> None:
        server.pause()
        await asyncio.sleep(seconds)
        server.resume()

    async def flush() -> None:
        await asyncio.to_thread(server.execute, "FLUSHALL")

    async def fill() -> None:
        await asyncio.to_thread(server.execute, "CONFIG", "SET", "maxmemory", "1")
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.execute, "CONFIG", "SET", "maxmemory", "0")

    async def read_only() -> None:
        await asyncio.to_thread(server.execute, "REPLICAOF", "127.0.0.1", "1")
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.execute, "REPLICAOF", "NO", "ONE")

    async def forget_scripts() -> None:
        await asyncio.to_thread(server.execute, "SCRIPT", "FLUSH")

    return {
        "kill": kill, "pause": pause, "flush": flush, "full": fill, "read-only": read_only,
        "script-flush": forget_scripts,
    }  # fmt: skip


def cluster_failover(cluster: RedisCluster) -> Happening:
    """One of three primaries dies, and its replica takes over."""

    async def happening() -> None:
        dead = cluster.nodes[0]
        dead.kill()
        await asyncio.to_thread(cluster.nodes[1].wait_until, lambda: cluster.is_whole(but=[dead]))

    return happening


def sentinel_failover(primary: RedisServer, replica: RedisServer) -> Happening:
    """The primary dies, and the sentinel makes the replica the primary."""

    def promoted() -> bool:
        with suppress(ConnectionError):  # a replica that is promoted drops its clients
            return bool(replica.execute("ROLE")[0] == b"master")
        return False

    async def happening() -> None:
        primary.kill()
        await asyncio.to_thread(replica.wait_until, promoted)

    return happening


_TOPOLOGIES: Final = ("cluster-failover", "sentinel-failover")
_CHAOS: Final = ("none", "kill", "pause", "flush", "full", "read-only", "script-flush")


def measure(load: Load, chaos: str, folder: Path, binary: str | None = None) -> Outcome:
    """Starts what is needed, runs the load, and ends it.

    Raises:
        ProcessError: if a server does not start.
    """
    with ExitStack() as stack:
        if chaos == "cluster-failover":
            cluster = RedisCluster(folder, binary)
            stack.callback(cluster.stop)
            cluster.start()
            return asyncio.run(run(cluster.url, load, cluster_failover(cluster)))
        server = RedisServer(folder, binary)
        stack.callback(server.stop)
        server.start()
        if chaos == "sentinel-failover":
            replica = RedisServer(
                folder, binary, replicaof=("127.0.0.1", server.port), repl_diskless_sync="yes",
                repl_diskless_sync_delay=0,
            )  # fmt: skip
            stack.callback(replica.stop)
            replica.start()
            replica.wait_until(replica.follows)
            sentinel = Sentinel(folder, server, binary)
            stack.callback(sentinel.stop)
            sentinel.start()
            sentinel.wait_until(sentinel.knows_a_replica)
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/bartizan"
            return asyncio.run(run(url, load, sentinel_failover(server, replica)))
        happening = outages(server, load.seconds / 6).get(chaos)
        return asyncio.run(run(server.url, load, happening))


@click.command()
@click.option("--replicas", default=4, show_default=True)
@click.option("--clients", default=64, show_default=True)
@click.option("--seconds", default=5.0, show_default=True)
@click.option("--rate", default=500.0, show_default=True, help="Rows a second of all; 0: none.")
@click.option("--burst", default=1000, show_default=True)
@click.option("--per-day", default=0, show_default=True)
@click.option("--client-rate", default=0.0, show_default=True, help="Of each client; 0: none.")
@click.option("--client-burst", default=50, show_default=True)
@click.option("--rows", default=1, show_default=True, help="The most that a request holds.")
@click.option("--requests", default=0.0, show_default=True, help="A second and client; 0: all.")
@click.option("--wait-ms", default=20.0, show_default=True, help="That a request waits at most.")
@click.option("--chaos", default="none", type=click.Choice([*_CHAOS, *_TOPOLOGIES]))
@click.option("--binary", type=click.Choice(list(BINARIES)), help="Which Redis.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(
    *,
    replicas: int,
    clients: int,
    seconds: float,
    rate: float,
    burst: int,
    per_day: int,
    client_rate: float,
    client_burst: int,
    rows: int,
    requests: float,
    wait_ms: float,
    chaos: str,
    binary: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Measures what replicas admit together of one quota, and what that costs Redis."""
    load = Load(
        replicas, clients, seconds, Quota.of(rate or None, burst, per_day or None),
        Quota.of(client_rate or None, client_burst, None), rows, requests, wait_ms / 1000, seed,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="bz") as folder:
        outcome = measure(load, chaos, Path(folder), BINARIES[binary] if binary else None)
    if as_json:
        click.echo(json.dumps(asdict(outcome)))
        return
    for name, value in asdict(outcome).items():
        click.echo(
            f"{name:>18}  {value:.4g}" if isinstance(value, float) else f"{name:>18}  {value}"
        )


if __name__ == "__main__":
    main()
