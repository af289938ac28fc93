"""Far more than the firewall can take: ``python -m loadtest.overload``.

For each case the ceiling is searched for in a closed loop, and then requests come in an open loop
at 0.9, 2, 5 and 10 times that, in interleaved rounds: how much is still answered well, how soon
the others are told no, and how long those wait who are answered. What the generator could not send
is counted. The result is a section of ``docs/loadtest.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from loadtest.artefacts import FitError
from loadtest.bench import honest_rows, make_rows_and_bundles, two_cores
from loadtest.comparison import Spread
from loadtest.evidence.results import LoadResult
from loadtest.interrupts import ended_in_order
from loadtest.load.ceiling import GROWTH
from loadtest.load.plan import LoadError, Part, Plan
from loadtest.load.run import closed, rate_of, run
from loadtest.load.schedules import poisson
from loadtest.payloads import infer_request, infer_target
from loadtest.peers import Firewall, Lab, client_header
from loadtest.process import Process, ProcessError
from loadtest.report import section, spread_text, table
from loadtest.wire import Session

FEATURES: Final = 64
TIMES: Final = (0.9, 2.0, 5.0, 10.0)
LEAST_GOODPUT: Final = 0.9
MOST_SHED_SECONDS: Final = 0.01
MOST_SLOWER: Final = 3.0
_MODEL: Final = f"f{FEATURES}"
_HEADING: Final = "Overload"
_CONNECTIONS: Final = 512
_LEARN_SECONDS: Final = 4.0


@dataclass(frozen=True, slots=True)
class Case:
    """What the bottleneck is.

    Attributes:
        rows: of a request.
        server: the command of the model server.
        times: how many times the ceiling is asked for.
        distinct: requests, sent over and over.
        busy: connections that keep it busy in a closed loop; twice as many are tried as well.
        judged: whether the targets are to be met; otherwise arithmetic forbids it, and what is
            measured shows by how much.
    """

    name: str
    title: str
    rows: int
    server: Sequence[str]
    distinct: int
    busy: int
    times: Sequence[float] = TIMES
    judged: bool = True


_ECHO: Final = ("-m", "loadtest.echo", "--model", f"{_MODEL}={FEATURES}")
CASES: Final = (
    Case(
        "upstream",
        "the model server: 4 requests at once, 20 ms each",
        1,
        ("-m", "loadtest.capacity", "--model", f"{_MODEL}={FEATURES}"),
        320,
        8,
    ),
    Case("rows", f"the firewall: requests of 256 rows of {FEATURES} features", 256, _ECHO, 48, 4),
    Case(
        "small", f"the firewall: requests of one row of {FEATURES} features", 1, _ECHO, 2560, 16,
        times=(0.9, 2.0, 5.0), judged=False,
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one case.

    Attributes:
        times: the rate asked for, of the ceiling; 0: the ceiling itself, in a closed loop.
        asked: requests that were due a second.
        sent: of them, those that the generator sent a second.
        goodput: good answers a second.
        shed_p99: seconds until a refusal was there; NaN if there was none.
        p50, p99: seconds of the good answers, from when they were due.
        dropped, errors: requests never sent, and never answered.
    """

    case: str
    round: int
    times: float
    asked: float
    sent: float
    goodput: float
    shed: int
    shed_p99: float
    p50: float
    p99: float
    dropped: int
    errors: int

    @classmethod
    def of(cls, case: str, round_: int, times: float, one: LoadResult, seconds: float) -> Sample:
        """Of what a load of so many seconds found."""
        return cls(
            case, round_, times,
            asked=one.offered / seconds, sent=one.sent / seconds,
            goodput=one.good / seconds if times else rate_of(one),
            shed=one.said.get("shed", 0),
            shed_p99=one.refusal_percentiles.get("99", math.nan) if one.said.get("shed") else 0.0,
            p50=one.percentiles.get("50", math.nan), p99=one.percentiles.get("99", math.nan),
            dropped=one.dropped, errors=sum(one.errors.values()),
        )  # fmt: skip


@contextlib.contextmanager
def gateway(
    folder: Path, server: Sequence[str], proxy: int | None, load: int | None
) -> Iterator[tuple[Process, tuple[str, int]]]:
    """A real firewall on its core, before a model server on the other.

    Raises:
        FitError, ProcessError: if it does not start.
    """
    rows, bundles = make_rows_and_bundles(folder, [FEATURES], bundles=True)
    with contextlib.ExitStack() as stack:
        upstream = Process(
            "upstream", [sys.executable, "-P", *server], folder / "upstream.log",
            cores=None if load is None else {load},
        )  # fmt: skip
        stack.callback(upstream.stop)
        cores = None if proxy is None else {proxy}
        lab = Lab(upstream.wait_for_line(), folder, cores, rows, bundles, "", "")
        process, where = _Lenient().start(lab)
        stack.callback(process.stop)
        yield process, where


