"""What a run found, as charts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from loadtest.evidence import attack_metrics, figures
from loadtest.evidence.loads import is_alone, is_closed, latencies, names, title
from loadtest.evidence.results import AttackResult, LoadResult, Results, Side
from loadtest.evidence.statistics import of_share, quantile
from loadtest.evidence.svg import DIRECT, FIREWALL, GREY, OTHER, WIDTH, Chart, Scale, decades, nice
from loadtest.load.hdr import Histogram

COLOURS: Final[dict[Side, str]] = {"direct": DIRECT, "firewall": FIREWALL}
_LEFT: Final = 84
_NAMES: Final = 210
_RIGHT: Final = WIDTH - 24
_ROW: Final = 40
_LEGEND: Final = 40
_TOP: Final = 62
Phase = tuple[str, float, float]
_SIDES: Final[tuple[tuple[Side, str, bool], ...]] = (
    ("direct", DIRECT, True),
    ("firewall", FIREWALL, False),
)


def latency(results: Results) -> Iterator[Chart]:
    """One for each honest load: latency over percentiles, to the highest that there is."""
    found = latencies(results)
    for i, name in enumerate(names(load for load in results.loads if is_alone(load))):
        sides: dict[Side, Histogram] = {
            side: found[name, side]
            for side in COLOURS
            if (name, side) in found and found[name, side].total
        }
        if sides:
            yield _latency(f"latency-{i}", name, sides)


def _latency(key: str, name: str, sides: dict[Side, Histogram]) -> Chart:
    total = max(histogram.total for histogram in sides.values())
    # The axis of nines: each decade is a tenth of the requests of the one before.
    nines = max(1.0, math.log10(total))
    grid = [i / 100 * nines for i in range(101)]
    curves: dict[Side, list[tuple[float, float]]] = {}
    for side, histogram in sides.items():
        own = math.log10(histogram.total) if histogram.total > 1 else 0.1
        steps = sorted({one for one in (*grid, own) if one <= own + 1e-9})
        curves[side] = [
            (one, value)
            for one in steps
            if (value := histogram.percentile(100 * (1 - 10**-one))) is not None
        ]
    values = [value for curve in curves.values() for _, value in curve if value > 0] or [1e-6, 1e-3]
    marks = decades(min(values), max(values))
    labels = [(0.0, "0 %"), (math.log10(2), "50 %"), (1.0, "90 %"), (2.0, "99 %"), (3.0, "99.9 %")]
    labels += [(4.0, "99.99 %"), (5.0, "99.999 %"), (6.0, "99.9999 %")]
    across = Scale(
        0, nines, _LEFT, _RIGHT - 30, ticks=[one for one in labels if one[0] <= nines + 1e-9]
    )
    up = Scale(
        marks[0], marks[-1], 300, 84, logarithmic=True,
        ticks=[(value, figures.seconds(value)) for value in marks],
    )  # fmt: skip
    words = "; ".join(
        f"{side}: " + ", ".join(
            f"p{p:g} {figures.seconds(histogram.percentile(p))}" for p in (50, 99, 99.9)
        )
        for side, histogram in sides.items()
    )  # fmt: skip
    chart = Chart(key, f"Latency by percentile: {name}", words, 356)
    chart.axes(across, up, "percentile of honest requests", "latency")
    for side, curve in curves.items():
        points = [(across(one), up(value)) for one, value in curve]
        chart.line(points, COLOURS[side], dashed=side == "direct")
    chart.legend(_LEGEND, [one for one in _SIDES if one[0] in sides], _LEFT + 120)
    return chart


def timeline(results: Results) -> Iterator[Chart]:
    """Second by second through the firewall, honest and hostile apart, with attacks marked."""
    loads = [
        load for load in results.loads
        if load.side == "firewall" and load.series and not is_closed(load)
    ]  # fmt: skip
    for kind in ("honest", "hostile"):
        chosen = [load for load in loads if load.kind == kind]
        if chosen:
            yield _timeline(kind, chosen, phases(results) if _timed(chosen) else [])


def _timed(loads: Sequence[LoadResult]) -> bool:
    return all(load.begun is not None for load in loads)


def phases(results: Results) -> list[Phase]:
    """The attacks through the firewall: name, beginning and end in seconds of the run."""
    return [
        (attack_metrics.name(attack), attack.begun, attack.begun + attack.seconds)
        for attack in results.attacks
        if attack.side == "firewall" and attack.begun is not None
    ]


def _timeline(kind: str, loads: Sequence[LoadResult], spans: list[Phase]) -> Chart:
    offset = 0.0
    begins = []
    for load in loads:
        # What was not timed is shown one after the other.
        begins.append(load.begun if _timed(loads) and load.begun is not None else offset)
        offset += load.seconds
    rate = max(max(one.offered, one.good) for load in loads for one in load.series)
    first = min(begins)
    last = max(at + load.seconds for at, load in zip(begins, loads, strict=True))
    numbered = [(i, *span) for i, span in enumerate(spans, 1) if span[2] > first and span[1] < last]
    marks, times = nice(rate), nice(max(last - first, 1.0), 8)
    across = Scale(
        first, first + times[-1], _LEFT, _RIGHT, ticks=[(first + t, f"{t:g} s") for t in times]
    )
    up = Scale(0, marks[-1], 300, 84, ticks=[(mark, figures.number(mark)) for mark in marks])
    words = ", ".join(dict.fromkeys(title(load) for load in loads))
    chart = Chart(f"timeline-{kind}", f"Second by second, {kind} requests", words, 356)
    for number, name, begin, end in numbered:
        left, right = across(begin), across(end)
        chart.box(left, 84, right - left, 216, OTHER, faint=True, words=name)
        chart.text((left + right) / 2, 80, str(number), anchor="middle")
    chart.axes(across, up, "since the beginning", "a second")
    series = (("good", FIREWALL, False), ("refused or limited", OTHER, True), ("shed", GREY, False))
    for at, load in zip(begins, loads, strict=True):
        for (name, colour, dashed), values in zip(series, _values(load), strict=True):
            if name == "good" or any(values):
                points = [
                    (across(at + one.at + 0.5), up(value))
                    for one, value in zip(load.series, values, strict=True)
                ]
                if len(points) == 1:
                    chart.dot(*points[0], colour)
                else:
                    chart.line(points, colour, dashed=dashed)
    chart.legend(_LEGEND, [*series, *([("attack", OTHER, True)] if numbered else [])], _LEFT + 120)
    return chart


def _values(load: LoadResult) -> tuple[list[int], list[int], list[int]]:
    return (
        [one.good for one in load.series],
        [one.refused + one.limited + one.invalid for one in load.series],
        [one.shed for one in load.series],
    )


def success(results: Results) -> Iterator[Chart]:
    """Each attack's success without and with the firewall, with Wilson intervals."""
    rows = [
        (name, sides)
        for name, sides in attack_metrics.paired(results.attacks)
        if any(
            a.success.total and not a.fault and a.family != attack_metrics.ABUSE
            for a in sides.values()
        )
    ]
    if not rows:
        return
    across = Scale(0, 1, _NAMES, _RIGHT - 70, ticks=[(t / 5, f"{20 * t} %") for t in range(6)])
    bottom = _TOP + _ROW * len(rows)
    chart = Chart(
        "success", "Attack success, without and with the firewall",
        "; ".join(f"{name}: " + ", ".join(
            f"{side} {one.success.count} of {one.success.total}" for side, one in sides.items()
        ) for name, sides in rows), bottom + 50,
    )  # fmt: skip
    _columns(chart, across, bottom, "tries that reached the goal")
    for i, (name, sides) in enumerate(rows):
        middle = _TOP + _ROW * (i + 0.5)
        chart.text(_NAMES - 10, middle + 4, name, anchor="end", room=_NAMES - 12)
        for side, y in zip(COLOURS, (middle - 15, middle + 1), strict=True):
            attack = sides.get(side)
            found = of_share(attack.success) if attack and not attack.fault else None
            if attack is None or found is None:
                continue
            told = f"{name}, {side}: {attack.success.count} of {attack.success.total}"
            width = across(found.value) - across(0)
            chart.box(across(0), y, width, 13, COLOURS[side], hollow=side == "direct", words=told)
            low, high = across(found.low), across(found.high)
            chart.rule((low, y + 6.5), (high, y + 6.5), "currentColor", 1.2)
            for end in (low, high):
                chart.rule((end, y + 3), (end, y + 10), "currentColor", 1.2)
            chart.text(_RIGHT - 62, y + 11, f"{attack.success.count}/{attack.success.total}")
    chart.legend(_LEGEND, _SIDES, _NAMES)
    yield chart


