"""The report on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loadtest.evidence import tables
from loadtest.evidence.results import Results
from loadtest.evidence.tables import Table

if TYPE_CHECKING:
    from rich.console import Console

_STYLES: Final = {"FAILED": "bold red", "passed": "green", "worse": "bold red", "better": "green"}


def show(results: Results, console: Console) -> None:
    """Prints how it ended, the thresholds, and every other table.

    What came from servers is printed as it is: neither markup nor escapes in it have an effect.
    """
    style = "green" if results.passed else "bold red"
    console.print(tables.verdict(results), style=style, markup=False, highlight=False)
    found = tables.tables(results)
    for table in sorted(found, key=lambda one: one.key != "checks"):
        show_table(table, console)
    for note in tables.notes(results):
        console.print(f"Note: {note}", markup=False, highlight=False)


def show_table(table: Table, console: Console) -> None:
    """Prints one table."""
    from rich.table import Table as Grid  # noqa: PLC0415 - slow to import
    from rich.text import Text  # noqa: PLC0415

    grid = Grid(title=Text(table.title, style="bold"), title_justify="left", caption_justify="left")
    if table.note:
        grid.caption = Text(table.note)
    for i, column in enumerate(table.columns):
        right = i >= table.numeric
        grid.add_column(Text(column), justify="right" if right else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    console.print(grid)
