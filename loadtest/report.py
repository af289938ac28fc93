"""The benchmark as a page of Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.comparison import TARGETS, Metric, Sample, Spread, ratio, valid

OURS = "bartizan"
DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that one benchmark found, and what it ran on.

    Attributes:
        peers: name to title, in the order of the rounds.
        versions: name to what ran.
        cases: name to title.
        skipped: name to the reason.
        notes: what a reader must know.
    """

    command: str
    date: str
    machine: Mapping[str, str]
    peers: Mapping[str, str]
    versions: Mapping[str, str]
    cases: Mapping[str, str]
    skipped: Mapping[str, str]
    notes: Sequence[str]
    samples: Sequence[Sample]

    def as_json(self) -> dict[str, Any]:
        """As plain values; a sample that does not count carries its fault."""
        return {
            **{k: getattr(self, k) for k in self.__dataclass_fields__ if k != "samples"},
            "samples": [
                {k: None if v != v else v for k, v in asdict(sample).items()}  # noqa: PLR0124 - NaN
                for sample in self.samples
            ],
        }


def machine(proxy_cores: set[int] | None, load_cores: set[int] | None) -> dict[str, str]:
    """What the figures depend on, without naming the host."""
    model = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "processor": f"{model}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "proxy on": _cores(proxy_cores),
        "load and upstream on": _cores(load_cores),
    }


def _cores(cores: set[int] | None) -> str:
    return f"core {', '.join(map(str, sorted(cores)))}" if cores else "any core"


def markdown(run: Run) -> str:
    """The page."""
    lines = [
        "# Benchmarks",
        "",
        f"Made by `{run.command}` on {run.date}. Every figure is of this one run on this one",
        "machine; only ratios within it mean anything elsewhere.",
        "",
        "Each proxy has one worker, pinned to one core; the load generator and the upstream, which",
        "gives every request the same answer, share another. Rounds are interleaved: every proxy",
        "is measured in every round, and ratios are taken within a round. Each cell is the median",
        "over the rounds, with the lowest and highest in brackets. Throughput and CPU are measured",
        "with 32 connections, latency with one, always in a closed loop over different",
        "requests of one row. A round with any answer but 200 does not count.",
        "",
        *table(["", ""], [[k, v] for k, v in run.machine.items()]),
        "",
        *table(
            ["peer", "what", "version"],
            [[f"`{p}`", title, run.versions.get(p, "")] for p, title in run.peers.items()],
        ),
        "",
    ]
    lines += [f"- `{name}` was skipped: {reason}" for name, reason in run.skipped.items()]
    lines += [f"- {note}" for note in run.notes]
    lines += ["", "## Targets", "", *_targets(run)]
    for case, title in run.cases.items():
        lines += ["", f"## {title}", "", *_case(run, case)]
    lines += ["", *_reading()]
    return "\n".join(lines).rstrip() + "\n"


def _targets(run: Run) -> list[str]:
    rows = []
    for target in TARGETS:
        spread = ratio(run.samples, OURS, target.peer, target.case, target.metric)
        verdict = "not measured" if not spread.count else "met" if target.met(spread) else "not met"
        bound = f"at {'least' if target.at_least else 'most'} {target.bound:g}"
        rows.append([target.text, run.cases.get(target.case, target.case), bound,
                     spread_text(spread, "{:.2f}"), verdict])  # fmt: skip
    return table(["target", "case", "bound", "measured", ""], rows)


def _case(run: Run, case: str) -> list[str]:
    rows = []
    for peer in run.peers:
        samples = valid(run.samples, peer, case)
        discarded = sum(s.peer == peer and s.case == case and bool(s.fault) for s in run.samples)

        def cell(
            value: Callable[[Sample], float], form: str, of: Sequence[Sample] = samples
        ) -> str:
            return spread_text(Spread.of(map(value, of)), form)

        def against(metric: Metric, peer: str = peer) -> str:
            found = ratio(run.samples, OURS, peer, case, metric)
            return "" if peer == OURS else spread_text(found, "{:.2f}")

        rows.append([
            f"`{peer}`",
            cell(lambda s: s.rate, "{:,.0f}"),
            cell(lambda s: s.cpu * 1e6, "{:,.1f}"),
            cell(lambda s: s.busy * 100, "{:.0f}"),
            "" if peer == DIRECT else cell(lambda s: s.others * 100, "{:.0f}"),
            cell(lambda s: s.p50 * 1e6, "{:,.0f}"),
            cell(lambda s: s.p99 * 1e6, "{:,.0f}"),
            against("rate"),
            against("cpu"),
            against("p50"),
            f"{len(samples)}" + (f" ({discarded} discarded)" if discarded else ""),
        ])  # fmt: skip
    head = [
        "", "requests/s", "CPU µs a request", "core busy %", "others on it %", "p50 µs", "p99 µs",
        "our throughput ÷ theirs", "our CPU ÷ theirs", "our p50 ÷ theirs", "rounds",
    ]  # fmt: skip
    return table(head, rows)


def _reading() -> list[str]:
    return [
        "## How to read it",
        "",
        "- `direct` is no proxy at all: the load generator on the upstream. Its CPU is the",
        "  upstream's. Both ends share one core: its throughput is not a ceiling for a proxy.",
        "- Where a proxy's core is well below 100 % busy, the load's core was the limit and the",
        "  proxy could do more: read CPU a request there.",
        "- Whatever else ran on the proxy's core is in the column beside it, interrupts included.",
        "  Where it is more than a few per cent the machine was busy: throughput and latency there",
        "  tell of the neighbours too, CPU a request much less.",
        "- nginx and Envoy forward bytes that they do not inspect. They are the floor, not",
        "  competitors: neither scores, limits by rows, nor writes an audit record here.",
    ]


def section(page: Path, heading: str, text: str) -> None:
    """Replaces a section of a page, from its heading to the next of its level, or appends it."""
    before, found, rest = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    _, following, after = rest.partition("\n## ") if found else ("", "", "")
    kept = before.rstrip() + "\n\n" + text.rstrip() + "\n"
    page.write_text(kept + following + after, encoding="utf-8")


def spread_text(spread: Spread, form: str) -> str:
    """The median and the range, each in a form such as ``{:.2f}``."""
    if not spread.count:
        return "n/a"
    median, low, high = (form.format(v) for v in (spread.median, spread.low, spread.high))
    return median if spread.count == 1 else f"{median} ({low} to {high})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of Markdown, by lines."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
