"""The report as Markdown, for the summary of a CI job."""

from __future__ import annotations

import re
from typing import Final

from loadtest.evidence import figures, tables
from loadtest.evidence.results import Results
from loadtest.evidence.tables import Table

# A job's summary is cut at 1 MiB: one table a kind, and no more rows than anyone reads.
_MOST_ROWS: Final = 100
_MARKUP: Final = re.compile(r"([\\`*_{}\[\]()#+!|~>@:/-])")
_PLAIN: Final = re.compile(r"[\w .,%-]*", re.ASCII)


def render(results: Results) -> str:
    """Verdict, notes and tables."""
    lines = [
        f"# {escape(results.scenario or 'Load test')}",
        "",
        f"**{tables.verdict(results)}**",
        "",
    ]
    lines += [f"- {escape(note)}" for note in tables.notes(results)]
    for table in [*tables.tables(results), tables.about(results)]:
        lines += ["", *table_lines(table)]
    return "\n".join(lines).rstrip() + "\n"


def table_lines(table: Table) -> list[str]:
    """A heading and one table."""
    rule = [":--" if i < table.numeric else "--:" for i in range(len(table.columns))]
    lines = [f"## {escape(table.title)}", ""]
    lines += [_row([escape(column) for column in table.columns]), _row(rule)]
    lines += [_row([escape(cell) for cell in row]) for row in table.rows[:_MOST_ROWS]]
    if len(table.rows) > _MOST_ROWS:
        lines += ["", f"{len(table.rows) - _MOST_ROWS} more are in the page."]
    if table.note:
        lines += ["", escape(table.note)]
    return lines


def escape(text: str) -> str:
    """So that foreign text is no markup: neither HTML, nor links, nor mentions."""
    text = figures.printable(text)
    if _PLAIN.fullmatch(text):
        return text.replace("_", r"\_")
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    # A mention or a bare address needs its sign as such: entities are neither.
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", text)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
