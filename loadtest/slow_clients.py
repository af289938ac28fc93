"""Slow clients beside honest ones: ``python -m loadtest.slow_clients``.

``slowhttptest`` holds 300 connections that send their heads (-H), their bodies (-B) or take their
answers (-X) as slowly as they dare. Honest requests come in an open loop at half of what the
firewall can do, before and during, in alternating rounds; what is told is what their p99 becomes.
The result is a section of ``docs/loadtest.md``.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from loadtest.artefacts import FitError
from loadtest.bench import two_cores
from loadtest.comparison import Spread
from loadtest.interrupts import ended_in_order
from loadtest.load.plan import LoadError, Part, Plan
from loadtest.load.run import closed, rate_of, run
from loadtest.load.schedules import poisson
from loadtest.overload import CASES, FEATURES, gateway, requests
from loadtest.payloads import infer_target
from loadtest.process import Process, ProcessError
from loadtest.report import section, spread_text, table

MOST_SLOWER: Final = 2.0
_HEADING: Final = "Slow clients"
_CONNECTIONS: Final = 300
_SETTLE: Final = 3.0
"""Seconds until all of them are connected, at 150 a second, and a little."""


@dataclass(frozen=True, slots=True)
class Mode:
    """One way to be slow.

    Attributes:
        options: of slowhttptest.
        target: the path that is asked for, after the firewall's address.
    """

    name: str
    title: str
    options: Sequence[str]
    target: str


_INFER: Final = infer_target(f"f{FEATURES}")
MODES: Final = (
    Mode("headers", "heads that never end (-H)", ("-H", "-t", "POST", "-i", "2"), _INFER),
    Mode(
        "body",
        "bodies of a few bytes a second (-B)",
        ("-B", "-t", "POST", "-s", "8192", "-i", "2", "-f", "application/json"),
        _INFER,
    ),
    Mode(
        "read",
        "answers taken five bytes at a time (-X)",
        ("-X", "-w", "1", "-y", "16", "-n", "2", "-z", "5", "-k", "3"),
        "/v2",
    ),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one mode: seconds of the honest requests' answers, from when they were due;
    ``held`` is how many slow connections were open when they began."""

    mode: str
    round: int
    rate: float
    before_p50: float
    before_p99: float
    during_p50: float
    during_p99: float
    bad: int
    held: int


def _load(plan: Plan, rate: float, seconds: float, seed: int) -> tuple[float, float, int]:
    """p50 and p99 of an open loop, and how many were not answered well."""
    times = poisson(rate, seconds, seed)
    (one,) = run(
        replace(plan, times=times, which=np.zeros(len(times), np.int64), arrivals="Poisson")
    )
    p50, p99 = (one.percentiles.get(q, math.nan) for q in ("50", "99"))
    return p50, p99, one.offered - one.good