class _Lenient(Firewall):
    """The firewall as it is measured elsewhere, but a flagged row does not refuse a whole batch."""

    def configuration(self, lab: Lab, port: int, admin: int) -> dict[str, Any]:
        """As in the benchmark, but for that."""
        settings = super().configuration(lab, port, admin)
        for endpoint in settings["endpoints"]:
            endpoint["block_fraction"] = 0.1
        return settings


def requests(where: tuple[str, int], process: Process, rows: int, count: int) -> list[bytes]:
    """Up to ``count`` requests of so many rows, of several clients in turn: those of them that the
    firewall does not refuse.

    Raises:
        ProcessError: if it refuses most of them.
    """
    data = honest_rows(FEATURES, count * rows, seed=3).reshape(count, rows, FEATURES)
    target = infer_target(_MODEL)
    made = [
        infer_request(part, "bench", target, headers=[client_header(i)])
        for i, part in enumerate(data)
    ]
    with Session(where) as session:
        process.wait_until(lambda: session.exchange(made[0]).status in {200, 403})
        good = [request for request in made if session.exchange(request).status == 200]
    if len(good) < count // 2:
        raise ProcessError(f"only {len(good)} of {count} requests of {rows} honest rows pass")
    return good


def measure(case: Case, options: argparse.Namespace, folder: Path) -> list[Sample]:
    """All rounds of one case.

    Raises:
        FitError, LoadError, ProcessError: if it cannot be measured.
    """
    samples: list[Sample] = []
    with gateway(folder, case.server, options.proxy_core, options.load_core) as (process, where):
        part = Part(case.name, "honest", requests(where, process, case.rows, case.distinct))
        cores = () if options.load_core is None else (options.load_core,)
        plan = Plan(case.name, "firewall", where, [part], cores=cores)
        seconds = options.seconds
        tried = [replace(plan, connections=count) for count in (case.busy, 2 * case.busy)]
        for step in tried:
            closed(step, min(1.0, seconds))  # warms
        # Limits are learnt in the first overload after a start: for a second or two, it is not
        # yet what it is to be.
        due = poisson(3 * rate_of(closed(tried[0], 1.0)), _LEARN_SECONDS, seed=0)
        run(replace(plan, times=due, which=np.zeros(len(due), np.int64), connections=_CONNECTIONS))
        for round_ in range(1, options.rounds + 1):
            few, many = (closed(step, min(2.0, seconds)) for step in tried)
            # More connections than it takes would only make its latency at the ceiling look worse.
            best = many if rate_of(many) > (1 + GROWTH) * rate_of(few) else few
            ceiling = rate_of(best)
            found = [Sample.of(case.name, round_, 0.0, best, best.seconds)]
            for times in case.times:
                due = poisson(times * ceiling, seconds, seed=round_)
                load = replace(
                    plan, times=due, which=np.zeros(len(due), np.int64), connections=_CONNECTIONS,
                    arrivals=f"Poisson, {times:g} of the ceiling", queue=_CONNECTIONS,
                )  # fmt: skip
                (one,) = run(load)
                found.append(Sample.of(case.name, round_, times, one, seconds))
            samples += found
            for sample in found:
                _say(
                    f"{case.name:9} round {round_} {sample.times:4g}x asked {sample.asked:8,.0f}/s "
                    f"sent {sample.sent:8,.0f}/s good {sample.goodput:8,.1f}/s "
                    f"p50 {sample.p50 * 1e3:7.1f} p99 {sample.p99 * 1e3:7.1f} ms, "
                    f"shed {sample.shed} p99 {sample.shed_p99 * 1e3:6.1f} ms, "
                    f"dropped {sample.dropped} errors {sample.errors}"
                )
        process.check()
    return samples


