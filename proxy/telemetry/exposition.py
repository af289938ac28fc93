"""Metrics as text: Prometheus 0.0.4, or OpenMetrics 1.0 where the scraper asks for it.

A general client library renders about 150 000 lines a second, on the loop that also serves
requests. Here every line's name and labels are rendered once, when the series is made, so that a
scrape only joins numbers to them.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """One metric: its name without ``_total`` or ``_bucket``, its kind and what it means.

    Attributes:
        kind: ``counter``, ``gauge``, ``histogram`` or ``info``.
        meaning: one line, without a line feed or a backslash.
        unit: the suffix of the name that is its unit, or "".
        over_workers: how one number is made of those of several workers: ``sum``, ``max`` or
            ``min``; ``supervisor`` if theirs do not count, as it has its own; ``derived`` if it
            follows from others. Counters and histograms are sums unless they say otherwise.
    """

    name: str
    kind: str
    meaning: str
    unit: str = ""
    over_workers: str = ""

    @property
    def sample(self) -> str:
        """The name that its plain samples carry."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")

    def header(self, openmetrics: bool) -> str:
        """The lines that come before its samples."""
        name = self.name if openmetrics else self.sample
        kind = self.kind if openmetrics or self.kind != "info" else "gauge"
        unit = f"# UNIT {name} {self.unit}\n" if openmetrics and self.unit else ""
        return f"# HELP {name} {self.meaning}\n# TYPE {name} {kind}\n{unit}"

    def series(self, **labels: str) -> str:
        """The start of a sample's line, up to its value."""
        return f"{self.sample}{_braced(labels)} "


class Buckets:
    """The lines of one histogram series.

    Args:
        counted: the upper bounds that are counted by, ascending, without infinity.
        shown: those of them that are rendered.
    """

    __slots__ = ("_buckets", "_count", "_sum")

    def __init__(
        self, family: Family, counted: Sequence[float], shown: Sequence[float], **labels: str
    ) -> None:
        uppers = [(number(float(bound)), counted.index(bound)) for bound in shown]
        uppers.append(("+Inf", len(counted)))
        self._buckets = [
            (f"{family.name}_bucket{_braced({**labels, 'le': upper})} ", index)
            for upper, index in uppers
        ]
        self._count = f"{family.name}_count{_braced(labels)} "
        self._sum = f"{family.name}_sum{_braced(labels)} "

    def lines(self, counts: Iterable[int], total: float) -> str:
        """The series.

        Args:
            counts: observations in each counted bucket, the last one up to infinity.
            total: the sum of the observations.
        """
        upto = [*accumulate(counts)]
        buckets = "".join([f"{start}{upto[index]}\n" for start, index in self._buckets])
        return f"{buckets}{self._count}{upto[-1]}\n{self._sum}{number(total)}\n"


def number(value: float) -> str:
    """A value as both formats write it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)


def _braced(labels: dict[str, str]) -> str:
    inner = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items())
    return f"{{{inner}}}" if inner else ""
