"""The firewall against bare proxies: ``python -m loadtest.bench``, or ``make bench``.

Same upstream for all, one worker each on a core of its own, interleaved rounds. The result is
``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop

from loadtest.artefacts import FitError, code_digest, fit_bundle, kept
from loadtest.comparison import Sample
from loadtest.interrupts import ended_in_order, held
from loadtest.load.closed import Result, closed_loop
from loadtest.payloads import Floats, infer_request, infer_target
from loadtest.peers import PEERS, Firewall, Lab, Peer, client_header
from loadtest.process import (
    Address,
    Process,
    ProcessError,
    Program,
    core_seconds,
    on_cores,
)
from loadtest.report import DIRECT, Run, machine, markdown
from loadtest.wire import Session

FEATURES: Final = (4, 64, 784)
CASES: Final = {
    f"{d}-{form}": f"{d} features, {title}"
    for form, title in (("json", "JSON"), ("binary", "binary"))
    for d in FEATURES
}
DETECTORS: Final = "mahalanobis,isolation_forest,pca,knn"
POOL: Final = 5120
"""Distinct requests. Each of ``peers.CLIENTS`` clients sends 320 distinct rows in turn, more than
the firewall remembers to tell a retry: every request is a new query to the patterns."""
_CANDIDATES: Final = 5400
_FIT_ROWS: Final = 12_000
_BUDGET: Final = 0.001


class BenchError(Exception):
    """The benchmark cannot run, or cannot be believed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and for how long."""

    peers: Sequence[Peer]
    cases: Sequence[str]
    rounds: int
    seconds: float
    connections: int = 32

    @property
    def warm_seconds(self) -> float:
        """Unmeasured load before each measurement."""
        return min(0.25, self.seconds / 4)


@dataclass(frozen=True, slots=True)
class Subject:
    """A running proxy, and the cores that are its own (none: it shares them all).

    Attributes:
        part: one of several processes, of which it is told what it spent of the whole.
    """

    name: str
    process: Program
    address: Address
    cores: frozenset[int] = frozenset()
    part: Program | None = None

    def cpu_seconds(self) -> tuple[float, float]:
        """User and system time so far, of all and of the part: NaN if there is none."""
        return self.process.cpu_seconds(), self.part.cpu_seconds() if self.part else math.nan


def honest_rows(features: int, count: int, seed: int) -> Floats:
    """(count, features): a factor model with noise, so that features hang together as data do."""
    rng = np.random.default_rng([seed, features])
    factors = min(features, 16)
    loadings = np.random.default_rng(features).normal(size=(factors, features)) / factors**0.5
    noise = 0.3 * rng.normal(size=(count, features))
    return np.asarray(rng.normal(size=(count, factors)) @ loadings + noise, np.float32)


def parse_case(case: str) -> tuple[int, bool]:
    """Features, and whether the request is binary."""
    features, _, form = case.partition("-")
    return int(features), form == "binary"


def build_pool(case: str, rows: Floats) -> list[bytes]:
    """One request of one row each, of each client in turn."""
    features, binary = parse_case(case)
    return build_pool_for(f"f{features}", rows, binary=binary)


def build_pool_for(model: str, rows: Floats, *, binary: bool = False) -> list[bytes]:
    """One request of one row each to a model, of each client in turn."""
    target = infer_target(model)
    return [
        infer_request(row[None], "bench", target, binary=binary, headers=[client_header(i)])
        for i, row in enumerate(rows)
    ]


def choose_rows(subjects: Sequence[Subject], features: int) -> tuple[Floats, int]:
    """The rows that every proxy will be sent, and how many the firewall's budget refused.

    A calibrated firewall refuses a few honest rows. They are left out for all peers alike, so that
    every answer of the benchmark must be 200.

    Raises:
        BenchError: if a proxy answers anything else, or too few rows are left.
    """
    rows = honest_rows(features, _CANDIDATES, seed=2)
    keep = np.ones(len(rows), bool)
    for subject in subjects:
        pool = build_pool(f"{features}-json", rows)
        with Session(subject.address) as session:
            await_service(session, subject, pool[0])
            if subject.name != Firewall.name:
                continue
            for i, request in enumerate(pool):
                status = session.exchange(request).status
                if status not in {200, 403}:
                    raise BenchError(f"{subject.name} answered {status} to an honest request")
                keep[i] = status == 200
    if keep.sum() < POOL:
        raise BenchError(f"only {keep.sum()} of {len(rows)} honest rows pass: nothing to measure")
    return rows[keep][:POOL], int((~keep).sum())


def await_service(session: Session, subject: Subject, request: bytes) -> None:
    """Until the proxy has found its upstream.

    Raises:
        BenchError, ProcessError: if it does not.
    """
    deadline = time.monotonic() + 15
    while (status := session.exchange(request).status) not in {200, 403}:
        subject.process.check()
        if time.monotonic() > deadline:
            raise BenchError(f"{subject.name} still answers {status}:\n{subject.process.tail()}")
        time.sleep(0.1)


def measure(
    subject: Subject,
    case: str,
    pool: Sequence[Any],
    plan: Plan,
    round_: int,
    *,
    drive: Callable[..., Coroutine[Any, Any, Result]] = closed_loop,
) -> Sample:
    """Throughput with many connections, then latency with one.

    Args:
        drive: the load, as ``loadtest.load.closed.closed_loop``, that sends what is in ``pool``.
    """
    subject.process.check()

    def load(connections: int, seconds: float) -> Result:
        run = drive(subject.address, pool, connections=connections, seconds=seconds)
        with held():
            return uvloop.run(run)

    results = [load(plan.connections, plan.warm_seconds)]
    before = *subject.cpu_seconds(), core_seconds(subject.cores)
    busy = load(plan.connections, plan.seconds)
    after = *subject.cpu_seconds(), core_seconds(subject.cores)
    cpu, part, core = (now - then for now, then in zip(after, before, strict=True))
    results += [busy, load(1, plan.warm_seconds)]
    alone = load(1, plan.seconds / 2)
    results.append(alone)
    fault = "; ".join(fault_of(result) for result in results if not result.clean)
    return Sample(
        peer=subject.name,
        case=case,
        round=round_,
        rate=busy.rate,
        cpu=cpu / max(busy.answered, 1),
        busy=cpu / busy.seconds,
        others=max(0.0, core - cpu) / busy.seconds if subject.cores else math.nan,
        p50=alone.percentile(50),
        p99=alone.percentile(99),
        fault=fault,
        part=part / max(busy.answered, 1),
    )


def fault_of(result: Result) -> str:
    """Why a result does not count."""
    statuses = {status: count for status, count in result.statuses.items() if status != 200}
    return f"statuses {statuses}, errors {dict(result.errors)}, {result.answered} answers"


def make_rows_and_bundles(
    folder: Path, features: Sequence[int], *, bundles: bool
) -> tuple[dict[str, Path], dict[str, Path]]:
    """By model name: honest rows to fit on, and the bundles fitted on them (kept between runs).

    Raises:
        FitError: if a bundle cannot be fitted.
    """
    rows: dict[str, Path] = {}
    fitted: dict[str, Path] = {}
    for d in features:
        model = f"f{d}"
        rows[model] = folder / f"{model}.npy"
        np.save(rows[model], honest_rows(d, _FIT_ROWS, seed=1), allow_pickle=False)
        if bundles:
            key = code_digest(model, DETECTORS, repr(_BUDGET), str(_FIT_ROWS))

            def make(into: Path, model: str = model) -> None:
                options = ["--detectors", DETECTORS]
                data = rows[model]
                fit_bundle(data, into / f"{model}.bundle", budget=_BUDGET, options=options)

            fitted[model] = kept("bench", key, make)[0] / f"{model}.bundle"
    return rows, fitted


@contextlib.contextmanager
def running(lab: Lab, peers: Sequence[Peer], upstream: Process) -> Iterator[list[Subject]]:
    """The peers and, as ``direct``, the upstream itself; all peers are ended afterwards."""
    with contextlib.ExitStack() as stack:
        subjects = [Subject(DIRECT, upstream, lab.upstream)]
        for peer in peers:
            process, address = peer.start(lab)
            stack.callback(process.stop)
            cores = frozenset(lab.cores or ())
            subjects.append(Subject(peer.name, process, address, cores))
        yield subjects


def bench(
    plan: Plan, paths: Mapping[str, str], proxy: int | None, load: int | None, command: str
) -> Run:
    """Runs the plan, which ``command`` asked for.

    Raises:
        BenchError, FitError, ProcessError, OSError: if it cannot.
    """
    features = sorted({parse_case(case)[0] for case in plan.cases})
    proxy_cores = None if proxy is None else {proxy}
    load_cores = None if load is None else {load}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bartizan-bench-")))
        needs_bundles = any(isinstance(peer, Firewall) for peer in plan.peers)
        _say("fitting …")
        rows, bundles = make_rows_and_bundles(folder, features, bundles=needs_bundles)
        models = [part for d in features for part in ("--model", f"f{d}={d}")]
        upstream = Process(
            "upstream", [sys.executable, "-P", "-m", "loadtest.echo", *models],
            folder / "upstream.log", cores=load_cores,
        )  # fmt: skip
        stack.callback(upstream.stop)
        lab = Lab(
            upstream.wait_for_line(), folder, proxy_cores, rows, bundles,
            envoy=paths["envoy"], nginx=paths["nginx"],
        )  # fmt: skip
        skipped = {p.name: why for p in plan.peers if (why := p.missing(lab))}
        peers = [p for p in plan.peers if p.name not in skipped]
        for name, why in skipped.items():
            _say(f"skipped {name}: {why}")
        versions = {p.name: p.version(lab) for p in peers}
        _say("starting " + ", ".join(p.name for p in peers) + " …")
        subjects = stack.enter_context(running(lab, peers, upstream))
        chosen = {d: choose_rows(subjects, d) for d in features}
        pools = {case: build_pool(case, chosen[parse_case(case)[0]][0]) for case in plan.cases}
        stack.enter_context(on_cores(load_cores))
        samples = _rounds(plan, subjects, pools)
        notes = [
            f"{refused} of {_CANDIDATES} honest rows of {d} features were refused, under a budget "
            f"of {_BUDGET:.1%}, and left out for every peer."
            for d, (_, refused) in chosen.items() if needs_bundles
        ]  # fmt: skip
        titles = {DIRECT: "no proxy: the upstream itself"} | {p.name: p.title for p in peers}
        return Run(
            command=command, date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            machine=machine(proxy_cores, load_cores), peers=titles, versions=versions,
            cases={case: CASES[case] for case in plan.cases}, skipped=skipped, notes=notes,
            samples=samples,
        )  # fmt: skip


def _rounds(
    plan: Plan, subjects: Sequence[Subject], pools: Mapping[str, Sequence[bytes]]
) -> list[Sample]:
    samples = []
    for round_ in range(1, plan.rounds + 1):
        for case in plan.cases:
            for subject in subjects:
                sample = measure(subject, case, pools[case], plan, round_)
                samples.append(sample)
                _say(
                    f"round {round_} {case:10} {subject.name:16} {sample.rate:9,.0f}/s "
                    f"{sample.cpu * 1e6:9.1f} µs CPU {sample.busy:5.0%} "
                    f"(others {sample.others:4.0%}) "
                    f"p50 {sample.p50 * 1e6:7.0f} µs p99 {sample.p99 * 1e6:7.0f} µs "
                    + (f"DISCARDED: {sample.fault}" if sample.fault else "")
                )
    return samples


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def two_cores() -> tuple[int | None, int | None]:
    """A core for the proxy and one for its load; any, where there are no two."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