def recognition(results: Results) -> Iterator[Chart]:
    """The attack's own queries until each try was recognised, a dot a try."""
    rows = [
        (attack_metrics.name(attack), attack)
        for attack in results.attacks
        if attack.side == "firewall" and attack.recognised and attack.recognised.total
    ]
    if not rows:
        return
    counts = [max(1, n) for _, attack in rows for n in attack.to_recognition] or [1, 10]
    marks = decades(min(counts), max(counts))
    across = Scale(
        marks[0], marks[-1], _NAMES, _RIGHT - 110, logarithmic=True,
        ticks=[(mark, figures.number(mark)) for mark in marks],
    )  # fmt: skip
    bottom = _TOP + 30 * len(rows)
    chart = Chart(
        "recognition", "Queries until recognised",
        "; ".join(f"{name}: {len(one.to_recognition)} tries" for name, one in rows), bottom + 50,
    )  # fmt: skip
    _columns(chart, across, bottom, "the attack's own queries")
    chart.text(_RIGHT - 86, _TOP - 8, "never")
    for i, (name, attack) in enumerate(rows):
        middle = _TOP + 30 * (i + 0.5)
        chart.text(_NAMES - 10, middle + 4, name, anchor="end", room=_NAMES - 12)
        for n, count in enumerate(sorted(attack.to_recognition)):
            # Ties fan out, so that many show as many.
            chart.dot(
                across(max(1, count)), middle + (n % 5 - 2) * 3, FIREWALL, words=f"{count} queries"
            )
        found = quantile([float(n) for n in attack.to_recognition], 0.5)
        if found:
            x = across(max(1.0, found.estimate.value))
            chart.rule((x, middle - 12), (x, middle + 12), "currentColor", 2)
        assert attack.recognised is not None
        missed = attack.recognised.total - len(attack.to_recognition)
        chart.text(_RIGHT - 70, middle + 4, f"{missed} of {attack.recognised.total}")
    yield chart


