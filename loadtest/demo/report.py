"""What the demonstration found: as values, as a table for people, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from loadtest.demo.expectations import Expectation, Outcome, Verdict


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    outcome: Outcome
    expectation: Expectation

    @property
    def verdict(self) -> Verdict:
        """Whether it went as it should."""
        return self.expectation.judge(self.outcome)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold over the whole demonstration."""

    what: str
    good: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds: medians and 99th percentiles of exchanges in turn, direct and through."""

    direct_p50: float
    direct_p99: float
    through_p50: float
    through_p99: float
    added_p50: float

    @classmethod
    def of(cls, direct: Sequence[float], through: Sequence[float]) -> Latency:
        """From pairs; what is added at the median is the median of the differences."""
        there, here = np.array(through), np.array(direct)
        return cls(
            float(np.percentile(here, 50)),
            float(np.percentile(here, 99)),
            float(np.percentile(there, 50)),
            float(np.percentile(there, 99)),
            float(np.median(there - here)),
        )


@dataclass(slots=True)
class Report:
    """What the demonstration found."""

    lines: list[Line] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    latency: Latency | None = None
    accuracy: float = 0.0
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether everything was decided as it should be."""
        return (
            bool(self.lines)
            and all(line.verdict is not Verdict.FAILED for line in self.lines)
            and all(check.good for check in self.checks)
        )

    def as_json(self) -> dict[str, Any]:
        """As plain values; times in seconds."""
        return {
            "good": self.good,
            "seconds": round(self.seconds, 3),
            "model_accuracy": round(self.accuracy, 4),
            "traffic": [
                {
                    "kind": line.outcome.kind,
                    "sent": line.outcome.sent,
                    "allowed": line.outcome.allowed,
                    "statuses": {str(k): v for k, v in sorted(line.outcome.statuses.items())},
                    "refused_by": dict(sorted(line.outcome.refused_by.items())),
                    "wrong_answers": line.outcome.wrong,
                    "expected": line.expectation.text,
                    "verdict": line.verdict.value,
                }
                for line in self.lines
            ],
            "checks": [asdict(check) for check in self.checks],
            "latency": asdict(self.latency) if self.latency else None,
        }


_TITLE = """\
What came to the firewall, and what became of it
(FGSM: only images that fool the model are sent)"""
_STYLES = {Verdict.OK: "green", Verdict.FAILED: "bold red", Verdict.INFORMATION: "cyan"}


def traffic_table(report: Report) -> Table:
    """What was sent, allowed and refused, and whether it should have been."""
    table = Table(
        title=_TITLE,
        title_justify="left",
    )
    for name in ("kind", "sent", "allowed", "refused by", "expected", ""):
        table.add_column(name, justify="right" if name in {"sent", "allowed"} else "left")
    for line in report.lines:
        outcome = line.outcome
        refused = ", ".join(f"{count} {rule}" for rule, count in sorted(outcome.refused_by.items()))
        if outcome.wrong:
            refused += f"; {outcome.wrong} WRONG ANSWERS"
        table.add_row(
            outcome.kind, str(outcome.sent), str(outcome.allowed), refused or "nothing",
            line.expectation.text, Text(line.verdict.value, _STYLES[line.verdict]),
        )  # fmt: skip
    return table


def checks_table(report: Report) -> Table:
    """What must hold over the whole, and the latency."""
    table = Table(show_header=False)
    for check in report.checks:
        verdict = Verdict.OK if check.good else Verdict.FAILED
        table.add_row(check.what, check.detail, Text(verdict.value, _STYLES[verdict]))
    style = _STYLES[Verdict.INFORMATION]
    information = Text(Verdict.INFORMATION.value, style)
    if report.latency:
        times = report.latency
        for what, direct, through in (
            ("p50", times.direct_p50, times.through_p50),
            ("p99", times.direct_p99, times.through_p99),
        ):
            added = times.added_p50 if what == "p50" else through - direct
            table.add_row(
                f"latency {what}, one connection",
                f"{direct * 1e6:.0f} µs direct, {through * 1e6:.0f} µs through: "
                f"{added * 1e6:+.0f} µs",
                information,
            )
    table.add_row("the model's accuracy on the test images", f"{report.accuracy:.1%}", information)
    return table
