"""The report as one page of HTML: no script, nothing fetched, every plot with its table."""

from __future__ import annotations

import re
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from loadtest.evidence import figures, plots, tables
from loadtest.evidence.results import Results
from loadtest.evidence.tables import Table

_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("loadtest.evidence", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
# A figure and its unit stay on one line.
_UNIT: Final = re.compile(r"(?<=\d) (?=(?:%|s|ms|µs)(?!\w))")
_ENVIRONMENT.filters["unbroken"] = lambda text: _UNIT.sub("\N{NO-BREAK SPACE}", text)


def render(results: Results) -> str:
    """The whole page.

    Names, bodies and faults come from servers. They are made printable where tables and charts are
    made, and escaped by the template, all of them.
    """
    charts = {
        "overhead": [chart.render() for chart in plots.latency(results)],
        "honest": [chart.render() for chart in plots.timeline(results)],
        "attacks": [
            chart.render() for chart in (*plots.success(results), *plots.recognition(results))
        ],
        "measures": [chart.render() for chart in plots.fidelity(results)],
    }
    known = {table.key: table for table in tables.tables(results)}
    return _ENVIRONMENT.get_template("page.html.jinja").render(
        title=figures.printable(results.scenario or "Load test", 120),
        verdict=tables.verdict(results),
        passed=results.passed,
        complete=results.complete,
        notes=tables.notes(results),
        tables=list(known.values()),
        charts=charts,
        phases=_phases(results),
        about=tables.about(results),
    )


def _phases(results: Results) -> Table:
    rows = tuple(
        (str(i + 1), figures.printable(name), figures.seconds(begin), figures.seconds(end))
        for i, (name, begin, end) in enumerate(plots.phases(results))
    )
    columns = ("Number", "Attack", "From", "To")
    return Table("phases", "When attacks were under way", columns, rows, numeric=2)