def _held(port: int) -> int:
    """Connections that are established to a port of this machine (proc(5), ``net/tcp``)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


def measure(options: argparse.Namespace, program: str, folder: Path) -> list[Sample]:
    """All rounds of all modes.

    Raises:
        FitError, LoadError, ProcessError: if it cannot be measured.
    """
    samples: list[Sample] = []
    case = next(case for case in CASES if case.name == "small")
    seconds = options.seconds
    with gateway(folder, case.server, options.proxy_core, options.load_core) as (process, where):
        part = Part("honest", "honest", requests(where, process, case.rows, case.distinct))
        cores = () if options.load_core is None else (options.load_core,)
        plan = Plan("honest", "firewall", where, [part], cores=cores, connections=64)
        rate = options.share * rate_of(closed(replace(plan, connections=16), 2.0))
        for round_ in range(1, options.rounds + 1):
            for mode in MODES:
                before = _load(plan, rate, seconds, round_)
                log = folder / f"{mode.name}-{round_}.log"
                command = [
                    program, *mode.options, "-c", str(_CONNECTIONS), "-r", "150", "-v", "1",
                    "-l", str(math.ceil(seconds + _SETTLE + 30)), "-p", "5",
                    "-u", f"http://{where[0]}:{where[1]}{mode.target}",
                ]  # fmt: skip
                slow = Process(
                    "slowhttptest", command, log,
                    cores=None if options.load_core is None else {options.load_core},
                )  # fmt: skip
                try:
                    time.sleep(_SETTLE)
                    held = _held(where[1])
                    during = _load(plan, rate, seconds, round_)
                finally:
                    slow.stop()
                process.check()
                sample = Sample(
                    mode.name, round_, rate, *before[:2], *during[:2], before[2] + during[2], held
                )
                samples.append(sample)
                _say(
                    f"round {round_} {mode.name:8} {rate:,.0f}/s: "
                    f"p99 {before[1] * 1e3:.2f} ms before, {during[1] * 1e3:.2f} ms with {held} "
                    f"slow connections, not good {sample.bad}"
                )
    return samples


def slower(samples: Sequence[Sample], mode: Mode) -> Spread:
    """p99 during over p99 before, within each round."""
    return Spread.of(s.during_p99 / s.before_p99 for s in samples if s.mode == mode.name)


def markdown(samples: Sequence[Sample]) -> str:
    """The section of docs/loadtest.md."""
    rows = []
    for mode in MODES:
        own = [s for s in samples if s.mode == mode.name]
        ratio = slower(samples, mode)
        rows.append([
            mode.title,
            spread_text(Spread.of(s.before_p99 * 1e3 for s in own), "{:.2f}"),
            spread_text(Spread.of(s.during_p99 * 1e3 for s in own), "{:.2f}"),
            spread_text(ratio, "{:.2f}"),
            str(min(s.held for s in own)),
            str(sum(s.bad for s in own)),
            "yes" if ratio.median <= MOST_SLOWER else "**no**",
        ])  # fmt: skip
    rate = Spread.of(s.rate for s in samples)
    lines = [
        f"## {_HEADING}",
        "",
        "`python -m loadtest.slow_clients`. slowhttptest with 300 connections against one firewall",
        f"on one core, beside honest requests in an open loop at {rate.median:,.0f}/s, of one row",
        f"of {FEATURES} features; p99 of the honest ones' answers before and during, in",
        "alternating rounds: median (lowest to highest). Connections that the firewall has ended",
        "by then are not opened again.",
        "",
        *table(
            ["300 clients with", "p99 before, ms", "p99 during, ms", "ratio", "held, least",
             "not answered well", f"at most {MOST_SLOWER:g}"],
            rows,
        ),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 honest clients felt little, 1 they did, or it cannot be measured."""
    spread = two_cores()
    parser = argparse.ArgumentParser(prog="loadtest.slow_clients", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each honest load")
    parser.add_argument("--share", type=float, default=0.3, help="of what the firewall can do")
    parser.add_argument("--out", type=Path, help="the page whose section is replaced")
    parser.add_argument("--json", action="store_true", help="print every figure, and no table")
    parser.add_argument("--slowhttptest", default="slowhttptest", metavar="PROGRAM")
    parser.add_argument("--proxy-core", type=int, default=spread[0], metavar="N")
    parser.add_argument("--load-core", type=int, default=spread[1], metavar="N")
    options = parser.parse_args(arguments)
    program = shutil.which(options.slowhttptest)
    if program is None:
        _say(f"skipped: {options.slowhttptest} is not installed (a Debian package of that name)")
        return 0
    try:
        with ended_in_order(), tempfile.TemporaryDirectory(prefix="bartizan-slow-") as name:
            samples = measure(options, program, Path(name))
    except (FitError, LoadError, ProcessError, OSError) as error:
        _say(f"error: {error}")
        return 1
    text = markdown(samples)
    if options.out is not None:
        section(options.out, _HEADING, text)
    sys.stdout.write(
        json.dumps({"samples": [asdict(s) for s in samples]}, indent=2) + "\n"
        if options.json
        else text
    )
    return 0 if all(slower(samples, mode).median <= MOST_SLOWER for mode in MODES) else 1


if __name__ == "__main__":
    sys.exit(main())
