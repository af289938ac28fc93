"""How large a machine it takes: ``python -m loadtest.sizing --out docs/sizing.md``.

A real gateway of one worker before a real model server, asked by the project's own generator, by
features, rows in a request and what is switched on. What is told is rows in a second of CPU of the
worker, which depends on the core and little on what else the machine does; then the memory of a
worker, and what a client takes there and in Redis. The tables replace those of the page.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop

from loadtest import sizing_page
from loadtest.artefacts import FitError, code_digest, fit_bundle, kept
from loadtest.bench import DETECTORS, BenchError, fault_of, honest_rows, two_cores
from loadtest.demo import digits
from loadtest.interrupts import ended_in_order
from loadtest.load.closed import closed_loop
from loadtest.mlp import Mlp
from loadtest.payloads import infer_request, infer_target
from loadtest.peers import Firewall, Lab, client_header
from loadtest.process import Address, Process, ProcessError, on_cores
from loadtest.redis_servers import ANY, RedisServer
from loadtest.report import machine, section
from loadtest.sketch_store import Store, _binary
from loadtest.sketch_store import measure as measure_store

FEATURES: Final = (8, 64, 784)
ROWS: Final = (1, 16, 256)
_MODEL: Final = "model"
_FIT_ROWS: Final = 4000
_BUDGET: Final = 0.01
_CLASSES: Final = 4
_CONNECTIONS: Final = 8
_LARGE: Final = 1024
"""Numbers in a request from which on it is read in a thread, with a queue that says no early: one
connection is enough to measure its cost."""
_BYTES: Final = 24_000_000  # of the requests of one pool

CONTRACT, DETECTING, WATCHING, AGREEING = (
    "contract only", "four detectors", "and patterns", "and agreement"
)  # fmt: skip
STAGES: Final = (CONTRACT, DETECTING, WATCHING, AGREEING)
"""What is on; each with what the one before it has."""


@dataclass(frozen=True, slots=True)
class Rate:
    """One cell.

    Attributes:
        seconds: CPU of the worker for one request.
        fault: why it does not count; empty: it does.
    """

    features: int
    rows: int
    stage: str
    binary: bool
    seconds: float
    fault: str

    @property
    def rows_a_second(self) -> float:
        """Rows in a second of one core."""
        return self.rows / self.seconds


class _Staged(Firewall):
    """The firewall with a bundle or none. It monitors: of hundreds of honest rows one is flagged,
    and the request would be refused; the work is the same."""

    def __init__(self, bundle: Path | None, extra: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._bundle, self._extra = bundle, extra or {}

    def configuration(self, lab: Lab, port: int, admin: int) -> dict[str, Any]:
        """As in the benchmark, but for the mode, the limits of a body and what is on."""
        settings: dict[str, Any] = {**super().configuration(lab, port, admin), **self._extra}
        endpoint = settings["endpoints"][0]
        endpoint["mode"] = "monitor"
        if self._bundle is None:
            del endpoint["bundle"]
        settings["client"]["secret"] = "a secret of the benchmark's own"  # noqa: S105 - nobody else's
        return settings


def make_model(features: int) -> Path:
    """A folder with a model and its bundles by stage (kept between runs).

    Raises:
        FitError: if a bundle cannot be fitted.
    """

    def make(into: Path) -> None:
        rows = honest_rows(features, _FIT_ROWS, seed=1)
        corner = np.abs(rows[:, 0]) > 0.7, rows[:, 1] > 0
        labels = corner[0].astype(np.int64) * 2 + corner[1]
        digits.train(rows[:1000], labels[:1000]).save(into / f"{_MODEL}.npz")
        answers = Mlp.load(into / f"{_MODEL}.npz").probabilities(rows)
        np.save(into / "rows.npy", rows)
        np.save(into / "labels.npy", labels)
        np.save(into / "seen.npy", np.arange(len(rows)) < 1000)
        np.savez(into / "answers.npz", probabilities=answers)
        told = [
            part for name in ("labels", "seen") for part in (f"--{name}", str(into / f"{name}.npy"))
        ]
        options = {
            DETECTING: ["--no-patterns", "--no-agreement"],
            WATCHING: ["--no-agreement"],
            AGREEING: [*told, "--answers", str(into / "answers.npz")],
        }
        for stage, more in options.items():
            fit_bundle(
                into / "rows.npy", into / f"{STAGES.index(stage)}.bundle", budget=_BUDGET,
                options=["--detectors", DETECTORS, *more],
            )  # fmt: skip

    return kept("sizing", code_digest("sizing", str(features), str(_FIT_ROWS)), make)[0]


def pool(features: int, rows: int, *, binary: bool) -> list[bytes]:
    """Requests of so many rows, of each client in turn."""
    size = features * rows * (4 if binary else 20)
    count = max(8, min(512, _BYTES // size))
    asked = honest_rows(features, count * rows, seed=3).reshape(count, rows, features)
    return [
        infer_request(
            one, "sizing", infer_target(_MODEL), binary=binary, headers=[client_header(i)]
        )
        for i, one in enumerate(asked)
    ]


class Bench:
    """Gateways before one model server, one after the other.

    Args:
        folder: for their files.
        seconds: of load on each cell.
        cores: of the gateway and of the load; None: any.
    """

    def __init__(self, folder: Path, seconds: float, cores: tuple[int | None, int | None]) -> None:
        self._folder, self._seconds = folder, seconds
        self._proxy, self._load = ({core} if core is not None else None for core in cores)

    def rates(self, features: int) -> tuple[list[Rate], dict[str, int]]:
        """Every cell of a model of so many features, and by stage a worker's resident bytes.

        Raises:
            BenchError, FitError, ProcessError: if a program does not start.
        """
        made = make_model(features)
        found: list[Rate] = []
        resident: dict[str, int] = {}
        with self._upstream(made) as upstream:
            for number, stage in enumerate(STAGES):
                bundle = made / f"{number}.bundle" if stage != CONTRACT else None
                with self._gateway(upstream, bundle) as (process, address):
                    resident[stage] = process.resident_bytes()
                    found += [
                        self._cell(process, address, features, rows, stage, binary=binary)
                        for binary in (False, True)
                        for rows in ROWS
                    ]
        return found, resident

    def _cell(
        self, process: Process, address: Address, features: int, rows: int, stage: str, *,
        binary: bool,
    ) -> Rate:  # fmt: skip
        asked = pool(features, rows, binary=binary)
        connections = 1 if features * rows >= _LARGE else _CONNECTIONS
        best, fault = float("inf"), ""
        with on_cores(self._load):
            for seconds in (0.2 * self._seconds, 0.4 * self._seconds, 0.4 * self._seconds):
                before = process.cpu_seconds()
                run = closed_loop(address, asked, connections=connections, seconds=seconds)
                result = uvloop.run(run)
                spent = process.cpu_seconds() - before
                fault = fault or ("" if result.clean else fault_of(result))
                # The clock of CPU ticks in hundredths: of less than ten ticks nothing is said.
                if result.answered and spent >= 0.1:
                    best = min(best, spent / result.answered)
        if best == float("inf"):
            fault = fault or "too little was answered to tell"
        _say(f"{features:4} features, {rows:3} rows, {stage:16} {'binary' if binary else 'JSON':6} "
             f"{rows / best:12,.0f} rows a second of CPU {fault}")  # fmt: skip
        return Rate(features, rows, stage, binary, best, fault)

    def client_bytes(self, features: int, clients: int) -> float:
        """Resident bytes of a worker for each client that it watches, after eight queries each."""
        made = make_model(features)
        behind = {"client": {"identify": ["ip"], "trusted_proxies": ["127.0.0.0/8"]}}
        rows = honest_rows(features, 8 * clients, seed=4)
        target = infer_target(_MODEL)
        with (
            self._upstream(made) as upstream,
            self._gateway(upstream, made / f"{STAGES.index(WATCHING)}.bundle", behind) as (p, at),
        ):
            grown: list[float] = []
            for some in (range(500), range(500, clients)):
                before = p.resident_bytes()
                asked = [
                    infer_request(
                        rows[8 * one + i][None], "sizing", target, binary=True,
                        headers=[("X-Forwarded-For", f"10.0.{one // 250}.{one % 250}")],
                    )
                    for i in range(8) for one in some
                ]  # fmt: skip
                self._all_of(at, asked)
                grown.append((p.resident_bytes() - before) / len(some))
        return grown[1]  # the first warm what is there for any number

    def _all_of(self, address: Address, asked: Sequence[bytes]) -> None:
        remaining = list(asked)
        while remaining:
            result = uvloop.run(
                closed_loop(address, remaining, connections=_CONNECTIONS, seconds=1.0)
            )
            if not result.clean:
                raise BenchError(f"clients were not answered: {fault_of(result)}")
            remaining = remaining[result.answered :]

    def redis_load(self, features: int) -> dict[str, float]:
        """What one busy worker asks of Redis.

        Raises:
            ProcessError: if a program does not start.
        """
        made = make_model(features)
        server = RedisServer(self._folder).start()
        try:
            shared = {"state": server.url}
            bundle = made / f"{STAGES.index(WATCHING)}.bundle"
            with (
                self._upstream(made) as upstream,
                self._gateway(upstream, bundle, shared) as (process, address),
                on_cores(self._load),
            ):
                asked = pool(features, 1, binary=False)
                before = _used(server)
                run = closed_loop(
                    address, asked, connections=_CONNECTIONS, seconds=2 * self._seconds
                )
                result = uvloop.run(run)
                process.check()
                cpu, commands = (a - b for a, b in zip(_used(server), before, strict=True))
        finally:
            server.stop()
        return {
            "requests": result.rate,
            "commands": commands / result.seconds,
            "cpu": cpu / result.seconds,
        }

    @contextlib.contextmanager
    def _upstream(self, made: Path) -> Iterator[Address]:
        command = [sys.executable, "-P", "-m", "loadtest.model_server"]
        process = Process(
            "upstream", [*command, "--model", str(made / f"{_MODEL}.npz")],
            self._folder / "upstream.log", cores=self._load,
        )  # fmt: skip
        try:
            yield process.wait_for_line()
        finally:
            process.stop()

    @contextlib.contextmanager
    def _gateway(
        self, upstream: Address, bundle: Path | None, extra: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[Process, Address]]:
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            lab = Lab(
                upstream, Path(name), self._proxy, {}, {_MODEL: bundle or Path("none")}, "", ""
            )
            process, address = _Staged(bundle, extra).start(lab)
            try:
                yield process, address
            finally:
                process.stop()


def _used(server: RedisServer) -> tuple[float, float]:
    with server.client() as client:
        info = client.info("all")
    cpu = float(info["used_cpu_user"]) + float(info["used_cpu_sys"])
    return cpu, float(info["total_commands_processed"])


def redis_bytes(folder: Path, clients: int) -> dict[str, Any]:
    """``loadtest.sketch_store``'s figures, on the system's Redis."""
    store = Store(_binary("system"), folder, "4gb")
    try:
        return asyncio.run(measure_store(store, clients, 0))
    finally:
        store.stop()


def measure(folder: Path, seconds: float, clients: int) -> dict[str, Any]:
    """All figures of one run.

    Raises:
        BenchError, FitError, ProcessError: if it cannot.
    """
    cores = two_cores()
    bench = Bench(folder, seconds, cores)
    rates: list[Rate] = []
    resident: dict[int, dict[str, int]] = {}
    for features in FEATURES:
        found, resident[features] = bench.rates(features)
        rates += found
    _say("memory of clients …")
    in_worker = {features: bench.client_bytes(features, clients) for features in FEATURES}
    stored, shared = None, None
    if ANY is not None:
        _say("Redis …")
        stored, shared = redis_bytes(folder, 5 * clients), bench.redis_load(64)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(*({one} if one is not None else None for one in cores)),
        "rates": rates,
        "resident": resident,
        "client_bytes": in_worker,
        "stored": stored,
        "shared": shared,
    }


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 measured, 1 not, or a cell that does not count; 2 usage."""
    parser = argparse.ArgumentParser(prog="loadtest.sizing", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load on each cell")
    parser.add_argument("--clients", type=int, default=4000, help="whose memory is measured")
    parser.add_argument("--out", type=Path, help="the page whose tables are replaced")
    options = parser.parse_args(arguments)
    try:
        with ended_in_order(), tempfile.TemporaryDirectory(prefix="bartizan-sizing-") as name:
            found = measure(Path(name), options.seconds, options.clients)
    except (BenchError, FitError, ProcessError, OSError) as error:
        _say(f"error: {error}")
        return 1
    text = sizing_page.tables(found)
    if options.out is None:
        sys.stdout.write(text)
    else:
        section(options.out, sizing_page.HEADING, text)
        _say(f"written: {options.out}")
    faults = [rate for rate in found["rates"] if rate.fault]
    _say(json.dumps({"cells": len(found["rates"]), "not counted": len(faults)}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
