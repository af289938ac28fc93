"""What watching clients costs: ``python -m loadtest.pattern_cost``, or with ``make bench``.

Microseconds of each part of the compiled step, warm, the least of many rounds; bytes a client; and,
through a real gateway on a real Redis, what a thousand requests cost Redis. The 10^6 clients are
``python -m loadtest.sketch_store``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop

from detectors.bundle import load_bundle
from detectors.patterns import native_evidence as evidence
from detectors.patterns import native_kernels as kernels
from detectors.patterns import native_table as at
from detectors.patterns.layout import BLOCKS, FEATURES, SKETCH, STATISTICS
from detectors.patterns.native import load
from detectors.patterns.native_table import f8, i4, table_of, u2, u8
from detectors.patterns.tracker import PatternTracker
from loadtest.artefacts import FitError
from loadtest.bench import Subject, build_pool, choose_rows, honest_rows, make_rows_and_bundles
from loadtest.interrupts import ended_in_order
from loadtest.load.closed import Result, closed_loop
from loadtest.peers import Firewall, Lab
from loadtest.process import Process, ProcessError
from loadtest.redis_servers import ANY, RedisServer

_REPEATS: Final = 200
_ROUNDS: Final = 60
_COUNT: Final = len(STATISTICS)
_FEATURES: Final = (64, 784)

jit = at.exact


@jit
def _row_parts(table: Any, row: Any, times: int) -> None:
    sums, components = u8(table[at.SUMS], BLOCKS), f8(table[at.COMPONENTS], table[at.RANK])
    for _ in range(times):
        kernels.project(row, table, sums, components)


@jit
def _sketch(table: Any, numbers: Any, times: int) -> float:
    components, position = f8(table[at.COMPONENTS], table[at.RANK]), f8(table[at.POSITION], SKETCH)
    total = 0.0
    for _ in range(times):
        total += kernels.locate(table, numbers, 1.0, components, position)
    return total


@jit
def _fourier(table: Any, times: int) -> None:
    position, features = f8(table[at.POSITION], SKETCH), f8(table[at.FOURIER], FEATURES)
    for _ in range(times):
        kernels.fourier(table, position, 0, features)


@jit
def _ring(table: Any, times: int) -> None:
    position, blocks = f8(table[at.POSITION], SKETCH), u2(table[at.HASHES], BLOCKS)
    weights, values = i4(table[at.WEIGHED], BLOCKS), f8(table[at.VALUES], _COUNT)
    for _ in range(times):
        kernels.against_ring(table, 1, position, blocks, weights, values)


@jit
def _shared(table: Any, times: int) -> None:
    position, blocks = f8(table[at.POSITION], SKETCH), u2(table[at.HASHES], BLOCKS)
    weights, values = i4(table[at.WEIGHED], BLOCKS), f8(table[at.VALUES], _COUNT)
    for _ in range(times):
        kernels.against_all(table, np.uint64(12345), position, blocks, weights, values)


@jit
def _charge(table: Any, times: int) -> None:
    features, bets = f8(table[at.FOURIER], FEATURES), f8(table[at.E_VALUES], _COUNT)
    for _ in range(times):
        evidence.charge(table, at.CLIENTS, 1, 0, 0, features, bets, -0.01)


def least(call: Callable[[int], Any], repeats: int = _REPEATS) -> float:
    """Microseconds of one repetition, the least of many rounds."""
    call(repeats)
    best = float("inf")
    for _ in range(_ROUNDS):
        begun = time.perf_counter_ns()
        call(repeats)
        best = min(best, time.perf_counter_ns() - begun)
    return best / repeats / 1000


def parts(bundle: Path, features: int) -> dict[str, float]:
    """Microseconds a query of each part, of the whole step, and of ``observe`` around it."""
    model = load_bundle(bundle).patterns
    assert model is not None  # it was fitted with them
    tracker = PatternTracker(model, clients=64, engine="native")
    rows = honest_rows(features, 4000, seed=5)
    for index, row in enumerate(rows[:1000]):
        tracker.observe(f"c{index % 4}", "s", row[None], None, index * 0.1)
    table, numbers, held = table_of(tracker._arena)
    row, now = rows[-1], 200.0
    found = {
        "hash, components": least(lambda n: _row_parts(table, row, n)),
        "sketch, residue": least(lambda n: _sketch(table, numbers, n)),
        "random features": least(lambda n: _fourier(table, n)),
        "client's ring: near, equal, segment": least(lambda n: _ring(table, n)),
        "shared ring: near, equal": least(lambda n: _shared(table, n)),
        "discrepancy, evidence, coverage: each record": least(lambda n: _charge(table, n)),
    }
    assert held  # the table's addresses are theirs
    step, fresh = load(), iter(range(10**9))

    def steps(times: int) -> None:
        for _ in range(times):
            step(table, numbers, 1, 1, rows[next(fresh) % 3000][None], 0.5, now)

    def observe(times: int) -> None:
        for _ in range(times):
            tracker.observe("c1", "s", rows[next(fresh) % 3000][None], None, now)

    found["the whole step, one call"] = least(steps)
    found["observe, with all around the step"] = least(observe)
    found["bytes a client"] = float(tracker.sizes()["client_bytes"])
    return found


class _Shared(Firewall):
    """The firewall with its state in Redis."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def configuration(self, lab: Lab, port: int, admin: int) -> dict[str, Any]:
        """As in the benchmark, but for the state."""
        settings = super().configuration(lab, port, admin)
        settings["state"] = self._url
        settings["client"]["secret"] = "a secret of the benchmark's own"  # noqa: S105 - nobody else's
        return settings


