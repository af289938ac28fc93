"""The load generator, measured itself: ``python -m loadtest.accuracy [--out PAGE]``.

First against a server whose delays and stalls are known, so that every percentile has a truth; then
against the fastest server there is, for how much it can drive. wrk and k6 do the same beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from loadtest import generators
from loadtest.bench import build_pool, honest_rows, two_cores
from loadtest.evidence.results import LoadResult
from loadtest.generators import CONNECTIONS, PERCENTILES, GeneratorError, Target, Told
from loadtest.interrupts import ended_in_order
from loadtest.load.plan import LoadError, Part, Plan, Times
from loadtest.load.run import closed, rate_of, run
from loadtest.load.schedules import constant, mix, poisson
from loadtest.payloads import infer_json, infer_target
from loadtest.process import Address, Process, ProcessError
from loadtest.report import section, table
from loadtest.stalling import LATE, Schedule
from proxy.descriptors import raise_limit

WITHIN: Final = 0.02
"""The share of the truth that a reported percentile may be off."""

_HEADING: Final = "How exact the generator is, and how fast"
_MODEL: Final = "f64"
_FEATURES: Final = 64
_OURS: Final = "bartizan"
_OPEN_CONNECTIONS: Final = 1500
_BEYOND: Final = 1.5
_K6_HINT: Final = "requirements/k6.in"


@dataclass(frozen=True, slots=True)
class Row:
    """One generator against the known delays: what it reports, and the truth at its times.

    Attributes:
        late: seconds by which the server's answers left after their time, the median of them: its
            own fault, which is not taken off.
    """

    name: str
    told: Told
    truth: dict[str, float]
    late: float

    @property
    def worst(self) -> float:
        """The largest share by which a percentile is off."""
        return max(abs(self.off(percent)) for percent in PERCENTILES)

    def off(self, percent: str) -> float:
        """Reported against true: -0.5 is half of it."""
        return self.told.percentiles[percent] / self.truth[percent] - 1


@dataclass(frozen=True, slots=True)
class Driven:
    """How much one generator drove.

    Attributes:
        server: share of the server's core that the server used.
    """

    name: str
    rate: float
    server: float


@dataclass(frozen=True, slots=True)
class Found:
    """Everything that was measured, and what was left out, with the reason."""

    rows: Sequence[Row]
    driven: Sequence[Driven]
    skipped: dict[str, str]
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Study:
    """What is to be measured.

    Attributes:
        rate: requests a second, of the open loops.
        seconds: of each run against the known delays; ``ceiling_seconds``: against the fastest.
        server, load: the cores of the server and of the generators; None: any.
    """

    rate: float
    seconds: float
    ceiling_seconds: float
    seed: int
    server: int | None
    load: int | None
    wrk: str
    k6: str
    say: Callable[[str], None]

    @property
    def load_cores(self) -> set[int] | None:
        """Of the generators."""
        return None if self.load is None else {self.load}


def nearest_ranks(values: Times) -> dict[str, float]:
    """Percentiles of all values, by nearest rank."""
    ordered = np.sort(values)
    ranks = {p: max(1, math.ceil(len(ordered) * float(p) / 100 - 1e-9)) for p in PERCENTILES}
    return {percent: float(ordered[rank - 1]) for percent, rank in ranks.items()}


def told_of(result: LoadResult) -> Told:
    """As the other generators' reports."""
    failed = result.sent - result.said.get("answered", 0)
    percentiles = {p: result.percentiles.get(p, math.nan) for p in PERCENTILES}
    rate = rate_of(result)
    return Told(result.sent, rate, percentiles, failed, result.late, result.dropped)


def measure(study: Study) -> Found:
    """All of it.

    Raises:
        GeneratorError, LoadError, OSError, ProcessError: if something does not run.
    """
    skipped = {
        name: why
        for name, why in (
            ("wrk", generators.missing(study.wrk, "a package of most distributions")),
            ("k6", generators.missing(study.k6, _K6_HINT)),
        )
        if why
    }
    programs = (("wrk", study.wrk, "-v"), ("k6", study.k6, "version"))
    versions = {n: generators.version(p, arg) for n, p, arg in programs if n not in skipped}
    with tempfile.TemporaryDirectory(prefix="bartizan-accuracy-") as name:
        folder = Path(name)
        rows = list(_rows(study, folder, skipped))
        driven = list(_driven(study, folder, skipped))
    return Found(rows, driven, skipped, versions)


