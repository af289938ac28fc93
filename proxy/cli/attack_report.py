"""The tables of ``bartizan attack``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from loadtest.drivers.base import Driver
    from loadtest.evidence.results import AttackResult, Share


def show(results: Sequence[AttackResult]) -> None:
    """One attack, a column a side."""
    console = Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)
    first = results[0]
    console.print(f"{first.driver} ({', '.join(first.atlas)}): {first.goal}")
    grid = Table(show_header=True, box=None, pad_edge=False)
    grid.add_column("")
    for one in results:
        grid.add_column(one.side, justify="right")
    for title, cells in _lines(results):
        if any(cells):
            grid.add_row(title, *(cell or "-" for cell in cells))
    console.print(grid)
    for one in results:
        if one.fault:
            console.print(f"{one.side}: it does not count: {one.fault}")
        for name, value in one.details.items():
            console.print(f"{one.side}: {name}: {_shown(value)}")


def show_drivers(drivers: Sequence[Driver]) -> None:
    """All that there are."""
    console = Console(file=sys.stdout, highlight=False, markup=False)
    grid = Table(box=None, pad_edge=False)
    for heading in ("driver", "ATLAS", "what it does", "needs"):
        grid.add_column(heading, overflow="fold")
    for one in drivers:
        needs = ", ".join(sorted(one.needs - {"classes"}))
        grid.add_row(one.name, "\n".join(one.atlas), one.words, needs)
    console.print(grid)


def _lines(results: Sequence[AttackResult]) -> list[tuple[str, list[str]]]:
    words = sorted({word for one in results for word in one.said})
    lines = [
        ("succeeded", [_share(one.success) for one in results]),
        ("queries until then, median", [_median(one.to_success) for one in results]),
        ("recognised", [_share(one.recognised) for one in results]),
        ("own queries until then, median", [_median(one.to_recognition) for one in results]),
    ]
    if any(one.value is not None for one in results):
        lines.append((results[0].measure, [_value(one) for one in results]))
        lines.append(("without asking", [_number(one.baseline) for one in results]))
    lines.append(("queries", [str(one.queries) for one in results]))
    lines += [(f"  {word}", [_count(one.said.get(word, 0)) for one in results]) for word in words]
    lines += [
        ("  made coarse", [_count(one.coarse) for one in results]),
        ("  from the journal", [_count(one.resumed) for one in results]),
        ("seconds", [f"{one.seconds:.1f}" for one in results]),
    ]
    return lines


def _share(share: Share | None) -> str:
    return "" if share is None else f"{share.count} of {share.total}"


def _median(values: Sequence[int]) -> str:
    return f"{median(values):g}" if values else ""


def _value(one: AttackResult) -> str:
    if one.value is None:
        return ""
    return f"{one.value.value:.3f} [{one.value.low:.3f}, {one.value.high:.3f}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _count(value: int) -> str:
    return str(value) if value else ""


def _shown(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return "".join(char if char.isprintable() else "?" for char in text)[:400]
