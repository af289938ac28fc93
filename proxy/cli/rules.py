"""``bartizan rules``: every reason for a refusal, with its status, meaning and ATLAS techniques."""

from __future__ import annotations

import json
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from proxy.rules import RULES, Rule

_GROUPS: Final = {
    "1": ("BZ-1xx: the protocol", "The request could not be read, or must not be passed on."),
    "2": ("BZ-2xx: the contract", "The tensors are not those that the model declares."),
    "3": ("BZ-3xx: outliers", "The input is unlike the honest data."),
    "4": (
        "BZ-4xx: agreement",
        "The model's answer is unlike those that such inputs get (`on_disagreement`).",
    ),
    "5": (
        "BZ-5xx: patterns",
        "The sequence of a client's queries is unlike any honest client's. What is done about it "
        "climbs with the evidence (`on_pattern`).",
    ),
    "6": ("BZ-6xx: limits", "Rows are the unit of every limit."),
    "9": (
        "BZ-9xx: our own faults",
        "Each follows the endpoint's failure mode, is counted and audited.",
    ),
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", is_flag=True, help="Print the page docs/rules.md.")
def rules(as_json: bool, markdown: bool) -> None:
    """List the rules by which requests are refused."""
    if as_json:
        click.echo(json.dumps([_record(rule) for rule in RULES.values()], indent=2))
    elif markdown:
        click.echo(page(), nl=False)
    else:
        table = Table("rule", "status", "the client reads", "meaning", "ATLAS")
        for rule in RULES.values():
            table.add_row(
                rule.id, str(rule.status), rule.message, rule.meaning, " ".join(rule.atlas)
            )
        Console().print(table)


def page() -> str:
    """The page ``docs/rules.md``."""
    lines = [
        "# Rules",
        "",
        "Every refusal carries one of these ids in the audit log and the metrics. The client reads",
        "the words in the third column and, where they are marked *explains*, the specifics of its",
        "own mistake; it never reads the id of a detector's rule, a score or a threshold.",
        "ATLAS ids are those of MITRE ATLAS v5.6. This page is `bartizan rules --markdown`.",
    ]
    for digit, (title, meaning) in _GROUPS.items():
        lines += ["", f"## {title}", "", meaning, ""]
        lines += ["| rule | status | the client reads | meaning | ATLAS |", "|---|---|---|---|---|"]
        lines += [
            f"| {rule.id} | {rule.status}"
            f" | {rule.message}{' *(explains)*' if rule.explains else ''}"
            f" | {rule.meaning} | {', '.join(rule.atlas)} |"
            for rule in RULES.values()
            if rule.id[3] == digit
        ]
    return "\n".join(lines) + "\n"


def _record(rule: Rule) -> dict[str, object]:
    return {
        "id": rule.id,
        "status": rule.status,
        "message": rule.message,
        "meaning": rule.meaning,
        "explains": rule.explains,
        "atlas": list(rule.atlas),
    }