def _parser() -> argparse.ArgumentParser:
    names = [peer.name for peer in PEERS]
    spread = two_cores()
    parser = argparse.ArgumentParser(prog="loadtest.bench", description=__doc__)
    parser.add_argument("--peers", default=",".join(names), help="default: %(default)s")
    parser.add_argument("--cases", default=",".join(CASES), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, help="default: 5, quick: 1")
    parser.add_argument("--seconds", type=float, help="a throughput run; default: 2, quick: 0.3")
    parser.add_argument("--quick", action="store_true", help="a smoke run; writes no page")
    parser.add_argument("--json", action="store_true", help="print every sample to stdout")
    parser.add_argument("--out", type=Path, help="the page; default: docs/benchmarks.md")
    parser.add_argument("--envoy", default=".venv-envoy/bin/envoy", metavar="PROGRAM")
    parser.add_argument("--nginx", default="nginx", metavar="PROGRAM")
    parser.add_argument("--proxy-core", type=int, default=spread[0], metavar="N")
    parser.add_argument("--load-core", type=int, default=spread[1], metavar="N")
    return parser


def _plan(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Plan:
    by_name = {peer.name: peer for peer in PEERS}
    names, cases = options.peers.split(","), options.cases.split(",")
    for kind, given, known in (("peer", names, by_name), ("case", cases, CASES)):
        unknown = [name for name in given if name not in known]
        if unknown:
            parser.error(f"no such {kind}: {', '.join(unknown)}; there are: {', '.join(known)}")
    rounds = options.rounds or (1 if options.quick else 5)
    seconds = options.seconds or (0.3 if options.quick else 2.0)
    if rounds < 1 or seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return Plan([by_name[name] for name in names], cases, rounds, seconds)


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 measured, 1 not believable, 2 usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    plan = _plan(parser, options)
    paths = {"envoy": options.envoy, "nginx": options.nginx}
    given = sys.argv[1:] if arguments is None else arguments
    command = " ".join(["python -m loadtest.bench", *given])
    try:
        with ended_in_order():
            run = bench(plan, paths, options.proxy_core, options.load_core, command)
    except (BenchError, FitError, ProcessError, OSError) as error:
        _say(f"error: {error}")
        return 1
    if options.json:
        sys.stdout.write(json.dumps(run.as_json(), indent=2) + "\n")
    out = options.out or (None if options.quick else Path("docs/benchmarks.md"))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(markdown(run), encoding="utf-8")
        _say(f"written: {out}")
    return 1 if unbelievable(run) else 0


def unbelievable(run: Run) -> list[str]:
    """Peers and cases of which fewer than half of the rounds count."""
    poor = []
    for peer in run.peers:
        for case in run.cases:
            these = [s for s in run.samples if s.peer == peer and s.case == case]
            if sum(not s.fault for s in these) * 2 < len(these) or not these:
                poor.append(f"{peer} {case}")
    return poor


if __name__ == "__main__":
    sys.exit(main())