@dataclass(frozen=True, slots=True)
class Verdict:
    """One case at one multiple of its ceiling, against the targets: medians over the rounds, of
    ratios within a round."""

    case: str
    times: float
    goodput: Spread
    shed_p99: Spread
    slower: Spread
    p99: Spread
    unsent: Spread
    met: bool | None

    @classmethod
    def of(cls, case: Case, times: float, samples: Sequence[Sample]) -> Verdict:
        """Of all rounds."""
        own = [s for s in samples if s.case == case.name]
        peaks = {s.round: s for s in own if not s.times}
        these = [s for s in own if s.times == times]
        goodput = Spread.of(s.goodput / peaks[s.round].goodput for s in these)
        shed = Spread.of(s.shed_p99 for s in these)
        slower = Spread.of(s.p99 / peaks[s.round].p99 for s in these)
        met = (
            goodput.median >= LEAST_GOODPUT
            and shed.median <= MOST_SHED_SECONDS
            and slower.median <= MOST_SLOWER
        )
        return cls(
            case.name, times, goodput, shed, slower,
            Spread.of(s.p99 for s in these),
            Spread.of(s.dropped / max(s.asked, 1e-9) for s in these),
            met if case.judged and times > 1 else None,
        )  # fmt: skip


def markdown(cases: Sequence[Case], samples: Sequence[Sample], seconds: float) -> str:
    """The section of docs/loadtest.md."""
    lines = [
        f"## {_HEADING}",
        "",
        "`python -m loadtest.overload`. One firewall on one core, generator and model server on",
        "the other; enforcing, four detectors, patterns, limits and audit on. The ceiling is what",
        f"a closed loop brings; then come {seconds:g} s of open loop (Poisson), all of it counted.",
        "Median (lowest to highest) over the rounds, ratios within a round. Latency counts from",
        "when a request was due, that of a refusal from when it was sent. Limits were learnt in a",
        f"first overload of {_LEARN_SECONDS:g} s that does not count.",
        "",
        f"Targets: goodput at least {LEAST_GOODPUT:.0%} of the ceiling, a refusal within "
        f"{MOST_SHED_SECONDS * 1e3:g} ms at p99, p99 of",
        f"good answers at most {MOST_SLOWER:g} times that at the ceiling.",
    ]
    for case in cases:
        own = [s for s in samples if s.case == case.name]
        peaks = [s for s in own if not s.times]
        rate, p99 = Spread.of(s.goodput for s in peaks), Spread.of(s.p99 * 1e3 for s in peaks)
        rows = []
        for times in case.times:
            found = Verdict.of(case, times, own)
            these = [s for s in own if s.times == times]
            rows.append([
                f"{times:g}",
                spread_text(Spread.of(s.sent for s in these), "{:,.0f}"),
                spread_text(Spread.of(s.dropped / seconds for s in these), "{:,.0f}"),
                spread_text(found.goodput, "{:.2f}"),
                spread_text(Spread.of(s.shed_p99 * 1e3 for s in these), "{:.1f}"),
                spread_text(Spread.of(s.p99 * 1e3 for s in these), "{:.1f}"),
                spread_text(found.slower, "{:.2f}"),
                "" if found.met is None else "yes" if found.met else "**no**",
            ])  # fmt: skip
        lines += [
            "",
            f"**{case.title}.** Ceiling {spread_text(rate, '{:,.0f}')} requests/s, p99 there "
            f"{spread_text(p99, '{:.1f}')} ms.",
            "",
            *table(
                ["times the ceiling", "sent/s", "not sent/s", "goodput ÷ ceiling",
                 "refusal p99 ms", "answer p99 ms", "÷ at the ceiling", "targets met"],
                rows,
            ),
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 the targets are met, 1 they are not, or it cannot be measured."""
    spread = two_cores()
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(prog="loadtest.overload", description=__doc__)
    parser.add_argument("--cases", default=",".join(names), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--out", type=Path, help="the page whose section is replaced")
    parser.add_argument("--json", action="store_true", help="print every figure, and no table")
    parser.add_argument("--proxy-core", type=int, default=spread[0], metavar="N")
    parser.add_argument("--load-core", type=int, default=spread[1], metavar="N")
    options = parser.parse_args(arguments)
    chosen = [case for case in CASES if case.name in options.cases.split(",")]
    samples: list[Sample] = []
    try:
        with ended_in_order(), tempfile.TemporaryDirectory(prefix="bartizan-overload-") as name:
            for case in chosen:
                folder = Path(name) / case.name
                folder.mkdir()
                samples += measure(case, options, folder)
    except (FitError, LoadError, ProcessError, OSError) as error:
        _say(f"error: {error}")
        return 1
    verdicts = [Verdict.of(case, times, samples) for case in chosen for times in case.times]
    text = markdown(chosen, samples, options.seconds)
    if options.out is not None:
        section(options.out, _HEADING, text)
    sys.stdout.write(
        json.dumps({"samples": [asdict(s) for s in samples]}, indent=2) + "\n"
        if options.json
        else text
    )
    return 1 if any(verdict.met is False for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