def redis_cost(folder: Path, bundles: dict[str, Path], seconds: float) -> dict[str, float]:
    """What Redis spends on a thousand requests of 16 busy clients.

    Raises:
        ProcessError: if a program does not start.
    """
    upstream = Process(
        "upstream",
        [sys.executable, "-P", "-m", "loadtest.echo", "--model", "f64=64"],
        folder / "upstream.log",
    )
    server = RedisServer(folder).start()
    firewall: Process | None = None
    try:
        lab = Lab(upstream.wait_for_line(), folder, None, {}, {"f64": bundles["f64"]}, "", "")
        firewall, address = _Shared(server.url).start(lab)
        subject = Subject(Firewall.name, firewall, address)
        pool = build_pool("64-json", choose_rows([subject], 64)[0])
        run = closed_loop(address, pool, connections=16, seconds=seconds)
        before = _used(server)
        result: Result = uvloop.run(run)
        cpu, commands = (now - then for now, then in zip(_used(server), before, strict=True))
        thousands = result.answered / 1000
        return {
            "requests a second": result.rate,
            "Redis CPU, ms per 1000 requests": cpu * 1000 / thousands,
            "Redis commands per 1000 requests": commands / thousands,
        }
    finally:
        if firewall is not None:
            firewall.stop()
        server.stop()
        upstream.stop()


def _used(server: RedisServer) -> tuple[float, float]:
    with server.client() as client:
        info = client.info("all")
    cpu = float(info["used_cpu_user"]) + float(info["used_cpu_sys"])
    return cpu, float(info["total_commands_processed"])


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 measured, 1 not."""
    parser = argparse.ArgumentParser(prog="loadtest.pattern_cost", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of load on Redis")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    try:
        with ended_in_order(), tempfile.TemporaryDirectory(prefix="bartizan-cost-") as name:
            folder = Path(name)
            _, bundles = make_rows_and_bundles(folder, _FEATURES, bundles=True)
            for features in _FEATURES:
                found[f"{features} features"] = parts(bundles[f"f{features}"], features)
            if ANY is None:
                sys.stderr.write("no Redis server is installed: its cost is skipped\n")
            else:
                found["Redis, 64 features as JSON"] = redis_cost(folder, bundles, options.seconds)
    except (FitError, ProcessError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if options.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        for title, figures in found.items():
            sys.stdout.write(f"{title}\n")
            for what, figure in figures.items():
                sys.stdout.write(f"  {what:48}{figure:10,.2f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