def _rows(study: Study, folder: Path, skipped: dict[str, str]) -> Iterator[Row]:
    # Stalls go on beyond the end: a generator may take longer than it was told.
    schedule = Schedule.drawn(study.seconds + 60, study.seed)
    schedule.write(folder / "schedule.json")
    times = poisson(study.rate, study.seconds, study.seed)
    even = constant(study.rate, study.seconds)
    arguments = ["loadtest.stalling", "--schedule", str(folder / "schedule.json")]

    def row(name: str, arrivals: Times, drive: Callable[[Target], Told]) -> Row:
        with _server(study, folder, arguments) as (server, target):
            told = drive(target)
        late = float(server.tail(1).removeprefix(LATE))
        found = Row(name, told, nearest_ranks(schedule.truth(arrivals)), late)
        off = ", ".join(f"p{p} {found.off(p):+.1%}" for p in PERCENTILES)
        study.say(f"{name}: {told.requests} requests, {told.failed} failed, {off}")
        return found

    for processes in (1, 2):
        plan = _plan(times, connections=_OPEN_CONNECTIONS, processes=processes)
        plan = replace(plan, timeout=30.0, cores=_cores(study, processes))

        def ours(target: Target, plan: Plan = plan) -> Told:
            return told_of(run(replace(plan, address=target.address))[0])

        yield row(f"{_OURS}, open, {_processes(processes)}", times, ours)
    others = (folder, study.load_cores)
    if "k6" not in skipped:
        yield row(
            "k6, open (constant-arrival-rate)", even,
            lambda to: generators.k6(study.k6, to, study.seconds, *others, rate=study.rate),
        )  # fmt: skip
        yield row(
            f"k6, closed ({CONNECTIONS} virtual users)", even,
            lambda to: generators.k6(study.k6, to, study.seconds, *others),
        )  # fmt: skip
    if "wrk" not in skipped:
        yield row(
            f"wrk, closed ({CONNECTIONS} connections)", even,
            lambda to: generators.wrk(study.wrk, to, study.seconds, *others),
        )  # fmt: skip


def _driven(study: Study, folder: Path, skipped: dict[str, str]) -> Iterator[Driven]:
    arguments = ["loadtest.echo", "--model", f"{_MODEL}={_FEATURES}"]
    seconds = study.ceiling_seconds

    def driven(name: str, drive: Callable[[Target], float]) -> Driven:
        with _server(study, folder, arguments) as (server, target):
            before = server.cpu_seconds()
            rate = drive(target)
            found = Driven(name, rate, (server.cpu_seconds() - before) / seconds)
        study.say(f"{name}: {rate:,.0f} requests/s, server {found.server:.0%} busy")
        return found

    def plan(target: Target, processes: int) -> Plan:
        bare = _plan(np.empty(0), connections=CONNECTIONS, processes=processes)
        return replace(bare, address=target.address, cores=_cores(study, processes))

    for processes in (1, 2):
        title = f"{_OURS}, {{}}, {_processes(processes)}"

        def in_turn(target: Target, processes: int = processes) -> float:
            return rate_of(closed(plan(target, processes), seconds))

        loop = driven(title.format("closed"), in_turn)
        yield loop
        times, which = mix([poisson(_BEYOND * loop.rate, seconds, study.seed)])
        offered = {"times": times, "which": which}

        def at_once(
            target: Target, processes: int = processes, offered: dict[str, Any] = offered
        ) -> float:
            return rate_of(run(replace(plan(target, processes), **offered))[0])

        yield driven(title.format("open"), at_once)
    others = (seconds, folder, study.load_cores)
    if "wrk" not in skipped:
        yield driven("wrk, closed", lambda to: generators.wrk(study.wrk, to, *others).rate)
    if "k6" not in skipped:
        yield driven("k6, closed", lambda to: generators.k6(study.k6, to, *others).rate)


@contextlib.contextmanager
def _server(
    study: Study, folder: Path, arguments: Sequence[str]
) -> Iterator[tuple[Process, Target]]:
    """One of our servers, on its core, and what is sent to it."""
    cores = None if study.server is None else {study.server}
    command = [sys.executable, "-P", "-m", *arguments]
    process = Process(arguments[0], command, folder / "server.log", cores=cores)
    try:
        address = process.wait_for_line()
        body = infer_json(honest_rows(_FEATURES, 1, seed=1)).decode()
        yield process, Target(address, infer_target(_MODEL), body)
        process.check()
    finally:
        process.stop()


def _plan(times: Times, *, connections: int, processes: int) -> Plan:
    pool = build_pool(f"{_FEATURES}-json", honest_rows(_FEATURES, 1000, seed=1))
    nowhere: Address = ("127.0.0.1", 0)
    times, which = mix([times])
    return Plan(
        "accuracy", "direct", nowhere, [Part("requests", "honest", pool)], times, which, "Poisson",
        connections=connections, processes=processes,
    )  # fmt: skip


def _cores(study: Study, processes: int) -> tuple[int, ...]:
    """The load's own core first; the second process has to share the server's."""
    if study.load is None or study.server is None:
        return ()
    return (study.load, study.server)[:processes]


def _processes(number: int) -> str:
    return "one process" if number == 1 else f"{number} processes"


