"""The firewall behind Envoy: ``python -m loadtest.envoy_cost``, or with ``make bench``.

The same requests to the same upstream directly, through bare Envoy, through the reverse proxy,
through both in a row, and through Envoy as deploy/envoy ships it with the processor beside it, in
interleaved rounds. The result goes into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from loadtest.answer_cost import accepted
from loadtest.artefacts import FitError
from loadtest.bench import (
    POOL,
    BenchError,
    Plan,
    Subject,
    build_pool,
    honest_rows,
    make_rows_and_bundles,
    measure,
    two_cores,
)
from loadtest.comparison import Metric, Sample, Spread, ratio
from loadtest.interrupts import ended_in_order
from loadtest.peers import CLIENTS, Envoy, Firewall, Lab
from loadtest.process import Address, Chain, Process, ProcessError, free_port, on_cores
from loadtest.report import DIRECT, section, spread_text, table
from loadtest.shipped_envoy import shipped

FEATURES: Final = 64
CLASSES: Final = 10
_HEADING: Final = "Behind Envoy"
_CASE: Final = f"{FEATURES}-json"

BARE: Final = "Envoy alone, no filters"
RUN: Final = "`bartizan run`"
IN_A_ROW: Final = "bare Envoy, then `bartizan run`"
PROCESSOR: Final = "Envoy with `bartizan ext-proc`"
_READ: Final = ", every answer read and rounded"

ROUNDING: Final[Mapping[str, Any]] = {"shaping": {"when": "always", "mode": "round"}}
"""What makes an endpoint read, and write anew, every answer."""

_TITLES: Final = {DIRECT: "no proxy: the upstream itself"}
_LIKE: Final = {IN_A_ROW: RUN, PROCESSOR: RUN, PROCESSOR + _READ: RUN + _READ}
"""Which reverse proxy does the same work."""


class Processor(Firewall):
    """``bartizan ext-proc``, configured as the reverse proxy is.

    Attributes:
        admin: the port of its admin listener, once it is configured.
    """

    command = "ext-proc"
    admin = 0

    def configuration(self, lab: Lab, port: int, admin: int) -> dict[str, Any]:
        """As in the benchmark, but for who connects: ``port`` is Envoy's."""
        self.admin = admin
        settings = super().configuration(lab, port, admin)
        del settings["listen"]
        return settings | {"ext_proc": {"listen": f"127.0.0.1:{port}"}}


class ShippedEnvoy(Envoy):
    """Envoy with deploy/envoy/envoy.yaml, nothing changed but the addresses."""

    def __init__(self, processor: Address, admin: int) -> None:
        self._processor = processor, admin

    def configuration(self, lab: Lab, port: int) -> dict[str, Any]:
        """As shipped."""
        admin = "127.0.0.1", free_port()
        return shipped(("127.0.0.1", port), admin, lab.upstream, [self._processor])


class _Bed:
    """Starts what is compared, each in a folder of its own, and ends it."""

    def __init__(self, lab: Lab, stack: contextlib.ExitStack) -> None:
        self._lab = lab
        self._stack = stack
        self._cores = frozenset(lab.cores or ())

    def subjects(self) -> list[Subject]:
        """All but the upstream itself.

        Raises:
            ProcessError: if a program does not start.
        """
        bare, where = self._start(Envoy())
        found = [Subject(BARE, bare, where, self._cores)]
        run, address = self._start(Firewall())
        found.append(Subject(RUN, run, address, self._cores))
        first, where = self._start(Envoy(), upstream=address)
        found.append(Subject(IN_A_ROW, Chain(first, run), where, self._cores, run))
        found.append(self._processed(PROCESSOR, {}))
        run, address = self._start(Firewall(endpoint=ROUNDING))
        found.append(Subject(RUN + _READ, run, address, self._cores))
        found.append(self._processed(PROCESSOR + _READ, ROUNDING))
        return found

    def _processed(self, name: str, endpoint: Mapping[str, Any]) -> Subject:
        processor = Processor(endpoint=endpoint)
        judge, address = self._start(processor)
        envoy, where = self._start(ShippedEnvoy(address, processor.admin))
        return Subject(name, Chain(envoy, judge), where, self._cores, judge)

    def _start(
        self, peer: Envoy | Firewall, upstream: Address | None = None
    ) -> tuple[Process, Address]:
        folder = Path(tempfile.mkdtemp(dir=self._lab.folder))
        lab = replace(self._lab, folder=folder, upstream=upstream or self._lab.upstream)
        process, address = peer.start(lab)
        self._stack.callback(process.stop)
        return process, address