def fidelity(results: Results) -> Iterator[Chart]:
    """A stolen model's fidelity over queries, for each attack that tells."""
    stolen = [attack for attack in results.attacks if attack.value is not None and curve(attack)]
    for i, (name, sides) in enumerate(attack_metrics.paired(stolen)):
        curves = {side: curve(attack) for side, attack in sides.items()}
        most = max(queries for points in curves.values() for queries, _ in points)
        times = nice(most, 6)
        across = Scale(0, times[-1], _LEFT, _RIGHT, ticks=[(t, figures.number(t)) for t in times])
        up = Scale(0, 1, 300, 84, ticks=[(t / 5, f"{20 * t} %") for t in range(6)])
        words = ", ".join(
            f"{side} {figures.percent(points[-1][1])}" for side, points in curves.items()
        )
        chart = Chart(f"fidelity-{i}", f"{_measure(sides)} over queries: {name}", words, 356)
        chart.axes(across, up, "queries", _measure(sides))
        base = next((a.baseline for a in sides.values() if a.baseline is not None), None)
        if base is not None:
            chart.rule((_LEFT, up(base)), (_RIGHT, up(base)), "currentColor", 1.2, dashed=True)
            chart.text(_RIGHT, up(base) - 5, "without asking", anchor="end")
        for side, points in curves.items():
            drawn = [(across(queries), up(value)) for queries, value in points]
            chart.line(drawn, COLOURS[side], dashed=side == "direct")
            for x, y in drawn:
                chart.dot(x, y, COLOURS[side], hollow=side == "direct")
        chart.legend(_LEGEND, [one for one in _SIDES if one[0] in curves], _LEFT + 120)
        yield chart


def _measure(sides: dict[Side, AttackResult]) -> str:
    return next((attack.measure for attack in sides.values() if attack.measure), "fidelity")


def curve(attack: AttackResult) -> list[tuple[float, float]]:
    """``details["fidelity_over_queries"]`` as far as it is pairs of numbers, from 0 to 1."""
    given = attack.details.get("fidelity_over_queries")
    found = []
    for one in given if isinstance(given, (list, tuple)) else ():
        if isinstance(one, (list, tuple)) and len(one) == 2:
            queries, value = one
            if _number(queries) and _number(value) and queries >= 0 and 0 <= value <= 1:
                found.append((float(queries), float(value)))
    return sorted(found)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _columns(chart: Chart, across: Scale, bottom: float, name: str) -> None:
    for value, label in across.ticks:
        x = across(value)
        chart.rule((x, _TOP - 4), (x, bottom), faint=True)
        chart.text(x, bottom + 18, label, anchor="middle")
    chart.text((across.start + across.end) / 2, bottom + 40, name, anchor="middle")
