"""Where the firewall spends its CPU time under load: ``python -m loadtest.profile --case 64-json``.

The same configuration and load as in the benchmark, sampled from within. Shares are of the main
thread's CPU time; sampling itself costs some.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from loadtest.artefacts import FitError
from loadtest.bench import (
    CASES,
    BenchError,
    Subject,
    build_pool,
    choose_rows,
    make_rows_and_bundles,
    parse_case,
)
from loadtest.interrupts import ended_in_order, held
from loadtest.load.closed import Result, closed_loop
from loadtest.peers import Firewall, Lab
from loadtest.process import Process, ProcessError, on_cores


def profile(case: str, seconds: float, cores: list[int]) -> tuple[dict[str, Any], Result, float]:
    """The sampler's counts, the load's result, and CPU seconds a request.

    Raises:
        BenchError, FitError, ProcessError, OSError: if it cannot be had.
    """
    features, _ = parse_case(case)
    proxy_cores, load_cores = ({cores[0]}, {cores[1]}) if len(cores) > 1 else (None, None)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bartizan-profile-")))
        rows, bundles = make_rows_and_bundles(folder, [features], bundles=True)
        upstream = Process(
            "upstream",
            [sys.executable, "-P", "-m", "loadtest.echo", "--model", f"f{features}={features}"],
            folder / "upstream.log",
            cores=load_cores,
        )
        stack.callback(upstream.stop)
        lab = Lab(upstream.wait_for_line(), folder, proxy_cores, rows, bundles, "", "")
        out = folder / "samples.json"
        firewall = Firewall((sys.executable, "-P", "-m", "loadtest.sampled", str(out)))
        process, address = firewall.start(lab)
        stack.callback(process.stop)
        subject = Subject(firewall.name, process, address)
        pool = build_pool(case, choose_rows([subject], features)[0])
        with on_cores(load_cores), held():
            uvloop.run(closed_loop(address, pool, connections=32, seconds=seconds / 10))
            os.kill(process.pid, signal.SIGUSR2)
            before = process.cpu_seconds()
            result = uvloop.run(closed_loop(address, pool, connections=32, seconds=seconds))
            cpu = process.cpu_seconds() - before
        process.stop()
        return json.loads(out.read_text()), result, cpu / max(result.answered, 1)


def table(counts: dict[str, Any], cpu: float, by: str, lines: int) -> Table:
    """The functions that cost most: by themselves (``own``) or with callees (``total``).

    Shares of CPU time, and µs for each request.
    """
    shown = Table()
    shown.add_column("function", no_wrap=True)
    for name in ("own", "µs", "total", "µs"):
        shown.add_column(name, justify="right", no_wrap=True)
    samples = max(counts["samples"], 1)
    for name, _ in sorted(counts[by].items(), key=lambda item: -item[1])[:lines]:
        own, total = counts["own"].get(name, 0), counts["total"][name]
        shown.add_row(
            name,
            *(
                text
                for share in (own / samples, total / samples)
                for text in (f"{share:.1%}", f"{share * cpu * 1e6:.1f}")
            ),
        )
    return shown


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 done, 1 not, 2 usage."""
    parser = argparse.ArgumentParser(prog="loadtest.profile", description=__doc__)
    parser.add_argument("--case", default="64-json", choices=CASES)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--lines", type=int, default=40)
    parser.add_argument("--by", choices=("own", "total"), default="own")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    try:
        with ended_in_order():
            cores = sorted(os.sched_getaffinity(0))
            counts, result, cpu = profile(options.case, options.seconds, cores)
    except (BenchError, FitError, ProcessError, OSError) as error:
        Console(stderr=True, highlight=False).print(f"error: {error}", markup=False)
        return 1
    if not result.clean:
        console.print(f"statuses {dict(result.statuses)}, errors {dict(result.errors)}")
        return 1
    console.print(
        f"{options.case}: {result.rate:,.0f} requests/s, {cpu * 1e6:.1f} µs CPU a request, "
        f"{counts['samples']} samples"
    )
    console.print(table(counts, cpu, options.by, options.lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