def compare(
    folder: Path, plan: Plan, envoy: str, proxy: int | None, load: int | None
) -> list[Sample]:
    """Everything in every round.

    Raises:
        BenchError, FitError, ProcessError, OSError: if a program does not start, or an honest row
            is refused.
    """
    load_cores = None if load is None else {load}
    cores = None if proxy is None else {proxy}
    rows, bundles = make_rows_and_bundles(folder, [FEATURES], bundles=True)
    command = [
        sys.executable, "-P", "-m", "loadtest.echo",
        "--model", f"f{FEATURES}={FEATURES}", "--classes", str(CLASSES),
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        upstream = Process("upstream", command, folder / "upstream.log", cores=load_cores)
        stack.callback(upstream.stop)
        lab = Lab(upstream.wait_for_line(), folder, cores, rows, bundles, envoy, "")
        if why := Envoy().missing(lab):
            raise BenchError(why)
        subjects = [Subject(DIRECT, upstream, lab.upstream), *_Bed(lab, stack).subjects()]
        stack.enter_context(on_cores(load_cores))
        (run,) = (subject for subject in subjects if subject.name == RUN)
        # All hold the same bundle: one tells what is refused, of the others it is seen that they
        # serve; any other answer of theirs while they are measured is a fault of that round.
        pool = accepted([run], build_pool(_CASE, honest_rows(FEATURES, POOL, seed=3)))
        accepted(subjects, pool[:CLIENTS])
        return [
            measure(subject, "", pool, plan, round_)
            for round_ in range(1, plan.rounds + 1)
            for subject in subjects
        ]


def markdown(samples: Sequence[Sample], plan: Plan) -> str:
    """The section of docs/benchmarks.md."""
    rows = []
    for peer in dict.fromkeys(sample.peer for sample in samples):
        own = [s for s in samples if s.peer == peer and not s.fault]

        def against(other: str | None, metric: Metric, peer: str = peer) -> str:
            if other is None or other == peer:
                return ""
            return spread_text(ratio(samples, peer, other, "", metric), "{:.2f}")

        rows.append([
            _TITLES.get(peer, peer),
            spread_text(Spread.of(s.p50 * 1e6 for s in own), "{:,.0f}"),
            spread_text(Spread.of(s.p99 * 1e6 for s in own), "{:,.0f}"),
            against(BARE, "p50"), against(_LIKE.get(peer), "p50"),
            spread_text(Spread.of(s.rate for s in own), "{:,.0f}"),
            spread_text(Spread.of(s.cpu * 1e6 for s in own), "{:,.0f}"),
            spread_text(Spread.of(s.part * 1e6 for s in own), "{:,.0f}") if peer in _LIKE else "",
            against(BARE, "cpu"), against(_LIKE.get(peer), "cpu"),
            str(len(own)),
        ])  # fmt: skip
    head = [
        "", "p50 µs", "p99 µs", "p50 ÷ bare Envoy's", "p50 ÷ `bartizan run`'s", "requests/s",
        "CPU µs a request", "of it Bartizan's", "CPU ÷ bare Envoy's", "CPU ÷ `bartizan run`'s",
        "rounds",
    ]  # fmt: skip
    lines = [
        f"## {_HEADING}",
        "",
        f"`python -m loadtest.envoy_cost`. One row of {FEATURES} features as v2 JSON, enforcing,",
        "four detectors, patterns, limits, metrics and audit on. Latency with one connection,",
        f"throughput and CPU with {plan.connections}, in a closed loop; the upstream gives every",
        f"request the same answer, a label and {CLASSES} scores. Envoy has one worker. With",
        "`bartizan ext-proc` it runs deploy/envoy/envoy.yaml, over loopback: the request's body is",
        "always read, the answer's only where that is said (agreement costs more: see above).",
        "Everything between the load and the upstream, one process or two, shares one core, and",
        "CPU a request is that of all of it. Ratios to `bartizan run` are to the one that does the",
        "same with the answer. Median (lowest to highest) over the rounds, ratios taken within a",
        "round.",
        "",
        *table(head, rows),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 measured, 1 not."""
    spread = two_cores()
    parser = argparse.ArgumentParser(prog="loadtest.envoy_cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each throughput run")
    parser.add_argument("--out", type=Path, help="the page whose section is replaced")
    parser.add_argument("--json", action="store_true", help="print every sample, and no table")
    parser.add_argument("--envoy", default=".venv-envoy/bin/envoy", metavar="PROGRAM")
    parser.add_argument("--proxy-core", type=int, default=spread[0], metavar="N")
    parser.add_argument("--load-core", type=int, default=spread[1], metavar="N")
    options = parser.parse_args(arguments)
    plan = Plan((), (), options.rounds, options.seconds, connections=16)
    try:
        with ended_in_order(), tempfile.TemporaryDirectory(prefix="bartizan-envoy-") as name:
            samples = compare(
                Path(name), plan, options.envoy, options.proxy_core, options.load_core
            )
    except (BenchError, FitError, ProcessError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for fault in sorted({sample.fault for sample in samples if sample.fault}):
        sys.stderr.write(f"a round does not count: {fault}\n")
    text = markdown(samples, plan)
    if options.out is not None:
        section(options.out, _HEADING, text)
    sys.stdout.write(json.dumps([asdict(s) for s in samples]) if options.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
