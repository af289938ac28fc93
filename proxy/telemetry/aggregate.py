"""One page of metrics out of several workers'.

Each worker's page is kept as it was last told. What an ended worker had counted is kept as well, so
that no counter goes back; a worker that does not answer is shown with its last known figures. How
several figures become one is stated for each family in ``families.py``, and here for those that are
not ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, TypeAlias

from proxy.telemetry import families
from proxy.telemetry.budget import alert_rate, is_exceeded
from proxy.telemetry.exposition import Family, number

_OURS: Final = {family.name: family for family in families.FAMILIES}

_FOREIGN: Final = {
    "process_start_time_seconds": "min",
    "process_max_fds": "min",
}
"""Gauges of the processes themselves that are not summed."""

_MERGED: Final[Mapping[str, Callable[[float, float], float]]] = {
    "sum": lambda a, b: a + b,
    "max": max,
    "min": min,
}
_Value: TypeAlias = Any
"""A float, or a fraction where sums are exact."""

_GROWING: Final = ("counter", "histogram")


@dataclass(slots=True)
class _Samples:
    """One family's samples: values by name and labels, in order. What grows is summed exactly: a
    sum of floats depends on the order, and a counter that goes back by its last bit reads as one
    that was reset."""

    family: Family
    values: dict[str, _Value] = field(default_factory=dict)

    def add(self, values: Mapping[str, _Value]) -> None:
        """Merges further values in."""
        if self.family.kind in _GROWING:
            for series, value in values.items():
                self.values[series] = self.values.get(series, 0) + Fraction(value)
            return
        merge = _MERGED[self.family.over_workers]
        for series, value in values.items():
            known = self.values.get(series)
            self.values[series] = value if known is None else merge(known, value)


Page = dict[str, _Samples]


class Pages:
    """The workers' pages, and the one made of them."""

    def __init__(self) -> None:
        self._latest: dict[int, Page] = {}
        self._ended: Page = {}

    def take(self, worker: int, text: str) -> None:
        """Notes a worker's page, in OpenMetrics.

        Raises:
            ValueError: if it is none.
        """
        self._latest[worker] = _parse(text)

    def end(self, worker: int) -> None:
        """Notes that a worker has ended: what it had counted stays counted."""
        page = self._latest.pop(worker, {})
        grown = {name: samples for name, samples in page.items() if samples.family.kind in _GROWING}
        _merge(self._ended, grown)

    def keep(self, endpoints: Iterable[str]) -> None:
        """Forgets what ended workers had counted of endpoints that are no more."""
        kept = {f'endpoint="{name}"' for name in ("", *endpoints)}
        for samples in self._ended.values():
            samples.values = {
                series: value
                for series, value in samples.values.items()
                if 'endpoint="' not in series or any(label in series for label in kept)
            }

    def value(self, family: Family, **labels: str) -> float | None:
        """One figure over all workers, or None if there is none."""
        samples = self._merged().get(family.name)
        if samples is None:
            return None
        value = samples.values.get(family.series(**labels).rstrip())
        return None if value is None else _plain(value)

    def render(self, own: str, openmetrics: bool = False) -> bytes:
        """Everything as text.

        Args:
            own: the supervisor's page, in OpenMetrics. What only it can tell is taken from there.
        """
        page = self._merged()
        for name, samples in _parse(own).items():
            if samples.family.over_workers == "supervisor":
                page[name] = samples
            else:
                _merge(page, {name: samples})
        ours = [page[name] for name in _OURS if name in page]
        others = [samples for name, samples in page.items() if name not in _OURS]
        text = "".join(_text(samples, openmetrics) for samples in (*ours, *others))
        return (text + ("# EOF\n" if openmetrics else "")).encode()

    def _merged(self) -> Page:
        page: Page = {}
        _merge(page, self._ended)
        for latest in self._latest.values():
            _merge(page, latest)
        _derive(page)
        return page


def _merge(page: Page, added: Page) -> None:
    for name, samples in added.items():
        if samples.family.over_workers in _MERGED:
            page.setdefault(name, _Samples(samples.family)).add(samples.values)


def _derive(page: Page) -> None:
    """Adds the alert rate and whether it exceeds the budget, over all workers' windows."""
    needed = (families.ALERT_ROWS, families.ALERT_FLAGGED, families.ALERT_REQUESTS)
    if not all(family.name in page for family in (*needed, families.ALERT_BUDGET)):
        return
    rates = page[families.ALERT_RATE.name] = _Samples(families.ALERT_RATE)
    exceeded = page[families.BUDGET_EXCEEDED.name] = _Samples(families.BUDGET_EXCEEDED)
    for series, budget in page[families.ALERT_BUDGET.name].values.items():
        labels = series.removeprefix(families.ALERT_BUDGET.sample)
        rows, flagged, requests = (
            page[family.name].values.get(family.sample + labels, 0) for family in needed
        )
        rates.values[families.ALERT_RATE.sample + labels] = alert_rate(rows, flagged)
        over = is_exceeded(rows, requests, budget)
        exceeded.values[families.BUDGET_EXCEEDED.sample + labels] = int(over)


def _parse(text: str) -> Page:
    page: Page = {}
    samples: _Samples | None = None
    described: dict[str, dict[str, str]] = {}
    for line in filter(None, text.split("\n")):
        if line.startswith("# "):
            word, _, rest = line[2:].partition(" ")
            if word == "EOF":
                break
            name, _, told = rest.partition(" ")
            about = described.setdefault(name, {})
            about[word] = told
            if word == "TYPE":
                family = _OURS.get(name) or _foreign(name, told, about.get("HELP", ""))
                samples = page.setdefault(name, _Samples(family))
        elif samples is None:
            raise ValueError("a sample before its type")
        else:
            series, _, value = line.rpartition(" ")
            samples.values[series] = int(value) if value.isdecimal() else float(value)
    return page


def _plain(value: _Value) -> float:
    """A number as it is written: whole ones without a fraction."""
    if isinstance(value, Fraction):
        return value.numerator if value.denominator == 1 else float(value)
    return float(value) if isinstance(value, float) else int(value)


def _foreign(name: str, kind: str, meaning: str) -> Family:
    return Family(name, kind, meaning, over_workers=_FOREIGN.get(name, "sum"))


def _text(samples: _Samples, openmetrics: bool) -> str:
    if not samples.values:
        return ""
    lines = [f"{series} {number(_plain(value))}\n" for series, value in samples.values.items()]
    return samples.family.header(openmetrics) + "".join(lines)