def markdown(found: Found, study: Study, command: str) -> str:
    """The section of a page."""

    def cell(row: Row, percent: str) -> str:
        told = row.told.percentiles[percent] * 1e3
        return f"{told:,.1f} of {row.truth[percent] * 1e3:,.1f} ({row.off(percent):+.1%})"

    rows = [
        [
            row.name, f"{row.told.requests:,}", f"{row.told.rate:,.0f}",
            *(cell(row, percent) for percent in PERCENTILES), f"{row.late * 1e3:.2f}",
            "yes" if row.worst <= WITHIN and not row.told.failed else "**no**",
        ]
        for row in found.rows
    ]  # fmt: skip
    columns = [
        "", "requests", "a second", *(f"p{p}: reported of true, ms" for p in PERCENTILES),
        "server late, ms", f"within {WITHIN:.0%}",
    ]  # fmt: skip
    best = next((one.rate for one in found.driven), math.nan)
    driven = [
        [one.name, f"{one.rate:,.0f}", f"{one.rate / best:.2f}", f"{one.server:.0%}"]
        for one in found.driven
    ]
    failed = sum(row.told.failed for row in found.rows)
    dropped = sum(row.told.dropped for row in found.rows)
    return "\n".join([
        f"## {_HEADING}",
        "",
        f"`{command}`",
        "",
        "The server delays each request by a known 10 to 50 ms, and stalls for 500 ms to 1 s about",
        "every 5 s: what arrives in a stall waits for its end. So what a client who comes at a",
        "given time must see is known, and computed from the schedule alone. Open loops send",
        f"{study.rate:,.0f} requests a second for {study.seconds:g} s, ours at Poisson arrivals,",
        "k6 at equal distances; their truth is that of their own times. Closed loops are held",
        "against what clients who come evenly would see: they ask a stalled server no more, and so",
        "never meet its queue. (wrk adds samples of its own making afterwards, for those that it",
        "thinks it left out; k6 does not.) \"Server late\" is by how much the server itself missed",
        "its times, the median; it is not taken off.",
        "",
        *table(columns, rows),
        "",
        f"Requests without a good answer: {failed}; dropped by a generator: {dropped}.",
        "",
        f"How much each drives against a server that answers at once, over {CONNECTIONS}",
        "connections. The server has one core, the generator the other; of two processes, the",
        f"second shares the server's. \"Open\" is offered {_BEYOND:g} times what the closed loop",
        "did. The ratio is to the first row; where the server's core is fully busy, the server was",
        "the limit.",
        "",
        *table(["", "requests/s", "ratio", "server's core"], driven),
        "",
        *(f"- {name}: {what}" for name, what in found.versions.items()),
        *(f"- {name} was skipped: {why}" for name, why in found.skipped.items()),
    ]).rstrip() + "\n"  # fmt: skip


def as_json(found: Found) -> dict[str, Any]:
    """Every figure, as plain values."""
    return asdict(found) | {
        "off": {row.name: {p: row.off(p) for p in PERCENTILES} for row in found.rows}
    }


def exact(found: Found) -> bool:
    """Whether every run of ours is within the bound, and answered whole."""
    ours = [row for row in found.rows if row.name.startswith(_OURS)]
    return bool(ours) and all(row.worst <= WITHIN and not row.told.failed for row in ours)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 measured and exact, 1 not."""
    spread = two_cores()
    parser = argparse.ArgumentParser(prog="loadtest.accuracy", description=__doc__)
    parser.add_argument("--rate", type=float, default=400.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each run with known delays")
    parser.add_argument("--ceiling-seconds", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--wrk", default="wrk", metavar="PROGRAM")
    parser.add_argument("--k6", default=".venv-k6/bin/k6", metavar="PROGRAM")
    parser.add_argument("--out", type=Path, help="the page whose section is replaced")
    parser.add_argument("--json", action="store_true", help="print every figure, and no table")
    parser.add_argument("--server-core", type=int, default=spread[0], metavar="N")
    parser.add_argument("--load-core", type=int, default=spread[1], metavar="N")
    options = parser.parse_args(arguments)
    if options.out is not None and not options.out.exists():
        parser.error(f"no such page: {options.out}")
    if not (options.rate >= 1 and options.seconds >= 1 and options.ceiling_seconds >= 1):
        parser.error("rates and seconds are 1 at least")
    study = Study(
        options.rate, options.seconds, options.ceiling_seconds, options.seed,
        options.server_core, options.load_core, options.wrk, options.k6,
        _say,
    )  # fmt: skip
    raise_limit(2 * _OPEN_CONNECTIONS)  # what is started inherits it
    given = sys.argv[1:] if arguments is None else arguments
    try:
        with ended_in_order():
            found = measure(study)
    except (GeneratorError, LoadError, ProcessError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for name, why in found.skipped.items():
        sys.stderr.write(f"{name} was skipped: {why}\n")
    text = markdown(found, study, " ".join(["python -m loadtest.accuracy", *given]))
    if options.out is not None:
        section(options.out, _HEADING, text)
    sys.stdout.write(json.dumps(as_json(found)) + "\n" if options.json else text)
    return 0 if exact(found) else 1


if __name__ == "__main__":
    sys.exit(main())
